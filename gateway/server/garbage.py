"""Garbage collection in short steps, because Python's own would stop the event loop for too long."""

from __future__ import annotations

import gc
import sys
from typing import TYPE_CHECKING

from gateway.clock import sleep_until

if TYPE_CHECKING:
    from gateway.clock import Clock

# How often objects that were created since the last time are collected.
YOUNG_SECONDS = 0.25
# More of them are not collected, because that may take over 20 ms.
MAX_YOUNG = 50_000
# Seconds between two full collections per surviving block of memory, so that they take about 1/20,000 of the time.
FULL_SECONDS_PER_BLOCK = 0.01
MIN_FULL_SECONDS = 60.0
# A full collection is also due after this growth. The minimum is some 200 MB, so that 10,000 new jobs cause no pause.
GROWTH = 0.5
MIN_GROWTH_BLOCKS = 2_000_000


class GarbageCollector:
    """Collects cyclic garbage, instead of Python.

    Python counts created minus freed objects. A busy gateway replaces objects, so its young generation grows by
    100,000 before it is collected, in one step of 0.1 seconds. This collector has a period, and skips a burst.

    Full collections take time proportional to all objects that were created after the start: half a second with 10,000
    watches. They are made rarely while the process is large, and soon after it has grown or become small.
    """

    def __init__(self, clock: Clock) -> None:
        self._clock = clock
        # Imported objects stay forever, so collections need not visit them, not even once: 1 percent is garbage.
        gc.freeze()
        gc.disable()
        self._blocks = sys.getallocatedblocks()
        # None before the first full collection.
        self._survivors: int | None = None
        self._last_full = self._last_young = clock.monotonic()

    async def run(self) -> None:
        """Collect until this task is cancelled."""
        while True:
            await sleep_until(self._clock, self._clock.monotonic() + YOUNG_SECONDS)
            self._collect()

    def _collect(self) -> None:
        now = self._clock.monotonic()
        if self._full_is_due(now):
            gc.collect()
            self._survivors = self._count()
            self._last_full = self._last_young = now
        elif len(gc.get_objects(generation=0)) <= MAX_YOUNG:
            gc.collect(0)
            self._last_young = now

    def _full_is_due(self, now: float) -> bool:
        passed = now - self._last_full
        if passed < MIN_FULL_SECONDS:
            return False
        blocks = self._count()
        survivors = self._survivors or 0
        # Not all blocks, because the time would grow with the garbage.
        settled = blocks if self._survivors is None else min(survivors, blocks)
        return (
            passed >= settled * FULL_SECONDS_PER_BLOCK
            or blocks > survivors * (1 + GROWTH) + MIN_GROWTH_BLOCKS
            # A burst has not ended.
            or now >= self._last_young + MIN_FULL_SECONDS
        )

    def _count(self) -> int:
        return sys.getallocatedblocks() - self._blocks
