"""Submits jobs so that sending is safe to repeat."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Protocol

from gateway.errors import GatewayError, InternalError, LimitReached, UpstreamError
from gateway.limits.fair_budget import FairBudget
from gateway.limits.holds import Holds
from gateway.limits.rate_limiter import RateLimiter, limit_reached
from gateway.submit.attempts import post_until_sent
from gateway.submit.once import OncePerId, reused
from gateway.submit.submission import Submission, SubmissionCall

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

    from gateway.clock import Clock
    from gateway.limits.fair_budget import Reservation, Usage
    from gateway.models import Job
    from gateway.submit.records import IdempotencyKey
    from gateway.submit.store import IdempotencyStore

MAX_IN_FLIGHT = 1_024


class SubmissionObserver(Protocol):
    """An observer of submissions. Its methods must be quick, and must not raise."""

    def submitted(self, error: GatewayError | None) -> None:
        """Take note that a submission has ended, with an `error` or well."""

    def replayed(self) -> None:
        """Take note that a call got the job of an earlier submission."""


class Submitter:
    """Runs submissions, each as a task: at most 1,024 at a time, and per caller as `rate_limiter` allows.

    A request id stays claimed for `claim_seconds` if this process dies.
    """

    def __init__(
        self,
        clock: Clock,
        store: IdempotencyStore,
        rate_limiter: RateLimiter,
        observer: SubmissionObserver,
        claim_seconds: float,
        holds: Holds | None = None,
    ) -> None:
        self._observer = observer
        self._clock = clock
        self._once = OncePerId(clock, store, claim_seconds)
        self._rate_limiter = rate_limiter
        self._holds = holds or Holds(clock)
        self._slots = FairBudget(MAX_IN_FLIGHT)
        self._by_id: dict[IdempotencyKey, Submission] = {}
        self._running: set[Submission] = set()

    def submit(
        self,
        post: Callable[[], Awaitable[Job]],
        caller: bytes,
        key: IdempotencyKey | None = None,
        fingerprint: bytes = b"",
        *,
        held_as: bytes | None = None,
    ) -> SubmissionCall:
        """Start a submission, or join the one that is in flight under the same `key`.

        Args:
            post: Makes one attempt; raises `UpstreamError`.
            caller: The owner whose limits the submission counts for.
            key: The request id, or None for a submission without one.
            fingerprint: The fingerprint of the request.
            held_as: The credential that the upstream may ask to wait; None is `caller`.

        Raises:
            RequestIdReused: The submission in flight is of another request.
            LimitReached: Too many are in flight, the caller sends too often, or the upstream asked it to wait. Nothing
                was sent, and the memory of `key` has not changed.
        """
        held_as = held_as or caller
        known = self._by_id.get(key) if key is not None else None
        if known is not None:
            if known.fingerprint != fingerprint:
                raise self._refused(reused())
            return SubmissionCall(known, self._observer.replayed, repeats=True)
        try:
            slot = self._take_slot(caller, held_as)
        except LimitReached as error:
            raise self._refused(error) from None
        submission = self._start(self._slowing(post, caller, held_as), slot, key, fingerprint)
        return SubmissionCall(submission, self._observer.replayed, repeats=False)

    def _slowing(
        self, post: Callable[[], Awaitable[Job]], caller: bytes, held_as: bytes
    ) -> Callable[[], Awaitable[Job]]:
        async def attempt() -> Job:
            try:
                return await post()
            except UpstreamError as error:
                if error.throttled:
                    self._rate_limiter.slow_down(caller)
                    if error.retry_after:
                        self._holds.begin(held_as, error.retry_after)
                raise

        return attempt

    def _start(
        self, post: Callable[[], Awaitable[Job]], slot: Reservation, key: IdempotencyKey | None, fingerprint: bytes
    ) -> Submission:
        submission = Submission(fingerprint)
        if key is None:
            work = post_until_sent(self._clock, post, submission)
        else:
            work = self._once.run(key, post, submission)
            self._by_id[key] = submission
        submission.start(work)
        self._running.add(submission)

        def ended(_: object) -> None:
            slot.release()
            if key is not None:
                del self._by_id[key]
            self._forget(submission)

        submission.task.add_done_callback(ended)
        return submission

    def _take_slot(self, caller: bytes, held_as: bytes) -> Reservation:
        held = self._holds.remaining(held_as)
        if held:
            raise limit_reached("the upstream asked this credential to wait; nothing was sent", held)
        slot = self._slots.try_acquire(caller)
        if slot is None:
            raise limit_reached(
                f"submissions: this credential has {self._slots.held(caller)} of {MAX_IN_FLIGHT} in flight, and may "
                "have no more now; try again later",
            )
        wait = self._rate_limiter.try_acquire(caller)
        if wait:
            slot.release()
            raise limit_reached(
                "submissions: this credential exceeds its rate, nothing was sent; retry after the wait in RetryInfo",
                wait,
            )
        return slot

    def _forget(self, submission: Submission) -> None:
        self._running.discard(submission)
        if submission.task.cancelled():
            return
        # To look at the error of a submission whose callers left keeps asyncio from logging it as a defect.
        error = submission.task.exception()
        self._observer.submitted(error if error is None or isinstance(error, GatewayError) else InternalError())

    def _refused(self, error: GatewayError) -> GatewayError:
        self._observer.submitted(error)
        return error

    @property
    def usage(self) -> Usage:
        """The submissions in flight, and their limit."""
        return self._slots.usage

    @property
    def in_flight(self) -> int:
        """Return the number of submissions in flight."""
        return len(self._running)

    def usage_by_caller(self) -> dict[bytes, int]:
        """Return the number of submissions in flight of each caller."""
        return self._slots.usage_by_owner()

    async def aclose(self) -> None:
        """Wait until no submission is in flight and every outcome is recorded, or given up."""
        while self._running:
            await asyncio.wait([each.task for each in self._running])
        await self._once.aclose()
