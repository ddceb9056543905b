"""The gateway's own token, for callers that bring none: read from a file, which may change at any time."""

from __future__ import annotations

from collections import deque
from typing import TYPE_CHECKING

from gateway.auth.credential import TOKEN, Credential, redact
from gateway.auth.reloading import InvalidFile, ReloadingFiles

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path

TOKEN_FILE = "JOBGATEWAY_UPSTREAM_TOKEN_FILE"  # noqa: S105 - the name of a setting
# An answer to a request under a token before the present one may still be on its way.
REMEMBERED_TOKENS = 8


class GatewayToken:
    """The token in a file. Raises `ConfigError` if the file cannot be used."""

    def __init__(self, file: Path) -> None:
        self.source = str(file)
        self._file = ReloadingFiles({TOKEN_FILE: file}, _read)
        self._tokens = deque([self._file.last], REMEMBERED_TOKENS)

    @property
    def last(self) -> str:
        """The token as it was used last."""
        return self._tokens[-1]

    async def current(self) -> str:
        """Return the token that the file holds now, or the last usable one if it cannot be read."""
        token = await self._file.latest_async()
        if token != self.last:
            self._tokens.append(token)
        return token

    def redact(self, text: str) -> str:
        """`text` without the token, those lately in its place included."""
        # The longest first: one may be the beginning of another.
        for token in sorted(self._tokens, key=len, reverse=True):
            text = redact(text, token)
        return text

    def credential(self, caller: str) -> Credential:
        """The gateway's own credential, on behalf of `caller`."""
        return _GatewayCredential(self, caller)


class _GatewayCredential(Credential):
    """Its `poll_key` goes by where the token comes from, so that a new token ends no watch."""

    __slots__ = ("_gateway_token",)

    def __init__(self, gateway_token: GatewayToken, caller: str) -> None:
        # No token of a caller's has a space, so that none has these keys.
        super().__init__(
            gateway_token.last,
            poll=f"own token {gateway_token.source}",
            caller=f"own token {gateway_token.source} for {caller}",
        )
        self._gateway_token = gateway_token

    async def headers(self) -> dict[str, str]:
        """As the file has it at this moment."""
        return {"authorization": f"Bearer {await self._gateway_token.current()}"}

    def redact(self, text: str) -> str:
        """`text` without the token, those lately in its place included."""
        return self._gateway_token.redact(text)


def _read(contents: Mapping[str, bytes]) -> str:
    # A line end is what editors and `echo` add.
    text = contents[TOKEN_FILE].decode("latin-1").rstrip("\r\n")
    if not text:
        raise InvalidFile(TOKEN_FILE, "the file is empty")
    if not TOKEN.fullmatch(text):
        raise InvalidFile(TOKEN_FILE, "the file holds something else than one token of visible ASCII")
    return text
