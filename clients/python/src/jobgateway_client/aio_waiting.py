"""The waits of the asyncio client, which end early if the client is closed or the watch is left."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Any

from jobgateway_client import calls

if TYPE_CHECKING:
    from jobgateway_client.deadline import Deadline


class Waiting:
    """The waits of one call or watch.

    Args:
        closed: Is done when the client is closed.
        deadline: The time limit.

    """

    def __init__(self, closed: asyncio.Future[None], deadline: Deadline) -> None:
        self.deadline = deadline
        self._closed = closed
        self._left: asyncio.Future[None] = closed.get_loop().create_future()

    def leave(self) -> None:
        """End the waits, because the watch is closed."""
        if not self._left.done():
            self._left.set_result(None)

    def check(self) -> None:
        """Check that neither the client nor the watch is closed.

        Raises:
            GatewayError: One of them is.

        """
        if self._closed.done():
            raise calls.closed_error()
        if self._left.done():
            raise calls.left_error()

    async def sleep(self, seconds: float) -> None:
        """Wait.

        Raises:
            GatewayError: The client or the watch was closed.

        """
        await self._first(self._closed, self._left, seconds=seconds)
        self.check()

    async def until(self, future: asyncio.Future[Any]) -> None:
        """Wait for a future, which continues if this wait ends early.

        Raises:
            GatewayError: The client or the watch was closed, or the time is over.

        """
        await self._first(future, self._closed, self._left, seconds=self.deadline.patience())
        if not future.done():
            self.check()
            self.deadline.expire()

    async def _first(self, *futures: asyncio.Future[Any], seconds: float | None) -> None:
        await asyncio.wait(futures, timeout=seconds, return_when=asyncio.FIRST_COMPLETED)
