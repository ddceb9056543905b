"""What there is too little of, shared fairly: places and bytes.

What an owner holds is at most three times what it leaves free. So one alone has three quarters of all, two have six
sevenths, and however many are greedy, who comes next finds room.
"""

from __future__ import annotations

import asyncio
import itertools
from collections import OrderedDict
from dataclasses import dataclass
from heapq import heapify, heappop, heappush
from typing import TYPE_CHECKING, Self

if TYPE_CHECKING:
    from collections.abc import Iterator

FAIR_SHARE_FACTOR = 3


def fits_fair_share(held: int, size: int, free: int) -> bool:
    """Whether an owner that holds `held` units may take `size` of `free` ones; one that holds nothing always may."""
    return size <= free and (not held or held + size <= FAIR_SHARE_FACTOR * (free - size))


@dataclass(eq=False, slots=True)
class _Request:
    """A request that waits; `overtake_allowance` is how many units may still go to others that come after it."""

    size: int
    overtake_allowance: int
    turn: asyncio.Future[None]


class FairBudget:
    """`total` units of which many owners take. Who finds no room waits.

    The owner that holds least comes first, among equals the one that has waited longest, and each owner's own requests
    come in their order. One that waits for room, and not for its own share, is overtaken by as many units as it asks
    for; then those behind it wait until it fits. A turn costs the logarithm of how many owners wait, and more only
    where requests differ in size.
    """

    def __init__(self, total: int) -> None:
        self._total = total
        self._free = total
        self._held: dict[bytes, int] = {}
        self._queues: dict[bytes, OrderedDict[_Request, None]] = {}
        # A heap of the owners that wait: what each holds, a number, the owner. Only its last number counts.
        self._order: list[tuple[int, int, bytes]] = []
        self._last_number: dict[bytes, int] = {}
        self._numbers: Iterator[int] = itertools.count()

    @property
    def free(self) -> int:
        """Units that nobody holds."""
        return self._free

    @property
    def reserved(self) -> int:
        """Units that are held now."""
        return self._total - self._free

    @property
    def waiting(self) -> int:
        """How many requests wait for units."""
        return sum(map(len, self._queues.values()))

    @property
    def owners(self) -> int:
        """How many hold units or wait for them."""
        return len(self._held.keys() | self._queues.keys())

    def held(self, owner: bytes) -> int:
        """Units that an owner holds."""
        return self._held.get(owner, 0)

    def contended(self, owner: bytes) -> bool:
        """Whether somebody waits who holds no more than this owner, and so has a better right to what it holds."""
        least = self._least()
        return least is not None and least[0] <= self.held(owner)

    def try_acquire(self, owner: bytes, size: int = 1) -> Reservation | None:
        """`size` units at once, or None where there is no room for the owner or others wait."""
        if self._queues or not fits_fair_share(self.held(owner), size, self._free):
            return None
        self._move(owner, size)
        return Reservation(self, owner, size)

    async def acquire(self, owner: bytes, size: int = 1) -> Reservation:
        """`size` units, or the total where that is less, once it is the owner's turn."""
        size = min(size, self._total)
        at_once = self.try_acquire(owner, size)
        if at_once is not None:
            return at_once
        request = _Request(size, size, asyncio.get_running_loop().create_future())
        if owner not in self._queues:
            self._queues[owner] = OrderedDict()
            self._place(owner)
        self._queues[owner][request] = None
        self._let_in()
        try:
            await request.turn
        except asyncio.CancelledError:
            if request.turn.cancelled():
                self._remove(owner, request)
                self._let_in()
            else:
                # The turn came in the same moment: it goes to the next.
                self._give_back(owner, size)
            raise
        return Reservation(self, owner, size)

    def _let_in(self) -> None:
        aside: list[tuple[int, int, bytes]] = []
        overtaken: list[_Request] = []
        while (least := self._least()) is not None:
            held, _, owner = least
            request = next(iter(self._queues[owner]))
            if request.turn.cancelled():
                # Its task leaves, and has not run yet.
                self._remove(owner, request)
                continue
            # Whoever follows holds at least as much.
            if not fits_fair_share(held, 1, self._free) or any(
                each.overtake_allowance < request.size for each in overtaken
            ):
                break
            if fits_fair_share(held, request.size, self._free):
                for each in overtaken:
                    each.overtake_allowance -= request.size
                self._remove(owner, request)
                self._move(owner, request.size)
                request.turn.set_result(None)
                continue
            if fits_fair_share(held, request.size, self._total - held):
                overtaken.append(request)
            aside.append(heappop(self._order))
        for entry in aside:
            heappush(self._order, entry)

    def _remove(self, owner: bytes, request: _Request) -> None:
        queue = self._queues.get(owner)
        if queue is not None and request in queue:
            del queue[request]
            if not queue:
                del self._queues[owner], self._last_number[owner]

    def _move(self, owner: bytes, size: int) -> None:
        self._free -= size
        held = self.held(owner) + size
        if held:
            self._held[owner] = held
        else:
            del self._held[owner]
        if owner in self._queues:
            self._place(owner)

    def _give_back(self, owner: bytes, size: int) -> None:
        self._move(owner, -size)
        self._let_in()

    def _place(self, owner: bytes) -> None:
        number = self._last_number[owner] = next(self._numbers)
        heappush(self._order, (self.held(owner), number, owner))
        if len(self._order) > 2 * len(self._queues) + 16:
            self._order = [each for each in self._order if self._counts(each)]
            heapify(self._order)

    def _least(self) -> tuple[int, int, bytes] | None:
        while self._order and not self._counts(self._order[0]):
            heappop(self._order)
        return self._order[0] if self._order else None

    def _counts(self, entry: tuple[int, int, bytes]) -> bool:
        return self._last_number.get(entry[2]) == entry[1]


class Reservation:
    """`size` units of a budget, until they are released or its context is left."""

    def __init__(self, budget: FairBudget, owner: bytes, size: int) -> None:
        self._budget = budget
        self._owner = owner
        self.size = size

    def shrink(self, size: int) -> None:
        """Gives back what is reserved beyond `size` units."""
        if size < self.size:
            given, self.size = self.size - size, size
            self._budget._give_back(self._owner, given)  # noqa: SLF001 - the two are one

    def release(self) -> None:
        """Gives back all of it; does nothing the second time."""
        self.shrink(0)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.release()
