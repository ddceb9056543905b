"""The gateway token, used by callers without a token. Its file may change at any time."""

from __future__ import annotations

from collections import deque
from typing import TYPE_CHECKING

from gateway.auth.credential import PROCESS_KEY, TOKEN, Credential, redact
from gateway.auth.reloading import InvalidFile, ReloadingFiles

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path

TOKEN_FILE = "JOBGATEWAY_UPSTREAM_TOKEN_FILE"  # noqa: S105 - the name of a setting
# Earlier tokens stay redacted, because responses to their requests may still arrive.
REMEMBERED_TOKENS = 8


class GatewayToken:
    """The token in a file; `key` is that of its credentials. Raises `ConfigError` if the file is unusable."""

    def __init__(self, file: Path, key: bytes = PROCESS_KEY) -> None:
        self.source = str(file)
        self.key = key
        self._file = ReloadingFiles({TOKEN_FILE: file}, _read)
        self._tokens = deque([self._file.last], REMEMBERED_TOKENS)

    @property
    def last(self) -> str:
        """The token that was used last."""
        return self._tokens[-1]

    async def current(self) -> str:
        """Return the token in the file now, or the last valid one if the file is unusable."""
        token = await self._file.latest_async()
        if token != self.last:
            self._tokens.append(token)
        return token

    def redact(self, text: str) -> str:
        """Return `text` without the token and without the tokens before it."""
        # The longest first, because one may be the start of another.
        for token in sorted(self._tokens, key=len, reverse=True):
            text = redact(text, token)
        return text

    def credential(self, caller: str) -> Credential:
        """Return the credential for `caller`, the identity of its certificate or ""."""
        return _GatewayCredential(self, caller)


class _GatewayCredential(Credential):
    """A credential whose `poll_key` depends on the path of the file, so that a new token ends no watch."""

    __slots__ = ("_gateway_token",)

    def __init__(self, gateway_token: GatewayToken, caller: str) -> None:
        # Tokens of callers have no spaces, so their keys differ from these.
        super().__init__(
            gateway_token.last,
            poll=f"gateway token {gateway_token.source}",
            caller=f"gateway token {gateway_token.source} for {caller}",
            key=gateway_token.key,
        )
        self._gateway_token = gateway_token

    async def headers(self) -> dict[str, str]:
        """Return the headers with the token that the file has now."""
        return {"authorization": f"Bearer {await self._gateway_token.current()}"}

    def redact(self, text: str) -> str:
        """Return `text` without the token and without the tokens before it."""
        return self._gateway_token.redact(text)


def _read(contents: Mapping[str, bytes]) -> str:
    # Editors and `echo` add a line end.
    text = contents[TOKEN_FILE].decode("latin-1").rstrip("\r\n")
    if not text:
        raise InvalidFile(TOKEN_FILE, "the file is empty; write one token into it")
    if not TOKEN.fullmatch(text):
        raise InvalidFile(TOKEN_FILE, "the file is not one token of visible ASCII; write nothing else into it")
    return text
