"""What a gRPC error says, and what to do about it."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Self, cast

import grpc
from google.protobuf.message import DecodeError, Message
from google.rpc import error_details_pb2
from grpc_status import rpc_status

_DOMAIN = "jobgateway"
_LONGEST_FOREIGN_MESSAGE = 200
# The gateway names a longer wait than this to nobody, in seconds.
_LONGEST_RETRY_DELAY = 86_400.0
# How gRPC begins where there was no connection to send anything over, and where the server's did not take it.
_NOT_CONNECTED = ("failed to connect", "errors resolving", "DNS resolution failed")
_HANDSHAKE_FAILED = "OPENSSL_internal:"
_NOT_TAKEN = "SERVER: Received message larger than max"
_BROKEN = (
    grpc.StatusCode.CANCELLED,
    grpc.StatusCode.UNKNOWN,
    grpc.StatusCode.DEADLINE_EXCEEDED,
    grpc.StatusCode.INTERNAL,
    grpc.StatusCode.UNAVAILABLE,
)
_OVER_LIMIT = (grpc.StatusCode.RESOURCE_EXHAUSTED, grpc.StatusCode.OUT_OF_RANGE)
_KINDS = (error_details_pb2.ErrorInfo, error_details_pb2.BadRequest, error_details_pb2.RetryInfo)


@dataclass(frozen=True)
class Failure:
    """A call that ended with an error: its status, and the details that came with it.

    `violations` are the fields at fault, each as its path in the request and what is wrong with it; `retry_delay` is
    in seconds.
    """

    code: grpc.StatusCode
    message: str
    reason: str = ""
    metadata: Mapping[str, str] = field(default_factory=dict)
    violations: tuple[tuple[str, str], ...] = ()
    retry_delay: float | None = None

    @classmethod
    def of(cls, error: grpc.RpcError) -> Self:
        """What an error of a call says, which gRPC raises as the call itself."""
        message, reason, metadata, retry_delay = error.details() or "", "", {}, None
        violations: list[tuple[str, str]] = []
        for detail in _details(error):
            if isinstance(detail, error_details_pb2.ErrorInfo) and detail.domain == _DOMAIN:
                reason, metadata = detail.reason, dict(detail.metadata)
            elif isinstance(detail, error_details_pb2.BadRequest):
                violations += [(each.field, each.description) for each in detail.field_violations]
            elif isinstance(detail, error_details_pb2.RetryInfo):
                delay = detail.retry_delay.seconds + detail.retry_delay.nanos / 1e9
                retry_delay = min(delay, _LONGEST_RETRY_DELAY)
        return cls(error.code(), message, reason, metadata, tuple(violations), retry_delay)

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
    def is_broken_stream(self) -> bool:
        """Whether a proxy or a library ended the call, with a status that another call may not get.

        The other statuses that are not the gateway's may also mean a wrong address or a message that is too large.
        """
        return not self.from_gateway and self.code in _BROKEN

    @property
    def is_over_limit(self) -> bool:
        """Whether a message may have been over the receive limit here, and would be again."""
        return not self.from_gateway and self.code in _OVER_LIMIT and self.retry_delay is None

    @property
    def may_have_sent(self) -> bool:
        """Whether a request that makes a job may have arrived: what the gateway did not say, nobody knows."""
        return not self.from_gateway and not self.message.startswith((*_NOT_CONNECTED, _NOT_TAKEN))

    @property
    def fields(self) -> list[str]:
        """The fields at fault, a line each."""
        # A RunJobRequest holds the SendJobRequest, which is all of it that a command's options are about.
        around = "" if self.reason.startswith("UPSTREAM_") else "request."
        return [f"{path.removeprefix(around) or '(request)'}: {said}" for path, said in self.violations]

    def line(self, target: str) -> str:
        """What was wrong, the first field at fault included, and what to do, in one line."""
        message = self.message
        if self.violations:
            # The message goes on with the violations, all of them.
            before = message.partition(f"{self.violations[0][0]}: ")[0].rstrip(": ;")
            message = ": ".join(filter(None, (before, self.fields[0])))
        if not self.from_gateway and self.code is grpc.StatusCode.UNAVAILABLE:
            message = f"{target} cannot be reached ({_cause(message)[:_LONGEST_FOREIGN_MESSAGE]})"
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
        if self.violations:
            return ""  # they say it
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
    "RESULT_TOO_LARGE": "get it with: jobgateway watch UID --output FILE",
    "UPSTREAM_TIMEOUT": "try again later",
}

_NOT_FROM_GATEWAY = {
    grpc.StatusCode.UNAVAILABLE: "is the gateway running there, and do both sides use TLS (--tls) or neither? "
    "name another one with --target",
    grpc.StatusCode.UNIMPLEMENTED: "is this the address of a Job Gateway? name another one with --target",
}

_BY_CODE = {
    grpc.StatusCode.INVALID_ARGUMENT: "correct the request",
    grpc.StatusCode.UNAUTHENTICATED: "put a valid token into JOBGATEWAY_TOKEN or the --token-file",
    grpc.StatusCode.PERMISSION_DENIED: "ask for access, or use another token",
    grpc.StatusCode.NOT_FOUND: "check the ids, and what the token may see",
    grpc.StatusCode.RESOURCE_EXHAUSTED: "make it smaller",
    grpc.StatusCode.UNAVAILABLE: "try again later",
    grpc.StatusCode.DEADLINE_EXCEEDED: "give it more time with --deadline",
    grpc.StatusCode.ABORTED: "look at the job, then decide",
    grpc.StatusCode.INTERNAL: "report it if it stays so",
}


def _details(error: grpc.RpcError) -> list[Message]:
    """The details in the trailer `grpc-status-details-bin` that are of use here."""
    try:
        # The errors of calls are the calls themselves, which the stubs do not say.
        status = rpc_status.from_call(cast("grpc.Call", error))
        details = status.details if status else []
        return [kind.FromString(each.value) for each in details for kind in _KINDS if each.Is(kind.DESCRIPTOR)]
    except (ValueError, DecodeError):
        return []  # details that contradict the status, or are none, tell nothing


def _cause(message: str) -> str:
    """What of gRPC's own message is the cause, where it is one about connecting: what comes last in it."""
    if not message.startswith(_NOT_CONNECTED):
        return message
    _, failed, cause = message.partition(_HANDSHAKE_FAILED)
    if failed:
        return cause.removesuffix(": OK")
    _, found, cause = message.rpartition("remote host: ")
    return cause if found else message.rpartition(": ")[2].rstrip("]")
