"""The memory that one answer of the upstream takes of what all large ones share."""

from __future__ import annotations

import asyncio
from contextlib import contextmanager
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterator

    from gateway.clock import PauseTimeout
    from gateway.limits.fair_budget import FairBudget, Reservation

# Smaller bodies are not counted, for there are never enough of them at once to matter.
SMALL_BODY_BYTES = 1 << 20
# What one of unknown size reserves at first; then twice that, and so on.
FIRST_STEP_BYTES = 4 << 20


class ReservationExceeded(Exception):
    """An answer of unknown size needs more than is free beside what others hold or wait for."""


class BodyReservation:
    """Holds `size` bytes for one answer of `owner`'s, and more as it is read, up to `largest`.

    Who holds some and waits for more can wait for another who does the same. So one of unknown size never does: it
    takes what is free, and where that is not enough, `ReservationExceeded` lets go of everything, to `start_over` with
    room for the largest. Where the request is not `repeatable`, that much is reserved from the start. Waiting is no
    delay of the upstream's: `pause` stops the caller's time meanwhile, and ours stops with it.
    """

    def __init__(
        self, budget: FairBudget, owner: bytes, largest: int, pause: PauseTimeout, *, repeatable: bool
    ) -> None:
        self.size = SMALL_BODY_BYTES
        self._budget = budget
        self._owner = owner
        self._largest = largest
        self._pause = pause
        self._repeatable = repeatable
        self._held: list[Reservation] = []

    @property
    def empty(self) -> bool:
        """Whether it holds nothing."""
        return not self._held

    async def grow(self, announced: int | None, limit: asyncio.Timeout) -> None:
        """Makes room for more: all that is `announced`, or the next step. Raises `ReservationExceeded`."""
        if self._held:
            step = min(self.size, self._largest - self.size)
            more = self._budget.try_acquire(self._owner, step)
            if more is None:
                raise ReservationExceeded
            self._add(more, step)
        else:
            step = announced or (FIRST_STEP_BYTES if self._repeatable else self._largest)
            with _stopped(limit):
                await self._acquire(min(step, self._largest))

    async def start_over(self) -> None:
        """Waits for room for the largest, holding nothing meanwhile."""
        self.release()
        await self._acquire(self._largest)

    async def _acquire(self, size: int) -> None:
        with self._pause():
            more = await self._budget.acquire(self._owner, size)
        self.size = 0
        self._add(more, size)

    def _add(self, more: Reservation, size: int) -> None:
        self._held.append(more)
        self.size += size

    def shrink(self, size: int) -> None:
        """Gives back what is reserved beyond `size` bytes."""
        for reservation in self._held:
            kept = min(size, reservation.size)
            reservation.shrink(kept)
            size -= kept

    def release(self) -> None:
        """Gives back all of it; does nothing the second time."""
        self.shrink(0)
        self._held.clear()
        self.size = SMALL_BODY_BYTES


@contextmanager
def _stopped(limit: asyncio.Timeout) -> Iterator[None]:
    loop = asyncio.get_running_loop()
    until = limit.when()
    left = None if until is None else until - loop.time()
    limit.reschedule(None)
    try:
        yield
    finally:
        limit.reschedule(None if left is None else loop.time() + left)
