"""Who may come in now; asked before anything else of a call."""

from __future__ import annotations

import math
import random
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Self

from gateway.clock import Signal, sleep_until
from gateway.errors import Draining
from gateway.limits.fair_budget import Budget, Reservation, may_take
from gateway.limits.rate_limiter import Rates, refusal

if TYPE_CHECKING:
    from gateway.clock import Clock

# Callers of a drain spread out over the other replicas.
DRAIN_RETRY_SECONDS = (1.0, 5.0)
# Refusals that are held back, of callers who do not wait as they are told: for how long, and how many at most.
HOLD_SECONDS = 2.0
MOST_HELD = 1_000
# For how long a caller that has come keeps the others to their rate.
COMPANY_SECONDS = 60.0
# Smaller requests are not counted, for there are never enough of them at once to matter.
SMALL_REQUEST_BYTES = 1 << 20


def draining() -> Draining:
    """The error of a call that meets a drain, with a wait of its own."""
    return Draining(retry_after=random.uniform(*DRAIN_RETRY_SECONDS))  # noqa: S311 - jitter


@dataclass
class Places:
    """How many of a kind may be inside, and how many are."""

    of: str
    limit: int
    most_of_one: int | None
    taken: int = 0
    by_caller: dict[bytes, int] = field(default_factory=dict)


class Company:
    """Who else is there: a caller is alone while no other has a call inside, or has called within the last minute."""

    def __init__(self, clock: Clock, places: tuple[Places, ...]) -> None:
        self._clock = clock
        self._places = places
        self._caller: bytes | None = None
        # When the last call came, and when the last one of another caller.
        self._called = self._other_called = -math.inf

    def note(self, caller: bytes) -> None:
        """A call of this caller has come."""
        if caller != self._caller:
            self._other_called = self._called
        self._caller = caller
        self._called = self._clock.monotonic()

    def alone(self, caller: bytes) -> bool:
        """Whether nobody but this caller, whose call was noted last, is there."""
        others = any(len(places.by_caller) > (caller in places.by_caller) for places in self._places)
        return not others and self._clock.monotonic() >= self._other_called + COMPANY_SECONDS


class Visit:
    """A call that is inside while the context is. It counts for its caller from when `belongs_to` names the caller."""

    def __init__(self, places: Places, company: Company, rates: Rates, large_requests: Budget, left: Signal) -> None:
        self._places = places
        self._left = left
        self._company = company
        self._rates = rates
        self._large_requests = large_requests
        self._caller: bytes | None = None
        self._request: Reservation | None = None

    def __enter__(self) -> Self:
        self._places.taken += 1
        return self

    def belongs_to(self, caller: bytes, request_bytes: int) -> None:
        """Counts the call, and its request where it is large, for its caller; once.

        Raises `LimitReached` where others need what this caller would take, or it comes too often.
        """
        self._company.note(caller)
        places = self._places
        held = places.by_caller.get(caller, 0)
        free = places.limit - places.taken + 1
        if not may_take(held, 1, free) or (places.most_of_one is not None and held >= places.most_of_one):
            raise refusal(
                f"this credential has {held} of the {places.limit} {places.of} that the gateway serves at once, and "
                "may have no more now; end some, or try again later",
            )
        wait = self._rates.take(caller)
        if wait and not self._company.alone(caller):
            raise refusal(
                "this credential calls more often than the gateway lets it; wait before the next call, and watch jobs "
                "instead of reading them again and again",
                wait,
            )
        if request_bytes > SMALL_REQUEST_BYTES:
            self._request = self._large_requests.try_take(caller, request_bytes)
            if self._request is None:
                raise refusal(
                    f"there is no room now for a request of {request_bytes} bytes beside the other large ones of this "
                    "credential and of all; each holds its room until its call ends, so SendJob is better than RunJob",
                )
        places.by_caller[caller] = held + 1
        self._caller = caller

    def __exit__(self, *_: object) -> None:
        self._places.taken -= 1
        if self._request is not None:
            self._request.release()
        if self._caller is not None:
            by_caller = self._places.by_caller
            by_caller[self._caller] -= 1
            if not by_caller[self._caller]:
                del by_caller[self._caller]
        self._left.set()


class Admission:
    """Counts calls and watches (`RunJob` counts as one) against their limits, and knows whether the process drains.

    What one caller has is at most three times what is left for others, and at most `max_calls_per_credential` or
    `max_watches_per_credential` where they are given. While others are there it comes in `calls_per_second` times a
    second. Requests over 1 MiB share `large_requests_bytes` as places are shared.
    """

    def __init__(
        self,
        clock: Clock,
        *,
        max_calls: int,
        max_watches: int,
        max_calls_per_credential: int | None = None,
        max_watches_per_credential: int | None = None,
        calls_per_second: float = 1e6,
        large_requests_bytes: int = 512 << 20,
    ) -> None:
        self._clock = clock
        self._left = Signal(clock)
        self._calls = Places("calls", max_calls, max_calls_per_credential)
        self._watches = Places("watches", max_watches, max_watches_per_credential)
        self._company = Company(clock, (self._calls, self._watches))
        self._rates = Rates(clock, calls_per_second)
        self._refusals = Rates(clock, calls_per_second)
        self._held = 0
        self._large_requests = Budget(large_requests_bytes)
        self.draining = False

    @property
    def inside(self) -> int:
        """How many calls and watches are inside now, or are refused and do not know yet."""
        return self._calls.taken + self._watches.taken + self._held

    def enter(self, *, watch: bool) -> Visit:
        """A visit, which takes its place when it begins. Raises `Draining` or `LimitReached` where there is none."""
        if self.draining:
            raise draining()
        places = self._watches if watch else self._calls
        if places.taken >= places.limit:
            raise refusal(
                f"the gateway serves {places.limit} {places.of} at once and has no place now",
            )
        return Visit(places, self._company, self._rates, self._large_requests, self._left)

    async def hold_back(self, caller: bytes, request_bytes: int) -> None:
        """Returns when a caller that is refused may hear of it: at once, unless it does not wait as it was told.

        Whoever is refused more often than it may call keeps the others waiting by that alone; it hears of it 2 seconds
        later.
        """
        too_often = self._refusals.take(caller) > 0
        if not too_often or self.draining or self._held >= MOST_HELD or request_bytes > SMALL_REQUEST_BYTES:
            return
        self._held += 1
        try:
            await sleep_until(self._clock, self._clock.monotonic() + HOLD_SECONDS)
        finally:
            self._held -= 1
            self._left.set()

    async def idle(self, until: float) -> bool:
        """Whether nobody is inside: waits for it until `until` (seconds of the clock)."""
        while self.inside and self._clock.monotonic() < until:
            await self._left.wait(until)
        return not self.inside
