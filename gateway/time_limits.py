"""Time limits of many tasks at a time, with one timer for all of them.

A timer of its own would be most of the cost of a limit, and almost every limit ends before its moment.
"""

from __future__ import annotations

import asyncio
import math
from contextlib import contextmanager
from typing import TYPE_CHECKING, Self

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from types import TracebackType

    from gateway.clock import Clock, Timer

# By how much a limit is delayed whose condition does not hold at its moment.
DELAY_SECONDS = 1.0


@contextmanager
def limited_until(clock: Clock, moment: float, only_if: Callable[[], bool] | None = None) -> Iterator[None]:
    """Return the context of one limit with a timer of its own. See `TimeLimits.until`."""
    limits = TimeLimits(clock)
    try:
        with limits.until(moment, only_if):
            yield
    finally:
        limits.close()


class TimeLimits:
    """Creates time limits, and ends those whose moment has come.

    To end one takes time proportional to the number of limits that are entered.
    """

    def __init__(self, clock: Clock) -> None:
        self._clock = clock
        self._entered: set[TimeLimit] = set()
        # Not after the first moment of a limit. It stays when that limit ends, because a later one can use it.
        self._timer: Timer | None = None
        self._due = math.inf

    def until(self, moment: float, only_if: Callable[[], bool] | None = None) -> TimeLimit:
        """Return the context of a limit that ends at `moment`, in seconds of the clock.

        While `only_if` returns False, it is delayed by a second at a time.
        """
        return TimeLimit(self, self._clock, moment, only_if)

    def add(self, limit: TimeLimit) -> None:
        """Watch a limit (called by the limit)."""
        self._entered.add(limit)
        if limit.moment < self._due:
            self._set(limit.moment)

    def remove(self, limit: TimeLimit) -> None:
        """Stop watching a limit (called by the limit)."""
        self._entered.discard(limit)

    def close(self) -> None:
        """Stop the timer. No limit may be entered any more."""
        if self._timer is not None:
            self._timer.cancel()

    def _set(self, moment: float) -> None:
        self.close()
        self._due = moment
        self._timer = self._clock.call_at(moment, self._end_some)

    def _end_some(self) -> None:
        self._timer, self._due = None, math.inf
        now = self._clock.monotonic()
        for limit in [each for each in self._entered if each.moment <= now]:
            if limit.only_if is None or limit.only_if():
                self._entered.remove(limit)
                limit.expire()
            else:
                limit.moment = now + DELAY_SECONDS
        if self._entered:
            self._set(min(each.moment for each in self._entered))


class TimeLimit:
    """A context that raises `TimeoutError` at a moment. A cancellation by others stays a cancellation.

    Attributes:
        moment: The end, in seconds of the clock; pauses and `only_if` move it.
        only_if: Returns whether it may end at its moment. None: it may.
        paused: The total length of all pauses, in seconds.
        expired: Whether the moment came while the context was entered.
    """

    __slots__ = ("_cancelling", "_clock", "_limits", "_task", "expired", "moment", "only_if", "paused")

    def __init__(
        self, limits: TimeLimits, clock: Clock, moment: float, only_if: Callable[[], bool] | None = None
    ) -> None:
        self.moment = moment
        self.only_if = only_if
        self.paused = 0.0
        self.expired = False
        self._limits = limits
        self._clock = clock

    def __enter__(self) -> Self:
        task = asyncio.current_task()
        assert task is not None, "a time limit needs a task that it can cancel"  # noqa: S101 - a programming error
        self._task = task
        self._cancelling = task.cancelling()
        self._limits.add(self)
        return self

    def expire(self) -> None:
        """End the limit (called by `TimeLimits`)."""
        self.expired = True
        self._task.cancel()

    @contextmanager
    def pause(self) -> Iterator[None]:
        """Return a context during which the limit stands still."""
        self._limits.remove(self)
        began = self._clock.monotonic()
        try:
            yield
        finally:
            waited = self._clock.monotonic() - began
            self.paused += waited
            self.moment += waited
            if not self.expired:
                self._limits.add(self)

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._limits.remove(self)
        if self.expired:
            only_by_limit = self._task.uncancel() <= self._cancelling
            if only_by_limit and kind is not None and issubclass(kind, asyncio.CancelledError):
                raise TimeoutError from error
