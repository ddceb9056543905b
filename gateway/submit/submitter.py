"""Submits jobs so that sending is safe to repeat."""

from __future__ import annotations

import asyncio
import random
from typing import TYPE_CHECKING, Protocol, Self

import msgspec
from msgspec.structs import replace

from gateway.clock import sleep_until
from gateway.errors import (
    GatewayError,
    InternalError,
    LimitReached,
    RequestIdReused,
    SubmitOutcomeUnknown,
    UpstreamError,
    UpstreamMalformed,
    UpstreamStatusError,
)
from gateway.limits.fair_budget import FairBudget
from gateway.limits.rate_limiter import RateLimiter, limit_reached
from gateway.models import ForgottenResult, JobError
from gateway.submit.store import IdempotencyRecord
from gateway.text import cut

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

    from gateway.clock import Clock
    from gateway.limits.fair_budget import Reservation
    from gateway.models import Job
    from gateway.submit.store import IdempotencyKey, IdempotencyStore

# Attempts where nothing was sent, and the bound of the first wait between them, which doubles.
MAX_ATTEMPTS = 4
FIRST_WAIT_SECONDS = 0.1
MAX_IN_FLIGHT = 1_024
# A proxy stopped waiting (460: AWS ALB; 444, 499: nginx), and the upstream may have the request. Every other 4xx
# refuses: those that proxies add (463, 464, 494 to 498) come before the request is passed on.
UNKNOWN_4XX = frozenset({408, 444, 460, 499})
# These two ask for the same request elsewhere. The others may follow a request that was carried out: a 303 says so.
REFUSING_3XX = frozenset({307, 308})
# What is remembered of a text in a job that cannot be read again, in bytes.
MAX_REMEMBERED_TEXT = 1_000


class SubmissionResult(msgspec.Struct, frozen=True):
    """What a submission gave: the job's `uid`, and the `job` of the POST's answer.

    `job` is None for an earlier submission, unless its job had ended and has no uid: then it is what is left of it.
    """

    uid: int
    job: Job | None


class Submission:
    """A submission that is under way; a caller is within its context for as long as it waits.

    It goes on when its callers leave, so that its outcome is known and recorded.
    """

    def __init__(self, fingerprint: bytes) -> None:
        self.fingerprint = fingerprint
        self.callers = 0
        self.task: asyncio.Task[SubmissionResult]

    def __enter__(self) -> Self:
        self.callers += 1
        return self

    def __exit__(self, *_: object) -> None:
        self.callers -= 1

    async def outcome(self) -> SubmissionResult:
        """What came of it. Cancelling this does not cancel the submission.

        Raises `SubmitOutcomeUnknown`, `RequestIdReused`, `RequestIdsExhausted`, or the `UpstreamError` of one that was
        certainly refused.
        """
        return await asyncio.shield(self.task)


class SubmissionObserver(Protocol):
    """Is told of each submission that has ended; must be quick, and must not raise."""

    def submitted(self, error: GatewayError | None) -> None:
        """A submission has ended, well where `error` is None."""


class Submitter:
    """Runs submissions, each as a task of its own: at most 1,024 at once, and per caller as `rate_limiter` allows."""

    def __init__(
        self, clock: Clock, store: IdempotencyStore, rate_limiter: RateLimiter, observer: SubmissionObserver
    ) -> None:
        self._observer = observer
        self._clock = clock
        self._store = store
        self._rate_limiter = rate_limiter
        self._slots = FairBudget(MAX_IN_FLIGHT)
        self._by_id: dict[IdempotencyKey, Submission] = {}
        self._running: set[asyncio.Task[SubmissionResult]] = set()

    def submit(
        self,
        post: Callable[[], Awaitable[Job]],
        caller: bytes,
        key: IdempotencyKey | None = None,
        fingerprint: bytes = b"",
    ) -> Submission:
        """Starts a submission, or joins the one that is under way under the same `key` (None: without a request_id).

        `caller` is whose limits it counts for, `fingerprint` the request's `fingerprint`. `post` makes one attempt and
        raises `UpstreamError`. Raises `RequestIdReused`, and `LimitReached` where too many are under way or too many
        came of late: then nothing was sent, and nothing that is remembered under `key` has changed.
        """
        known = self._by_id.get(key) if key is not None else None
        if known is not None:
            if known.fingerprint != fingerprint:
                raise self._refused(_reused())
            return known
        try:
            slot = self._take_slot(caller)
        except LimitReached as error:
            raise self._refused(error) from None
        submission = Submission(fingerprint)

        async def attempt() -> Job:
            try:
                return await post()
            except UpstreamError as error:
                if error.throttled:
                    self._rate_limiter.slow_down(caller)
                raise

        work = self._post(attempt, submission) if key is None else self._post_once(key, attempt, submission)
        submission.task = asyncio.get_running_loop().create_task(work)
        self._running.add(submission.task)
        if key is not None:
            self._by_id[key] = submission

        def ended(task: asyncio.Task[SubmissionResult]) -> None:
            slot.release()
            if key is not None:
                del self._by_id[key]
            self._forget(task)

        submission.task.add_done_callback(ended)
        return submission

    def _take_slot(self, caller: bytes) -> Reservation:
        slot = self._slots.try_acquire(caller)
        if slot is None:
            raise limit_reached(
                f"of the {MAX_IN_FLIGHT} submissions that may be under way at once, {self._slots.held(caller)} are of "
                "this credential, and there is no room for another now",
            )
        wait = self._rate_limiter.try_acquire(caller)
        if wait:
            slot.release()
            raise limit_reached(
                "this credential sends jobs more often than the gateway or the upstream lets it; nothing was sent",
                wait,
            )
        return slot

    def _forget(self, task: asyncio.Task[SubmissionResult]) -> None:
        self._running.discard(task)
        if task.cancelled():
            return
        # The caller may have left: its error is then nobody's to read, which is no defect.
        error = task.exception()
        self._tell(error if error is None or isinstance(error, GatewayError) else InternalError())

    def _refused(self, error: GatewayError) -> GatewayError:
        self._tell(error)
        return error

    def _tell(self, error: GatewayError | None) -> None:
        self._observer.submitted(error)

    async def _post_once(
        self, key: IdempotencyKey, post: Callable[[], Awaitable[Job]], submission: Submission
    ) -> SubmissionResult:
        record = IdempotencyRecord(submission.fingerprint)
        known = await self._store.claim(key, record)
        if known is not None:
            return _recall(known, submission.fingerprint)
        try:
            sent = await self._post(post, submission)
        except SubmitOutcomeUnknown as error:
            await self._store.settle(key, replace(record, unknown=str(error), http_status=error.http_status))
            raise
        except UpstreamError:
            await self._store.release(key)
            raise
        except BaseException:
            await self._store.settle(key, replace(record, unknown="the gateway was stopped during the submission"))
            raise
        ended = _without_result(sent.job) if sent.job is not None and sent.uid == 0 else None
        await self._store.settle(key, replace(record, uid=sent.uid, ended=ended))
        return sent

    async def _post(self, post: Callable[[], Awaitable[Job]], submission: Submission) -> SubmissionResult:
        for attempt in range(1, MAX_ATTEMPTS + 1):
            try:
                job = await post()
            except UpstreamError as error:
                if _outcome_is_unknown(error):
                    raise SubmitOutcomeUnknown(str(error), error.http_status) from error
                if error.may_have_been_sent or attempt == MAX_ATTEMPTS:
                    raise
                bound = FIRST_WAIT_SECONDS * 2**attempt
                await sleep_until(self._clock, self._clock.monotonic() + random.uniform(bound / 2, bound))  # noqa: S311 - jitter
                # Nobody wants a job any more whose callers left before anything was sent.
                if not submission.callers:
                    raise
            else:
                return SubmissionResult(job.uid, job)
        raise AssertionError("the last attempt returns or raises")

    def __len__(self) -> int:
        """How many submissions are under way."""
        return len(self._running)

    async def aclose(self) -> None:
        """Returns when no submission is under way."""
        while self._running:
            await asyncio.wait(self._running)


def _outcome_is_unknown(error: UpstreamError) -> bool:
    if isinstance(error, UpstreamStatusError):
        return error.http_status in UNKNOWN_4XX or error.http_status >= 500
    if isinstance(error, UpstreamMalformed) and error.http_status is not None:
        return error.http_status not in REFUSING_3XX
    return error.may_have_been_sent


def _recall(record: IdempotencyRecord, fingerprint: bytes) -> SubmissionResult:
    if record.fingerprint != fingerprint:
        raise _reused()
    if record.uid is None:
        raise SubmitOutcomeUnknown(
            record.unknown or "an earlier submission under this request_id did not end", record.http_status
        )
    return SubmissionResult(record.uid, record.ended)


def _without_result(job: Job) -> Job:
    # Kept for 25 hours: what can be large is left out.
    return replace(
        job,
        status_text=cut(job.status_text, MAX_REMEMBERED_TEXT),
        kind="",
        progress=None,
        error=job.error and JobError(message=cut(job.error.message, MAX_REMEMBERED_TEXT)),
        log_download_url="",
        result=None,
        forgotten_result=job.result and ForgottenResult(len(job.result), job.result.sha256),
    )


def _reused() -> RequestIdReused:
    return RequestIdReused("request_id", "it belongs to another request; take a new one for each new request")
