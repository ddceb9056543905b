"""Ends that were just read, kept for a short while: who comes late costs no poll."""

from __future__ import annotations

from collections import OrderedDict
from typing import TYPE_CHECKING, Generic, Protocol, TypeVar

if TYPE_CHECKING:
    from collections.abc import Hashable, Sized

    from gateway.clock import Clock, Timer


class Watched(Protocol):
    """Has watchers."""

    @property
    def watchers(self) -> Sized:
        """Those who watch now."""


S = TypeVar("S", bound=Watched)

KEEP_RESULT_SECONDS = 5.0
# What was read for callers that have left is kept longer, so that one that asks again and again gets it.
KEEP_UNSEEN_SECONDS = 15.0
KEEP_BYTES = 64 << 20
# That a state was read is remembered for the next watch, which may come after a while.
KEEP_READ_SECONDS = 600.0
MAX_READ = 32_768


class RecentResults(Generic[S]):
    """Loops that ended with a last state, for some seconds and up to 64 MiB of states; the oldest go first."""

    def __init__(self, clock: Clock) -> None:
        self._clock = clock
        self._kept: OrderedDict[Hashable, tuple[S, int, Timer]] = OrderedDict()
        self._bytes = 0

    def keep(self, key: Hashable, loop: S, size: int) -> None:
        """Keep the end of a loop whose last state has `size` bytes, unless it alone is over the limit.

        An end that nobody was there to see is kept for 15 seconds, any other for 5. Meanwhile its key has no other
        loop that could end.
        """
        if size > KEEP_BYTES:
            return
        seconds = KEEP_RESULT_SECONDS if loop.watchers else KEEP_UNSEEN_SECONDS
        timer = self._clock.call_at(self._clock.monotonic() + seconds, lambda: self.drop(key))
        self._kept[key] = (loop, size, timer)
        self._bytes += size
        while self._bytes > KEEP_BYTES:
            self.drop(next(iter(self._kept)))

    def get(self, key: Hashable) -> S | None:
        """The loop whose end is kept, or None."""
        entry = self._kept.get(key)
        return None if entry is None else entry[0]

    def drop(self, key: Hashable) -> None:
        """Forgets an end, where there is one."""
        entry = self._kept.pop(key, None)
        if entry is not None:
            _, size, timer = entry
            self._bytes -= size
            timer.cancel()

    def clear(self) -> None:
        """Forgets all ends."""
        for key in tuple(self._kept):
            self.drop(key)

    def __len__(self) -> int:
        return len(self._kept)


class ReadKeys:
    """Keys under which a state was read in the last 10 minutes: at most 32,768, the oldest are dropped first."""

    def __init__(self, clock: Clock) -> None:
        self._clock = clock
        self._read_at: OrderedDict[Hashable, float] = OrderedDict()

    def add(self, key: Hashable) -> None:
        """Remember that a state was read just now."""
        now = self._clock.monotonic()
        self._read_at[key] = now
        self._read_at.move_to_end(key)
        # Two for each that comes, so that expired entries cannot pile up.
        for _ in range(2):
            oldest, read_at = next(iter(self._read_at.items()))
            if len(self._read_at) <= MAX_READ and now <= read_at + KEEP_READ_SECONDS:
                break
            del self._read_at[oldest]

    def __contains__(self, key: Hashable) -> bool:
        read_at = self._read_at.get(key)
        return read_at is not None and self._clock.monotonic() <= read_at + KEEP_READ_SECONDS

    def __len__(self) -> int:
        return len(self._read_at)
