"""Token buckets of the rate limiter."""

from __future__ import annotations

import asyncio

import pytest

from gateway.limits.rate_limiter import RateLimiter
from tests.support.clock import SteppedClock, settle

ANN, BOB = b"ann", b"bob"


@pytest.fixture
def clock() -> SteppedClock:
    return SteppedClock()


async def use(
    clock: SteppedClock, rate_limiter: RateLimiter, per_second: float, seconds: float, owner: bytes = ANN
) -> int:
    """Ask for tokens at a rate, and return how many there were."""
    got = 0
    for _ in range(round(per_second * seconds)):
        got += not rate_limiter.try_acquire(owner)
        await clock.advance(1 / per_second)
    return got


async def test_a_burst_has_the_tokens_of_one_second(clock: SteppedClock) -> None:
    rate_limiter = RateLimiter(clock, 10)
    assert [rate_limiter.try_acquire(ANN) for _ in range(10)] == [0.0] * 10
    assert rate_limiter.try_acquire(ANN) == pytest.approx(0.1)
    assert rate_limiter.try_acquire(BOB) == 0.0, "each has its own"
    await clock.advance(0.1)
    assert rate_limiter.try_acquire(ANN) == 0.0
    assert rate_limiter.try_acquire(ANN) == pytest.approx(0.1)
    await clock.advance(3_600)
    assert await use(clock, rate_limiter, 1_000, 1) == pytest.approx(20, abs=1)


async def test_a_rate_below_one_gives_single_tokens(clock: SteppedClock) -> None:
    rate_limiter = RateLimiter(clock, 0.1)
    assert rate_limiter.try_acquire(ANN) == 0.0
    assert rate_limiter.try_acquire(ANN) == pytest.approx(10)
    await clock.advance(10)
    assert rate_limiter.try_acquire(ANN) == 0.0


async def test_slowing_down_halves_the_used_rate(clock: SteppedClock) -> None:
    rate_limiter = RateLimiter(clock, 100)
    assert await use(clock, rate_limiter, 20, 60) == 1_200, "far below the highest rate"
    rate_limiter.slow_down(ANN)
    assert await use(clock, rate_limiter, 200, 1) == pytest.approx(20, abs=1), "half of 20, and the rest of a burst"
    await clock.advance(9)
    assert rate_limiter.try_acquire(ANN) == 0.0
    await use(clock, rate_limiter, 1_000, 1)
    slowed = await use(clock, rate_limiter, 200, 10)
    assert 100 <= slowed <= 150
    await clock.advance(600)
    await use(clock, rate_limiter, 1_000, 1)
    assert await use(clock, rate_limiter, 200, 10) == pytest.approx(1_000, rel=0.01)


async def test_slowing_down_counts_once_per_second(clock: SteppedClock) -> None:
    rate_limiter = RateLimiter(clock, 100)
    await use(clock, rate_limiter, 100, 30)
    for _ in range(50):
        rate_limiter.slow_down(ANN)
    await use(clock, rate_limiter, 1_000, 1)
    assert await use(clock, rate_limiter, 1_000, 1) == pytest.approx(50, abs=2)
    for _ in range(20):
        rate_limiter.slow_down(ANN)
        await use(clock, rate_limiter, 1_000, 1)
    assert await use(clock, rate_limiter, 1_000, 10) == pytest.approx(28, abs=8), (
        "a fiftieth of the highest rate is left"
    )


async def test_waiting_calls_keep_their_order(clock: SteppedClock) -> None:
    rate_limiter = RateLimiter(clock, 2)
    turns: list[tuple[int, float]] = []

    async def wait(number: int) -> None:
        await rate_limiter.acquire(ANN)
        turns.append((number, clock.now - 1_000))

    tasks = [asyncio.create_task(wait(number)) for number in range(6)]
    await settle()
    assert turns == [(0, 0), (1, 0)]
    tasks[3].cancel()
    await clock.advance(2)
    assert turns == [(0, 0), (1, 0), (2, 0.5), (4, 1.0), (5, 1.5)]
    assert clock.pending == 0


async def test_a_single_call_waits_for_no_turn(clock: SteppedClock) -> None:
    rate_limiter = RateLimiter(clock, 10)
    await rate_limiter.acquire(ANN)
    await clock.advance(0.001)
    with pytest.raises(StopIteration):
        rate_limiter.acquire(ANN).send(None)
    assert [rate_limiter.try_acquire(ANN) for _ in range(8)] == [0.0] * 8
    assert rate_limiter.try_acquire(ANN) > 0, "each took a token"


async def test_a_call_does_not_overtake_those_that_wait(clock: SteppedClock) -> None:
    rate_limiter = RateLimiter(clock, 1)
    await rate_limiter.acquire(ANN)
    waiting = asyncio.create_task(rate_limiter.acquire(ANN))
    await settle()
    # The token is there, but the timer has not run yet.
    clock.now += 1
    late = asyncio.create_task(rate_limiter.acquire(ANN))
    await settle()
    assert not late.done()
    await clock.advance(0)
    assert waiting.done()
    assert not late.done()
    late.cancel()


async def test_many_calls_of_one_owner_do_not_block_others(clock: SteppedClock) -> None:
    rate_limiter = RateLimiter(clock, 100)
    order: list[bytes] = []

    async def go(owner: bytes) -> None:
        await rate_limiter.acquire(owner)
        order.append(owner)

    tasks = [asyncio.create_task(go(ANN)) for _ in range(20)]
    tasks += [asyncio.create_task(go(BOB)) for _ in range(2)]
    await asyncio.wait(tasks)
    assert {index for index, owner in enumerate(order) if owner == BOB} <= set(range(6))


async def test_a_cancelled_call_takes_no_token(clock: SteppedClock) -> None:
    rate_limiter = RateLimiter(clock, 1)
    await rate_limiter.acquire(ANN)
    first, second = (asyncio.create_task(rate_limiter.acquire(ANN)) for _ in range(2))
    await clock.advance(0.5)
    first.cancel()
    await clock.advance(0.5)
    assert first.cancelled()
    assert second.done()
    assert clock.pending == 0


async def test_a_lower_rate_applies_to_waiting_calls(clock: SteppedClock) -> None:
    rate_limiter = RateLimiter(clock, 10)
    tasks = [asyncio.create_task(rate_limiter.acquire(ANN)) for _ in range(30)]
    await clock.advance(0.5)
    assert sum(task.done() for task in tasks) == 15
    rate_limiter.slow_down(ANN)
    await clock.advance(2)
    assert 15 <= sum(task.done() for task in tasks) <= 20
    await clock.advance(60)
    assert all(task.done() for task in tasks)


async def test_idle_owners_are_forgotten_unless_slowed_down(clock: SteppedClock) -> None:
    rate_limiter = RateLimiter(clock, 10)
    await use(clock, rate_limiter, 10, 10)
    rate_limiter.slow_down(ANN)
    rate_limiter.try_acquire(BOB)
    await clock.advance(5)
    for number in range(200):
        rate_limiter.try_acquire(b"%d" % number)
        await clock.advance(0.5)
    assert rate_limiter.owners <= 5
    assert rate_limiter.try_acquire(ANN) == 0.0
    await clock.advance(1)
    assert await use(clock, rate_limiter, 100, 5) < 10 * 5, "the rate is still below the highest after 100 seconds"


async def test_waiting_owners_are_not_forgotten(clock: SteppedClock) -> None:
    rate_limiter = RateLimiter(clock, 1)
    tasks = [asyncio.create_task(rate_limiter.acquire(ANN)) for _ in range(10)]
    for number in range(5):
        await clock.advance(1)
        rate_limiter.try_acquire(b"%d" % number)
    assert sum(task.done() for task in tasks) == 6
    await clock.advance(10)
