from __future__ import annotations

import asyncio

from gateway.budget import ByteBudget, Reservation
from tests.support.clock import settle


async def test_who_finds_room_does_not_wait() -> None:
    budget = ByteBudget(100)
    await budget.reserve(60)
    await budget.reserve(40)
    assert budget.free == 0
    assert not budget.contended()


async def test_who_finds_none_waits_for_its_turn_first_come_first_served() -> None:
    budget = ByteBudget(100)
    held = await budget.reserve(80)
    order: list[int] = []

    async def ask(number: int, size: int) -> Reservation:
        reservation = await budget.reserve(size)
        order.append(number)
        return reservation

    large = asyncio.create_task(ask(1, 90))
    small = asyncio.create_task(ask(2, 10))
    await settle()
    assert budget.contended()
    assert order == [], "the small one would fit, and does not overtake"
    held.release()
    await settle()
    assert order == [1, 2]
    assert (budget.free, budget.contended()) == (0, False)
    (await large).release()
    (await small).release()
    assert budget.free == 100


async def test_more_than_the_total_is_the_total() -> None:
    budget = ByteBudget(100)
    held = await budget.reserve(1_000)
    assert budget.free == 0
    held.shrink(30)
    assert budget.free == 70
    held.shrink(50)
    assert budget.free == 70, "it does not grow"
    held.release()
    held.release()
    assert budget.free == 100


async def test_who_leaves_while_waiting_lets_the_next_in() -> None:
    budget = ByteBudget(100)
    held = await budget.reserve(50)
    large, small = (asyncio.create_task(budget.reserve(size)) for size in (90, 50))
    await settle()
    large.cancel()
    await settle()
    assert small.done()
    held.release()
    small.result().release()
    assert budget.free == 100


async def test_who_leaves_in_the_moment_of_its_turn_passes_it_on() -> None:
    budget = ByteBudget(100)
    held = await budget.reserve(100)
    first, second = (asyncio.create_task(budget.reserve(100)) for _ in range(2))
    await settle()
    held.release()
    first.cancel()
    await settle()
    assert first.cancelled()
    second.result().release()
    assert budget.free == 100


async def test_all_who_leave_at_once_leave_nothing_reserved() -> None:
    budget = ByteBudget(100)
    held = await budget.reserve(100)
    waiting = [asyncio.create_task(budget.reserve(size)) for size in (10, 60, 100, 30)]
    await settle()
    for task in waiting:
        task.cancel()
    held.release()
    await settle()
    assert (budget.free, budget.contended()) == (100, False)
