"""Detect a client that does not read its stream while others wait for the memory of its results."""

from __future__ import annotations

from typing import TYPE_CHECKING

from gateway.clock import RearmableTimer

if TYPE_CHECKING:
    from collections.abc import Callable

    from gateway.clock import Clock

# The rate at which a client must read while others wait for memory, and the time for which it may be slower.
MIN_BYTES_PER_SECOND = 1 << 20
GRACE_SECONDS = 10.0
# No write is interrupted before.
MIN_GRACE_SECONDS = 1.0
# How often the guard looks while a client that is too slow takes memory from no one.
LOOK_AGAIN_SECONDS = 1.0


class ReaderGuard:
    """Calls `give_up` if a stream that holds large results waits for its client for too long.

    Time counts only during writes, because it is the client's own then. Each byte that it reads buys time, up to the
    grace. There is no debt: a pause that took memory from no one does not count later.

    Args:
        clock: Times the writes.
        contended: Returns whether others wait for the memory.
        give_up: Interrupts the write.
    """

    def __init__(self, clock: Clock, contended: Callable[[], bool], give_up: Callable[[], None]) -> None:
        self._clock = clock
        self._contended = contended
        self._give_up = give_up
        self._timer = RearmableTimer(clock, self._look)
        self._began: float | None = None
        self._left = GRACE_SECONDS
        self._holds = False

    def hold(self, *, holds: bool) -> None:
        """Say whether the stream holds large results now."""
        if holds and not self._holds and self._began is not None:
            self._left = GRACE_SECONDS
            self._began = self._clock.monotonic()
            self._timer.set(self._limit(self._began))
        self._holds = holds

    def begin_write(self, now: float) -> None:
        """Start the time of a write. `now` is in seconds of the clock."""
        self._began = now
        if self._holds:
            self._timer.set(self._limit(now))

    def end_write(self, now: float, size: int) -> None:
        """Stop the time of a write of `size` bytes."""
        if self._holds and self._began is not None:
            left = max(0.0, self._left - (now - self._began))
            self._left = min(GRACE_SECONDS, left + size / MIN_BYTES_PER_SECOND)
        else:
            self._left = GRACE_SECONDS
        self._began = None

    def close(self) -> None:
        """Stop, and release the functions, because their owner usually holds this guard."""
        self._timer.close()
        self._contended, self._give_up = _never, _do_nothing

    def _limit(self, began: float) -> float:
        return began + max(self._left, MIN_GRACE_SECONDS)

    def _look(self) -> None:
        if self._began is None or not self._holds:
            return
        now = self._clock.monotonic()
        limit = self._limit(self._began)
        if now < limit:
            self._timer.set(limit)
        elif self._contended():
            self._give_up()
        else:
            self._timer.set(now + LOOK_AGAIN_SECONDS)


def _never() -> bool:
    return False


def _do_nothing() -> None:
    pass
