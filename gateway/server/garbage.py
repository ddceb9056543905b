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
# The time between two full collections, per block of memory, so that they take about 1/20,000 of the time.
FULL_SECONDS_PER_BLOCK = 0.01
MIN_FULL_SECONDS = 60.0


class GarbageCollector:
    """Collects cyclic garbage, instead of Python.

    Python counts created minus freed objects. A busy gateway replaces objects, so its young generation grows by
    100,000 before it is collected, in one step of 0.1 seconds. This collector has a period, and skips a burst.

    Full collections take time proportional to all objects that were created after the start: half a second with 10,000
    watches. They are made rarely while the process is large, and soon after it has become small.
    """

    def __init__(self, clock: Clock) -> None:
        self._clock = clock
        gc.collect()
        # Imported objects stay forever, so collections need not visit them.
        gc.freeze()
        gc.disable()
        self._blocks = sys.getallocatedblocks()
        self._last_full = clock.monotonic()
        self._skipped = False

    async def run(self) -> None:
        """Collect until this task is cancelled."""
        while True:
            await sleep_until(self._clock, self._clock.monotonic() + YOUNG_SECONDS)
            self._collect()

    def _collect(self) -> None:
        blocks = sys.getallocatedblocks() - self._blocks
        now = self._clock.monotonic()
        if now >= self._last_full + max(MIN_FULL_SECONDS, blocks * FULL_SECONDS_PER_BLOCK):
            self._last_full = now
            if self._skipped:
                gc.unfreeze()
                self._skipped = False
            gc.collect()
        elif len(gc.get_objects(generation=0)) <= MAX_YOUNG:
            gc.collect(0)
        else:
            # Takes no time, and leaves them to the next full collection.
            gc.freeze()
            self._skipped = True
