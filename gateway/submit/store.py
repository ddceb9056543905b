"""The interface of the stores that remember request ids."""

from __future__ import annotations

from typing import TYPE_CHECKING, Protocol

from gateway.errors import RequestIdsExhausted, StateUnavailable

if TYPE_CHECKING:
    from gateway.limits.fair_budget import Usage
    from gateway.submit.records import Claim, IdempotencyRecord

KEEP_RECORD_SECONDS = 25 * 3600.0


class KeyDiffers(StateUnavailable):
    """Gateways with other keys than this one used the store in the last 25 hours."""

    def __init__(self) -> None:
        super().__init__(
            "request_id: this gateway has another secret key than those before it, and nothing was sent; retry later, "
            "or send a first attempt without one"
        )


class CountedStore(Protocol):
    """A store that knows about how many records it has."""

    @property
    def usage(self) -> Usage:
        """The records, including some that have expired, and the most that it holds."""


class IdempotencyStore(Protocol):
    """Remembers request ids for 25 hours.

    An id is claimed, and then settled with an outcome or released. A claim that is over without either has an unknown
    outcome and is never free again. Its owner may still settle or release it while no other claim has replaced it.

    Every method is atomic and may be repeated. Each raises `StateUnavailable` if the store cannot be reached; the
    change may then have been made or not.
    """

    async def claim(self, claim: Claim, fingerprint: bytes, seconds: float) -> IdempotencyRecord | None:
        """Claim an id for `seconds`, durably.

        Returns:
            None if the claim is granted, or else the record that is there.

        Raises:
            RequestIdsExhausted: There is no room for another id of this caller.
        """

    async def renew(self, claim: Claim, seconds: float) -> bool:
        """Extend a claim that has not ended to `seconds` from now; return whether there was one."""

    async def settle(self, claim: Claim, record: IdempotencyRecord) -> bool:
        """Record the outcome of a claim; return whether the record now has it.

        If the store has lost the claim and nothing took its place, the record is written again.
        """

    async def release(self, claim: Claim) -> bool:
        """Free a claimed id, because certainly no job was made under it; return whether the claim was in place."""

    async def aclose(self) -> None:
        """Close the store."""


def exhausted(limit: int, held: int) -> RequestIdsExhausted:
    """Return the error for a caller that holds `held` of `limit` ids and may have no more."""
    return RequestIdsExhausted(
        f"request_id: the gateway remembers {held} of this credential, of {limit} in total, and has no room for more; "
        "send without one, or retry later"
    )
