"""Memory of recent reads, so that late watchers cost no poll."""

from __future__ import annotations

from collections import OrderedDict
from typing import TYPE_CHECKING, Generic, TypeVar

if TYPE_CHECKING:
    from collections.abc import Hashable

    from gateway.clock import Clock, Timer

T = TypeVar("T")

KEEP_RESULT_SECONDS = 5.0
# Longer, so that a client with many short waits gets a result that was read between two of them.
UNWATCHED_SECONDS = 15.0
KEEP_BYTES = 64 << 20
# The next watch of a job may start some minutes later.
KEEP_READ_SECONDS = 600.0
MAX_READ = 32_768


class RecentResults(Generic[T]):
    """Finished loops, kept for some seconds and up to 64 MiB. The oldest are dropped first."""

    def __init__(self, clock: Clock) -> None:
        self._clock = clock
        self._kept: OrderedDict[Hashable, tuple[T, int, Timer]] = OrderedDict()
        self._bytes = 0

    def keep(self, key: Hashable, loop: T, size: int, *, was_watched: bool) -> None:
        """Keep a finished loop whose last state has `size` bytes, unless this alone is over the limit.

        A loop that was watched is kept for 5 seconds, any other for 15. There must not be one under this key.
        """
        if size > KEEP_BYTES:
            return
        seconds = KEEP_RESULT_SECONDS if was_watched else UNWATCHED_SECONDS
        timer = self._clock.call_at(self._clock.monotonic() + seconds, lambda: self.drop(key))
        self._kept[key] = (loop, size, timer)
        self._bytes += size
        while self._bytes > KEEP_BYTES:
            self.drop(next(iter(self._kept)))

    def get(self, key: Hashable) -> T | None:
        """Return the loop that is kept under a key, or None."""
        entry = self._kept.get(key)
        return None if entry is None else entry[0]

    def drop(self, key: Hashable) -> None:
        """Forget the loop of a key, if there is one."""
        entry = self._kept.pop(key, None)
        if entry is not None:
            _, size, timer = entry
            self._bytes -= size
            timer.cancel()

    def clear(self) -> None:
        """Forget all loops."""
        for key in tuple(self._kept):
            self.drop(key)


class ReadKeys:
    """Keys under which a state was read in the last 10 minutes: at most 32,768, the oldest are dropped first."""

    def __init__(self, clock: Clock) -> None:
        self._clock = clock
        self._read_at: OrderedDict[Hashable, float] = OrderedDict()

    @property
    def count(self) -> int:
        """The number of keys in memory, including some that have expired."""
        return len(self._read_at)

    def add(self, key: Hashable) -> None:
        """Remember that a state was read just now."""
        now = self._clock.monotonic()
        self._read_at[key] = now
        self._read_at.move_to_end(key)
        # Two for each addition, so that expired entries cannot pile up.
        for _ in range(2):
            oldest, read_at = next(iter(self._read_at.items()))
            if len(self._read_at) <= MAX_READ and now <= read_at + KEEP_READ_SECONDS:
                break
            del self._read_at[oldest]

    def __contains__(self, key: Hashable) -> bool:
        read_at = self._read_at.get(key)
        return read_at is not None and self._clock.monotonic() <= read_at + KEEP_READ_SECONDS
