"""Each error of docs/reference/errors.md, over the wire: what a client makes of it, and whether it calls again."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, NamedTuple, Self

import grpc
from google.protobuf import any_pb2
from google.protobuf.duration_pb2 import Duration
from google.rpc import error_details_pb2, status_pb2
from jobgateway.v1 import job_service_pb2 as pb

from clients.runner.scenarios import CLIENTS, Line, Scenario

if TYPE_CHECKING:
    from google.protobuf.message import Message

    from clients.runner.scenarios import Fault

NAME = "decide"
_JOB_SERVICE_NAME = pb.DESCRIPTOR.services_by_name["JobService"].full_name
_MESSAGE = "refused"
_ERROR_INFO = "type.googleapis.com/google.rpc.ErrorInfo"
# What a proxy may add to the gateway's details, and what it may send in their place: no message at all.
_FOREIGN = error_details_pb2.ErrorInfo(reason="MESH_FAULT", domain="mesh.example")
_MALFORMED = any_pb2.Any(type_url=_ERROR_INFO, value=b"\xff")
_ACTIONS = {
    "fix the request": "mend",
    "log in again": "login",
    "look before sending again": "look",
    "give up": "give_up",
}
# `reason` and `code`, or a `code` alone, and what to do in bold at the beginning of the last cell.
_ROW = re.compile(r"^\| `(\w+)` \|(?: `(\w+)` \|)? .*\| \*\*(.+?)\*\*[^|]*\|$", re.MULTILINE)


class Refusal(NamedTuple):
    """An error, and what a client does about it; `reason` is empty where it is not the gateway's."""

    code: str
    reason: str
    action: str

    @property
    def calls(self) -> int:
        """How often a client makes a call that is refused once."""
        return 2 if self.action in ("retry", "login") else 1

    @property
    def request_id(self) -> str:
        """That of the submission that gets it."""
        return f"{self.code} {self.reason}"

    def details(self) -> bytes:
        """The `google.rpc.Status` of it, as the gateway sends it."""
        details: list[Message] = [error_details_pb2.ErrorInfo(reason=self.reason, domain="jobgateway")]
        # As the document says: a limit that is worth a retry has a RetryInfo, one of size has none.
        if (self.code, self.action) == ("RESOURCE_EXHAUSTED", "retry"):
            details.append(error_details_pb2.RetryInfo(retry_delay=Duration(nanos=100_000_000)))
        packed = [any_pb2.Any() for _ in details]
        for each, detail in zip(packed, details, strict=True):
            each.Pack(detail)
        status = status_pb2.Status(code=grpc.StatusCode[self.code].value[0], message=_MESSAGE, details=packed)
        encoded: bytes = status.SerializeToString()
        return encoded

    def trailer(self) -> bytes:
        """The `google.rpc.Status` as it arrives: with a proxy's `ErrorInfo` around, or with one that cannot be read."""
        status = status_pb2.Status(code=grpc.StatusCode[self.code].value[0], message=_MESSAGE)
        if self.reason:
            status.details.add().Pack(_FOREIGN)
            status.details.extend(status_pb2.Status.FromString(self.details()).details)
            status.details.add().Pack(_FOREIGN)
        else:
            status.details.append(_MALFORMED)
        encoded: bytes = status.SerializeToString()
        return encoded


def documented() -> list[Refusal]:
    """The rows of docs/reference/errors.md, and a reason that it does not know."""
    rows = _ROW.findall((CLIENTS.parent / "docs" / "reference" / "errors.md").read_text())
    known = [Refusal(code or first, first if code else "", _ACTIONS.get(do, do)) for first, code, do in rows]
    return [*known, Refusal("UNAVAILABLE", "NOT_KNOWN_YET", "retry")]


def scenario() -> Scenario:
    """A submission for each, to be played against `RefusingGateway`."""
    request = {"workspace_id": "1", "entity_id": 7, "method_name": "succeed"}
    expect: list[Line] = []
    for uid, each in enumerate(documented(), start=1):
        expect.append({"do": "send", "error": {"code": each.code, "reason": each.reason, "action": each.action}})
        if each.calls > 1:
            expect.append({"do": "send", "job": {"uid": str(uid)}})
    return Scenario(
        name=NAME,
        about="each error of docs/reference/errors.md: the client decides as it says there",
        steps=[{"do": "send", "request": {**request, "request_id": each.request_id}} for each in documented()],
        expect=expect,
        posts=sum(each.calls for each in documented()),
    )


class RefusingGateway:
    """Refuses each submission once, as its `request_id` says; it stands where a `Stack` stands.

    A submission that was refused gives a job whose uid is the number of the refusal.
    """

    gateway_log = ""

    def __init__(self) -> None:
        self._refusals = {each.request_id: each for each in documented()}
        self._refused: set[str] = set()
        self.missed: list[Fault] = []
        self.paths: list[str] = []
        self.posts: list[bytes] = []

    async def __aenter__(self) -> Self:
        self._server = grpc.aio.server()
        send = grpc.unary_unary_rpc_method_handler(
            self._send,
            request_deserializer=pb.SendJobRequest.FromString,
            response_serializer=pb.Job.SerializeToString,
        )
        self._server.add_registered_method_handlers(_JOB_SERVICE_NAME, {"SendJob": send})
        self.target = f"127.0.0.1:{self._server.add_insecure_port('127.0.0.1:0')}"
        await self._server.start()
        return self

    async def __aexit__(self, *_: object) -> None:
        await self._server.stop(None)

    async def _send(
        self, request: pb.SendJobRequest, context: grpc.aio.ServicerContext[pb.SendJobRequest, pb.Job]
    ) -> pb.Job:
        self.posts.append(b"{}")
        if request.request_id in self._refused:
            return pb.Job(uid=1 + list(self._refusals).index(request.request_id), status=pb.JOB_STATUS_RUNNING)
        self._refused.add(request.request_id)
        refusal = self._refusals[request.request_id]
        trailers = (("grpc-status-details-bin", refusal.trailer()),)
        return await context.abort(grpc.StatusCode[refusal.code], _MESSAGE, trailers)

    def saw(self, line: Line) -> None:
        """Nothing happens to the client here but refusals."""

    async def settled(self) -> None:
        """Nothing is under way here."""
