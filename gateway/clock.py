"""Time, injected: whoever waits or compares times takes a `Clock`, so that tests step it."""

from __future__ import annotations

import asyncio
import time
from contextlib import contextmanager
from typing import TYPE_CHECKING, Protocol, Self

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from contextlib import AbstractContextManager
    from types import TracebackType


class Timer(Protocol):
    """A call that is due later."""

    def cancel(self) -> None:
        """Makes it never happen; does nothing where it has happened."""


class Clock(Protocol):
    """What time it is, and a way to be called later."""

    def monotonic(self) -> float:
        """Seconds since some fixed moment; never goes back."""

    def time(self) -> float:
        """Seconds since the epoch (UTC)."""

    def call_at(self, when: float, callback: Callable[[], object]) -> Timer:
        """Calls `callback` once `monotonic()` has reached `when`, never from within this call."""


class PauseTimeout(Protocol):
    """Stops a limit of time, for as long as its context is not left: what is waited for is nobody's delay but ours."""

    def __call__(self) -> AbstractContextManager[None]:
        """The context."""


class SystemClock:
    """The machine's clock and the running event loop's timers."""

    def monotonic(self) -> float:
        """Seconds of the event loop's clock."""
        return asyncio.get_running_loop().time()

    def time(self) -> float:
        """Seconds since the epoch (UTC)."""
        return time.time()

    def call_at(self, when: float, callback: Callable[[], object]) -> Timer:
        """Calls `callback` at `when` of the event loop's clock."""
        return asyncio.get_running_loop().call_at(when, callback)


async def sleep_until(clock: Clock, when: float) -> None:
    """Returns once `clock.monotonic()` has reached `when` (seconds)."""
    if when > clock.monotonic():
        await AutoResetEvent(clock).wait(when)


class AutoResetEvent:
    """A wake-up for one waiter; `set` before `wait` is remembered once."""

    def __init__(self, clock: Clock) -> None:
        self._clock = clock
        self._pending = False
        self._waiter: asyncio.Future[None] | None = None

    def set(self) -> None:
        """Wakes the waiter, or the next one at once."""
        self._pending = True
        self._wake()

    def _wake(self) -> None:
        if self._waiter is not None and not self._waiter.done():
            self._waiter.set_result(None)

    async def wait(self, until: float) -> None:
        """Returns when `set` was called, or `clock.monotonic()` has reached `until` (seconds)."""
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
    """Calls `callback` once the clock has reached the moment that was set last.

    To put it off takes no new timer: the one that there is looks again when it is due.
    """

    __slots__ = ("_callback", "_clock", "_due", "_timer", "_when")

    def __init__(self, clock: Clock, callback: Callable[[], object]) -> None:
        self._clock = clock
        self._callback = callback
        self._timer: Timer | None = None
        self._when = self._due = 0.0

    def set(self, when: float) -> None:
        """Rings at `when` (seconds of the clock), and at no moment that was set before."""
        self._when = when
        if self._timer is None or when < self._due:
            self._stop()
            self._start()

    def close(self) -> None:
        """Never rings again, and lets go of `callback`, whose owner usually holds this timer."""
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


class Timeout:
    """An async context that raises `TimeoutError` once `clock.monotonic()` has reached `until` (seconds).

    As `asyncio.timeout_at`, but of an injected clock. A cancellation from elsewhere passes through as such. With
    `only_if`, it is put off for as long as that is false, and looked at again each second. `paused` is how long it was
    paused, in seconds.
    """

    def __init__(self, clock: Clock, until: float, only_if: Callable[[], bool] | None = None) -> None:
        self._clock = clock
        self._until = until
        self._only_if = only_if
        self._expired = False
        self.paused = 0.0

    async def __aenter__(self) -> Self:
        task = asyncio.current_task()
        assert task is not None, "a time limit needs a task to interrupt"  # noqa: S101 - a defect of ours
        self._task = task
        self._cancelling = task.cancelling()
        self._timer = self._clock.call_at(self._until, self._expire)
        return self

    @contextmanager
    def pause(self) -> Iterator[None]:
        """Within it no time of the limit passes; it has not expired."""
        self._timer.cancel()
        began = self._clock.monotonic()
        try:
            yield
        finally:
            waited = self._clock.monotonic() - began
            self.paused += waited
            self._until += waited
            self._timer = self._clock.call_at(self._until, self._expire)

    def _expire(self) -> None:
        if self._only_if is not None and not self._only_if():
            self._timer = self._clock.call_at(self._clock.monotonic() + 1.0, self._expire)
            return
        self._expired = True
        self._task.cancel()

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._timer.cancel()
        if self._expired:
            only_ours = self._task.uncancel() <= self._cancelling
            if only_ours and kind is not None and issubclass(kind, asyncio.CancelledError):
                raise TimeoutError from error
