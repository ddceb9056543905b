"""The bearer token of a call. It is read at the boundary, and never logged."""

from __future__ import annotations

import hashlib
import re
import secrets

from gateway.errors import CredentialInvalid

# Any visible ASCII is accepted, more than RFC 6750's b64token, because the form of VIKTOR's tokens is not documented.
# Half the limit of all metadata (`server.defaults.MAX_METADATA_BYTES`), so that the token leaves room for the rest.
MAX_TOKEN = 8_192
TOKEN = re.compile(rf"[!-~]{{1,{MAX_TOKEN}}}")
BEARER = re.compile(r"bearer +([!-~]+)", re.IGNORECASE)

# A shorter token is not redacted, because ordinary words may contain it.
SHORTEST_SECRET = 6
FINGERPRINT_DIGITS = 8

PROCESS_KEY = secrets.token_bytes(32)


class Credential:
    """A bearer token.

    Both keys are hashes under `key`, so that a token is never a key itself. Without `poll` or `caller`, they are hashes
    of the token.

    Attributes:
        poll_key: watches with the same key share polls.
        caller_key: calls with the same key share request ids and limits.
    """

    __slots__ = ("_caller", "_token", "caller_key", "poll_key")

    def __init__(
        self, token: str, *, poll: str | None = None, caller: str | None = None, key: bytes = PROCESS_KEY
    ) -> None:
        self._token = token
        self.poll_key = _keyed(key, b"poll", token if poll is None else poll)
        self._caller = token if caller is None else caller
        self.caller_key = _keyed(key, b"caller", self._caller)

    async def headers(self) -> dict[str, str]:
        """Return the headers for an upstream request, with the current token."""
        return {"authorization": f"Bearer {self._token}"}

    def caller_hash(self, key: bytes) -> bytes:
        """Return 16 bytes that name the caller, the same in each process with the same `key` of 32 bytes."""
        return hashlib.blake2b(self._caller.encode(), key=key, digest_size=16, person=b"caller").digest()

    @property
    def fingerprint(self) -> str:
        """Return 8 hex digits that name the caller in logs and on pages; the token cannot be found by them."""
        return fingerprint_of(self.caller_key)

    def redact(self, text: str) -> str:
        """Return `text` without the token, which the upstream may echo."""
        return redact(text, self._token)

    def __repr__(self) -> str:
        return "Credential(...)"


def fingerprint_of(caller_key: bytes) -> str:
    """Return the fingerprint of the credential with this `caller_key`."""
    return caller_key.hex()[:FINGERPRINT_DIGITS]


def redact(text: str, token: str) -> str:
    """Return `text` without `token`, unless the token is too short to be a secret."""
    return text.replace(token, "[redacted]") if len(token) >= SHORTEST_SECRET else text


def _keyed(key: bytes, purpose: bytes, text: str) -> bytes:
    return hashlib.blake2b(text.encode(), key=key, person=purpose, digest_size=16).digest()


def read_credential(values: list[str | bytes], key: bytes = PROCESS_KEY) -> Credential:
    """Return the credential in the values of the metadata `authorization`, with hashes under `key`.

    Raises:
        CredentialInvalid: there is not exactly one value `Bearer <token>`, or the token does not have 1 to 8,192
            characters of visible ASCII.
    """
    if not values:
        raise CredentialInvalid("send the metadata 'authorization: Bearer <token>' with the call")
    if len(values) > 1:
        raise CredentialInvalid("the call has more than one 'authorization' metadata; send exactly one")
    value = values[0]
    match = BEARER.fullmatch(value) if isinstance(value, str) else None
    if match is None:
        raise CredentialInvalid("the metadata 'authorization' is not 'Bearer <token>' with a token of visible ASCII")
    token = match[1]
    if len(token) > MAX_TOKEN:
        raise CredentialInvalid(
            f"the token in 'authorization' has {len(token):,} characters; it may have at most {MAX_TOKEN:,}"
        )
    return Credential(token, key=key)
