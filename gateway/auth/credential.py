"""Whose token a call bears, read at the boundary and never shown again."""

from __future__ import annotations

import hashlib
import re
import secrets

from gateway.errors import CredentialInvalid

# RFC 6750's b64token is narrower, but no form of VIKTOR's tokens is documented: any visible ASCII passes.
# Half the limit of all metadata (`server.defaults.MAX_METADATA_BYTES`), so that the token leaves room for the rest.
MAX_TOKEN = 8_192
TOKEN = re.compile(rf"[!-~]{{1,{MAX_TOKEN}}}")
BEARER = re.compile(r"bearer +([!-~]+)", re.IGNORECASE)

# A shorter text is no secret, and stands in ordinary words.
SHORTEST_SECRET = 6

_PROCESS_KEY = secrets.token_bytes(32)


class Credential:
    """A bearer token.

    `poll_key` is what polls are shared by, `caller_key` whose request_ids and limits they are: both keyed hashes,
    so that no token serves as a key anywhere. `poll` and `caller` are what they are made of, where that is not the
    token itself.
    """

    __slots__ = ("_caller", "_token", "caller_key", "poll_key")

    def __init__(self, token: str, *, poll: str | None = None, caller: str | None = None) -> None:
        self._token = token
        self._caller = token if caller is None else caller
        self.poll_key, self.caller_key = _keys(token)
        if poll is not None:
            self.poll_key, _ = _keys(poll)
        if caller is not None:
            _, self.caller_key = _keys(caller)

    async def headers(self) -> dict[str, str]:
        """The headers that an upstream request bears, read anew for each request."""
        return {"authorization": f"Bearer {self._token}"}

    def caller_hash(self, key: bytes) -> bytes:
        """Return 16 bytes that name the caller, the same in each process with the same `key` of 32 bytes."""
        return hashlib.blake2b(self._caller.encode(), key=key, digest_size=16, person=b"caller").digest()

    def redact(self, text: str) -> str:
        """`text` with the token taken out, for what the upstream may echo."""
        return redact(text, self._token)

    def __repr__(self) -> str:
        return "Credential(...)"


def redact(text: str, token: str) -> str:
    """`text` with `token` taken out, unless that is too short to be a secret."""
    return text.replace(token, "[redacted]") if len(token) >= SHORTEST_SECRET else text


def _keys(text: str) -> tuple[bytes, bytes]:
    # Two in one, for each call asks for both.
    digest = hashlib.blake2b(text.encode(), key=_PROCESS_KEY, digest_size=32).digest()
    return digest[:16], digest[16:]


def read_credential(values: list[str | bytes]) -> Credential:
    """The credential in the values of the metadata `authorization`.

    Raises `CredentialInvalid` unless there is exactly one, `Bearer <token>`, of 1 to 8,192 visible ASCII characters.
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
    return Credential(token)
