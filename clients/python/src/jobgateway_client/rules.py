"""The decisions of the client: what to do about an error, and when (docs/clients/index.md).

This module does no input or output. The sync and the asyncio client both follow it. Times are in seconds, and `now` is
from a monotonic clock.
"""

from __future__ import annotations

import enum
import random
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

import grpc
from jobgateway.v1 import job_service_pb2 as pb

from jobgateway_client.errors import ClosedError, GatewayError

if TYPE_CHECKING:
    from collections.abc import Mapping

FIRST_WAIT, LONGEST_WAIT = 0.2, 5.0
HEARTBEAT_SECONDS = 15.0
# The gateway rejects intervals outside of these bounds, so its response must arrive first.
LEAST_SILENCE, LONGEST_SILENCE = 3.0, 86_400.0
DEFAULT_ATTEMPTS = 5


class Action(enum.Enum):
    """The reaction to an error (docs/reference/errors.md)."""

    RETRY = "retry"
    FIX = "fix the request"
    LOG_IN = "log in again"
    LOOK = "look before sending again"
    GIVE_UP = "give up"


class AfterSend(enum.Enum):
    """The next step after a failed `SendJob` or `RunJob`."""

    SEND_AGAIN = "send again"
    LOG_IN = "send again with a fresh token"
    WATCH = "watch the job that the error names"
    LOOK = "look for the job before sending again"
    STOP = "stop"


@dataclass(frozen=True)
class Retry:
    """A further attempt after an error.

    Attributes:
        error: The error. Its `message` and `code` say why there is another attempt.
        wait: The time until the attempt, in seconds.
        new_connection: Whether it uses a new connection.
        uid: The job that is watched, or 0 if it is not known, or if the attempt is about the stream of many jobs.
        jobs: The number of jobs that have not ended, in a watch of many jobs if the attempt is about their stream.
        failures: The number of failures since something last arrived, 1 or more.

    """

    error: GatewayError
    wait: float
    new_connection: bool
    uid: int = 0
    jobs: int = 0
    failures: int = 1


# The reasons whose action is another than that of their code.
_BY_REASON: Mapping[str, Action] = {
    "UPSTREAM_NOT_READY": Action.RETRY,
    "UPSTREAM_ERROR": Action.RETRY,
    "UPSTREAM_ANSWER_TOO_LARGE": Action.GIVE_UP,
}
_BY_CODE: Mapping[grpc.StatusCode, Action] = {
    grpc.StatusCode.UNAVAILABLE: Action.RETRY,
    grpc.StatusCode.DEADLINE_EXCEEDED: Action.RETRY,
    grpc.StatusCode.CANCELLED: Action.RETRY,
    grpc.StatusCode.RESOURCE_EXHAUSTED: Action.FIX,
    grpc.StatusCode.INVALID_ARGUMENT: Action.FIX,
    grpc.StatusCode.NOT_FOUND: Action.FIX,
    grpc.StatusCode.ALREADY_EXISTS: Action.FIX,
    grpc.StatusCode.OUT_OF_RANGE: Action.FIX,
    grpc.StatusCode.UNAUTHENTICATED: Action.LOG_IN,
    grpc.StatusCode.UNKNOWN: Action.LOOK,
}
# Without our `ErrorInfo`, these come from a proxy, a library, or a gateway that died.
_BROKEN = frozenset(
    {
        grpc.StatusCode.OK,
        grpc.StatusCode.CANCELLED,
        grpc.StatusCode.UNKNOWN,
        grpc.StatusCode.DEADLINE_EXCEEDED,
        grpc.StatusCode.INTERNAL,
        grpc.StatusCode.UNAVAILABLE,
    }
)
# A message over the receive limit of this client ends like this, and would do so again.
_OVER_LIMIT = frozenset({grpc.StatusCode.RESOURCE_EXHAUSTED, grpc.StatusCode.OUT_OF_RANGE})
# With our `ErrorInfo` and without a uid, these are certain: no job was created.
_NOTHING_SENT = frozenset({grpc.StatusCode.UNAVAILABLE, grpc.StatusCode.RESOURCE_EXHAUSTED})


def action(error: GatewayError) -> Action:
    """Return the reaction to an error, by its reason if that differs from its code, else by its code."""
    if isinstance(error, ClosedError):
        return Action.GIVE_UP
    if error.reason in _BY_REASON:
        return _BY_REASON[error.reason]
    if is_broken(error) or is_load_limit(error):
        return Action.RETRY
    return _BY_CODE.get(error.code, Action.GIVE_UP)


def is_broken(error: GatewayError) -> bool:
    """Return True if the call was broken on its way, so that another call may succeed."""
    return not error.from_gateway and error.code in _BROKEN


def is_load_limit(error: GatewayError) -> bool:
    """Return True for a limit of rate or load, which names a wait. A limit of size names none."""
    return error.code is grpc.StatusCode.RESOURCE_EXHAUSTED and error.retry_delay is not None


def needs_new_connection(error: GatewayError) -> bool:
    """Return True if the connection may be dead or lead to an instance that shuts down.

    A new channel also forgets the backoff of the old one, which grows up to two minutes.
    """
    return not error.from_gateway or error.reason == "DRAINING"


def after_send(error: GatewayError, *, has_request_id: bool) -> AfterSend:
    """Return the next step after a failed `SendJob`, or after a `RunJob` that failed before its first event."""
    if error.uid:
        return AfterSend.WATCH
    what = action(error)
    if what is Action.LOG_IN:
        return AfterSend.LOG_IN
    if what is Action.RETRY:
        certain = error.from_gateway and error.code in _NOTHING_SENT
        return AfterSend.SEND_AGAIN if certain or has_request_id else AfterSend.LOOK
    return AfterSend.LOOK if what is Action.LOOK else AfterSend.STOP


def silence_seconds(request: pb.WatchJobRequest | pb.RunJobRequest) -> float:
    """Return how long a stream may be silent: three heartbeat intervals, within sensible bounds."""
    interval = HEARTBEAT_SECONDS
    if request.HasField("heartbeat_interval"):
        interval = request.heartbeat_interval.seconds + request.heartbeat_interval.nanos / 1e9
    return min(max(3 * interval, LEAST_SILENCE), LONGEST_SILENCE)


def proves_token(event: pb.JobEvent) -> bool:
    """Return True if an event shows that the upstream accepts the token.

    Heartbeats also arrive before the first read, and between a refusal and the read that confirms it.
    """
    if event.HasField("heartbeat"):
        return event.heartbeat.HasField("observe_time") and not event.heartbeat.last_failure
    return event.HasField("job") or event.HasField("content_chunk")


class Backoff:
    """The waits between attempts: random, with a bound that doubles from 0.2 to 5 seconds."""

    def __init__(self) -> None:
        self._bound = FIRST_WAIT

    def reset(self) -> None:
        """Start again with the shortest wait."""
        self._bound = FIRST_WAIT

    def next(self, error: GatewayError) -> float:
        """Return the wait before the next attempt, at least the one that the error names."""
        bound = self._bound
        self._bound = min(LONGEST_WAIT, 2 * bound)
        jittered = random.uniform(bound / 2, bound)  # noqa: S311 - jitter is no secret
        return max(jittered, error.retry_delay or 0.0)


class CallRules:
    """The retries of one unary call, at most `attempts` calls in total.

    A `WaitJob` is repeated like a watch, without a limit, as long as the gateway or the way to it fails.
    """

    def __init__(self, request: object, attempts: int) -> None:
        self._send = request if isinstance(request, pb.SendJobRequest) else None
        self._is_wait = isinstance(request, pb.WaitJobRequest)
        self._left = attempts - 1
        self._failures = 0
        self._backoff = Backoff()
        self._has_fresh_token = False

    def wants_token(self, error: GatewayError) -> bool:
        """Return True if a fresh token may help. Get one before `retry`."""
        is_sent = self._send is not None and error.uid != 0
        return error.code is grpc.StatusCode.UNAUTHENTICATED and not (self._has_fresh_token or is_sent)

    def retry(self, error: GatewayError, *, fresh_token: bool) -> Retry | None:
        """Return the next attempt, or None if the error is final. `fresh_token`: one was needed, and there is one."""
        self._failures += 1
        self._has_fresh_token |= fresh_token
        is_outage = is_broken(error) or is_load_limit(error) or error.code is grpc.StatusCode.UNAVAILABLE
        if not (self._is_wait and is_outage):
            if self._left <= 0 or not (fresh_token or self._may_retry(error)):
                return None
            self._left -= 1
        return Retry(error, self._backoff.next(error), needs_new_connection(error), failures=self._failures)

    def _may_retry(self, error: GatewayError) -> bool:
        if self._send is None:
            return action(error) is Action.RETRY
        return after_send(error, has_request_id=bool(self._send.request_id)) is AfterSend.SEND_AGAIN


class StreamRules:
    """The resumption of one stream after another: whether, when, and over which connection."""

    def __init__(self) -> None:
        self._backoff = Backoff()
        self._failures = 0
        self._opened_at = 0.0
        self._heard_any = False
        self._has_fresh_token = False
        self._repeatable_at: object = None

    def opened(self, now: float) -> None:
        """Note that a call begins."""
        self._opened_at = now

    def heard(self, now: float, *, proves_token: bool) -> None:
        """Note an event."""
        self._heard_any = True
        self._failures = 0
        if proves_token:
            self._has_fresh_token = False
        # A stream that breaks after its first event each time does not work.
        if now - self._opened_at > LONGEST_WAIT:
            self._backoff.reset()

    def wants_token(self, error: GatewayError) -> bool:
        """Return True if a fresh token may help. Get one before the next call, and tell `renewed`."""
        return error.code is grpc.StatusCode.UNAUTHENTICATED and not self._has_fresh_token

    def renewed(self) -> None:
        """Note that the next call has a fresh token."""
        self._has_fresh_token = True

    def may_resume(self, error: GatewayError, position: object) -> bool:
        """Return whether another call may help. `position` changes with each event after which a call can continue."""
        if is_load_limit(error):
            return True
        if error.from_gateway:
            return error.code is grpc.StatusCode.UNAVAILABLE
        if is_broken(error):
            return True
        if error.code in _OVER_LIMIT and not self.is_first_at(position):
            return False
        # Before the first event, any other status means a wrong address or request.
        return self._heard_any

    def is_first_at(self, position: object) -> bool:
        """Return whether a failure that another call may repeat is the first one at a position."""
        before, self._repeatable_at = self._repeatable_at, position
        return before != position

    def retry(self, error: GatewayError) -> Retry:
        """Return the next call."""
        self._failures += 1
        return Retry(error, self._backoff.next(error), needs_new_connection(error), failures=self._failures)


class WatchRules:
    """The resuming watch of one job: its next request, and the decision about each error.

    `start` is the first request. A `RunJobRequest` creates the job, and the watch continues with `WatchJob` as soon as
    the job has a uid.
    """

    def __init__(self, start: pb.RunJobRequest | pb.WatchJobRequest) -> None:
        self._run: pb.RunJobRequest | None = None
        self._watch = pb.WatchJobRequest()
        if isinstance(start, pb.RunJobRequest):
            self._run = start
            self._watch.content_format = start.request.content_format
            if start.HasField("heartbeat_interval"):
                self._watch.heartbeat_interval.CopyFrom(start.heartbeat_interval)
        else:
            self._watch.CopyFrom(start)
        self.silence = silence_seconds(start)
        self.done = False
        self._stream = StreamRules()

    @property
    def uid(self) -> int:
        """The job, or 0 if it is not known yet."""
        return self._watch.uid

    @property
    def request(self) -> pb.RunJobRequest | pb.WatchJobRequest:
        """The request of the next call."""
        return self._run if self._run is not None and not self.uid else self._watch

    def opened(self, now: float) -> None:
        """Note that a call begins."""
        self._stream.opened(now)

    def heard(self, event: pb.JobEvent, now: float) -> None:
        """Note an event."""
        self._watch.uid = event.uid or self._watch.uid
        self._watch.resume_token = event.resume_token or self._watch.resume_token
        self.done |= event.job.done
        self._stream.heard(now, proves_token=proves_token(event))

    def failed(self, error: GatewayError) -> None:
        """Note the error of a call. It may name the job before an event does, and then the job exists."""
        self._watch.uid = self._watch.uid or error.uid

    def wants_token(self, error: GatewayError) -> bool:
        """Return True if a fresh token may help. Get one before `resume`."""
        return self._stream.wants_token(error)

    def resume(self, error: GatewayError, *, fresh_token: bool) -> Retry | None:
        """Return the next attempt, or None if the error is final. `fresh_token`: one was needed, and there is one."""
        if fresh_token:
            self._stream.renewed()
        elif not (self._may_watch_again(error) if self.uid else self._may_run_again(error)):
            return None
        return replace(self._stream.retry(error), uid=self.uid)

    def _may_run_again(self, error: GatewayError) -> bool:
        has_request_id = self._run is not None and bool(self._run.request.request_id)
        return after_send(error, has_request_id=has_request_id) is AfterSend.SEND_AGAIN

    def _may_watch_again(self, error: GatewayError) -> bool:
        return self._stream.may_resume(error, self._watch.resume_token)
