"""Whether anybody watches a loop, and how long it goes on if nobody does."""

from __future__ import annotations

from contextlib import contextmanager
from typing import TYPE_CHECKING

from gateway.clock import AutoResetEvent
from gateway.watch.recent import KEEP_UNSEEN_SECONDS

if TYPE_CHECKING:
    from collections.abc import Collection, Iterator

    from gateway.clock import Clock


class Presence:
    """Take note of when a loop's first watcher comes and its last one leaves.

    If the last watcher leaves during a read, waits are shorter than reads: the loop then outlives its watchers, each
    time for `KEEP_UNSEEN_SECONDS`, until a read keeps a watcher from its beginning to its end.
    """

    __slots__ = ("_changed", "_clock", "_empty_since", "_outlives", "_read_was_left", "_reading", "_watchers", "since")

    def __init__(self, clock: Clock, watchers: Collection[object]) -> None:
        # Since when there have been watchers, without a gap (seconds of the clock).
        self.since = clock.monotonic()
        self._clock = clock
        self._watchers = watchers
        self._changed = AutoResetEvent(clock)
        self._empty_since = self.since
        self._reading = False
        self._read_was_left = False
        self._outlives = False

    def begin(self) -> None:
        """Take note that a first watcher comes."""
        self.since = self._clock.monotonic()
        self._changed.set()

    def end(self) -> bool:
        """Take note that the last watcher has left; return whether the loop goes on for a while."""
        self._empty_since = self._clock.monotonic()
        if self._reading:
            self._outlives = self._read_was_left = True
        self._changed.set()
        return self._outlives

    @contextmanager
    def reading(self) -> Iterator[None]:
        """Hold this context during a read."""
        self._reading, self._read_was_left = True, False
        try:
            yield
        finally:
            self._reading, self._outlives = False, self._read_was_left
            # Counts only if nobody watches: what was read is kept for its full time.
            self._empty_since = self._clock.monotonic()

    async def wait(self, until: float) -> None:
        """Return at `until` (seconds of the clock), or earlier if the first watcher comes or the last one leaves."""
        if self._clock.monotonic() < until:
            await self._changed.wait(until)

    async def returns(self) -> bool:
        """Return whether there are watchers, once one has come or the time without any is over."""
        until = self._empty_since + KEEP_UNSEEN_SECONDS
        while not self._watchers and self._clock.monotonic() < until:
            await self._changed.wait(until)
        return bool(self._watchers)
