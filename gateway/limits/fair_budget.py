"""Fair sharing of a scarce resource: slots or bytes.

An owner may hold at most three times as much as it leaves free, so there is always room for the next owner. One owner
alone can have three quarters of all, two can have six sevenths (docs/internals/fair-sharing.md).
"""

from __future__ import annotations

import asyncio
import itertools
from collections import OrderedDict
from dataclasses import dataclass
from heapq import heapify, heappop, heappush
from typing import TYPE_CHECKING, NamedTuple, Self

if TYPE_CHECKING:
    from collections.abc import Iterator

FAIR_SHARE_FACTOR = 3


def fits_fair_share(held: int, size: int, free: int) -> bool:
    """Return whether an owner that holds `held` units may take `size` of the `free` ones.

    An owner that holds nothing may always take free units.
    """
    return size <= free and (not held or held + size <= FAIR_SHARE_FACTOR * (free - size))


class Usage(NamedTuple):
    """The used part of a limit, and the limit."""

    used: int
    limit: int


@dataclass(eq=False, slots=True)
class _Request:
    """A waiting request for `size` units. Later requests may overtake it by `overtake_allowance` units in total."""

    size: int
    overtake_allowance: int
    turn: asyncio.Future[None]


class FairBudget:
    """A budget of `total` units, shared by owners. Requests that do not fit wait.

    The order of waiting requests:

    - The owner that holds least comes first. Of equal owners, the one that has waited longest comes first.
    - The requests of one owner keep their order.
    - A request that fits the share of its owner, but not the free units, may be overtaken by smaller ones, by as many
      units as it asks for. Then those behind it wait until it fits.

    A turn costs O(log n) for n waiting owners, and more only if requests differ in size.
    """

    def __init__(self, total: int) -> None:
        self._total = total
        self._free = total
        self._held: dict[bytes, int] = {}
        self._queues: dict[bytes, OrderedDict[_Request, None]] = {}
        # A heap of waiting owners: units held, number, owner. An entry is valid if its number is the owner's last.
        self._order: list[tuple[int, int, bytes]] = []
        self._last_number: dict[bytes, int] = {}
        self._numbers: Iterator[int] = itertools.count()

    @property
    def free(self) -> int:
        """The units that no owner holds."""
        return self._free

    @property
    def usage(self) -> Usage:
        """The units that are held, and the total."""
        return Usage(self._total - self._free, self._total)

    @property
    def waiting(self) -> int:
        """The number of waiting requests."""
        return sum(map(len, self._queues.values()))

    @property
    def owners(self) -> int:
        """The number of owners that hold units or wait for them."""
        return len(self._held.keys() | self._queues.keys())

    def usage_by_owner(self) -> dict[bytes, int]:
        """Return the units that each owner holds."""
        return self._held.copy()

    def held(self, owner: bytes) -> int:
        """Return the units that an owner holds."""
        return self._held.get(owner, 0)

    def contended(self, owner: bytes) -> bool:
        """Return whether an owner waits that holds no more than this one, and so has a better claim to its units."""
        least = self._least()
        return least is not None and least[0] <= self.held(owner)

    def try_acquire(self, owner: bytes, size: int = 1) -> Reservation | None:
        """Reserve `size` units now; return None if they do not fit the owner's share, or if others wait."""
        if self._queues or not fits_fair_share(self.held(owner), size, self._free):
            return None
        self._move(owner, size)
        return Reservation(self, owner, size)

    async def acquire(self, owner: bytes, size: int = 1) -> Reservation:
        """Wait for the owner's turn, and reserve `size` units, or the total if that is less."""
        size = min(size, self._total)
        reservation = self.try_acquire(owner, size)
        if reservation is not None:
            return reservation
        request = _Request(size, size, asyncio.get_running_loop().create_future())
        if owner not in self._queues:
            self._queues[owner] = OrderedDict()
            self._place(owner)
        self._queues[owner][request] = None
        self._grant()
        try:
            await request.turn
        except asyncio.CancelledError:
            if request.turn.cancelled():
                self._remove(owner, request)
                self._grant()
            else:
                # The units were granted just before the cancellation.
                self._give_back(owner, size)
            raise
        return Reservation(self, owner, size)

    def _grant(self) -> None:
        # Owners that cannot take units now are set aside, to look at those behind them.
        aside: list[tuple[int, int, bytes]] = []
        overtaken: list[_Request] = []
        while (least := self._least()) is not None:
            held, _, owner = least
            request = next(iter(self._queues[owner]))
            if request.turn.cancelled():
                # Its task was cancelled, and has not run yet.
                self._remove(owner, request)
                continue
            # If this owner cannot take a unit, no owner behind it can, because they hold at least as much.
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
        if self._queues:
            self._grant()

    def _place(self, owner: bytes) -> None:
        number = self._last_number[owner] = next(self._numbers)
        heappush(self._order, (self.held(owner), number, owner))
        if len(self._order) > 2 * len(self._queues) + 16:
            self._order = [each for each in self._order if self._is_valid(each)]
            heapify(self._order)

    def _least(self) -> tuple[int, int, bytes] | None:
        while self._order and not self._is_valid(self._order[0]):
            heappop(self._order)
        return self._order[0] if self._order else None

    def _is_valid(self, entry: tuple[int, int, bytes]) -> bool:
        return self._last_number.get(entry[2]) == entry[1]


class Reservation:
    """Reserved units of a budget, until they are released or the context is left."""

    __slots__ = ("_budget", "_owner", "size")

    def __init__(self, budget: FairBudget, owner: bytes, size: int) -> None:
        self._budget = budget
        self._owner = owner
        self.size = size

    def shrink(self, size: int) -> None:
        """Return the units beyond `size` to the budget."""
        if size < self.size:
            returned, self.size = self.size - size, size
            self._budget._give_back(self._owner, returned)  # noqa: SLF001 - its own budget

    def release(self) -> None:
        """Return all units to the budget. Calling it again has no effect."""
        self.shrink(0)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.release()
