"""Fair sharing of slots and bytes among owners."""

from __future__ import annotations

import asyncio
import random
from collections import Counter

import pytest

from gateway.limits.fair_budget import FairBudget, Reservation
from tests.support.clock import settle

ANN, BOB, EVE = b"ann", b"bob", b"eve"


class Queue:
    """Waiting requests, and the order in which they were granted."""

    def __init__(self, budget: FairBudget) -> None:
        self.budget = budget
        self.order: list[str] = []
        self.tasks: dict[str, asyncio.Task[Reservation]] = {}

    async def ask(self, name: str, owner: bytes, size: int = 1) -> None:
        async def take() -> Reservation:
            taken = await self.budget.acquire(owner, size)
            self.order.append(name)
            return taken

        self.tasks[name] = asyncio.create_task(take())
        await settle()

    async def release(self, name: str) -> None:
        self.tasks.pop(name).result().release()
        await settle()


def test_one_owner_gets_three_quarters_and_leaves_a_quarter() -> None:
    budget = FairBudget(256)
    taken = Counter[bytes]()
    for owner in (ANN, BOB, EVE):
        while budget.try_acquire(owner) is not None:
            taken[owner] += 1
    assert taken == {ANN: 192, BOB: 48, EVE: 12}
    assert budget.free == 4


async def test_two_greedy_owners_get_equal_shares() -> None:
    budget = FairBudget(256)
    queue = Queue(budget)
    for owner in (ANN, BOB):
        for number in range(256):
            await queue.ask(f"{owner!r}{number}", owner)
    rounds = random.Random(1)
    for _ in range(2_000):
        await queue.release(rounds.choice([name for name, task in queue.tasks.items() if task.done()]))
        freed = queue.order[-1]
        await queue.ask(f"{freed}+", ANN if freed.startswith(repr(ANN)) else BOB)
    assert budget.held(ANN) == pytest.approx(110, abs=3)
    assert budget.held(BOB) == pytest.approx(110, abs=3)
    assert budget.try_acquire(EVE) is None, "others wait"
    await queue.ask("eve", EVE)
    assert queue.order[-1] == "eve", "there is room for an owner that holds nothing"
    for task in queue.tasks.values():
        task.cancel()


async def test_the_owner_that_holds_least_comes_first() -> None:
    budget = FairBudget(4)
    queue = Queue(budget)
    for number in range(6):
        await queue.ask(f"ann{number}", ANN)
    assert queue.order == ["ann0", "ann1", "ann2"], "three quarters"
    await queue.ask("bob0", BOB)
    for number in (1, 2):
        await queue.ask(f"bob{number}", BOB)
        await queue.ask(f"eve{number}", EVE)
    assert queue.order[3:] == ["bob0"]
    for name in ("ann0", "ann1", "bob0", "eve1", "ann2"):
        await queue.release(name)
    assert queue.order[4:] == ["eve1", "bob1", "eve2", "ann3"]
    for task in queue.tasks.values():
        task.cancel()


async def test_a_request_is_overtaken_by_at_most_its_own_size() -> None:
    budget = FairBudget(100)
    held = await budget.acquire(ANN, 60)
    queue = Queue(budget)
    await queue.ask("large", BOB, 50)
    for number in range(12):
        await queue.ask(f"small{number}", f"other{number}".encode(), 5)
        if not queue.tasks[f"small{number}"].done():
            break
        await queue.release(f"small{number}")
    assert number == 10, "ten times five"
    held.release()
    await settle()
    assert queue.order[-2:] == ["large", "small10"]


async def test_an_owner_over_its_share_delays_no_other() -> None:
    budget = FairBudget(100)
    queue = Queue(budget)
    await queue.ask("first", ANN, 60)
    await queue.ask("second", ANN, 30)
    for number in range(50):
        await queue.ask(f"bob{number}", BOB, 10)
        assert queue.tasks[f"bob{number}"].done()
        await queue.release(f"bob{number}")
    assert not queue.tasks["second"].done()
    await queue.release("first")
    assert queue.tasks["second"].done()


async def test_requests_of_one_owner_keep_their_order() -> None:
    budget = FairBudget(100)
    held = await budget.acquire(BOB, 80)
    queue = Queue(budget)
    await queue.ask("large", ANN, 90)
    await queue.ask("small", ANN, 10)
    assert queue.order == []
    held.release()
    await settle()
    await queue.release("large")
    assert queue.order == ["large", "small"]


async def test_a_waiting_owner_with_less_makes_units_contended() -> None:
    budget = FairBudget(100)
    anns = await budget.acquire(ANN, 70)
    bobs = await budget.acquire(BOB, 20)
    assert not budget.contended(ANN)
    queue = Queue(budget)
    await queue.ask("ann", ANN, 50)
    assert (budget.contended(ANN), budget.contended(BOB)) == (True, False)
    await queue.ask("eve", EVE, 50)
    assert (budget.contended(ANN), budget.contended(BOB), budget.contended(EVE)) == (True, True, True)
    anns.release()
    bobs.release()
    await settle()
    assert queue.order == ["eve", "ann"]
    assert not budget.contended(EVE)


async def test_a_request_over_the_total_gets_the_total() -> None:
    budget = FairBudget(100)
    held = await budget.acquire(ANN, 1_000)
    assert budget.free == 0
    held.shrink(30)
    assert budget.free == 70
    held.shrink(50)
    assert budget.free == 70, "it does not grow"
    held.release()
    held.release()
    assert (budget.free, budget.owners) == (100, 0)


async def test_a_reservation_ends_with_its_context() -> None:
    budget = FairBudget(2)
    with pytest.raises(ValueError, match="broken"), await budget.acquire(ANN):
        raise ValueError("broken")
    with await budget.acquire(ANN):
        assert budget.free == 1
    assert budget.free == 2


async def test_a_cancelled_request_lets_the_next_in() -> None:
    budget = FairBudget(100)
    held = await budget.acquire(ANN, 50)
    queue = Queue(budget)
    await queue.ask("large", BOB, 90)
    for number in range(2):
        await queue.ask(f"small{number}", EVE, 50)
    assert queue.order == ["small0"]
    await queue.release("small0")
    assert queue.order == ["small0"], "it was overtaken often enough"
    queue.tasks["large"].cancel()
    await settle()
    assert queue.order == ["small0", "small1"]
    held.release()


async def test_a_request_cancelled_at_its_turn_passes_it_on() -> None:
    budget = FairBudget(100)
    held = await budget.acquire(ANN, 100)
    first, second = (asyncio.create_task(budget.acquire(owner, 100)) for owner in (BOB, EVE))
    await settle()
    held.release()
    first.cancel()
    await settle()
    assert first.cancelled()
    second.result().release()
    assert budget.free == 100


async def test_a_cancelled_task_gets_no_turn() -> None:
    budget = FairBudget(100)
    held = await budget.acquire(ANN, 100)
    first, second = (asyncio.create_task(budget.acquire(owner, 100)) for owner in (BOB, EVE))
    await settle()
    first.cancel()
    held.release()
    await settle()
    assert first.cancelled()
    second.result().release()
    assert (budget.free, budget.owners) == (100, 0)


@pytest.mark.parametrize("seed", range(20))
async def test_any_history_serves_all_and_leaves_nothing(seed: int) -> None:
    dice = random.Random(seed)
    total = dice.choice([1, 4, 100])
    budget = FairBudget(total)
    owners = [bytes([number]) for number in range(dice.choice([2, 40]))]
    waiting: list[asyncio.Task[Reservation]] = []
    for _ in range(400):
        size = dice.choice([1, 1, 2, 30, 100])
        waiting.append(asyncio.create_task(budget.acquire(dice.choice(owners), size)))
        for _ in range(min(dice.choice([0, 0, 1, 3]), len(waiting))):
            task = dice.choice(waiting)
            waiting.remove(task)
            if not task.done():
                task.cancel()
            elif dice.random() < 0.5:
                task.result().shrink(0)
            else:
                task.result().shrink(1)
                waiting.append(task)
        if dice.random() < 0.7:
            await settle()
        assert 0 <= budget.free <= total
    # Everything is granted in turn, and no request waits for ever.
    while waiting:
        await settle()
        done = [task for task in waiting if task.done()]
        assert done
        waiting = [task for task in waiting if not task.done()]
        for task in done:
            task.result().release()
    await settle()
    assert (budget.free, budget.owners) == (total, 0)
