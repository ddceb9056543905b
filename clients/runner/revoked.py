"""A credential that the upstream stops accepting for good: when a watch logs in, and when it stops."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Self

import grpc
from google.protobuf.timestamp_pb2 import Timestamp
from google.rpc import error_details_pb2, status_pb2
from jobgateway.v1 import job_service_pb2 as pb

from clients.runner.scenarios import Line, Scenario

if TYPE_CHECKING:
    from clients.runner.scenarios import Fault

NAME = "revoked"
UID = 7
_SERVICE = pb.DESCRIPTOR.services_by_name["JobService"].full_name
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


# The events of each call; after them the token is refused. All but those of the last call show that the token was good.
_CALLS = (
    (_state(10),),
    (_state(20),),
    (_heartbeat(read=True),),
    # What a gateway says while the first read of the job takes long, or a refusal awaits its confirmation.
    (_heartbeat(read=False), _heartbeat(read=False, failure=_REASON), _heartbeat(read=True, failure=_REASON)),
)


def scenario() -> Scenario:
    """A watch, to be played against `RevokingGateway`."""
    resumption: Line = {"do": "watch", "resume": {"code": "UNAUTHENTICATED", "reason": _REASON}}
    beats: list[Line] = [{"do": "watch", "heartbeat": {"last_failure": said}} for said in ("", _REASON, _REASON)]
    return Scenario(
        name=NAME,
        about="a good token is refused: logs in each time; a fresh one is refused before it was good: stops",
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


class RevokingGateway:
    """Refuses the token of each watch after some events; it stands where a `Stack` stands."""

    gateway_log = ""

    def __init__(self) -> None:
        self._calls = iter(_CALLS)
        self.missed: list[Fault] = []
        self.paths: list[str] = []
        self.posts: list[bytes] = []

    async def __aenter__(self) -> Self:
        self._server = grpc.aio.server()
        watch = grpc.unary_stream_rpc_method_handler(
            self._watch,
            request_deserializer=pb.WatchJobRequest.FromString,
            response_serializer=pb.JobEvent.SerializeToString,
        )
        self._server.add_registered_method_handlers(_SERVICE, {"WatchJob": watch})
        self.target = f"127.0.0.1:{self._server.add_insecure_port('127.0.0.1:0')}"
        await self._server.start()
        return self

    async def __aexit__(self, *_: object) -> None:
        await self._server.stop(None)

    async def _watch(
        self, _: pb.WatchJobRequest, context: grpc.aio.ServicerContext[pb.WatchJobRequest, pb.JobEvent]
    ) -> None:
        events = next(self._calls, None)
        if events is None:
            await asyncio.Event().wait()  # a call too many is never answered, and the run fails by its time
        for event in events or ():
            await context.write(event)
        info = error_details_pb2.ErrorInfo(reason=_REASON, domain="jobgateway")
        status = status_pb2.Status(code=grpc.StatusCode.UNAUTHENTICATED.value[0], message="refused")
        status.details.add().Pack(info)
        trailers = (("grpc-status-details-bin", status.SerializeToString()),)
        await context.abort(grpc.StatusCode.UNAUTHENTICATED, "refused", trailers)

    def saw(self, line: Line) -> None:
        """Nothing happens to the client here but refusals."""

    async def settled(self) -> None:
        """Nothing is under way here."""
