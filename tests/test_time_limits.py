"""Time limits that share one timer."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING

import pytest

from gateway.clock import sleep_until
from gateway.time_limits import TimeLimits, limited_until
from tests.support.clock import SteppedClock, settle

if TYPE_CHECKING:
    from collections.abc import Coroutine


class Limited:
    """Runs work with time limits, and records the moments at which it ends."""

    def __init__(self) -> None:
        self.clock = SteppedClock()
        self.limits = TimeLimits(self.clock)
        self.began = self.clock.now

    def start(self, seconds: float, work: Coroutine[None, None, object]) -> asyncio.Task[float]:
        return asyncio.create_task(self.run(seconds, work))

    async def run(self, seconds: float, work: Coroutine[None, None, object]) -> float:
        """Return the time that the work took, or the time after which it was ended, negative."""
        try:
            with self.limits.until(self.clock.now + seconds):
                await work
        except TimeoutError:
            task = asyncio.current_task()
            assert task is not None
            assert task.cancelling() == 0
            return self.began - self.clock.now
        return self.clock.now - self.began

    async def work(self, seconds: float) -> None:
        await sleep_until(self.clock, self.clock.now + seconds)


async def test_each_limit_ends_at_its_moment() -> None:
    limited = Limited()
    limits = [9.0, 3.0, 3.0, 12.0, 5.0]
    tasks = [limited.start(limit, limited.work(10)) for limit in limits]
    await limited.clock.advance(20)
    assert [task.result() for task in tasks] == [-9, -3, -3, 10, -5]
    assert limited.clock.pending == 0


async def test_a_limit_in_the_past_ends_the_first_wait() -> None:
    limited = Limited()
    task = limited.start(-1, limited.work(1))
    await limited.clock.advance(0)
    assert task.result() == 0


async def test_a_later_limit_uses_the_timer_of_an_earlier_one() -> None:
    limited = Limited()
    for _ in range(50):
        task = limited.start(10, limited.work(0.1))
        await limited.clock.advance(0.1)
        assert task.done()
        assert limited.clock.pending == 1
    late = limited.start(10, limited.work(100))
    await limited.clock.advance(9.9)
    assert not late.done()
    await limited.clock.advance(0.1)
    assert late.result() == pytest.approx(-15)


@pytest.mark.parametrize(("outer", "inner"), [(5.0, 10.0), (10.0, 5.0), (5.0, 5.0)])
async def test_of_two_nested_limits_the_expired_one_raises(outer: float, inner: float) -> None:
    limited = Limited()
    caught = []

    async def within() -> None:
        caught.append(await limited.run(inner, limited.work(20)))

    task = limited.start(outer, within())
    await limited.clock.advance(30)
    assert caught == ([-5] if inner < outer else [])
    assert task.result() == (5 if inner < outer else -5)


async def test_a_cancellation_by_others_stays_one() -> None:
    limited = Limited()
    task = limited.start(10, limited.work(20))
    await settle()
    task.cancel()
    await asyncio.wait([task])
    assert task.cancelled()


async def test_a_cancellation_at_the_same_moment_wins() -> None:
    limited = Limited()
    limit = limited.limits.until(limited.clock.now + 10)

    async def work() -> None:
        with limit:
            await limited.work(20)

    task = asyncio.create_task(work())
    await settle()
    limit.expire()
    task.cancel()
    await asyncio.wait([task])
    assert task.cancelled()


async def test_a_pause_does_not_count() -> None:
    limited = Limited()
    limit = limited.limits.until(limited.clock.now + 10)

    async def work() -> None:
        with limit:
            await limited.work(9)
            with limit.pause():
                await limited.work(100)
            await limited.work(9)

    task = asyncio.create_task(work())
    await limited.clock.advance(109.9)
    assert not task.done()
    await limited.clock.advance(0.1)
    assert isinstance(task.exception(), TimeoutError)
    assert limit.paused == pytest.approx(100)
    assert limit.expired
    assert limited.clock.pending == 0


async def test_an_error_of_the_work_passes_through() -> None:
    limited = Limited()

    async def work() -> None:
        raise ValueError

    with pytest.raises(ValueError):
        await limited.run(10, work())


async def test_a_limit_whose_condition_is_false_is_delayed() -> None:
    limited = Limited()
    applies = False

    async def work() -> None:
        with limited.limits.until(limited.clock.now + 10, lambda: applies):
            await limited.work(20)

    other = limited.start(10, limited.work(20))
    task = asyncio.create_task(work())
    await limited.clock.advance(12.5)
    assert other.result() == -10
    assert not task.done()
    applies = True
    await limited.clock.advance(0.4)
    assert not task.done()
    await limited.clock.advance(0.1)
    assert isinstance(task.exception(), TimeoutError)


@pytest.mark.parametrize("seconds", [9.0, 11.0])
async def test_a_single_limit_leaves_no_timer(seconds: float) -> None:
    limited = Limited()

    async def work() -> None:
        with limited_until(limited.clock, limited.clock.now + 10):
            await limited.work(seconds)

    task = asyncio.create_task(work())
    await limited.clock.advance(10)
    assert isinstance(task.exception(), TimeoutError if seconds > 10 else type(None))
    assert limited.clock.pending == 0


async def test_a_closed_one_has_no_timer() -> None:
    limited = Limited()
    task = limited.start(10, limited.work(1))
    await limited.clock.advance(1)
    assert task.done()
    limited.limits.close()
    assert limited.clock.pending == 0
