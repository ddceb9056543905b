"""The memory of results on their way to callers: what was read upstream, and the large messages that are made of it."""

from __future__ import annotations

from typing import TYPE_CHECKING

from gateway.limits.fair_budget import FairBudget

if TYPE_CHECKING:
    from gateway.limits.fair_budget import Reservation

# Smaller messages are not counted, for admission bounds how many there are.
LARGE_MESSAGE_BYTES = 256 << 10
# A message is put together, and grpc copies it.
COPIES = 2


class ResponseMemory:
    """Lets large messages take at most `messages` bytes at once, each until grpc has sent it.

    `results` is the budget of what was read. The two are apart, because who holds a result waits for room for its
    message. An owner is whose results they are.
    """

    def __init__(self, results: FairBudget, messages: int) -> None:
        self._results = results
        self._messages = FairBudget(messages)

    def contended(self, owner: bytes) -> bool:
        """Whether somebody waits who has a better right to what this owner holds."""
        return self._results.contended(owner) or self._messages.contended(owner)

    async def acquire(self, owner: bytes, size: int) -> Reservation | None:
        """Room for a message of `size` bytes, once it is the owner's turn; None for one that is not counted."""
        if size <= LARGE_MESSAGE_BYTES:
            return None
        return await self._messages.acquire(owner, COPIES * size)
