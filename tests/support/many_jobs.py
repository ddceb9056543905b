"""A scripted gateway for `WatchJobs`: a real server that plays a script for each stream, and records the requests."""

from __future__ import annotations

import hashlib
import threading
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Self

import grpc
from google.protobuf.duration_pb2 import Duration
from google.rpc import error_details_pb2, status_pb2
from jobgateway.v1 import job_service_pb2 as pb
from jobgateway.v1 import job_service_pb2_grpc as rpc

if TYPE_CHECKING:
    from collections.abc import Iterator

LONGEST_SECONDS = 60


@dataclass(frozen=True)
class Read:
    """Read this many requests."""

    count: int = 1


class ReadAll:
    """Read requests until the client half-closes."""


class Hold:
    """Wait until the client has left."""


@dataclass(frozen=True)
class End:
    """End the stream with a status, which has the details of the gateway if there is a reason."""

    code: grpc.StatusCode
    reason: str = ""

    def abort(self, context: grpc.ServicerContext) -> None:
        """Raise the status."""
        status = status_pb2.Status(code=self.code.value[0], message="it failed")
        if self.reason:
            status.details.add().Pack(error_details_pb2.ErrorInfo(reason=self.reason, domain="jobgateway"))
            context.set_trailing_metadata((("grpc-status-details-bin", status.SerializeToString()),))
        context.abort(self.code, "it failed")


@dataclass
class Stream:
    """A stream that a client opened: its requests so far, its token and its connection."""

    token: str
    peer: str
    requests: list[pb.WatchJobsRequest] = field(default_factory=list)
    half_closed: bool = False
    left: threading.Event = field(default_factory=threading.Event)

    @property
    def watched(self) -> list[tuple[int, str]]:
        """The uid and the resume token of each request, sorted."""
        return sorted((each.watch.uid, each.watch.resume_token) for each in self.requests)


class ManyJobsGateway(rpc.JobServiceServicer):
    """Plays the next script for each stream: events, and the steps of this module. Use it as a context manager.

    A script that is over ends its stream with OK.
    """

    def __init__(self, *scripts: list[Any]) -> None:
        self._scripts = list(scripts)
        self.streams: list[Stream] = []
        self.cancelled: list[int] = []
        self._server = grpc.server(ThreadPoolExecutor(8))
        rpc.add_JobServiceServicer_to_server(self, self._server)
        self.target = f"127.0.0.1:{self._server.add_insecure_port('127.0.0.1:0')}"

    def __enter__(self) -> Self:
        self._server.start()
        return self

    def __exit__(self, *_: object) -> None:
        for stream in self.streams:
            stream.left.set()
        self._server.stop(None).wait(LONGEST_SECONDS)

    def SendJob(self, request: pb.SendJobRequest, context: grpc.ServicerContext) -> pb.Job:
        """Reject the call, as the next methods do: no script has it."""
        raise NotImplementedError

    def GetJob(self, request: pb.GetJobRequest, context: grpc.ServicerContext) -> pb.Job:
        """Reject the call."""
        raise NotImplementedError

    def WaitJob(self, request: pb.WaitJobRequest, context: grpc.ServicerContext) -> pb.Job:
        """Reject the call."""
        raise NotImplementedError

    def CancelJob(self, request: pb.CancelJobRequest, context: grpc.ServicerContext) -> pb.Job:
        """Record the call."""
        self.cancelled.append(request.uid)
        return pb.Job(uid=request.uid, status=pb.JOB_STATUS_CANCELLED, done=True)

    def RunJob(self, request: pb.RunJobRequest, context: grpc.ServicerContext) -> Iterator[pb.JobEvent]:
        """Reject the call."""
        raise NotImplementedError

    def WatchJob(self, request: pb.WatchJobRequest, context: grpc.ServicerContext) -> Iterator[pb.JobEvent]:
        """Reject the call."""
        raise NotImplementedError

    def WatchJobs(
        self, request_iterator: Iterator[pb.WatchJobsRequest], context: grpc.ServicerContext
    ) -> Iterator[pb.JobEvent]:
        """Play a script."""
        metadata = {key: str(value) for key, value in context.invocation_metadata()}
        stream = Stream(metadata.get("authorization", ""), context.peer())
        context.add_callback(stream.left.set)
        # A stream too many fails for good.
        script = self._scripts.pop(0) if self._scripts else [End(grpc.StatusCode.UNIMPLEMENTED, "NO_SCRIPT")]
        self.streams.append(stream)
        for step in script:
            match step:
                case Read(count):
                    stream.requests += [next(request_iterator) for _ in range(count)]
                case ReadAll():
                    stream.requests += request_iterator
                    stream.half_closed = True
                case Hold():
                    stream.left.wait(LONGEST_SECONDS)
                case End():
                    step.abort(context)
                case _:
                    yield step


def state(uid: int, token: str = "", *, percentage: float = 10) -> pb.JobEvent:
    """Return a running state."""
    job = pb.Job(uid=uid, status=pb.JOB_STATUS_RUNNING, progress=pb.Progress(percentage=percentage, message="working"))
    return pb.JobEvent(uid=uid, job=job, resume_token=token or f"{uid} at {percentage:.0f}")


def end(
    uid: int, status: pb.JobStatus.ValueType = pb.JOB_STATUS_SUCCESS, *, result: bytes = b"", sha256: str = ""
) -> pb.JobEvent:
    """Return the end of a job, whose result came in chunks."""
    job = pb.Job(uid=uid, status=status, done=True, content_omitted=bool(result), content_size=len(result))
    if result:
        job.content_sha256 = sha256 or hashlib.sha256(result).hexdigest()
    return pb.JobEvent(uid=uid, job=job, resume_token=f"{uid} at the end")


def chunk(uid: int, result: bytes, start: int, stop: int) -> pb.JobEvent:
    """Return a piece of a result."""
    piece = pb.ContentChunk(offset=start, data=result[start:stop], content_size=len(result))
    return pb.JobEvent(uid=uid, content_chunk=piece, resume_token=f"{uid} at byte {stop}")


def failure(uid: int, code: grpc.StatusCode, reason: str, *, retry_delay: float | None = None) -> pb.JobEvent:
    """Return the end of the watch of a job."""
    failed = pb.WatchFailure(code=code.value[0], reason=reason, message="it failed")
    if retry_delay is not None:
        failed.retry_delay.CopyFrom(Duration(nanos=int(retry_delay * 1e9)))
    return pb.JobEvent(uid=uid, failure=failed, resume_token=f"{uid} at its failure")


def synced(watch_requests: int) -> pb.JobEvent:
    """Return the barrier between catching up and live events."""
    return pb.JobEvent(synced=pb.Synced(watch_requests=watch_requests))


def beat() -> pb.JobEvent:
    """Return the heartbeat of a stream."""
    return pb.JobEvent(heartbeat=pb.Heartbeat())
