"""The scenario `every_error`: each error of docs/reference/errors.md, with the documented reaction of a client."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Any, NamedTuple

import grpc
from google.protobuf import any_pb2
from google.protobuf.duration_pb2 import Duration
from google.rpc import error_details_pb2, status_pb2
from jobgateway.v1 import job_service_pb2 as pb

from clients.runner.scenarios import CLIENTS, Line, Scenario
from clients.runner.scripted import ScriptedGateway

if TYPE_CHECKING:
    from google.protobuf.message import Message

NAME = "every_error"
_MESSAGE = "rejected"
_ERROR_INFO = "type.googleapis.com/google.rpc.ErrorInfo"
# A detail that a proxy may add, and a malformed one that it may send instead of the gateway's details.
_FOREIGN = error_details_pb2.ErrorInfo(reason="MESH_FAULT", domain="mesh.example")
_MALFORMED = any_pb2.Any(type_url=_ERROR_INFO, value=b"\xff")
_ACTIONS = {
    "fix the request": "fix",
    "log in again": "login",
    "look before sending again": "look",
    "give up": "give_up",
}
# A row of the page: `reason` and `code`, or only `code`; the last cell starts with the reaction in bold.
_ROW = re.compile(r"^\| `(\w+)` \|(?: `(\w+)` \|)? .*\| \*\*(.+?)\*\*[^|]*\|$", re.MULTILINE)


class DocumentedError(NamedTuple):
    """An error and the reaction of a client; `reason` is empty if the error does not come from the gateway."""

    code: str
    reason: str
    action: str

    @property
    def calls(self) -> int:
        """The number of calls that a client makes if the first one fails."""
        return 2 if self.action in ("retry", "login") else 1

    @property
    def request_id(self) -> str:
        """The request_id of the submission that fails with this error."""
        return f"{self.code} {self.reason}"

    def details(self) -> bytes:
        """Return the encoded `google.rpc.Status`, as the gateway sends it."""
        details: list[Message] = [error_details_pb2.ErrorInfo(reason=self.reason, domain="jobgateway")]
        # As documented: limits of rate and load have a RetryInfo, limits of size do not.
        if (self.code, self.action) == ("RESOURCE_EXHAUSTED", "retry"):
            details.append(error_details_pb2.RetryInfo(retry_delay=Duration(nanos=100_000_000)))
        packed = [any_pb2.Any() for _ in details]
        for each, detail in zip(packed, details, strict=True):
            each.Pack(detail)
        status = status_pb2.Status(code=grpc.StatusCode[self.code].value[0], message=_MESSAGE, details=packed)
        encoded: bytes = status.SerializeToString()
        return encoded

    def trailer(self) -> bytes:
        """Return the `google.rpc.Status` as it arrives: with details of a proxy, or with a malformed detail."""
        status = status_pb2.Status(code=grpc.StatusCode[self.code].value[0], message=_MESSAGE)
        if self.reason:
            status.details.add().Pack(_FOREIGN)
            status.details.extend(status_pb2.Status.FromString(self.details()).details)
            status.details.add().Pack(_FOREIGN)
        else:
            status.details.append(_MALFORMED)
        encoded: bytes = status.SerializeToString()
        return encoded


def documented_errors() -> list[DocumentedError]:
    """Return the errors of docs/reference/errors.md, and one with an unknown reason."""
    rows = _ROW.findall((CLIENTS.parent / "docs" / "reference" / "errors.md").read_text())
    known = [DocumentedError(code or first, first if code else "", _ACTIONS.get(do, do)) for first, code, do in rows]
    return [*known, DocumentedError("UNAVAILABLE", "NOT_KNOWN_YET", "retry")]


def scenario() -> Scenario:
    """Return the scenario, with a submission for each error. It needs a `FailingGateway`."""
    request = {"workspace_id": "1", "entity_id": 7, "method_name": "succeed"}
    expect: list[Line] = []
    for uid, each in enumerate(documented_errors(), start=1):
        expect.append({"do": "send", "error": {"code": each.code, "reason": each.reason, "action": each.action}})
        if each.calls > 1:
            expect.append({"do": "send", "job": {"uid": str(uid)}})
    return Scenario(
        name=NAME,
        about="each error of docs/reference/errors.md: the client reacts as documented",
        steps=[{"do": "send", "request": {**request, "request_id": each.request_id}} for each in documented_errors()],
        expect=expect,
        posts=sum(each.calls for each in documented_errors()),
    )


class FailingGateway(ScriptedGateway):
    """A gateway that fails each submission once, with the error of its `request_id`.

    The second attempt of a submission returns a job, whose uid is the number of the error.
    """

    def __init__(self) -> None:
        super().__init__()
        self._errors = {each.request_id: each for each in documented_errors()}
        self._failed: set[str] = set()

    def handlers(self) -> dict[str, grpc.RpcMethodHandler[Any, Any]]:
        """Return the handlers by method."""
        send = grpc.unary_unary_rpc_method_handler(
            self._send,
            request_deserializer=pb.SendJobRequest.FromString,
            response_serializer=pb.Job.SerializeToString,
        )
        return {"SendJob": send}

    async def _send(
        self, request: pb.SendJobRequest, context: grpc.aio.ServicerContext[pb.SendJobRequest, pb.Job]
    ) -> pb.Job:
        self.posts.append(b"{}")
        if request.request_id in self._failed:
            return pb.Job(uid=1 + list(self._errors).index(request.request_id), status=pb.JOB_STATUS_RUNNING)
        self._failed.add(request.request_id)
        error = self._errors[request.request_id]
        trailers = (("grpc-status-details-bin", error.trailer()),)
        return await context.abort(grpc.StatusCode[error.code], _MESSAGE, trailers)
