"""The scenarios with a few calls and a scripted response to each, which a real gateway gives only at odd moments."""

from __future__ import annotations

import hashlib
from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from typing import Any, Final, NamedTuple, NoReturn, TypeAlias

import grpc
from google.protobuf.message import Message
from google.rpc import error_details_pb2, status_pb2
from jobgateway.v1 import job_service_pb2 as pb

from clients.runner.scenarios import Line, Scenario
from clients.runner.scripted import ScriptedGateway

UID: Final = 7
_DONE: Final = pb.Job(uid=UID, status=pb.JOB_STATUS_SUCCESS, done=True)
_NOT_IN_SCRIPT: Final = "NOT_IN_SCRIPT"
_UNARY: Final = frozenset({"GetJob", "WaitJob"})
_REQUESTS: Final[Mapping[str, type[Message]]] = {
    "GetJob": pb.GetJobRequest,
    "WaitJob": pb.WaitJobRequest,
    "RunJob": pb.RunJobRequest,
    "WatchJob": pb.WatchJobRequest,
    "WatchJobs": pb.WatchJobsRequest,
}
_WAIT_SECONDS, _RETRY_SECONDS = 20, 0.3


class Failure(NamedTuple):
    """An error of the gateway. With `retry_seconds`, it has a `RetryInfo`."""

    code: grpc.StatusCode
    reason: str
    uid: int = 0
    retry_seconds: float = 0


_UNEXPECTED: Final = Failure(grpc.StatusCode.FAILED_PRECONDITION, _NOT_IN_SCRIPT)

Response: TypeAlias = pb.Job | Failure
Script: TypeAlias = Mapping[str, Sequence[Response | Callable[[Any], Response]]]
"""The responses by method. A stream sends the job as its only event."""


def _rest_of_time(request: pb.WaitJobRequest) -> Response:
    """Return the job if the request has the rest of the time of the first one."""
    if request.timeout.ToNanoseconds() <= (_WAIT_SECONDS - _RETRY_SECONDS) * 1e9:
        return _DONE
    return Failure(grpc.StatusCode.INVALID_ARGUMENT, "NOT_THE_REST")


def _left_out() -> pb.Job:
    result = b"[1, 2]"
    left_out = pb.Job(content_size=len(result), content_sha256=hashlib.sha256(result).hexdigest(), content_omitted=True)
    left_out.MergeFrom(_DONE)
    return left_out


def _no_state(seconds: float) -> Failure:
    return Failure(grpc.StatusCode.UNAVAILABLE, "NO_STATE_YET", retry_seconds=seconds)


_SCRIPTS: Final[Mapping[str, Script]] = {
    "error_names_job": {
        "RunJob": [Failure(grpc.StatusCode.UNAUTHENTICATED, "UPSTREAM_UNAUTHENTICATED", uid=UID)],
        "WatchJob": [_DONE],
    },
    "result_missing": {"WatchJob": [_left_out()], "WatchJobs": [_left_out()]},
    "no_state_yet": {
        "GetJob": [_no_state(_RETRY_SECONDS), _DONE],
        "WaitJob": [_no_state(_RETRY_SECONDS), _rest_of_time, _no_state(5)],
    },
    "wait_upstream_error": {"WaitJob": [Failure(grpc.StatusCode.INTERNAL, "UPSTREAM_ERROR")] * 5},
}

NAMES: Final = frozenset(_SCRIPTS)


def scenarios() -> list[Scenario]:
    """Return the scenarios. Each needs a `ShortGateway`."""
    request = {"workspace_id": "1", "entity_id": 7, "method_name": "succeed"}
    uid = str(UID)
    waits: list[Line] = [{"do": "wait", "error": {"reason": "NO_STATE_YET"}}, {"do": "wait", "job": {"done": True}}]
    return [
        _scenario(
            "error_names_job",
            "a token is rejected after the job was sent: the client logs in and watches, and sends nothing again",
            [{"do": "run", "request": request}],
            [{"do": "run", "resume": {"code": "UNAUTHENTICATED"}}, {"do": "run", "job": {"uid": uid, "done": True}}],
        ),
        _scenario(
            "result_missing",
            "a stream ends with a job whose result should have arrived in chunks: it is damaged",
            [{"do": "watch", "uid": uid}, {"do": "watch_all", "uids": [uid]}],
            [
                {"do": "watch", "error": {"code": "DATA_LOSS"}},
                {"do": "watch_all", "error": {"uid": uid, "code": "DATA_LOSS"}},
            ],
        ),
        _scenario(
            "no_state_yet",
            "a job cannot be read yet: get and wait repeat the call, and a wait has one limit for all its attempts",
            [
                {"do": "get", "uid": uid},
                {"do": "wait", "uid": uid, "timeout_seconds": _WAIT_SECONDS},
                {"do": "wait", "uid": "8", "timeout_seconds": 1},
            ],
            [{"do": "get", "job": {"uid": uid}}, *waits, {"do": "wait", "error": {"code": "DEADLINE_EXCEEDED"}}],
        ),
        _scenario(
            "wait_upstream_error",
            "the upstream fails each time: a wait gives up after five attempts",
            [{"do": "wait", "uid": uid, "timeout_seconds": 60}],
            [{"do": "wait", "error": {"code": "INTERNAL", "reason": "UPSTREAM_ERROR"}}] * 5,
        ),
    ]


def _scenario(name: str, about: str, steps: list[Line], expect: list[Line]) -> Scenario:
    return Scenario(
        name=name, about=about, steps=steps, expect=expect, never=[{"error": {"reason": _NOT_IN_SCRIPT}}], connections=1
    )


class ShortGateway(ScriptedGateway):
    """A gateway with one response for each call of a method, in order. Further calls fail permanently."""

    def __init__(self, name: str) -> None:
        super().__init__()
        self._responses = {method: iter(responses) for method, responses in _SCRIPTS[name].items()}

    def handlers(self) -> dict[str, grpc.RpcMethodHandler[Any, Any]]:
        """Return the handlers by method."""
        return {method: self._handler(method, request) for method, request in _REQUESTS.items()}

    def _handler(self, method: str, request_type: type[Message]) -> grpc.RpcMethodHandler[Any, Any]:
        async def respond(requests: AsyncIterator[Any], context: grpc.aio.ServicerContext[Any, Any]) -> None:
            request = await anext(requests)
            if method == "RunJob":
                self.posts.append(b"{}")
            response = next(self._responses.get(method, iter(())), _UNEXPECTED)
            found = response(request) if callable(response) else response
            if isinstance(found, Failure):
                await _abort(context, found)
            else:
                await context.write(found if method in _UNARY else pb.JobEvent(uid=found.uid, job=found))

        # On the wire, a call is a stream in both directions.
        return grpc.stream_stream_rpc_method_handler(respond, request_type.FromString, _encode)


def _encode(message: Message) -> bytes:
    encoded: bytes = message.SerializeToString()
    return encoded


async def _abort(context: grpc.aio.ServicerContext[Any, Any], failure: Failure) -> NoReturn:
    status = status_pb2.Status(code=failure.code.value[0], message="failed")
    info = error_details_pb2.ErrorInfo(reason=failure.reason, domain="jobgateway")
    if failure.uid:
        info.metadata["uid"] = str(failure.uid)
    status.details.add().Pack(info)
    if failure.retry_seconds:
        retry = error_details_pb2.RetryInfo()
        retry.retry_delay.FromMilliseconds(int(failure.retry_seconds * 1_000))
        status.details.add().Pack(retry)
    # A library that repeats the call itself would hide the reaction of the client.
    trailers = (("grpc-status-details-bin", status.SerializeToString()), ("grpc-retry-pushback-ms", "-1"))
    await context.abort(failure.code, "failed", trailers)
