"""What large answers may take of memory, all of them together."""

from __future__ import annotations

import asyncio
from collections import deque


class ByteBudget:
    """`total` bytes. Who finds no room waits for its turn, first come first served."""

    def __init__(self, total: int) -> None:
        self._total = total
        self._free = total
        self._waiting: deque[tuple[int, asyncio.Future[None]]] = deque()

    @property
    def free(self) -> int:
        """Bytes that nobody has reserved."""
        return self._free

    @property
    def reserved(self) -> int:
        """Bytes that are reserved now."""
        return self._total - self._free

    @property
    def waiting(self) -> int:
        """How many wait for room."""
        return len(self._waiting)

    def contended(self) -> bool:
        """Whether somebody waits for room."""
        return bool(self._waiting)

    async def reserve(self, size: int) -> Reservation:
        """Reserves `size` bytes, or the total where that is less, once there is room."""
        size = min(size, self._total)
        if self._waiting or self._free < size:
            turn: asyncio.Future[None] = asyncio.get_running_loop().create_future()
            self._waiting.append((size, turn))
            try:
                await turn
            except asyncio.CancelledError:
                if turn.cancelled():
                    self._waiting = deque(entry for entry in self._waiting if entry[1] is not turn)
                    self._let_in()
                else:
                    # The turn came in the same moment: it goes to the next.
                    self._give_back(size)
                raise
        else:
            self._free -= size
        return Reservation(self, size)

    def _give_back(self, size: int) -> None:
        self._free += size
        self._let_in()

    def _let_in(self) -> None:
        while self._waiting and self._waiting[0][0] <= self._free:
            size, turn = self._waiting.popleft()
            if not turn.done():
                self._free -= size
                turn.set_result(None)


class Reservation:
    """Bytes of a budget, until they are released."""

    def __init__(self, budget: ByteBudget, size: int) -> None:
        self._budget = budget
        self._size = size

    def shrink(self, size: int) -> None:
        """Gives back what is reserved beyond `size` bytes."""
        if size < self._size:
            given, self._size = self._size - size, size
            self._budget._give_back(given)  # noqa: SLF001 - the two are one

    def release(self) -> None:
        """Gives back all of it; does nothing the second time."""
        self.shrink(0)
