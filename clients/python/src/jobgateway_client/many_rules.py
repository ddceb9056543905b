"""The resuming watch of many jobs on one stream: its requests, and the decision about each event and error.

This module does no input or output. Times are in seconds, and `now` is from a monotonic clock.
"""

from __future__ import annotations

import heapq
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

import grpc
from jobgateway.v1 import job_service_pb2 as pb

from jobgateway_client.errors import GatewayError, ResultDamagedError, from_failure
from jobgateway_client.result import Results
from jobgateway_client.rules import (
    LONGEST_WAIT,
    Backoff,
    Retry,
    StreamRules,
    is_load_limit,
    proves_token,
    silence_seconds,
)

if TYPE_CHECKING:
    from collections.abc import Sequence

_DEFECT = "GATEWAY_DEFECT"
_ALREADY_WATCHED = "ALREADY_WATCHED"


@dataclass(frozen=True)
class WatchFailed:
    """The end of the watch of one job by a final error. The job itself may continue, and so do the other watches."""

    uid: int
    error: GatewayError


@dataclass(frozen=True)
class LoginNeeded:
    """The error of one job for which a fresh token may help: get one, then `resume`, or else call `without_login`."""

    uid: int
    error: GatewayError


class _Job:
    """The watch of one job.

    Attributes:
        request: The next request for it.
        due: The time from which it may be sent.
        unproven: The token is fresh, and nothing has shown yet that it may read this job.

    """

    def __init__(self, start: pb.WatchJobRequest, first: pb.WatchJobRequest) -> None:
        self.request = pb.WatchJobRequest()
        self.request.CopyFrom(start)
        # A stream takes its interval from the request that comes first.
        self.request.ClearField("heartbeat_interval")
        if first.HasField("heartbeat_interval"):
            self.request.heartbeat_interval.CopyFrom(first.heartbeat_interval)
        self.due = 0.0
        self.unproven = False
        self._sent_at = 0.0
        self._backoff = Backoff()
        self._failures = 0

    def sent(self, now: float) -> None:
        """Note that the request is sent."""
        self._sent_at = now

    def heard(self, event: pb.JobEvent, now: float) -> None:
        """Note an event of the job."""
        self._failures = 0
        self.request.resume_token = event.resume_token or self.request.resume_token
        if proves_token(event):
            self.unproven = False
        if now - self._sent_at > LONGEST_WAIT:
            self._backoff.reset()

    def again(self, error: GatewayError, now: float) -> Retry:
        """Return the next attempt to watch the job."""
        wait = self._backoff.next(error)
        self.due = now + wait
        self._failures += 1
        return Retry(error, wait, new_connection=False, uid=self.request.uid, failures=self._failures)


class ManyRules:
    """The watches of many jobs: the requests of the current stream, and the decision about each event and error.

    A job is pending until it has ended or its watch has failed. The `heartbeat_interval` of the first request applies.
    """

    def __init__(self, starts: Sequence[pb.WatchJobRequest]) -> None:
        self._jobs: dict[int, _Job] = {}
        self._results = Results(starts)
        # The job of the last event, if it has ended.
        self._ended = 0
        first = starts[0] if starts else pb.WatchJobRequest()
        for start in starts:
            if start.uid not in self._jobs:
                self._jobs[start.uid] = _Job(start, first)
        self.silence = silence_seconds(first)
        self._stream = StreamRules()
        # The jobs whose request was not sent on the current stream: the time from which it may be, and the uid.
        self._unsent: list[tuple[float, int]] = []
        self._sent = 0
        self._resumable_events = 0
        self._no_token = False

    @property
    def done(self) -> bool:
        """True if no job is pending."""
        return not self._jobs

    @property
    def pending(self) -> int:
        """The number of jobs that have not ended."""
        return len(self._jobs)

    def result(self, uid: int) -> bytes:
        """Return the JSON of the result of a job as far as it has arrived, until the next event after its end."""
        return self._results.of(uid)

    def opened(self, now: float) -> None:
        """Note that a stream begins."""
        self._stream.opened(now)
        self._unsent = [(job.due, uid) for uid, job in self._jobs.items()]
        heapq.heapify(self._unsent)
        self._sent = 0
        self._no_token = False

    def next_request(self, now: float) -> pb.WatchJobsRequest | None:
        """Return a request that is to be sent now, or None if there is none."""
        while self._unsent and self._unsent[0][0] <= now:
            _, uid = heapq.heappop(self._unsent)
            if job := self._jobs.get(uid):
                job.sent(now)
                self._sent += 1
                return pb.WatchJobsRequest(watch=job.request)
        return None

    def next_due(self) -> float | None:
        """Return the time of the next request, or None if no job waits for one."""
        return self._unsent[0][0] if self._unsent else None

    def take(self, event: pb.JobEvent, now: float) -> pb.JobEvent | WatchFailed | Retry | LoginNeeded | None:
        """Note an event.

        Returns:
            The item for the consumer, the next attempt to watch the job of the event, the need for a fresh token, or
            None if the event is of no interest.

        """
        if self._ended:
            self._results.release(self._ended)
            self._ended = 0
        self._note(event, now)
        job = self._jobs.get(event.uid)
        if job is None:
            return None if event.uid else event
        if event.HasField("failure"):
            if event.failure.reason == _ALREADY_WATCHED:
                return None
            error = from_failure(event.uid, event.failure)
            may_log_in = not (job.unproven or self._no_token)
            if error.code is grpc.StatusCode.UNAUTHENTICATED and may_log_in:
                return LoginNeeded(event.uid, error)
            return self._fail(event.uid, error, now)
        job.heard(event, now)
        if event.job.done:
            self._end(event.uid)
        try:
            self._results.take(event)
        except ResultDamagedError as damaged:
            return WatchFailed(event.uid, damaged)
        return event

    def without_login(self, needed: LoginNeeded, now: float) -> WatchFailed | Retry:
        """Return the consequence of a failure if the login returned no token."""
        self._no_token = True
        return self._fail(needed.uid, needed.error, now)

    def wants_token(self, error: GatewayError) -> bool:
        """Return True if a fresh token may help after an error of the stream. Get one before `resume`."""
        return self._stream.wants_token(error)

    def resume(self, error: GatewayError, now: float, *, fresh_token: bool) -> Retry | None:
        """Return the next stream, or None if the error is final. `fresh_token`: one was needed, and there is one."""
        if fresh_token:
            self._stream.renewed()
            for job in self._jobs.values():
                job.unproven = True
        elif not self._may_resume(error):
            return None
        retry = self._stream.retry(error)
        # Without a request, the stream would have no heartbeats.
        first = min((job.due for job in self._jobs.values()), default=now)
        return replace(retry, wait=max(retry.wait, first - now), jobs=self.pending)

    def _may_resume(self, error: GatewayError) -> bool:
        if error.reason == _DEFECT:
            # It may be that of one event, which would come again.
            return self._stream.is_first_at(self._resumable_events)
        return self._stream.may_resume(error, self._resumable_events)

    def _note(self, event: pb.JobEvent, now: float) -> None:
        """Note what an event says about the stream."""
        synced = event.HasField("synced") and event.synced.watch_requests >= self._sent
        self._stream.heard(now, proves_token=synced or proves_token(event))
        self._resumable_events += bool(event.resume_token) and not event.HasField("failure")
        if synced:
            waiting = {uid for _, uid in self._unsent}
            for uid, job in self._jobs.items():
                job.unproven &= uid in waiting

    def _fail(self, uid: int, error: GatewayError, now: float) -> WatchFailed | Retry:
        if not (error.code is grpc.StatusCode.UNAVAILABLE or is_load_limit(error)):
            self._end(uid)
            return WatchFailed(uid, error)
        job = self._jobs[uid]
        retry = job.again(error, now)
        heapq.heappush(self._unsent, (job.due, uid))
        return retry

    def _end(self, uid: int) -> None:
        del self._jobs[uid]
        self._ended = uid
