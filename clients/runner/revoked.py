"""The scenario `token_revoked`: a token is rejected during a watch, which logs in or stops."""

from __future__ import annotations

import asyncio
from typing import Any

import grpc
from google.protobuf.timestamp_pb2 import Timestamp
from google.rpc import error_details_pb2, status_pb2
from jobgateway.v1 import job_service_pb2 as pb

from clients.runner.scenarios import Line, Scenario
from clients.runner.scripted import ScriptedGateway

NAME = "token_revoked"
UID = 7
_REASON = "UPSTREAM_UNAUTHENTICATED"
_READ = Timestamp(seconds=1_700_000_000)


def _state(percentage: float) -> pb.JobEvent:
    job = pb.Job(uid=UID, status=pb.JOB_STATUS_RUNNING, progress=pb.Progress(percentage=percentage))
    return pb.JobEvent(uid=UID, job=job, resume_token=f"at-{percentage:.0f}")


def _heartbeat(*, read: bool, failure: str = "") -> pb.JobEvent:
    beat = pb.Heartbeat(last_failure=failure, consecutive_failures=int(bool(failure)))
    if read:
        beat.observe_time.CopyFrom(_READ)
    return pb.JobEvent(uid=UID, heartbeat=beat)


# The events of each call, after which the token is rejected. Those of the last call do not prove the token.
_CALLS = (
    (_state(10),),
    (_state(20),),
    (_heartbeat(read=True),),
    # Heartbeats during a slow first read of the job, and between a refusal and the read that confirms it.
    (_heartbeat(read=False), _heartbeat(read=False, failure=_REASON), _heartbeat(read=True, failure=_REASON)),
)


def scenario() -> Scenario:
    """Return the scenario, a watch. It needs a `RevokingGateway`."""
    resumption: Line = {"do": "watch", "resume": {"code": "UNAUTHENTICATED", "reason": _REASON}}
    beats: list[Line] = [{"do": "watch", "heartbeat": {"last_failure": failure}} for failure in ("", _REASON, _REASON)]
    return Scenario(
        name=NAME,
        about="a proven token is rejected: the watch logs in; an unproven one is rejected: the watch stops",
        steps=[{"do": "watch", "uid": str(UID)}],
        expect=[
            {"do": "watch", "job": {"percentage": 10}},
            resumption,
            {"do": "watch", "job": {"percentage": 20}},
            resumption,
            {"do": "watch", "heartbeat": {"last_failure": ""}},
            resumption,
            *beats,
            {"do": "watch", "error": {"code": "UNAUTHENTICATED", "reason": _REASON, "action": "login"}},
        ],
    )


class RevokingGateway(ScriptedGateway):
    """A gateway that rejects the token of each watch after some events."""

    def __init__(self) -> None:
        super().__init__()
        self._events = iter(_CALLS)

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
        events = next(self._events, None)
        if events is None:
            await asyncio.Event().wait()  # an unexpected call hangs until the run fails with a timeout
        for event in events or ():
            await context.write(event)
        info = error_details_pb2.ErrorInfo(reason=_REASON, domain="jobgateway")
        status = status_pb2.Status(code=grpc.StatusCode.UNAUTHENTICATED.value[0], message="rejected")
        status.details.add().Pack(info)
        trailers = (("grpc-status-details-bin", status.SerializeToString()),)
        await context.abort(grpc.StatusCode.UNAUTHENTICATED, "rejected", trailers)
