"""At most one job per request id: claim the id, post the job, record the outcome."""

from __future__ import annotations

import asyncio
import secrets
from functools import partial
from typing import TYPE_CHECKING

import structlog

from gateway.clock import sleep_at_most
from gateway.errors import RequestIdReused, StateUnavailable, SubmitOutcomeUnknown, UpstreamError
from gateway.submit.attempts import post_until_sent
from gateway.submit.lease import Lease
from gateway.submit.records import MAX_REMEMBERED_TEXT, OWNER_LOST, Claim, IdempotencyRecord, Outcome, without_result
from gateway.submit.submission import SubmissionResult
from gateway.text import cut

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

    from gateway.clock import Clock
    from gateway.models import Job
    from gateway.submit.records import IdempotencyKey
    from gateway.submit.store import IdempotencyStore
    from gateway.submit.submission import Submission

# Waits between two looks at a claim of another gateway, in seconds: the first one, and the longest.
FIRST_LOOK_SECONDS = 0.02
LONGEST_LOOK_SECONDS = 0.5
# Waits between two attempts to record an outcome, in seconds: the first one, and the longest.
FIRST_RECORD_SECONDS = 0.1
LONGEST_RECORD_SECONDS = 5.0
# An outcome is worth recording after the end of the claim too, because until then it reads as unknown.
RECORD_AFTER_CLAIM_SECONDS = 600.0
# With more background work than this, a claim in doubt is left to end, and reads as unknown if it had arrived.
MAX_RECORDING = 1_024
INTERRUPTED = "the submission was interrupted"

_log = structlog.get_logger()


class OncePerId:
    """Runs submissions under request ids, so that at most one job is made under each.

    A claim lasts for `claim_seconds`, which covers the longest submission.
    """

    def __init__(self, clock: Clock, store: IdempotencyStore, claim_seconds: float) -> None:
        self._clock = clock
        self._store = store
        self._claim_seconds = claim_seconds
        self._recording: set[asyncio.Task[None]] = set()

    async def run(
        self, key: IdempotencyKey, post: Callable[[], Awaitable[Job]], submission: Submission
    ) -> SubmissionResult:
        """Submit under `key`, or return the result of the submission that did.

        If another gateway is submitting under it, wait for its outcome while a caller waits here. See
        `SubmissionCall.outcome` for the errors.
        """
        claim = Claim(key, secrets.randbits(63))
        lease = await self._claim(claim, submission)
        if isinstance(lease, IdempotencyRecord):
            return _recall(lease, submission.fingerprint)
        try:
            return await self._post(claim, lease, post, submission)
        finally:
            lease.end()

    async def _claim(self, claim: Claim, submission: Submission) -> Lease | IdempotencyRecord:
        wait = FIRST_LOOK_SECONDS
        while True:
            began = self._clock.monotonic()
            until = began + self._claim_seconds
            try:
                record = await self._store.claim(claim, submission.fingerprint, self._claim_seconds)
            except StateUnavailable:
                # The claim may be in place, and nothing was sent.
                if len(self._recording) < MAX_RECORDING:
                    self._retry(partial(self._store.release, claim), until)
                raise
            if record is None:
                return Lease(self._clock, self._store, claim, began, self._claim_seconds)
            if record.outcome is not None or record.fingerprint != submission.fingerprint:
                return record
            await sleep_at_most(self._clock, wait)
            wait = min(wait * 2, LONGEST_LOOK_SECONDS)
            if not submission.callers:
                raise SubmitOutcomeUnknown("another gateway is submitting under this request_id", None)

    async def _post(
        self, claim: Claim, lease: Lease, post: Callable[[], Awaitable[Job]], submission: Submission
    ) -> SubmissionResult:
        async def post_while_claimed() -> Job:
            lease.check()
            return await post()

        try:
            sent = await post_until_sent(self._clock, post_while_claimed, submission)
        except SubmitOutcomeUnknown as error:
            outcome = Outcome(unknown=_reason_to_store(error), http_status=error.http_status)
            await self._settle(claim, lease, submission, outcome)
            raise
        except (UpstreamError, StateUnavailable):
            await self._record(partial(self._store.release, claim), lease.until)
            raise
        except BaseException:
            await self._settle(claim, lease, submission, Outcome(unknown=INTERRUPTED))
            raise
        ended = without_result(sent.job) if sent.job is not None and sent.uid == 0 else None
        await self._settle(claim, lease, submission, Outcome(uid=sent.uid, ended=ended))
        return sent

    async def _settle(self, claim: Claim, lease: Lease, submission: Submission, outcome: Outcome) -> None:
        record = IdempotencyRecord(submission.fingerprint, outcome)

        async def settle() -> None:
            if not await self._store.settle(claim, record):
                _log.warning("state.claim_lost", uid=outcome.uid)

        await self._record(settle, lease.until)

    async def _record(self, change: Callable[[], Awaitable[object]], claimed_until: float) -> None:
        # The caller gets its result in any case.
        try:
            await change()
        except StateUnavailable:
            self._retry(change, claimed_until)

    def _retry(self, change: Callable[[], Awaitable[object]], claimed_until: float) -> None:
        task = asyncio.get_running_loop().create_task(self._retry_until(change, claimed_until))
        self._recording.add(task)
        task.add_done_callback(self._recording.discard)

    async def _retry_until(self, change: Callable[[], Awaitable[object]], claimed_until: float) -> None:
        wait = FIRST_RECORD_SECONDS
        while self._clock.monotonic() < claimed_until + RECORD_AFTER_CLAIM_SECONDS:
            await sleep_at_most(self._clock, wait)
            wait = min(wait * 2, LONGEST_RECORD_SECONDS)
            try:
                await change()
            except StateUnavailable:
                continue
            return

    async def aclose(self) -> None:
        """Wait until every outcome is recorded, or given up."""
        while self._recording:
            await asyncio.wait(self._recording)


def _reason_to_store(error: SubmitOutcomeUnknown) -> str:
    # The upstream may repeat the params in its message, and no store holds any of them.
    cause = error.__cause__
    if isinstance(cause, UpstreamError) and not cause.quotes_others:
        return cut(str(cause), MAX_REMEMBERED_TEXT)
    return f"the upstream responded with HTTP {error.http_status}"


def _recall(record: IdempotencyRecord, fingerprint: bytes) -> SubmissionResult:
    outcome = record.outcome
    if record.fingerprint != fingerprint:
        raise reused()
    if outcome is None or outcome.uid is None:
        outcome = outcome or OWNER_LOST
        raise SubmitOutcomeUnknown(outcome.unknown or "", outcome.http_status)
    return SubmissionResult(outcome.uid, outcome.ended, replayed=True)


def reused() -> RequestIdReused:
    """Return the error for a request id that belongs to another request."""
    return RequestIdReused("request_id", "already used for another request; use a new one")
