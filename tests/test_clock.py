"""Sleeps, timers and events of the clock."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING

from gateway.clock import AutoResetEvent, RearmableTimer, SystemClock, sleep_until
from tests.support.clock import SteppedClock, SteppedTimer, settle

if TYPE_CHECKING:
    from collections.abc import Callable, Coroutine


def started(work: Coroutine[None, None, object]) -> asyncio.Task[object]:
    return asyncio.get_running_loop().create_task(work)


async def for_ever() -> None:
    await asyncio.Event().wait()


# sleep_until


async def test_a_sleep_ends_at_its_moment_and_not_before() -> None:
    clock = SteppedClock()
    sleeper = started(sleep_until(clock, clock.now + 3600))
    await clock.advance(3599.9)
    assert not sleeper.done()
    await clock.advance(0.1)
    assert sleeper.done()


async def test_a_sleep_until_a_moment_in_the_past_ends_immediately() -> None:
    clock = SteppedClock()
    await sleep_until(clock, clock.now)
    assert clock.pending == 0


async def test_a_cancelled_sleep_leaves_no_timer() -> None:
    clock = SteppedClock()
    sleeper = started(sleep_until(clock, clock.now + 1))
    await settle()
    sleeper.cancel()
    await asyncio.wait([sleeper])
    assert sleeper.cancelled()
    assert clock.pending == 0


# AutoResetEvent


async def test_set_wakes_the_waiter() -> None:
    clock = SteppedClock()
    event = AutoResetEvent(clock)
    waiter = started(event.wait(clock.now + 10))
    await settle()
    assert not waiter.done()
    event.set()
    await settle()
    assert waiter.done()
    assert clock.pending == 0


async def test_a_set_before_the_wait_is_remembered_once() -> None:
    clock = SteppedClock()
    event = AutoResetEvent(clock)
    event.set()
    event.set()
    await event.wait(clock.now + 10)
    second = started(event.wait(clock.now + 10))
    await settle()
    assert not second.done()
    await clock.advance(10)
    assert second.done()


async def test_a_set_that_a_cancelled_waiter_missed_is_kept() -> None:
    clock = SteppedClock()
    event = AutoResetEvent(clock)
    waiter = started(event.wait(clock.now + 10))
    await settle()
    event.set()
    waiter.cancel()
    await asyncio.wait([waiter])
    assert waiter.cancelled()
    await event.wait(clock.now + 10)


async def test_a_wait_ends_at_its_time() -> None:
    clock = SteppedClock()
    waiter = started(AutoResetEvent(clock).wait(clock.now + 10))
    await clock.advance(9)
    assert not waiter.done()
    await clock.advance(1)
    assert waiter.done()


# RearmableTimer


class Counting(SteppedClock):
    """A clock that counts its timers."""

    def __init__(self) -> None:
        super().__init__()
        self.timers = 0

    def call_at(self, when: float, callback: Callable[[], object]) -> SteppedTimer:
        self.timers += 1
        return super().call_at(when, callback)


class Bell:
    """The times at which a timer fired, in seconds from the start."""

    def __init__(self) -> None:
        self.clock = Counting()
        self.rang: list[float] = []
        began = self.clock.now
        self.timer = RearmableTimer(self.clock, lambda: self.rang.append(self.clock.now - began))

    def set(self, seconds: float) -> None:
        self.timer.set(self.clock.now + seconds)


async def test_a_timer_fires_once_at_its_moment() -> None:
    bell = Bell()
    bell.set(10)
    await bell.clock.advance(9)
    assert bell.rang == []
    await bell.clock.advance(1)
    await bell.clock.advance(100)
    assert bell.rang == [10]


async def test_a_postponed_timer_fires_only_at_the_last_moment() -> None:
    bell = Bell()
    for _ in range(5):
        bell.set(10)
        await bell.clock.advance(1)
    await bell.clock.advance(8)
    assert bell.rang == []
    await bell.clock.advance(1)
    assert bell.rang == [14]


async def test_postponing_needs_no_new_timer() -> None:
    bell = Bell()
    for seconds in range(10, 1000):
        bell.set(seconds)
    assert (bell.clock.timers, bell.clock.pending) == (1, 1)
    await bell.clock.advance(10)
    assert (bell.clock.timers, bell.clock.pending) == (2, 1)


async def test_a_timer_can_be_set_earlier() -> None:
    bell = Bell()
    bell.set(10)
    bell.set(5)
    await bell.clock.advance(5)
    await bell.clock.advance(5)
    assert bell.rang == [5]


async def test_a_timer_can_be_set_again_after_it_fired() -> None:
    bell = Bell()
    bell.set(1)
    await bell.clock.advance(1)
    bell.set(1)
    await bell.clock.advance(1)
    assert bell.rang == [1, 2]


async def test_a_closed_timer_does_not_fire() -> None:
    bell = Bell()
    bell.set(1)
    bell.timer.close()
    bell.timer.close()
    assert bell.clock.pending == 0
    await bell.clock.advance(1)
    assert bell.rang == []


# settle


async def test_two_tasks_settle_together() -> None:
    async with asyncio.timeout(30):
        await asyncio.gather(settle(), settle())


# SystemClock


async def test_the_systems_clock_calls_at_its_moment() -> None:
    clock = SystemClock()
    until = clock.monotonic() + 0.05
    await sleep_until(clock, until)
    # asyncio's timers may be early by the clock's resolution.
    assert clock.monotonic() >= until - 0.001
