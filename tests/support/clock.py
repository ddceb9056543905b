"""A clock that stands still until a test steps it."""

from __future__ import annotations

import asyncio
import heapq
import itertools
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Callable


STAMP_SECONDS = 1e-9
# The tasks in `settle`.
_settling: set[asyncio.Task[object] | None] = set()


@dataclass(order=True)
class SteppedTimer:
    when: float
    number: int
    callback: Callable[[], object] = field(compare=False)
    cancelled: bool = field(default=False, compare=False)

    def cancel(self) -> None:
        self.cancelled = True


class SteppedClock:
    """Implement `gateway.clock.Clock` without waiting: hours pass as fast as their timers run."""

    def __init__(self) -> None:
        self.now = 1_000.0
        self._timers: list[SteppedTimer] = []
        self._numbers = itertools.count()
        self._stamps = itertools.count()

    def monotonic(self) -> float:
        return self.now

    def stamp(self) -> float:
        """Return the time and a tiny bit more at each call, so that events at one moment have an order."""
        return self.now + next(self._stamps) * STAMP_SECONDS

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
        """Let `seconds` pass, and run each timer at its moment with all tasks that it wakes."""
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
    """Run all tasks until each waits for a timer, I/O or the test."""
    loop, task = asyncio.get_running_loop(), asyncio.current_task()
    _settling.add(task)
    try:
        while True:
            await asyncio.sleep(0)
            # No public API tells that no callback is ready. Other tasks that settle are ready at any time.
            if len(loop._ready) < len(_settling):  # type: ignore[attr-defined]  # noqa: SLF001
                return
    finally:
        _settling.discard(task)
