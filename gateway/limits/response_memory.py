"""The memory of large responses: results of the upstream, and the messages to clients that are made of them."""

from __future__ import annotations

from typing import TYPE_CHECKING

from gateway.limits.fair_budget import FairBudget

if TYPE_CHECKING:
    from gateway.limits.fair_budget import Reservation, Usage

# Smaller messages are not counted, because admission bounds their number.
LARGE_MESSAGE_BYTES = 256 << 10
# The joined message, and the copy that grpc makes.
COPIES = 2


class ResponseMemory:
    """Limits large messages to `messages` bytes at a time, each until grpc has sent it.

    `results` is the budget of results that were read. It is separate, because a call that holds a result waits for the
    memory of its message. The owner of both is the credential that read the result.
    """

    def __init__(self, results: FairBudget, messages: int) -> None:
        self._results = results
        self._messages = FairBudget(messages)

    @property
    def usage(self) -> Usage:
        """The bytes of large messages, and their limit."""
        return self._messages.usage

    def contended(self, owner: bytes) -> bool:
        """Return whether a waiting owner has a better claim to memory that this owner holds."""
        return self._results.contended(owner) or self._messages.contended(owner)

    def usage_by_owner(self) -> dict[bytes, int]:
        """Return the bytes of large messages that each owner holds."""
        return self._messages.usage_by_owner()

    async def acquire(self, owner: bytes, size: int) -> Reservation | None:
        """Wait for the memory of a message of `size` bytes; return it, or None if the message is small."""
        if size <= LARGE_MESSAGE_BYTES:
            return None
        return await self._messages.acquire(owner, COPIES * size)
