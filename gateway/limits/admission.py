"""Admission control, the first step of every call."""

from __future__ import annotations

import math
import random
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Self

from gateway.clock import AutoResetEvent, sleep_until
from gateway.errors import Draining, LimitReached
from gateway.limits.fair_budget import FairBudget, Reservation, Usage, fits_fair_share
from gateway.limits.rate_limiter import RateLimiter, limit_reached

if TYPE_CHECKING:
    from gateway.clock import Clock

# Random, so that the clients of a draining gateway spread out over the other replicas.
DRAIN_RETRY_SECONDS = (1.0, 5.0)
# Rejections of clients that do not wait as told: how long one is delayed, and how many are at a time.
REJECTION_DELAY_SECONDS = 2.0
MAX_DELAYED_REJECTIONS = 1_000
# The time after a call for which its caller counts as active.
ACTIVITY_SECONDS = 60.0
# Smaller requests are not counted, because the limits of calls bound their memory.
SMALL_REQUEST_BYTES = 1 << 20


def draining_error() -> Draining:
    """Return the error of a call that meets a drain, with a random wait."""
    return Draining(retry_after=random.uniform(*DRAIN_RETRY_SECONDS))  # noqa: S311 - jitter


@dataclass(frozen=True)
class AdmissionLimits:
    """The limits of admission control.

    Attributes:
        max_calls: The number of concurrent calls.
        max_watches: The number of concurrent watches, including `RunJob`.
        max_calls_per_credential: The number of concurrent calls of one caller, in addition to its fair share.
        max_watches_per_credential: The same for watches.
        calls_per_second: The rate of calls and watches of one caller while other callers are active.
        large_requests_bytes: The memory of concurrent requests over 1 MiB.
    """

    max_calls: int
    max_watches: int
    max_calls_per_credential: int | None
    max_watches_per_credential: int | None
    calls_per_second: float
    large_requests_bytes: int


@dataclass
class ConcurrencyLimit:
    """The slots of one kind of call, `limit` in total, and how many are in use."""

    kind: str
    limit: int
    max_per_caller: int | None
    in_use: int = 0
    by_caller: dict[bytes, int] = field(default_factory=dict)

    def check(self, caller: bytes) -> None:
        """Raise `LimitReached` if a caller may not have one more slot; its own call is in use already."""
        held = self.by_caller.get(caller, 0)
        free = self.limit - self.in_use + 1
        if not fits_fair_share(held, 1, free) or (self.max_per_caller is not None and held >= self.max_per_caller):
            raise limit_reached(
                f"this credential has {held} of the {self.limit} {self.kind} that the gateway serves at a time, and "
                "may have no more now; end some of them, or try again later"
            )

    def check_free(self) -> None:
        """Raise `LimitReached` if all slots are in use."""
        if self.in_use >= self.limit:
            raise limit_reached(
                f"the gateway serves {self.limit} {self.kind} at a time, and all slots are in use; try again later"
            )

    def add(self, caller: bytes) -> None:
        """Count a slot for a caller."""
        self.by_caller[caller] = self.by_caller.get(caller, 0) + 1

    def remove(self, caller: bytes, count: int = 1) -> None:
        """Stop counting slots for a caller."""
        self.by_caller[caller] -= count
        if not self.by_caller[caller]:
            del self.by_caller[caller]


class CallerActivity:
    """Knowledge of the active callers: those with a call in flight, or with a call in the last minute."""

    def __init__(self, clock: Clock, limits: tuple[ConcurrencyLimit, ...]) -> None:
        self._clock = clock
        self._limits = limits
        self._caller: bytes | None = None
        # The time of the last call, and of the last call by another caller.
        self._called = self._other_called = -math.inf

    def record_call(self, caller: bytes) -> None:
        """Record a call of this caller."""
        if caller != self._caller:
            self._other_called = self._called
        self._caller = caller
        self._called = self._clock.monotonic()

    def is_sole_caller(self, caller: bytes) -> bool:
        """Return whether a caller, of whom a call was recorded, is the only active one."""
        others = any(len(each.by_caller) > (caller in each.by_caller) for each in self._limits)
        other_called = self._other_called if caller == self._caller else self._called
        return not others and self._clock.monotonic() >= other_called + ACTIVITY_SECONDS


class AdmissionTicket:
    """The right of one call to be in flight, as long as the context lasts.

    A stream of many watches takes a slot for each, and one if it has none: the first watch has the slot of the call.
    """

    def __init__(self, admission: Admission, slots: ConcurrencyLimit) -> None:
        self._admission = admission
        self._slots = slots
        self._caller: bytes | None = None
        self._request: Reservation | None = None
        self._watches = 0

    def __enter__(self) -> Self:
        self._slots.in_use += 1
        return self

    def charge(self, caller: bytes, request_bytes: int) -> None:
        """Count the call and its request for its caller. Call it once.

        Raises:
            LimitReached: The caller has its fair share, or calls too often.
        """
        self._request = self._admission.check(self._slots, caller, request_bytes)
        self._slots.add(caller)
        self._caller = caller

    async def pace_watch(self) -> None:
        """Wait until a call that was charged may ask for one more watch.

        The rate is that of calls. Watches wait instead of failing, because a client may ask for thousands at a time.
        """
        assert self._caller is not None, "charge the call first"  # noqa: S101 - a programming error
        await self._admission.pace_watch(self._caller)

    def start_watch(self) -> None:
        """Take the slot of one more watch of a call that was charged.

        Raises:
            Draining: The process drains.
            LimitReached: All slots are in use, or the caller has its fair share.
        """
        assert self._caller is not None, "charge the call first"  # noqa: S101 - a programming error
        self._admission.check_open()
        if self._watches:
            slots = self._slots
            slots.check_free()
            slots.in_use += 1
            try:
                slots.check(self._caller)
            except LimitReached:
                slots.in_use -= 1
                raise
            slots.add(self._caller)
        self._watches += 1

    def end_watch(self) -> None:
        """Return the slot of a watch."""
        self._watches -= 1
        if self._watches and self._caller is not None:
            self._slots.in_use -= 1
            self._slots.remove(self._caller)

    def __exit__(self, *_: object) -> None:
        count = max(1, self._watches)
        self._slots.in_use -= count
        if self._request is not None:
            self._request.release()
        if self._caller is not None:
            self._slots.remove(self._caller, count)
        self._admission.notify_end()


class Admission:
    """Counts calls and watches against their limits, first of the process, then of the caller.

    A caller may hold at most three times as many slots as it leaves free for others, and large requests share their
    memory by the same rule (docs/internals/fair-sharing.md).
    """

    def __init__(self, clock: Clock, limits: AdmissionLimits) -> None:
        self._clock = clock
        self._call_ended = AutoResetEvent(clock)
        self._calls = ConcurrencyLimit("calls", limits.max_calls, limits.max_calls_per_credential)
        self._watches = ConcurrencyLimit("watches", limits.max_watches, limits.max_watches_per_credential)
        self._activity = CallerActivity(clock, (self._calls, self._watches))
        self._rate_limiter = RateLimiter(clock, limits.calls_per_second)
        # Its own, so that a stream with thousands of watches does not make the calls of its caller fail.
        self._watch_rate_limiter = RateLimiter(clock, limits.calls_per_second)
        self._rejections = RateLimiter(clock, limits.calls_per_second)
        self._delayed = 0
        self._large_requests = FairBudget(limits.large_requests_bytes)
        self.draining = False

    @property
    def in_flight(self) -> int:
        """The number of calls and watches in flight, including rejections that are delayed."""
        return self._calls.in_use + self._watches.in_use + self._delayed

    def usage(self) -> dict[str, Usage]:
        """Return how much of each limit is in use, by its name."""
        usage = {each.kind: Usage(each.in_use, each.limit) for each in (self._calls, self._watches)}
        return {**usage, "large_requests": self._large_requests.usage}

    def usage_by_caller(self) -> dict[str, dict[bytes, int]]:
        """Return how much of each limit each caller uses, by the name of the limit."""
        usage = {each.kind: each.by_caller.copy() for each in (self._calls, self._watches)}
        return {**usage, "large_requests": self._large_requests.usage_by_owner()}

    def admit(self, *, watch: bool) -> AdmissionTicket:
        """Return a ticket, which takes a slot when its context is entered.

        Raises:
            Draining: The process drains.
            LimitReached: All slots are in use.
        """
        self.check_open()
        slots = self._watches if watch else self._calls
        slots.check_free()
        return AdmissionTicket(self, slots)

    def check_open(self) -> None:
        """Raise `Draining` if the process drains."""
        if self.draining:
            raise draining_error()

    def check(self, slots: ConcurrencyLimit, caller: bytes, request_bytes: int) -> Reservation | None:
        """Check the limits of a caller, and return the memory of its request, or None if the request is small.

        Raises:
            LimitReached: The call is over one of them.
        """
        self._activity.record_call(caller)
        slots.check(caller)
        wait = self._rate_limiter.try_acquire(caller)
        if wait and not self._activity.is_sole_caller(caller):
            raise limit_reached(
                "this credential calls more often than its rate allows; wait before the next call, and watch jobs "
                "instead of reading them again and again",
                wait,
            )
        if request_bytes <= SMALL_REQUEST_BYTES:
            return None
        request = self._large_requests.try_acquire(caller, request_bytes)
        if request is None:
            raise limit_reached(
                f"request: no memory for {request_bytes} bytes next to the other large requests; retry later, or use "
                "SendJob, because RunJob holds its request until the job ends"
            )
        return request

    async def pace_watch(self, caller: bytes) -> None:
        """Wait until a caller may ask for one more watch on a stream; only while other callers are active."""
        if self._watch_rate_limiter.try_acquire(caller) and not self._activity.is_sole_caller(caller):
            await self._watch_rate_limiter.acquire(caller)

    def notify_end(self) -> None:
        """Wake `wait_idle`, because a call has ended."""
        self._call_ended.set()

    async def delay_rejection(self, caller: bytes, request_bytes: int) -> None:
        """Delay a rejection by 2 seconds if the caller ignores `RetryInfo`; otherwise return immediately.

        Clients that retry immediately would otherwise take the machine, because a rejection costs time too.
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
            self._call_ended.set()

    async def wait_idle(self, until: float) -> bool:
        """Wait until no call is in flight, at most until `until` (seconds of the clock); return whether that is so."""
        while self.in_flight and self._clock.monotonic() < until:
            await self._call_ended.wait(until)
        return not self.in_flight
