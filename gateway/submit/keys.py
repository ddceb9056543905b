"""The key file of the stores, and the keyed hashes under which they keep callers, request ids and fingerprints."""

from __future__ import annotations

import contextlib
import hashlib
import os
import secrets
from typing import TYPE_CHECKING

from gateway.auth.reloading import UnfitFileError, read_regular
from gateway.errors import ConfigError
from gateway.submit.records import IdempotencyKey
from gateway.submit.variables import KEY_FILE

if TYPE_CHECKING:
    from pathlib import Path

    from gateway.auth.credential import Credential

SHORTEST_KEY_BYTES = 32
# The key in use, and the one before it.
MAX_KEYS = 2


class RequestKeys:
    """Makes the keys of request ids, under one or two secret keys.

    The first secret is in use. A second one is the secret before it, under which younger ids than 25 hours are known.

    Attributes:
        credentials: The key of `Credential`, so that its hashes are the same on gateways with the same secret in use.
        marks: A hash of each secret, in one order, by which gateways on one store find out whether they share one.
    """

    def __init__(self, *key_lines: bytes) -> None:
        # BLAKE2 takes keys of at most 64 bytes.
        self.credentials = hashlib.blake2b(key_lines[0], digest_size=32, person=b"credentials").digest()
        self._keys = [hashlib.blake2b(line, digest_size=32, person=b"state").digest() for line in key_lines]
        self.marks = tuple(
            sorted(hashlib.blake2b(key=key, digest_size=16, person=b"mark").hexdigest() for key in self._keys)
        )

    @property
    def rotating(self) -> bool:
        """Return whether there is an old key."""
        return len(self._keys) > 1

    def key_of(self, credential: Credential, request_id: str) -> IdempotencyKey:
        """Return the key of a caller's request id."""
        found = None
        for key in reversed(self._keys):
            digest = hashlib.blake2b(request_id.encode(), key=key, digest_size=32, person=b"request").digest()
            found = IdempotencyKey(credential.caller_hash(key), digest[:16], found, digest[16:])
        assert found is not None, "there is at least one key"  # noqa: S101 - a bug of this class
        return found


def random_keys() -> RequestKeys:
    """Return keys that no other process knows."""
    return RequestKeys(secrets.token_bytes(SHORTEST_KEY_BYTES))


def read_keys(file: Path) -> RequestKeys:
    """Return the keys in a file of one or two lines, the key in use first.

    Raises:
        ConfigError: The file cannot be used.
    """
    try:
        content = read_regular(file)
    except OSError as error:
        raise ConfigError(f"{KEY_FILE}: {file} cannot be read: {error.strerror}") from None
    except UnfitFileError as error:
        raise ConfigError(f"{KEY_FILE}: {file} {error}") from None
    lines = [line.rstrip(b"\r") for line in content.rstrip(b"\r\n").split(b"\n")]
    if len(lines) > MAX_KEYS:
        raise ConfigError(f"{KEY_FILE}: {file} has {len(lines)} lines; write the key, and at most one old key below it")
    for number, line in enumerate(lines, 1):
        if len(line) < SHORTEST_KEY_BYTES:
            raise ConfigError(
                f"{KEY_FILE}: line {number} of {file} has {len(line)} bytes; a key has at least {SHORTEST_KEY_BYTES}, "
                "such as the output of `openssl rand -hex 32`"
            )
    return RequestKeys(*lines)


def read_or_create_keys(file: Path) -> RequestKeys:
    """Return the keys in a file, which is created with a random key and mode 0600 if there is none.

    Raises:
        ConfigError: The file cannot be used or created.
    """
    try:
        if not file.exists():
            _create(file)
    except OSError as error:
        raise ConfigError(f"{KEY_FILE}: {file} cannot be created: {error.strerror}") from None
    return read_keys(file)


def _create(file: Path) -> None:
    # Complete before it has its name, so that another gateway that starts now never reads half a key.
    draft = file.with_name(f"{file.name}.{secrets.token_hex(8)}")
    descriptor = os.open(draft, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
    try:
        os.write(descriptor, secrets.token_hex(SHORTEST_KEY_BYTES).encode() + b"\n")
        os.fsync(descriptor)
        with contextlib.suppress(FileExistsError):
            os.link(draft, file)
    finally:
        os.close(descriptor)
        draft.unlink()
