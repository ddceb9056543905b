"""Single reads and cancellations of jobs upstream."""

from __future__ import annotations

from typing import TYPE_CHECKING, NoReturn

from gateway.errors import NoStateYet, UpstreamError
from gateway.rpc.codec.events import JobState
from gateway.watch import is_uncertain

if TYPE_CHECKING:
    from gateway.clock import Clock
    from gateway.upstream import RequestContext, RestClient
    from gateway.watch import SentJobs


class UpstreamJobs:
    """Reads and cancels jobs, one upstream request at a time."""

    def __init__(self, rest: RestClient, sent_jobs: SentJobs, clock: Clock) -> None:
        self._rest = rest
        self._sent_jobs = sent_jobs
        self._clock = clock

    async def read(self, uid: int, context: RequestContext) -> JobState:
        """Return the state of a job. Raises `UpstreamError`, and `NoStateYet` as `raise_for_client` does."""
        try:
            return JobState(await self._rest.get(uid, context))
        except UpstreamError as error:
            self.raise_for_client(error, uid)

    async def try_read(self, uid: int, context: RequestContext) -> JobState | None:
        """Return the state of a job, or None if it cannot be read: after a success, a failed read changes nothing."""
        try:
            return JobState(await self._rest.get(uid, context))
        except UpstreamError:
            return None

    async def cancel(self, uid: int, context: RequestContext) -> JobState | None:
        """Ask for the cancellation of a job.

        Returns:
            The state of the job if the upstream refused because the job has ended, otherwise None.

        Raises:
            UpstreamError: With `job_shown` if a read afterwards found the job.
        """
        try:
            await self._rest.cancel(uid, context)
        except UpstreamError as error:
            # Upstreams use many statuses to reject cancelling a finished job, and the client's goal is reached.
            state = await self.try_read(uid, context) if error.may_have_been_sent else None
            error.job_shown = state is not None
            if state is None or not state.job.done:
                raise
            return state
        return None

    def raise_for_client(self, error: UpstreamError, uid: int) -> NoReturn:
        """Raise `error`, or `NoStateYet` if it refuses a job that was sent a moment ago."""
        if not error.job_shown and is_uncertain(self._sent_jobs.find(uid), error, self._clock.monotonic()):
            raise uncertain_refusal(error) from error
        # Without "from": an error that is its own cause lives until the next garbage collection.
        raise error


def uncertain_refusal(error: UpstreamError) -> NoStateYet:
    """Return the error for a client whose job was refused, although it may exist."""
    status = f" (HTTP {error.http_status})" if error.http_status else ""
    return NoStateYet(f"the upstream does not show the job yet{status}, which may be temporary; call again")
