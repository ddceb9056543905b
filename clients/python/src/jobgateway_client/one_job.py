"""The watch of one job, without input and output: its calls, and its events."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING, Any

from jobgateway.v1 import job_service_pb2 as pb

from jobgateway_client import calls
from jobgateway_client.result import stream_result
from jobgateway_client.rules import WatchRules

if TYPE_CHECKING:
    from jobgateway_client.deadline import Deadline
    from jobgateway_client.errors import GatewayError
    from jobgateway_client.many_rules import LoginNeeded
    from jobgateway_client.rules import Retry


class OneJob:
    """A job that is watched over as many streams as necessary.

    Attributes:
        rules: The decisions.
        result: The result as far as it has arrived.
        job: The last state of the job, or None before the first one.
        replayed: Whether the trailers of a stream said that the job was sent earlier.

    """

    def __init__(
        self, start: pb.RunJobRequest | pb.WatchJobRequest, deadline: Deadline, on_progress: calls.OnProgress | None
    ) -> None:
        self.rules = WatchRules(start)
        self.result = stream_result(start)
        self.job: pb.Job | None = None
        self.replayed = False
        self._deadline = deadline
        self._on_progress = on_progress

    def call(self, stub: calls.Stub, token: str | None) -> tuple[Any, calls.OnClose]:
        """Make the next call; return it, and a function to call when it is closed."""
        request = self.rules.request
        method = stub.RunJob if isinstance(request, pb.RunJobRequest) else stub.WatchJob
        self.rules.opened(time.monotonic())
        return method(
            request, metadata=calls.metadata(token, request), timeout=self._deadline.patience()
        ), calls.nothing

    def take(self, event: pb.JobEvent) -> pb.JobEvent:
        """Note an event, and return it."""
        self.rules.heard(event, time.monotonic())
        self.result.take(event)
        if event.HasField("job"):
            self.job = event.job
            if self._on_progress is not None:
                self._on_progress(event.job)
        return event

    def without_login(self, needed: LoginNeeded) -> None:
        """Do nothing: the stream of one job reports a rejected token as its status."""

    def ended(self, error: GatewayError, *, replayed: bool) -> None:
        """Note the end of a stream."""
        self.replayed |= replayed
        self.rules.failed(error)

    def resume(self, error: GatewayError, *, fresh_token: bool) -> Retry | None:
        """Return the next attempt, or None if the error is final. `fresh_token`: one was needed, and there is one."""
        return self.rules.resume(error, fresh_token=fresh_token)

    def finished(self) -> calls.Finished:
        """Return the job and its result."""
        return calls.Finished(self.job or pb.Job(), self.result.data)


class OneJobState:
    """The state of a watch of one job."""

    _job: OneJob

    @property
    def uid(self) -> int:
        """The job, or 0 if it is not known yet."""
        return self._job.rules.uid

    @property
    def job(self) -> pb.Job | None:
        """The last state of the job, or None before the first one."""
        return self._job.job

    @property
    def replayed(self) -> bool:
        """True if the job was sent earlier with the same `request_id`.

        It is known when the first stream of `run` has ended with the job, and stays False if that stream was broken.
        """
        return self._job.replayed

    @property
    def result(self) -> bytes:
        """The JSON of the result as far as it has arrived, a copy until the job has ended. Its end verifies it."""
        return self._job.result.data
