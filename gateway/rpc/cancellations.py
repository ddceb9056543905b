"""Background cancellation of jobs whose clients have left (`cancel_on_disconnect`)."""

from __future__ import annotations

import asyncio
import random
from itertools import chain, repeat
from typing import TYPE_CHECKING

import structlog

from gateway.clock import sleep_until
from gateway.errors import GatewayError, UpstreamError
from gateway.rpc.status import mapping_for
from gateway.watch import Refusals

if TYPE_CHECKING:
    from gateway.clock import Clock
    from gateway.rpc.call import Call
    from gateway.rpc.upstream_jobs import UpstreamJobs
    from gateway.submit import SubmissionCall
    from gateway.upstream import RequestContext
    from gateway.watch import SentJobs

# The waits between attempts, in seconds; the last one is repeated.
WAITS = (0.5, 1.0, 2.0, 4.0, 8.0)
# The part by which these waits vary at random, so that cancellations that start together do not retry in lockstep.
JITTER = 0.2
# How long the gateway tries to cancel a job, in seconds.
RETRY_SECONDS = 600.0

_log = structlog.get_logger()


class Cancellations:
    """Cancels jobs in the background, with retries, because their clients cannot try again."""

    def __init__(self, jobs: UpstreamJobs, sent_jobs: SentJobs, clock: Clock) -> None:
        self._jobs = jobs
        self._sent_jobs = sent_jobs
        self._clock = clock
        self._tasks: set[asyncio.Task[None]] = set()

    def start(self, submission: SubmissionCall, call: Call) -> None:
        """Cancel the job of `submission` once its uid is known, with the credential of `call`."""
        task = asyncio.get_running_loop().create_task(self._run(submission, call))
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    async def wait(self) -> None:
        """Return when all cancellations have ended."""
        while self._tasks:
            await asyncio.wait(self._tasks)

    def stop(self) -> None:
        """Give up the cancellations that have not ended."""
        for task in self._tasks:
            task.cancel()

    async def _run(self, submission: SubmissionCall, call: Call) -> None:
        try:
            # Outside of the submission's context: if nothing was sent yet, nothing needs to be.
            sent = await submission.outcome()
            if sent.uid:
                await self._cancel(sent.uid, call.request_context)
        except GatewayError as error:
            _log.warning("job.cancel_failed", uid=call.uid, reason=mapping_for(error).reason, **call.ids)
        else:
            _log.info("job.cancelled", uid=sent.uid, **call.ids)

    async def _cancel(self, uid: int, context: RequestContext) -> None:
        refusals = Refusals(self._sent_jobs.find(uid), exists=True)
        shown = False
        give_up = self._clock.monotonic() + RETRY_SECONDS
        for wait in chain(WAITS, repeat(WAITS[-1])):
            try:
                await self._jobs.cancel(uid, context)
            except UpstreamError as error:
                now = self._clock.monotonic()
                if error.job_shown and not shown:
                    # A job that the upstream shows is not refused because it was just sent. One more refusal confirms.
                    refusals, shown = Refusals(None, exists=True), True
                if refusals.count(error, now) or now >= give_up:
                    raise
                jitter = random.uniform(1 - JITTER, 1 + JITTER)  # noqa: S311 - no secret
                asked = error.retry_after or 0.0 if error.transient else 0.0
                await sleep_until(self._clock, min(give_up, now + max(wait * jitter, asked)))
            else:
                return
