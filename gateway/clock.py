"""Injected time: all code that waits or compares times takes a `Clock`, so that tests can step it."""

from __future__ import annotations

import asyncio
import random
import time
from typing import TYPE_CHECKING, Protocol

if TYPE_CHECKING:
    from collections.abc import Callable
    from contextlib import AbstractContextManager


class Timer(Protocol):
    """A scheduled call."""

    def cancel(self) -> None:
        """Cancel the call; no effect if it has happened."""


class Clock(Protocol):
    """The time, and calls at a later time."""

    def monotonic(self) -> float:
        """Return the seconds since a fixed moment; it never goes back."""

    def time(self) -> float:
        """Return the seconds since the epoch (UTC)."""

    def call_at(self, when: float, callback: Callable[[], object]) -> Timer:
        """Call `callback` when `monotonic()` has reached `when`, but never before this method returns."""


class PauseTimeout(Protocol):
    """Pauses a timeout while its context lasts, because the wait is caused by the gateway itself."""

    def __call__(self) -> AbstractContextManager[None]:
        """Return the context."""


class SystemClock:
    """The clock of the machine, and the timers of the running event loop."""

    def monotonic(self) -> float:
        """Return the seconds of the event loop's clock."""
        return asyncio.get_running_loop().time()

    def time(self) -> float:
        """Return the seconds since the epoch (UTC)."""
        return time.time()

    def call_at(self, when: float, callback: Callable[[], object]) -> Timer:
        """Call `callback` at `when` of the event loop's clock."""
        return asyncio.get_running_loop().call_at(when, callback)


async def sleep_until(clock: Clock, when: float) -> None:
    """Return when `clock.monotonic()` has reached `when` (seconds)."""
    if when > clock.monotonic():
        await AutoResetEvent(clock).wait(when)


async def sleep_at_most(clock: Clock, seconds: float) -> None:
    """Sleep for a random time from half of `seconds` to all of it, so that tasks do not repeat in lockstep."""
    await sleep_until(clock, clock.monotonic() + random.uniform(seconds / 2, seconds))  # noqa: S311 - no secret


class AutoResetEvent:
    """An event for one waiter. One `set` without a waiter is remembered for the next `wait`."""

    def __init__(self, clock: Clock) -> None:
        self._clock = clock
        self._pending = False
        self._waiter: asyncio.Future[None] | None = None

    def set(self) -> None:
        """Wake the waiter, or the next one immediately."""
        self._pending = True
        self._wake()

    def _wake(self) -> None:
        if self._waiter is not None and not self._waiter.done():
            self._waiter.set_result(None)

    async def wait(self, until: float) -> None:
        """Return when `set` was called, or when `clock.monotonic()` has reached `until` (seconds)."""
        if not self._pending:
            self._waiter = asyncio.get_running_loop().create_future()
            timer = self._clock.call_at(until, self._wake)
            try:
                await self._waiter
            finally:
                timer.cancel()
                self._waiter = None
        self._pending = False


class RearmableTimer:
    """Calls `callback` at the moment that was set last.

    A later moment needs no new timer: when the existing one fires, it is scheduled again.
    """

    __slots__ = ("_callback", "_clock", "_due", "_timer", "_when")

    def __init__(self, clock: Clock, callback: Callable[[], object]) -> None:
        self._clock = clock
        self._callback = callback
        self._timer: Timer | None = None
        self._when = self._due = 0.0

    def set(self, when: float) -> None:
        """Call at `when` (seconds of the clock), and not at a moment that was set before."""
        self._when = when
        if self._timer is None or when < self._due:
            self._stop()
            self._start()

    def close(self) -> None:
        """Stop, and release `callback`, because its owner usually holds this timer."""
        self._stop()
        self._callback = _do_nothing

    def _stop(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None

    def _start(self) -> None:
        self._due = self._when
        self._timer = self._clock.call_at(self._when, self._look)

    def _look(self) -> None:
        self._timer = None
        if self._clock.monotonic() < self._when:
            self._start()
        else:
            self._callback()


def _do_nothing() -> None:
    pass
