"""The errors of the client, and the details that the gateway attaches to a gRPC status."""

from __future__ import annotations

import copyreg
from typing import TYPE_CHECKING, Any, NamedTuple, cast

import grpc
from google.protobuf.message import DecodeError

from jobgateway_client.status_details import status_details

if TYPE_CHECKING:
    from collections.abc import Mapping

    from google.protobuf.duration_pb2 import Duration
    from jobgateway.v1 import job_service_pb2 as pb

DOMAIN = "jobgateway"
# The gateway sends no longer wait than this, in seconds.
LONGEST_RETRY_DELAY = 86_400.0
# How gRPC's messages begin if there was no connection, or if the server rejected the request unread.
_NOT_CONNECTED = ("failed to connect", "errors resolving", "DNS resolution failed")
_NOT_READ = "SERVER: Received message larger than max"
_CODES = {code.value[0]: code for code in grpc.StatusCode}


class FieldViolation(NamedTuple):
    """An invalid field of a request: its dotted path, and the problem."""

    path: str
    problem: str


class GatewayError(Exception):
    """A call that failed.

    Attributes:
        code: The gRPC code. `OK` if a proxy ended a stream before the job had ended.
        message: A one-line message. It never contains the token.
        reason: The reason of the gateway's `ErrorInfo`, `SILENT` if the client gave up a silent stream, or an empty
            text if the error does not come from the gateway.
        metadata: The metadata of that `ErrorInfo`.
        fields: The invalid fields of the request.
        retry_delay: The time to wait before the next attempt in seconds, or None if the gateway named none.
        silent: True if the client gave up a stream from which nothing arrived for three heartbeat intervals.

    """

    def __init__(
        self,
        code: grpc.StatusCode,
        message: str = "",
        *,
        reason: str = "",
        metadata: Mapping[str, str] | None = None,
        fields: tuple[FieldViolation, ...] = (),
        retry_delay: float | None = None,
        silent: bool = False,
    ) -> None:
        super().__init__(f"{message or 'no message'} [{', '.join(filter(None, (code.name, reason)))}]")
        self.code = code
        self.message = message
        self.reason = reason
        self.metadata = dict(metadata or {})
        self.fields = fields
        self.retry_delay = retry_delay
        self.silent = silent

    def __reduce__(self) -> tuple[Any, ...]:
        # That of `Exception` would call the constructor with the text only.
        return copyreg.__newobj__, (type(self), *self.args), self.__dict__  # type: ignore[attr-defined]

    @property
    def uid(self) -> int:
        """The job that the gateway's error is about, or 0."""
        uid = self.metadata.get("uid", "")
        return int(uid) if uid.isascii() and uid.isdigit() else 0

    @property
    def from_gateway(self) -> bool:
        """True if the gateway sent the error; False if a library or a proxy did."""
        return bool(self.reason) and not self.silent

    @property
    def connection_failed(self) -> bool:
        """True if no connection to the gateway could be made."""
        return not self.from_gateway and self.message.startswith(_NOT_CONNECTED)

    @property
    def may_have_arrived(self) -> bool:
        """True if the request may have reached the gateway, and the gateway did not say what happened to it."""
        return not self.from_gateway and not self.message.startswith((*_NOT_CONNECTED, _NOT_READ))


class ClosedError(GatewayError):
    """The client or the watch was closed, or the watch was interrupted. The code is `CANCELLED`."""

    def __init__(self, message: str) -> None:
        super().__init__(grpc.StatusCode.CANCELLED, message)


class ResultDamagedError(GatewayError):
    """The result of a job is incomplete, or its SHA-256 is not the one that the gateway sent. The job has ended.

    The code is `DATA_LOSS`. Read the result again.
    """

    def __init__(self, uid: int, problem: str) -> None:
        super().__init__(
            grpc.StatusCode.DATA_LOSS, f"the result of job {uid} is damaged: {problem}", metadata={"uid": str(uid)}
        )


def from_rpc_error(error: grpc.RpcError) -> GatewayError:
    """Return the error of a sync or asyncio call, with its details."""
    # The sync API raises the call as the error.
    call = cast("Any", error)
    return from_status(call.code(), call.details(), call.trailing_metadata())


def from_status(code: grpc.StatusCode, message: str | None, trailers: Any) -> GatewayError:
    """Return the error of a status, with the details in its trailers."""
    reason, metadata, retry_delay = "", {}, None
    fields: list[FieldViolation] = []
    for name, detail in _details(code, trailers):
        if name == "ErrorInfo" and detail.domain == DOMAIN:
            reason, metadata = detail.reason, {entry.key: entry.value for entry in detail.metadata}
        elif name == "BadRequest":
            fields += [FieldViolation(each.field, each.description) for each in detail.field_violations]
        elif name == "RetryInfo":
            retry_delay = _seconds(detail.retry_delay)
    return GatewayError(
        code, message or "", reason=reason, metadata=metadata, fields=tuple(fields), retry_delay=retry_delay
    )


def from_failure(uid: int, failure: pb.WatchFailure) -> GatewayError:
    """Return the error with which the watch of a job on a `WatchJobs` stream ended."""
    return GatewayError(
        _CODES.get(failure.code, grpc.StatusCode.UNKNOWN),
        failure.message,
        reason=failure.reason,
        metadata={**failure.metadata, "uid": str(uid)},
        retry_delay=_seconds(failure.retry_delay) if failure.HasField("retry_delay") else None,
    )


def silent_stream(seconds: float) -> GatewayError:
    """Return the error for a stream from which nothing arrived for `seconds`."""
    message = f"no event arrived for {seconds:.3g} s"
    return GatewayError(grpc.StatusCode.CANCELLED, message, reason="SILENT", silent=True)


def stream_without_end() -> GatewayError:
    """Return the error for a stream that ended with `OK` before the job had ended."""
    return GatewayError(grpc.StatusCode.OK, "the stream ended before the job")


def _seconds(delay: Duration) -> float:
    return min(max(delay.seconds + delay.nanos / 1e9, 0.0), LONGEST_RETRY_DELAY)


def _details(code: grpc.StatusCode, trailers: Any) -> list[tuple[str, Any]]:
    """Return the names and the details of a status, or none if they are malformed or contradict it."""
    try:
        for key, value in trailers or ():
            if key == "grpc-status-details-bin":
                return status_details(value, code.value[0])
    except DecodeError:
        pass
    return []
