"""The token of the asyncio client, which all its calls share."""

from __future__ import annotations

import asyncio
import inspect
from collections.abc import Awaitable, Callable
from typing import TYPE_CHECKING, TypeAlias

from jobgateway_client import calls

if TYPE_CHECKING:
    from jobgateway_client.aio_waiting import Waiting

AsyncToken: TypeAlias = str | Callable[[], str | Awaitable[str | None] | None]
"""As `Token` of the sync client. The function may be a coroutine function, and runs in the event loop."""


class Credential:
    """The token of a client.

    Raises:
        ValueError: The token is a text that metadata cannot carry.

    """

    def __init__(self, source: AsyncToken | None, closing: asyncio.Future[None]) -> None:
        self._source = source
        self._asked = not callable(source)
        self._token = None if callable(source) else calls.checked_token(source)
        self._login: asyncio.Task[str | None] | None = None
        closing.add_done_callback(self._stop)

    async def token(self, waiting: Waiting) -> str | None:
        """Return the current token.

        Raises:
            GatewayError: The time is over, or the client or the watch was closed.
            Exception: That of the function.

        """
        if not self._asked:
            await self._log_in(waiting)
        return self._token

    async def renew(self, rejected: str | None, waiting: Waiting) -> bool:
        """Get another token than the one that was rejected; return False if there is none.

        Raises:
            GatewayError: The time is over, or the client or the watch was closed.
            Exception: That of the function.

        """
        # Another call may have renewed it meanwhile.
        if self._token != rejected:
            return True
        return callable(self._source) and await self._log_in(waiting) is not None

    async def _log_in(self, waiting: Waiting) -> str | None:
        """Return the result of the login that is running, or of a new one if there is none or if it fails."""
        while True:
            login, is_own = self._login, self._login is None
            if login is None:
                login = self._login = asyncio.create_task(self._ask())
                login.add_done_callback(self._done)
            await waiting.until(login)
            waiting.check()
            if is_own or not (login.cancelled() or login.exception()):  # noqa: LOG004 - not a logger
                return login.result()

    async def _ask(self) -> str | None:
        found = self._source() if callable(self._source) else None
        token = calls.checked_token(await found if inspect.isawaitable(found) else found)
        self._token = self._token if token is None else token
        self._asked = True
        return token

    def _done(self, login: asyncio.Task[str | None]) -> None:
        self._login = None
        if not login.cancelled():
            # Otherwise asyncio logs it if all who waited have left.
            login.exception()  # noqa: LOG004 - not a logger

    def _stop(self, _: asyncio.Future[None]) -> None:
        if self._login is not None:
            self._login.cancel()
