"""A signal to wait for conditions without polling."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Callable


class Signal:
    """A signal that is set after each change, so that waiting tasks check their conditions again."""

    def __init__(self) -> None:
        self._waiting: set[asyncio.Event] = set()

    def changed(self) -> None:
        """Wake all waiting tasks."""
        for event in self._waiting:
            event.set()

    async def until(self, condition: Callable[[], bool], name: str, seconds: float) -> None:
        """Return when `condition` is true.

        Raises:
            TimeoutError: It is not true after `seconds`; the message has the `name` of the condition.

        """
        event = asyncio.Event()
        self._waiting.add(event)
        try:
            async with asyncio.timeout(seconds):
                while not condition():
                    event.clear()
                    await event.wait()
        except TimeoutError:
            raise TimeoutError(f"{name}: not within {seconds:.0f} seconds") from None
        finally:
            self._waiting.discard(event)
