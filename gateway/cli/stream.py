"""The events of one job, over as many streams as that takes.

A stream is over only after the job's end or an error of the gateway. Any other end is a broken stream, whatever its
status: a proxy cut it, or the gateway died. This continues with the last `resume_token`, on a new connection.
"""

import random
import threading
import time
from collections.abc import Callable, Generator, Iterator
from typing import Any

import grpc
from jobgateway.v1 import job_service_pb2 as pb

from gateway.cli.client import Client, Deadline
from gateway.cli.failure import CallFailed, Failure

SILENCE_SECONDS = 45.0
"""Three heartbeat intervals: a stream that is silent for so long is dead, whatever TCP says."""

PATIENCE_SECONDS = 300.0
"""How long to try again after the first failure without hearing anything."""

FIRST_PATIENCE_SECONDS = 15.0
"""The same while nothing shows that there is a gateway at this address."""

_FIRST_WAIT, _LONGEST_WAIT = 0.2, 5.0
_LONGEST_NOTE = 200
_SILENT = Failure(grpc.StatusCode.UNAVAILABLE, f"nothing was heard for {SILENCE_SECONDS:.0f} s")


class JobStream:
    """Iterates over the events of a job up to its end.

    It begins with the call that `opening` is for. A `RunJob` is sent again only if its `request_id` makes that safe;
    once the job has a uid, the stream continues with `WatchJob`. `deadline` is the time for all of it, and `note` gets
    one line before each new attempt.
    """

    def __init__(
        self,
        client: Client,
        opening: pb.RunJobRequest | pb.WatchJobRequest,
        deadline: Deadline,
        note: Callable[[str], None],
    ) -> None:
        self._client = client
        self._deadline = deadline
        self._note = note
        self._run: pb.RunJobRequest | None = None
        self._watch = pb.WatchJobRequest()
        if isinstance(opening, pb.RunJobRequest):
            self._run = opening
            self._watch.content_format = opening.request.content_format
        else:
            self._watch.CopyFrom(opening)
        self._opened_at = time.monotonic()
        self._failing_since: float | None = None
        self._heard_any = self._knows_gateway = self._reached = False
        self._over_limit_at: str | None = None
        self._bound = _FIRST_WAIT

    @property
    def uid(self) -> int:
        """The job; 0 as long as it is not known."""
        return self._watch.uid

    def __iter__(self) -> Iterator[pb.JobEvent]:
        """Each event as it comes. Raises `CallFailed` for a final error, or one that lasts for too long."""
        while True:
            failure = yield from self._one_stream()
            if failure is None:
                return
            self._watch.uid = self._watch.uid or failure.uid
            if not self._may_go_on(failure):
                raise CallFailed(failure)
            wait = self._next_wait(failure)
            left = self._deadline.left()
            if left is not None and wait >= left:
                message = f"{failure.message}, and there is no time left to go on"
                raise CallFailed(Failure(grpc.StatusCode.DEADLINE_EXCEEDED, message))
            self._note(f"{failure.message[:_LONGEST_NOTE]}; going on in {wait:.1f} s")
            time.sleep(wait)
            self._client.reconnect()

    def _one_stream(self) -> Generator[pb.JobEvent, None, Failure | None]:
        """Yields the events of one call; returns why it ended, or None where that was the job's end."""
        stub, metadata, left = self._client.stub, self._client.metadata, self._deadline.left()
        if self._run and not self.uid:
            call = stub.RunJob(self._run, metadata=metadata, timeout=left)
        else:
            call = stub.WatchJob(self._watch, metadata=metadata, timeout=left)
        # A call that makes a job is not cut off before it has named the job.
        listening = _Listening(call, first_limit=SILENCE_SECONDS if self.uid else None)
        self._opened_at = time.monotonic()
        done = False
        failure = Failure(grpc.StatusCode.UNAVAILABLE, "the stream ended before the job")
        try:
            for event in listening:
                self._remember(event)
                done = event.job.done
                yield event
        except grpc.RpcError as error:
            failure = Failure.of(error)
        finally:
            call.cancel()
        if done:
            return None
        # Silence counts, whatever the call ended with before it was cancelled.
        return _SILENT if listening.silent else failure

    def _remember(self, event: pb.JobEvent) -> None:
        self._watch.uid = event.uid or self._watch.uid
        self._watch.resume_token = event.resume_token or self._watch.resume_token
        self._failing_since = None
        self._heard_any = True
        # One event does not make a stream that works: it may break each time after the first.
        if time.monotonic() - self._opened_at > _LONGEST_WAIT:
            self._bound = _FIRST_WAIT

    def _may_go_on(self, failure: Failure) -> bool:
        self._knows_gateway |= self._heard_any or failure.from_gateway
        self._reached |= self._knows_gateway or failure.may_have_sent
        patience = PATIENCE_SECONDS if self._knows_gateway else FIRST_PATIENCE_SECONDS
        now = time.monotonic()
        if self._failing_since is None:
            # Not from the last event on: the caller that shows the events may take minutes for one.
            self._failing_since = now
        if now - self._failing_since > patience or self._deadline.left() == 0:
            return False
        if not self.uid and not self._may_run_again:
            return False
        if failure.code is grpc.StatusCode.UNAUTHENTICATED and self._client.renew_token():
            return True
        if failure.code is grpc.StatusCode.RESOURCE_EXHAUSTED and failure.retry_delay is not None:
            return bool(self.uid)
        if failure.from_gateway:
            return failure.code is grpc.StatusCode.UNAVAILABLE
        if failure.is_broken_stream:
            return self._reached or not self.uid
        # Before the first event, any other status means a wrong address rather than a proxy's trouble.
        return self._heard_any and not self._is_over_limit_again(failure)

    @property
    def _may_run_again(self) -> bool:
        """Whether a second RunJob cannot be a second job."""
        return self._run is not None and bool(self._run.request.request_id)

    def _is_over_limit_again(self, failure: Failure) -> bool:
        if not failure.is_over_limit:
            return False
        before, self._over_limit_at = self._over_limit_at, self._watch.resume_token
        return before == self._over_limit_at

    def _next_wait(self, failure: Failure) -> float:
        longest = self._bound
        self._bound = min(_LONGEST_WAIT, 2 * longest)
        jittered = random.uniform(longest / 2, longest)  # noqa: S311 - jitter is no secret
        return max(jittered, failure.retry_delay or 0.0)


class _Listening:
    """The events of a call, which is cancelled if it is silent for too long while one is waited for.

    `first_limit` holds for the first event, in seconds; None is for ever. `silent` says whether it was cancelled.
    """

    def __init__(self, call: Any, *, first_limit: float | None) -> None:
        self.silent = False
        self._call = call
        self._limit = first_limit

    def __iter__(self) -> Iterator[pb.JobEvent]:
        return self

    def __next__(self) -> pb.JobEvent:
        timer = None
        if self._limit is not None:
            timer = threading.Timer(self._limit, self._give_up)
            timer.daemon = True
            timer.start()
        try:
            event: pb.JobEvent = next(self._call)
        finally:
            if timer is not None:
                timer.cancel()
        self._limit = SILENCE_SECONDS
        return event

    def _give_up(self) -> None:
        self.silent = True
        self._call.cancel()
