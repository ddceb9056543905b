"""What a gRPC error says, and what to do about it."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Self, cast

import grpc
from google.protobuf import any_pb2
from google.protobuf.message import DecodeError
from google.rpc import error_details_pb2
from grpc_status import rpc_status

_LONGEST_FOREIGN_MESSAGE = 200
# How gRPC begins where there was no connection to send anything over.
_NOT_CONNECTED = ("failed to connect", "errors resolving", "DNS resolution failed")


@dataclass(frozen=True)
class Failure:
    """A call that ended with an error: its status, and the details that came with it."""

    code: grpc.StatusCode
    message: str
    reason: str = ""
    metadata: Mapping[str, str] = field(default_factory=dict)
    violations: tuple[tuple[str, str], ...] = ()
    retry_delay: float | None = None

    @classmethod
    def of(cls, error: grpc.RpcError) -> Self:
        """Read an error of a call, which gRPC raises as the call itself."""
        reason, metadata, retry_delay = "", {}, None
        violations: list[tuple[str, str]] = []
        for detail in _details(error):
            if detail.Is(error_details_pb2.ErrorInfo.DESCRIPTOR):
                info = error_details_pb2.ErrorInfo.FromString(detail.value)
                reason, metadata = info.reason, dict(info.metadata)
            elif detail.Is(error_details_pb2.BadRequest.DESCRIPTOR):
                request = error_details_pb2.BadRequest.FromString(detail.value)
                violations += [(each.field, each.description) for each in request.field_violations]
            elif detail.Is(error_details_pb2.RetryInfo.DESCRIPTOR):
                retry = error_details_pb2.RetryInfo.FromString(detail.value)
                retry_delay = retry.retry_delay.ToTimedelta().total_seconds()
        return cls(error.code(), error.details() or "", reason, metadata, tuple(violations), retry_delay)

    @property
    def uid(self) -> int:
        """The job that the error is about; 0 where it names none."""
        uid = self.metadata.get("uid", "")
        return int(uid) if uid.isascii() and uid.isdigit() else 0

    @property
    def from_gateway(self) -> bool:
        """Whether the gateway said it, and not the client's side or something in between."""
        return bool(self.reason)

    @property
    def may_have_sent(self) -> bool:
        """Whether a request that makes a job may have arrived: what the gateway did not say, nobody knows."""
        return not self.from_gateway and not self.message.startswith(_NOT_CONNECTED)

    def line(self, target: str) -> str:
        """Say in one line what was wrong and what to do."""
        message = self.message
        if self.violations:
            # The message may go on with the violations, which get lines of their own.
            message = message.partition(": ".join(self.violations[0]))[0].rstrip(": ") or "the request is not valid"
        if not self.from_gateway and self.code is grpc.StatusCode.UNAVAILABLE:
            message = f"{target} cannot be reached ({message[:_LONGEST_FOREIGN_MESSAGE]})"
        advice = f"; {self._advice()}" if self._advice() else ""
        status = ", ".join(filter(None, (self.code.name, self.reason)))
        return f"{message.rstrip('.') or 'no message'}{advice} [{status}]"

    def _advice(self) -> str:
        if self.reason in _BY_REASON:
            return _BY_REASON[self.reason]
        if self.retry_delay is not None:
            return f"try again in {self.retry_delay:.3g} s"
        if not self.from_gateway and self.code in _NOT_FROM_GATEWAY:
            return _NOT_FROM_GATEWAY[self.code]
        return _BY_CODE.get(self.code, "")


class CallFailed(Exception):
    """A call ended with an error."""

    def __init__(self, failure: Failure) -> None:
        super().__init__(failure.message)
        self.failure = failure


# Where the remedy is another than that of the code.
_BY_REASON = {
    "SUBMIT_OUTCOME_UNKNOWN": "",  # its message says what to do
    "REQUEST_ID_REUSED": "take another --request-id",
    "REQUEST_IDS_EXHAUSTED": "try again later",
    "RESULT_TOO_LARGE": "get it with: jobgateway watch UID --output FILE",
    "UPSTREAM_TIMEOUT": "try again later",
}

_NOT_FROM_GATEWAY = {
    grpc.StatusCode.UNAVAILABLE: "is the gateway running there? name another one with --target",
    grpc.StatusCode.UNIMPLEMENTED: "is this the address of a Job Gateway? name another one with --target",
}

_BY_CODE = {
    grpc.StatusCode.INVALID_ARGUMENT: "correct the request",
    grpc.StatusCode.UNAUTHENTICATED: "put a valid token into JOBGATEWAY_TOKEN or the --token-file",
    grpc.StatusCode.PERMISSION_DENIED: "ask for access, or use another token",
    grpc.StatusCode.NOT_FOUND: "check the number, and whether the token may see it",
    grpc.StatusCode.RESOURCE_EXHAUSTED: "make it smaller",
    grpc.StatusCode.UNAVAILABLE: "try again later",
    grpc.StatusCode.DEADLINE_EXCEEDED: "give it more time with --deadline",
    grpc.StatusCode.ABORTED: "look at the job, then decide",
    grpc.StatusCode.INTERNAL: "report it if it stays so",
}


def _details(error: grpc.RpcError) -> list[any_pb2.Any]:
    """Return the details in the trailer `grpc-status-details-bin`."""
    try:
        # The errors of calls are the calls themselves, which the stubs do not say.
        status = rpc_status.from_call(cast("grpc.Call", error))
    except (ValueError, DecodeError):
        return []  # details that contradict the status, or are none, tell nothing
    return list(status.details) if status else []
