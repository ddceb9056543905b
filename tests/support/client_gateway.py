"""A scripted gateway for the Python client: a real server that plays a script for each call, and records the calls."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator
from typing import Any

import grpc
from google.protobuf.duration_pb2 import Duration
from google.rpc import error_details_pb2, status_pb2
from jobgateway.v1 import job_service_pb2 as pb
from jobgateway.v1 import job_service_pb2_grpc as rpc

Context = Any


def state(percentage: float, token: str = "", *, uid: int = 7) -> pb.JobEvent:
    job = pb.Job(uid=uid, status=pb.JOB_STATUS_RUNNING, progress=pb.Progress(percentage=percentage))
    return pb.JobEvent(uid=uid, job=job, resume_token=token)


def end(*, uid: int = 7) -> pb.JobEvent:
    return pb.JobEvent(uid=uid, job=pb.Job(uid=uid, status=pb.JOB_STATUS_SUCCESS, done=True))


class Fail:
    """The status of a call, with the details of the gateway if there is a reason."""

    def __init__(self, code: grpc.StatusCode, reason: str = "", *, uid: int = 0, retry: float = 0) -> None:
        self.code = code
        status = status_pb2.Status(code=code.value[0], message="it failed")
        if reason:
            metadata = {"uid": str(uid)} if uid else {}
            status.details.add().Pack(
                error_details_pb2.ErrorInfo(reason=reason, domain="jobgateway", metadata=metadata)
            )
        if retry:
            status.details.add().Pack(
                error_details_pb2.RetryInfo(retry_delay=Duration(seconds=int(retry), nanos=int(retry % 1 * 1e9)))
            )
        violation = error_details_pb2.BadRequest.FieldViolation(field="a.b", description="is wrong")
        status.details.add().Pack(error_details_pb2.BadRequest(field_violations=[violation]))
        self.trailers = (("grpc-status-details-bin", status.SerializeToString()),)


class Hold:
    """A call that sends nothing more and does not end."""


class Replayed:
    """The trailer of a response that repeats an earlier submission."""


class ScriptedGateway(rpc.JobServiceServicer):
    """Plays a script, a list of steps per call: messages, events to wait for, then perhaps a `Fail` or a `Hold`.

    Attributes:
        called: Is set by each call.
        left: Is set by the end of each call, also by the cancellation of the client.

    """

    def __init__(self) -> None:
        self.script: list[list[Any]] = []
        self.calls: list[tuple[str, Any]] = []
        self.metadata: list[dict[str, str]] = []
        self.peers: list[str] = []
        self.times: list[float] = []
        self.called = asyncio.Event()
        self.left = asyncio.Event()
        self.server = grpc.aio.server()
        rpc.add_JobServiceServicer_to_server(self, self.server)
        self.target = ""

    async def _play(self, name: str, request: Any, context: Context) -> AsyncIterator[Any]:
        self.calls.append((name, request))
        self.metadata.append({key: str(value) for key, value in context.invocation_metadata()})
        self.peers.append(context.peer())
        self.times.append(time.monotonic())
        self.called.set()
        try:
            for step in self.script.pop(0):
                if isinstance(step, Fail):
                    await context.abort(step.code, "it failed", step.trailers)
                elif isinstance(step, Replayed):
                    context.set_trailing_metadata((("jobgateway-replayed", "true"),))
                elif isinstance(step, Hold):
                    await asyncio.Event().wait()
                elif isinstance(step, asyncio.Event):
                    await step.wait()
                else:
                    yield step
        finally:
            self.left.set()

    async def _one(self, name: str, request: Any, context: Context) -> pb.Job:
        async for job in self._play(name, request, context):
            assert isinstance(job, pb.Job)
            return job
        raise AssertionError("the script has a response for each call")

    async def SendJob(self, request: Any, context: Context) -> pb.Job:
        return await self._one("SendJob", request, context)

    async def GetJob(self, request: Any, context: Context) -> pb.Job:
        return await self._one("GetJob", request, context)

    async def WaitJob(self, request: Any, context: Context) -> pb.Job:
        return await self._one("WaitJob", request, context)

    async def CancelJob(self, request: Any, context: Context) -> pb.Job:
        return await self._one("CancelJob", request, context)

    async def WatchJobs(self, request_iterator: Any, context: Context) -> AsyncIterator[Any]:
        async for event in self._play("WatchJobs", request_iterator, context):
            yield event

    async def WatchJob(self, request: Any, context: Context) -> AsyncIterator[Any]:
        async for event in self._play("WatchJob", request, context):
            yield event

    async def RunJob(self, request: Any, context: Context) -> AsyncIterator[Any]:
        async for event in self._play("RunJob", request, context):
            yield event
