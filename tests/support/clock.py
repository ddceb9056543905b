"""A clock that stands still until a test steps it."""

from __future__ import annotations

import asyncio
import heapq
import itertools
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Callable


STAMP = 1e-9


@dataclass(order=True)
class SteppedTimer:
    when: float
    number: int
    callback: Callable[[], object] = field(compare=False)
    cancelled: bool = field(default=False, compare=False)

    def cancel(self) -> None:
        self.cancelled = True


class SteppedClock:
    """Implements `gateway.clock.Clock`; hours pass as fast as their timers run."""

    def __init__(self) -> None:
        self.now = 1_000.0
        self._timers: list[SteppedTimer] = []
        self._numbers = itertools.count()
        self._stamps = itertools.count()

    def monotonic(self) -> float:
        return self.now

    def stamp(self) -> float:
        """The time, and a little more at each call: what happens at one moment has an order too."""
        return self.now + next(self._stamps) * STAMP

    def time(self) -> float:
        return 1_700_000_000.0 + self.now

    def call_at(self, when: float, callback: Callable[[], object]) -> SteppedTimer:
        timer = SteppedTimer(when, next(self._numbers), callback)
        heapq.heappush(self._timers, timer)
        return timer

    @property
    def pending(self) -> int:
        return sum(not timer.cancelled for timer in self._timers)

    async def advance(self, seconds: float) -> None:
        """Lets `seconds` pass, running each timer at its moment and all that it wakes."""
        await settle()
        end = self.now + seconds
        while self._timers and self._timers[0].when <= end:
            timer = heapq.heappop(self._timers)
            if not timer.cancelled:
                self.now = max(self.now, timer.when)
                timer.callback()
                await settle()
        self.now = end
        await settle()


async def settle() -> None:
    """Lets every task run until it waits for something that only a test brings about."""
    loop = asyncio.get_running_loop()
    while True:
        await asyncio.sleep(0)
        # The one way to know that nobody is left to run, without waiting for longer than it takes.
        if not loop._ready:  # type: ignore[attr-defined]  # noqa: SLF001
            return
