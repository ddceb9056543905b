"""A signal that something has changed, for waiting on conditions without polling."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Callable


class Signal:
    """Wakes those that wait for a condition each time something has changed."""

    def __init__(self) -> None:
        self._waiting: set[asyncio.Event] = set()

    def changed(self) -> None:
        """Let all that wait look at their condition again."""
        for event in self._waiting:
            event.set()

    async def until(self, condition: Callable[[], bool], what: str, seconds: float = 30.0) -> None:
        """Return once `condition` holds.

        Raises:
            TimeoutError: it did not hold within `seconds`; the text says `what`.

        """
        event = asyncio.Event()
        self._waiting.add(event)
        try:
            async with asyncio.timeout(seconds):
                while not condition():
                    event.clear()
                    await event.wait()
        except TimeoutError:
            raise TimeoutError(f"{what}: not within {seconds:.0f} seconds") from None
        finally:
            self._waiting.discard(event)
