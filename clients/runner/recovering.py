"""The scenario `backoff_reset`: a watch breaks several times, works for more than five seconds, and breaks again."""

from __future__ import annotations

import asyncio
from typing import Any, Final

import grpc
from google.rpc import error_details_pb2, status_pb2
from jobgateway.v1 import job_service_pb2 as pb

from clients.runner.scenarios import Line, Scenario
from clients.runner.scripted import ScriptedGateway

NAME = "backoff_reset"
UID: Final = 7
_REASON: Final = "UPSTREAM_OUTAGE"
# The fifth call works for longer than five seconds; the last one brings the end of the job.
_BROKEN_BEFORE, _BROKEN_AFTER, _WORKING_SECONDS = 4, 2, 5.1
_CALLS: Final = _BROKEN_BEFORE + 1 + _BROKEN_AFTER + 1


def scenario() -> Scenario:
    """Return the scenario, a watch. It needs a `RecoveringGateway`."""
    expect: list[Line] = []
    for call in range(1, _CALLS):
        expect.append({"do": "watch", "job": {"percentage": call}})
        expect.append({"do": "watch", "resume": {"code": "UNAVAILABLE", "reason": _REASON}})
    return Scenario(
        name=NAME,
        about="a watch breaks, works for longer than five seconds, and breaks again: the first wait is short again",
        steps=[{"do": "watch", "uid": str(UID)}],
        expect=[*expect, {"do": "watch", "job": {"done": True}}],
        never=[{"error": {}}],
    )


class RecoveringGateway(ScriptedGateway):
    """A gateway whose streams break after their first event, except for one that works for a while."""

    def __init__(self) -> None:
        super().__init__()
        self._count = 0

    def handlers(self) -> dict[str, grpc.RpcMethodHandler[Any, Any]]:
        """Return the handlers by method."""
        watch = grpc.unary_stream_rpc_method_handler(
            self._watch,
            request_deserializer=pb.WatchJobRequest.FromString,
            response_serializer=pb.JobEvent.SerializeToString,
        )
        return {"WatchJob": watch}

    async def _watch(
        self, request: pb.WatchJobRequest, context: grpc.aio.ServicerContext[pb.WatchJobRequest, pb.JobEvent]
    ) -> None:
        self._count += 1
        last = self._count == _CALLS
        job = pb.Job(uid=request.uid, status=pb.JOB_STATUS_SUCCESS if last else pb.JOB_STATUS_RUNNING, done=last)
        job.progress.percentage = self._count
        await context.write(pb.JobEvent(uid=request.uid, job=job, resume_token=f"at-{self._count}"))
        if last:
            return
        if self._count == _BROKEN_BEFORE + 1:
            await asyncio.sleep(_WORKING_SECONDS)
            await context.write(pb.JobEvent(uid=request.uid, heartbeat=pb.Heartbeat()))
        status = status_pb2.Status(code=grpc.StatusCode.UNAVAILABLE.value[0], message="broken")
        status.details.add().Pack(error_details_pb2.ErrorInfo(reason=_REASON, domain="jobgateway"))
        trailers = (("grpc-status-details-bin", status.SerializeToString()),)
        await context.abort(grpc.StatusCode.UNAVAILABLE, "broken", trailers)
