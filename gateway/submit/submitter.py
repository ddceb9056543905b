"""Submits jobs so that sending is safe to repeat."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Protocol

from gateway.errors import GatewayError, InternalError, LimitReached, UpstreamError
from gateway.limits.fair_budget import FairBudget
from gateway.limits.rate_limiter import RateLimiter, limit_reached
from gateway.submit.attempts import post_until_sent
from gateway.submit.once import OncePerId, reused
from gateway.submit.submission import Submission, SubmissionCall

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

    from gateway.clock import Clock
    from gateway.limits.fair_budget import Reservation
    from gateway.models import Job
    from gateway.submit.records import IdempotencyKey
    from gateway.submit.store import IdempotencyStore

MAX_IN_FLIGHT = 1_024


class SubmissionObserver(Protocol):
    """An observer of submissions. Its methods must be quick, and must not raise."""

    def submitted(self, error: GatewayError | None) -> None:
        """Take note that a submission has ended, with an `error` or well."""


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
    ) -> None:
        self._observer = observer
        self._clock = clock
        self._once = OncePerId(clock, store, claim_seconds)
        self._rate_limiter = rate_limiter
        self._slots = FairBudget(MAX_IN_FLIGHT)
        self._by_id: dict[IdempotencyKey, Submission] = {}
        self._running: set[Submission] = set()

    def submit(
        self,
        post: Callable[[], Awaitable[Job]],
        caller: bytes,
        key: IdempotencyKey | None = None,
        fingerprint: bytes = b"",
    ) -> SubmissionCall:
        """Start a submission, or join the one that is in flight under the same `key`.

        Args:
            post: Makes one attempt; raises `UpstreamError`.
            caller: The owner whose limits the submission counts for.
            key: The request id, or None for a submission without one.
            fingerprint: The fingerprint of the request.

        Raises:
            RequestIdReused: The submission in flight is of another request.
            LimitReached: Too many are in flight, or the caller sends too often. Nothing was sent, and the memory of
                `key` has not changed.
        """
        known = self._by_id.get(key) if key is not None else None
        if known is not None:
            if known.fingerprint != fingerprint:
                raise self._refused(reused())
            return SubmissionCall(known, repeats=True)
        try:
            slot = self._take_slot(caller)
        except LimitReached as error:
            raise self._refused(error) from None
        return SubmissionCall(self._start(self._slowing(post, caller), slot, key, fingerprint), repeats=False)

    def _slowing(self, post: Callable[[], Awaitable[Job]], caller: bytes) -> Callable[[], Awaitable[Job]]:
        async def attempt() -> Job:
            try:
                return await post()
            except UpstreamError as error:
                if error.throttled:
                    self._rate_limiter.slow_down(caller)
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

    def _take_slot(self, caller: bytes) -> Reservation:
        slot = self._slots.try_acquire(caller)
        if slot is None:
            raise limit_reached(
                f"of the {MAX_IN_FLIGHT} submissions that may be in flight, {self._slots.held(caller)} are of this "
                "credential, and there is no room for another now",
            )
        wait = self._rate_limiter.try_acquire(caller)
        if wait:
            slot.release()
            raise limit_reached(
                "this credential sends jobs more often than the gateway or the upstream allows; nothing was sent",
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

    def __len__(self) -> int:
        """Return the number of submissions in flight."""
        return len(self._running)

    async def aclose(self) -> None:
        """Wait until no submission is in flight and every outcome is recorded, or given up."""
        while self._running:
            await asyncio.wait([each.task for each in self._running])
        await self._once.aclose()
