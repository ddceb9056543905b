"""The watchers of one loop, and how long the loop stays if they all leave."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Protocol

from gateway.clock import AutoResetEvent
from gateway.watch.recent import UNWATCHED_SECONDS

if TYPE_CHECKING:
    from collections.abc import Iterator

    from gateway.clock import Clock

WAKE_BATCH = 25


class Waiter(Protocol):
    """A watcher, as its loop sees it."""

    @property
    def client(self) -> bytes:
        """The `caller_key` of the client."""

    def wake(self) -> None:
        """Look at the loop again, because it has changed."""


class Presence:
    """The watchers of a loop, and their effect on it.

    If the last watcher leaves between two reads, the loop stops. If it leaves during a read, watches are shorter than
    reads: the loop then stays without watchers for `UNWATCHED_SECONDS`. This holds until a read has watchers from
    its beginning to its end.
    """

    __slots__ = (
        "_changed",
        "_clock",
        "_empty_since",
        "_keeps_running_unwatched",
        "_left_during_read",
        "_watchers",
        "is_reading",
        "watched_since",
    )

    def __init__(self, clock: Clock) -> None:
        # Moments are in seconds of the clock. There have been watchers without a gap since this one.
        self.watched_since = clock.monotonic()
        self.is_reading = False
        self._clock = clock
        self._watchers: set[Waiter] = set()
        self._changed = AutoResetEvent(clock)
        self._empty_since = self.watched_since
        self._left_during_read = False
        self._keeps_running_unwatched = False

    @property
    def count(self) -> int:
        """The number of watchers."""
        return len(self._watchers)

    @property
    def clients(self) -> frozenset[bytes]:
        """The `caller_key`s of the watchers."""
        return frozenset({each.client for each in self._watchers})

    @property
    def is_watched(self) -> bool:
        """True if there are watchers."""
        return bool(self._watchers)

    def add(self, watcher: Waiter) -> None:
        """Add a watcher."""
        if not self._watchers:
            self.watched_since = self._clock.monotonic()
            self._changed.set()
        self._watchers.add(watcher)

    def remove(self, watcher: Waiter) -> bool:
        """Remove a watcher; return whether the loop stays."""
        self._watchers.discard(watcher)
        if self._watchers:
            return True
        self._empty_since = self._clock.monotonic()
        if self.is_reading:
            self._keeps_running_unwatched = self._left_during_read = True
        self._changed.set()
        return self._keeps_running_unwatched

    def begin_read(self) -> None:
        """Take note that a read begins."""
        self.is_reading, self._left_during_read = True, False

    def end_read(self) -> None:
        """Take note that the read has ended."""
        self.is_reading, self._keeps_running_unwatched = False, self._left_during_read
        if not self._watchers:
            # The time without watchers starts here, so that the state is kept for all of it.
            self._empty_since = self._clock.monotonic()

    async def wait(self, until: float) -> None:
        """Return at `until` (seconds of the clock), or earlier if the first watcher joins or the last one leaves."""
        await self._changed.wait(until)

    async def wait_for_watcher(self) -> bool:
        """Wait for a watcher for as long as the loop stays without one; return whether there is one."""
        until = self._empty_since + UNWATCHED_SECONDS
        while not self._watchers and self._clock.monotonic() < until:
            await self._changed.wait(until)
        return bool(self._watchers)

    def wake_all(self) -> None:
        """Wake all watchers."""
        self._wake_some(iter(tuple(self._watchers)))

    def _wake_some(self, watchers: Iterator[Waiter]) -> None:
        for number, watcher in enumerate(watchers, 1):
            watcher.wake()
            if number == WAKE_BATCH:
                # These run first, because waking thousands together would block the event loop.
                asyncio.get_running_loop().call_soon(self._wake_some, watchers)
                return
