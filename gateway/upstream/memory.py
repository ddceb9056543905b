"""The memory of one large response, taken from a budget that all large responses share."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from gateway.clock import PauseTimeout
    from gateway.limits.fair_budget import FairBudget, Reservation
    from gateway.time_limits import TimeLimit

# Smaller bodies are not counted, because the number of connections bounds them.
SMALL_BODY_BYTES = 1 << 20
# The first reservation for a body of unknown size; each further one doubles the total.
FIRST_STEP_BYTES = 4 << 20


class ReservationExceeded(Exception):
    """A response of unknown size needs more memory than its owner may take now."""


class BodyReservation:
    """Memory for the body of one response: `size` bytes, which grow as it is read.

    A response that holds memory never waits for more, because two of them could wait for each other. If the size is
    unknown and the free memory is not enough, `grow` raises `ReservationExceeded`. The request then starts over, with
    memory for the largest response.

    Args:
        budget: the memory of all large responses.
        owner: the caller that the memory counts for.
        largest: the size of the largest response, in bytes.
        pause: stops the time limit of the call while it waits for memory, because that is no delay of the upstream.
        repeatable: whether the request may start over. If not, a body of unknown size reserves `largest` at first.
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
        """True if nothing is reserved."""
        return not self._held

    async def grow(self, announced: int | None, limit: TimeLimit) -> None:
        """Reserve the `announced` size, or the next step if it is None. Raises `ReservationExceeded`.

        The first reservation may wait; `limit` is paused meanwhile.
        """
        if self._held:
            step = min(self.size, self._largest - self.size)
            more = self._budget.try_acquire(self._owner, step)
            if more is None:
                raise ReservationExceeded
            self._add(more, step)
        else:
            step = announced or (FIRST_STEP_BYTES if self._repeatable else self._largest)
            with limit.pause():
                await self._acquire(min(step, self._largest))

    async def start_over(self) -> None:
        """Release everything, and wait for memory for the largest response."""
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
        """Release everything beyond `size` bytes."""
        for reservation in self._held:
            kept = min(size, reservation.size)
            reservation.shrink(kept)
            size -= kept

    def release(self) -> None:
        """Release everything. A second call does nothing."""
        self.shrink(0)
        self._held.clear()
        self.size = SMALL_BODY_BYTES
