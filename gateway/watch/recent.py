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

KEEP_SECONDS = 5.0
# What was read for callers that have left is kept longer, so that one that asks again and again gets it.
KEEP_UNSEEN_SECONDS = 15.0
KEEP_BYTES = 64 << 20


class Ends(Generic[S]):
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
        seconds = KEEP_SECONDS if loop.watchers else KEEP_UNSEEN_SECONDS
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
