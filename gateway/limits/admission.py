"""Who may come in now; asked before anything else of a call."""

from __future__ import annotations

import math
import random
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Self

from gateway.clock import AutoResetEvent, sleep_until
from gateway.errors import Draining
from gateway.limits.fair_budget import FairBudget, Reservation, fits_fair_share
from gateway.limits.rate_limiter import RateLimiter, limit_reached

if TYPE_CHECKING:
    from gateway.clock import Clock

# Callers of a drain spread out over the other replicas.
DRAIN_RETRY_SECONDS = (1.0, 5.0)
# Refusals that are held back, of callers who do not wait as they are told: for how long, and how many at most.
REJECTION_DELAY_SECONDS = 2.0
MAX_DELAYED_REJECTIONS = 1_000
# For how long a caller that has come keeps the others to their rate.
ACTIVITY_SECONDS = 60.0
# Smaller requests are not counted, for there are never enough of them at once to matter.
SMALL_REQUEST_BYTES = 1 << 20


def draining_error() -> Draining:
    """The error of a call that meets a drain, with a wait of its own."""
    return Draining(retry_after=random.uniform(*DRAIN_RETRY_SECONDS))  # noqa: S311 - jitter


@dataclass
class ConcurrencyLimit:
    """How many of a kind may be inside, and how many are."""

    kind: str
    limit: int
    max_per_caller: int | None
    in_use: int = 0
    by_caller: dict[bytes, int] = field(default_factory=dict)


class CallerActivity:
    """Who else is there: a caller is alone while no other has a call inside, or has called within the last minute."""

    def __init__(self, clock: Clock, limits: tuple[ConcurrencyLimit, ...]) -> None:
        self._clock = clock
        self._limits = limits
        self._caller: bytes | None = None
        # When the last call came, and when the last one of another caller.
        self._called = self._other_called = -math.inf

    def record_call(self, caller: bytes) -> None:
        """A call of this caller has come."""
        if caller != self._caller:
            self._other_called = self._called
        self._caller = caller
        self._called = self._clock.monotonic()

    def is_sole_caller(self, caller: bytes) -> bool:
        """Whether nobody but this caller, whose call was noted last, is there."""
        others = any(len(each.by_caller) > (caller in each.by_caller) for each in self._limits)
        return not others and self._clock.monotonic() >= self._other_called + ACTIVITY_SECONDS


class AdmissionTicket:
    """A call that is inside while the context is. It counts for its caller from when `charge` names the caller."""

    def __init__(
        self,
        slots: ConcurrencyLimit,
        activity: CallerActivity,
        rate_limiter: RateLimiter,
        large_requests: FairBudget,
        left: AutoResetEvent,
    ) -> None:
        self._slots = slots
        self._left = left
        self._activity = activity
        self._rate_limiter = rate_limiter
        self._large_requests = large_requests
        self._caller: bytes | None = None
        self._request: Reservation | None = None

    def __enter__(self) -> Self:
        self._slots.in_use += 1
        return self

    def charge(self, caller: bytes, request_bytes: int) -> None:
        """Counts the call, and its request where it is large, for its caller; once.

        Raises `LimitReached` where others need what this caller would take, or it comes too often.
        """
        self._activity.record_call(caller)
        slots = self._slots
        held = slots.by_caller.get(caller, 0)
        free = slots.limit - slots.in_use + 1
        if not fits_fair_share(held, 1, free) or (slots.max_per_caller is not None and held >= slots.max_per_caller):
            raise limit_reached(
                f"this credential has {held} of the {slots.limit} {slots.kind} that the gateway serves at once, and "
                "may have no more now; end some, or try again later",
            )
        wait = self._rate_limiter.try_acquire(caller)
        if wait and not self._activity.is_sole_caller(caller):
            raise limit_reached(
                "this credential calls more often than the gateway lets it; wait before the next call, and watch jobs "
                "instead of reading them again and again",
                wait,
            )
        if request_bytes > SMALL_REQUEST_BYTES:
            self._request = self._large_requests.try_acquire(caller, request_bytes)
            if self._request is None:
                raise limit_reached(
                    f"there is no room now for a request of {request_bytes} bytes beside the other large ones of this "
                    "credential and of all; each holds its room until its call ends, so SendJob is better than RunJob",
                )
        slots.by_caller[caller] = held + 1
        self._caller = caller

    def __exit__(self, *_: object) -> None:
        self._slots.in_use -= 1
        if self._request is not None:
            self._request.release()
        if self._caller is not None:
            by_caller = self._slots.by_caller
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
        self._left = AutoResetEvent(clock)
        self._calls = ConcurrencyLimit("calls", max_calls, max_calls_per_credential)
        self._watches = ConcurrencyLimit("watches", max_watches, max_watches_per_credential)
        self._activity = CallerActivity(clock, (self._calls, self._watches))
        self._rate_limiter = RateLimiter(clock, calls_per_second)
        self._rejections = RateLimiter(clock, calls_per_second)
        self._delayed = 0
        self._large_requests = FairBudget(large_requests_bytes)
        self.draining = False

    @property
    def in_flight(self) -> int:
        """How many calls and watches are inside now, or are refused and do not know yet."""
        return self._calls.in_use + self._watches.in_use + self._delayed

    def admit(self, *, watch: bool) -> AdmissionTicket:
        """A ticket, which takes its slot when it begins. Raises `Draining` or `LimitReached` where there is none."""
        if self.draining:
            raise draining_error()
        slots = self._watches if watch else self._calls
        if slots.in_use >= slots.limit:
            raise limit_reached(
                f"the gateway serves {slots.limit} {slots.kind} at once and has no place now",
            )
        return AdmissionTicket(slots, self._activity, self._rate_limiter, self._large_requests, self._left)

    async def delay_rejection(self, caller: bytes, request_bytes: int) -> None:
        """Returns when a caller that is refused may hear of it: at once, unless it does not wait as it was told.

        Whoever is refused more often than it may call keeps the others waiting by that alone; it hears of it 2 seconds
        later.
        """
        too_often = self._rejections.try_acquire(caller) > 0
        if (
            not too_often
            or self.draining
            or self._delayed >= MAX_DELAYED_REJECTIONS
            or request_bytes > SMALL_REQUEST_BYTES
        ):
            return
        self._delayed += 1
        try:
            await sleep_until(self._clock, self._clock.monotonic() + REJECTION_DELAY_SECONDS)
        finally:
            self._delayed -= 1
            self._left.set()

    async def wait_idle(self, until: float) -> bool:
        """Whether nobody is inside: waits for it until `until` (seconds of the clock)."""
        while self.in_flight and self._clock.monotonic() < until:
            await self._left.wait(until)
        return not self.in_flight
