"""The attempts to POST one job: again only if the upstream certainly did not see the last one."""

from __future__ import annotations

from typing import TYPE_CHECKING

from gateway.clock import sleep_at_most
from gateway.errors import SubmitOutcomeUnknown, UpstreamError, UpstreamMalformed, UpstreamStatusError
from gateway.submit.submission import SubmissionResult

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

    from gateway.clock import Clock
    from gateway.models import Job
    from gateway.submit.submission import Submission

MAX_ATTEMPTS = 4
# The longest first wait between two attempts, in seconds. It doubles with each.
FIRST_WAIT_SECONDS = 0.2
# Responses of a proxy that stopped waiting (460: AWS ALB; 444, 499: nginx). The upstream may have the request. Every
# other 4xx refuses it; those that proxies add (463, 464, 494 to 498) come before the request is passed on.
UNKNOWN_4XX = frozenset({408, 444, 460, 499})
# These two ask for the same request elsewhere. The others may follow a request that was carried out, as a 303 does.
REFUSING_3XX = frozenset({307, 308})


def longest_seconds(connect_seconds: float, total_seconds: float) -> float:
    """Return the longest time that all attempts of a submission take.

    Args:
        connect_seconds: The longest time for a connection, after which nothing was sent.
        total_seconds: The longest time for a whole attempt.
    """
    # 1 + 2 + 4 of the first wait.
    waits = FIRST_WAIT_SECONDS * (2.0 ** (MAX_ATTEMPTS - 1) - 1)
    return (MAX_ATTEMPTS - 1) * connect_seconds + waits + total_seconds


async def post_until_sent(clock: Clock, post: Callable[[], Awaitable[Job]], submission: Submission) -> SubmissionResult:
    """Post a job until the upstream may have seen it, while a caller waits for it.

    Raises:
        SubmitOutcomeUnknown: The upstream may have made the job.
        UpstreamError: The job was certainly refused, or certainly never sent.
    """
    for attempt in range(1, MAX_ATTEMPTS + 1):
        try:
            job = await post()
        except UpstreamError as error:
            if _outcome_is_unknown(error):
                raise SubmitOutcomeUnknown(str(error), error.http_status) from error
            if error.may_have_been_sent or attempt == MAX_ATTEMPTS:
                raise
            wait = FIRST_WAIT_SECONDS * 2 ** (attempt - 1)
            await sleep_at_most(clock, wait)
            # If all callers left before anything was sent, no one wants the job any more.
            if not submission.callers:
                raise
        else:
            return SubmissionResult(job.uid, job)
    raise AssertionError("the last attempt returns or raises")


def _outcome_is_unknown(error: UpstreamError) -> bool:
    if isinstance(error, UpstreamStatusError):
        return error.http_status in UNKNOWN_4XX or error.http_status >= 500
    if isinstance(error, UpstreamMalformed) and error.http_status is not None:
        return error.http_status not in REFUSING_3XX
    return error.may_have_been_sent
