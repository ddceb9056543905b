"""When a watch goes on after a failure, and after which wait: the rules that both watches share."""

from __future__ import annotations

import random
import time
from collections.abc import Callable
from typing import TypeAlias

import grpc
from jobgateway.v1 import job_service_pb2 as pb

from jobclient.failure import Failure

SILENT = Failure(grpc.StatusCode.CANCELLED, "SILENT")
"""The stand-in for a stream that was given up because nothing was heard from it."""

NO_END = Failure(grpc.StatusCode.OK)
"""The stand-in for a stream that ended with OK and without the job's end: a proxy ended it."""

FIRST_WAIT, LONGEST_WAIT = 0.2, 5.0
HEARTBEAT_SECONDS = 15.0

# Without our `ErrorInfo` these never are the gateway's last word, not even before the first event.
_BROKEN = (
    grpc.StatusCode.OK,
    grpc.StatusCode.CANCELLED,
    grpc.StatusCode.UNKNOWN,
    grpc.StatusCode.DEADLINE_EXCEEDED,
    grpc.StatusCode.INTERNAL,
    grpc.StatusCode.UNAVAILABLE,
)
# A message over this client's own receive limit ends like this, and would do so again.
_OVER_LIMIT = (grpc.StatusCode.RESOURCE_EXHAUSTED, grpc.StatusCode.OUT_OF_RANGE)


OnResume: TypeAlias = Callable[[Failure], None]
"""Is told why a watch goes on with another call, before the wait."""


def silence_seconds(request: pb.WatchJobRequest) -> float:
    """How long a stream may be silent: three heartbeat intervals."""
    return 3 * (request.heartbeat_interval.ToTimedelta().total_seconds() or HEARTBEAT_SECONDS)


def needs_new_connection(failure: Failure) -> bool:
    """Whether to leave the old connection: it broke, or its gateway is going away.

    A new channel also forgets the old one's own backoff, which grows up to two minutes.
    """
    return failure is SILENT or not failure.reason or failure.reason == "DRAINING"


def proves_token(event: pb.JobEvent) -> bool:
    """Whether an event shows that the upstream accepts the token.

    A heartbeat also comes before the first read has ended, and between a refusal and the read that confirms it.
    """
    if event.HasField("heartbeat"):
        return event.heartbeat.HasField("observe_time") and not event.heartbeat.last_failure
    return event.HasField("job") or event.HasField("content_chunk")


class Attempts:
    """Decides about each failure of one watch."""

    def __init__(self) -> None:
        self._bound = FIRST_WAIT
        self._opened = time.monotonic()
        self._heard = False
        self._heard_ever = False
        self._fresh_token = False
        self._over_limit_at: str | None = None

    def opened(self) -> None:
        """A new call was made."""
        self._opened, self._heard = time.monotonic(), False

    def heard(self, event: pb.JobEvent) -> None:
        """An event came."""
        self._heard = self._heard_ever = True
        if proves_token(event):
            self._fresh_token = False

    def may_go_on(self, failure: Failure, resume_token: str) -> bool:
        """Whether to call again after a failure; `resume_token` is the last one that came."""
        if failure.code is grpc.StatusCode.UNAUTHENTICATED and not self._fresh_token:
            self._fresh_token = True
            return True
        if failure is SILENT or (
            failure.code is grpc.StatusCode.RESOURCE_EXHAUSTED and failure.retry_after is not None
        ):
            return True
        if failure.reason:
            return failure.code is grpc.StatusCode.UNAVAILABLE
        return self._is_broken(failure, resume_token)

    def _is_broken(self, failure: Failure, resume_token: str) -> bool:
        """Whether a status that is not the gateway's means a broken stream, and not a wrong address or a limit."""
        if failure.code in _BROKEN:
            return True
        if failure.code in _OVER_LIMIT:
            before, self._over_limit_at = self._over_limit_at, resume_token
            if resume_token == before:
                return False
        return self._heard_ever

    def wait(self, failure: Failure) -> float:
        """The seconds to wait before the next call."""
        # One event does not make a stream that works: it may break each time after the first.
        if self._heard and time.monotonic() - self._opened > LONGEST_WAIT:
            self._bound = FIRST_WAIT
        bound = self._bound
        self._bound = min(LONGEST_WAIT, 2 * bound)
        return max(random.uniform(bound / 2, bound), failure.retry_after or 0)  # noqa: S311 - jitter is no secret


class Result:
    """The bytes of a result that comes in chunks."""

    def __init__(self) -> None:
        self.data = bytearray()

    def take(self, chunk: pb.ContentChunk) -> None:
        """Adds a chunk. After a resumption chunks may begin again at 0, so what is held is cut to its offset."""
        del self.data[chunk.offset :]
        self.data += chunk.data
