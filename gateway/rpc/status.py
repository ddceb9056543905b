"""The table from errors to gRPC statuses and their details; docs/reference/errors.md tells clients what to do.

It differs from gRPC's own table from HTTP statuses on purpose, because that one is for responses without a grpc-status.
"""

from __future__ import annotations

from enum import Enum, auto
from typing import TYPE_CHECKING, NamedTuple

from google.protobuf.any_pb2 import Any
from google.protobuf.duration_pb2 import Duration
from google.rpc import error_details_pb2, status_pb2
from grpc import StatusCode
from jobgateway.v1 import job_service_pb2 as pb

from gateway import errors
from gateway.rpc.codec.text import clean, clean_detail
from gateway.text import CUT_MARK

if TYPE_CHECKING:
    from google.protobuf.message import Message


DOMAIN = "jobgateway"

# Clients limit trailers to 8 KB. They contain the message twice, percent-encoded and in the details, and the details
# in base64.
MAX_DETAILS_BYTES = 3_600
MAX_STATUS_MESSAGE_BYTES = 1_000

# The wait if the upstream asks the gateway to slow down without saying for how long.
DEFAULT_RETRY_SECONDS = 1.0
# The shortest wait that is sent: clients built on gRPC's C core hang after a pushback of 0 (grpc/grpc#41036).
SHORTEST_RETRY_SECONDS = 0.1


class Fault(Enum):
    """The side that has to act on an error. The log has failures of the client at level info, others as warnings."""

    CLIENT = auto()
    """The client or the job, or no one: a drain and the limits of a credential are normal."""
    UPSTREAM = auto()
    GATEWAY = auto()


class StatusMapping(NamedTuple):
    """The gRPC code of an error, the reason in its `ErrorInfo`, and the side at fault."""

    code: StatusCode
    reason: str
    fault: Fault = Fault.CLIENT


BY_HTTP_STATUS = {
    400: StatusMapping(StatusCode.INVALID_ARGUMENT, "UPSTREAM_BAD_REQUEST"),
    401: StatusMapping(StatusCode.UNAUTHENTICATED, "UPSTREAM_UNAUTHENTICATED"),
    403: StatusMapping(StatusCode.PERMISSION_DENIED, "UPSTREAM_PERMISSION_DENIED"),
    404: StatusMapping(StatusCode.NOT_FOUND, "UPSTREAM_NOT_FOUND"),
    # Too slow or too early (RFC 9110, 8470).
    408: StatusMapping(StatusCode.FAILED_PRECONDITION, "UPSTREAM_NOT_READY", Fault.UPSTREAM),
    409: StatusMapping(StatusCode.ABORTED, "UPSTREAM_CONFLICT"),
    413: StatusMapping(StatusCode.RESOURCE_EXHAUSTED, "UPSTREAM_REQUEST_TOO_LARGE"),
    425: StatusMapping(StatusCode.FAILED_PRECONDITION, "UPSTREAM_NOT_READY", Fault.UPSTREAM),
    429: StatusMapping(StatusCode.RESOURCE_EXHAUSTED, "UPSTREAM_RATE_LIMITED"),
    444: StatusMapping(StatusCode.CANCELLED, "UPSTREAM_CANCELLED", Fault.UPSTREAM),
    460: StatusMapping(StatusCode.CANCELLED, "UPSTREAM_CANCELLED", Fault.UPSTREAM),
    499: StatusMapping(StatusCode.CANCELLED, "UPSTREAM_CANCELLED", Fault.UPSTREAM),
    502: StatusMapping(StatusCode.UNAVAILABLE, "UPSTREAM_UNAVAILABLE", Fault.UPSTREAM),
    503: StatusMapping(StatusCode.UNAVAILABLE, "UPSTREAM_UNAVAILABLE", Fault.UPSTREAM),
    504: StatusMapping(StatusCode.DEADLINE_EXCEEDED, "UPSTREAM_TIMEOUT", Fault.UPSTREAM),
}
OTHER_4XX = StatusMapping(StatusCode.FAILED_PRECONDITION, "UPSTREAM_REFUSED")
OTHER_5XX = StatusMapping(StatusCode.INTERNAL, "UPSTREAM_ERROR", Fault.UPSTREAM)

BY_ERROR: dict[type[errors.GatewayError], StatusMapping] = {
    errors.RequestInvalid: StatusMapping(StatusCode.INVALID_ARGUMENT, "REQUEST_INVALID"),
    errors.RequestIdReused: StatusMapping(StatusCode.INVALID_ARGUMENT, "REQUEST_ID_REUSED"),
    errors.AlreadyWatched: StatusMapping(StatusCode.ALREADY_EXISTS, "ALREADY_WATCHED"),
    errors.RequestTooLarge: StatusMapping(StatusCode.RESOURCE_EXHAUSTED, "REQUEST_TOO_LARGE"),
    errors.CredentialInvalid: StatusMapping(StatusCode.UNAUTHENTICATED, "CREDENTIAL_INVALID"),
    errors.RequestIdsExhausted: StatusMapping(StatusCode.RESOURCE_EXHAUSTED, "REQUEST_IDS_EXHAUSTED", Fault.GATEWAY),
    errors.UpstreamMalformed: StatusMapping(StatusCode.INTERNAL, "UPSTREAM_MALFORMED", Fault.UPSTREAM),
    errors.UpstreamResponseTooLarge: StatusMapping(
        StatusCode.RESOURCE_EXHAUSTED, "UPSTREAM_ANSWER_TOO_LARGE", Fault.UPSTREAM
    ),
    errors.UpstreamTimeout: StatusMapping(StatusCode.DEADLINE_EXCEEDED, "UPSTREAM_TIMEOUT", Fault.UPSTREAM),
    errors.UpstreamConnectionLost: StatusMapping(StatusCode.UNAVAILABLE, "UPSTREAM_CONNECTION_LOST", Fault.UPSTREAM),
    errors.UpstreamUnreachable: StatusMapping(StatusCode.UNAVAILABLE, "UPSTREAM_UNREACHABLE", Fault.UPSTREAM),
    errors.GatewayOverloaded: StatusMapping(StatusCode.UNAVAILABLE, "GATEWAY_OVERLOADED", Fault.GATEWAY),
    # Never UNAVAILABLE: clients and meshes retry that automatically, and the job would run twice.
    errors.SubmitOutcomeUnknown: StatusMapping(StatusCode.UNKNOWN, "SUBMIT_OUTCOME_UNKNOWN", Fault.UPSTREAM),
    errors.UpstreamOutage: StatusMapping(StatusCode.UNAVAILABLE, "UPSTREAM_OUTAGE", Fault.UPSTREAM),
    errors.JobOverdue: StatusMapping(StatusCode.FAILED_PRECONDITION, "JOB_OVERDUE", Fault.UPSTREAM),
    errors.NoStateYet: StatusMapping(StatusCode.UNAVAILABLE, "NO_STATE_YET"),
    errors.SlowConsumer: StatusMapping(StatusCode.UNAVAILABLE, "SLOW_READER"),
    errors.ResultTooLarge: StatusMapping(StatusCode.RESOURCE_EXHAUSTED, "RESULT_TOO_LARGE"),
    errors.StateUnavailable: StatusMapping(StatusCode.UNAVAILABLE, "STATE_UNAVAILABLE", Fault.GATEWAY),
    errors.LimitReached: StatusMapping(StatusCode.RESOURCE_EXHAUSTED, "LIMIT_REACHED"),
    errors.Draining: StatusMapping(StatusCode.UNAVAILABLE, "DRAINING"),
    errors.InternalError: StatusMapping(StatusCode.INTERNAL, "GATEWAY_DEFECT", Fault.GATEWAY),
}

_ADVICE = {
    "SUBMIT_OUTCOME_UNKNOWN": "it is unknown whether the job runs; with a request_id, send the same request again; "
    "without one, look in the VIKTOR app before you send another: {}",
    "GATEWAY_DEFECT": "the gateway failed, and its log has the cause: {}",
}


class ErrorDescription(NamedTuple):
    """The description of an error for a client, in a status or in a `WatchFailure`.

    Attributes:
        mapping: The code and the reason.
        message: The message for a person.
        metadata: The metadata of the `ErrorInfo`.
        retry_after: The wait before a retry in seconds, None if none is known.
    """

    mapping: StatusMapping
    message: str
    metadata: dict[str, str]
    retry_after: float | None


class RpcError(NamedTuple):
    """The end of a failed call: the arguments of `ServicerContext.abort`, and reason and fault for the log."""

    code: StatusCode
    message: str
    trailers: tuple[tuple[str, str | bytes], ...]
    reason: str
    fault: Fault


def mapping_for(error: errors.GatewayError) -> StatusMapping:
    """Return the entry of the table for an error."""
    if isinstance(error, errors.UpstreamStatusError):
        if not error.certain:
            return BY_ERROR[errors.UpstreamMalformed]
        mapping = BY_HTTP_STATUS.get(error.http_status, OTHER_5XX if error.http_status >= 500 else OTHER_4XX)
        # A page that is not the API's is not about the client's request.
        return mapping if error.from_api else mapping._replace(fault=Fault.UPSTREAM)
    return next((BY_ERROR[kind] for kind in type(error).__mro__ if kind in BY_ERROR), BY_ERROR[errors.InternalError])


def describe(error: errors.GatewayError, uid: int | None = None) -> ErrorDescription:
    """Return what a client is told of an error; `uid` is the job, if it is known."""
    mapping = mapping_for(error)
    message = clean(_ADVICE.get(mapping.reason, "{}").format(error), MAX_STATUS_MESSAGE_BYTES)
    metadata = {}
    http_status = getattr(error, "http_status", None)
    if http_status is not None:
        metadata["http_status"] = str(http_status)
    if uid is not None:
        metadata["uid"] = str(uid)
    if isinstance(error, errors.UpstreamOutage):
        metadata["last_failure"] = mapping_for(error.last).reason
    return ErrorDescription(mapping, message, metadata, retry_after(error, mapping.reason))


def to_rpc_error(error: errors.GatewayError, uid: int | None = None) -> RpcError:
    """Return how a call ends with an error; `uid` is the job, if it is known."""
    described = describe(error, uid)
    trailers: list[tuple[str, str | bytes]] = [("grpc-status-details-bin", _details(error, described, uid))]
    if described.retry_after is not None:
        trailers.append(("grpc-retry-pushback-ms", str(round(described.retry_after * 1000))))
    code, reason, fault = described.mapping
    return RpcError(code, described.message, tuple(trailers), reason, fault)


def to_watch_failure(error: errors.GatewayError, uid: int) -> pb.WatchFailure:
    """Return how the watch of job `uid` ends with an error; 0 if the request names no job."""
    described = describe(error, uid or None)
    failure = pb.WatchFailure(
        code=described.mapping.code.value[0],
        reason=described.mapping.reason,
        message=described.message,
        metadata=described.metadata,
    )
    if described.retry_after is not None:
        failure.retry_delay.CopyFrom(_duration(described.retry_after))
    return failure


def retry_after(error: errors.GatewayError, reason: str) -> float | None:
    """Return the wait before a retry, at least 0.1 seconds; None if none is known, or a retry is unsafe or useless."""
    if isinstance(error, errors.UpstreamError) and not error.transient:
        # Even if the upstream names a wait, because gRPC's automatic retries would follow it.
        return None
    wait = error.retry_after
    if wait is None:
        return DEFAULT_RETRY_SECONDS if reason == "UPSTREAM_RATE_LIMITED" else None
    return max(wait, SHORTEST_RETRY_SECONDS)


def _details(error: errors.GatewayError, described: ErrorDescription, uid: int | None) -> bytes:
    code, reason, _ = described.mapping
    status = status_pb2.Status(code=code.value[0], message=described.message)
    _add(status, error_details_pb2.ErrorInfo(reason=reason, domain=DOMAIN, metadata=described.metadata))
    if described.retry_after is not None:
        _add(status, error_details_pb2.RetryInfo(retry_delay=_duration(described.retry_after)))
    if code is StatusCode.NOT_FOUND and uid is not None:
        _add(
            status,
            error_details_pb2.ResourceInfo(
                resource_type="job", resource_name=str(uid), description="not found upstream"
            ),
        )
    violations = getattr(error, "violations", ())
    if violations:
        _add_violations(status, violations)
    return bytes(status.SerializeToString())


def _add_violations(status: status_pb2.Status, violations: tuple[errors.FieldViolation, ...]) -> None:
    # The rest is for the mark and for packing the message as a detail, which take about fifty bytes each.
    room = MAX_DETAILS_BYTES - status.ByteSize() - 120
    bad = error_details_pb2.BadRequest()
    for violation in violations:
        field = clean_detail(violation.field, 200)
        description = clean_detail(violation.description, 400)
        added = bad.field_violations.add(field=field, description=description)
        if bad.ByteSize() > room:
            bad.field_violations.remove(added)
            bad.field_violations.add(field=CUT_MARK, description="there are more invalid fields than fit here")
            break
    _add(status, bad)


def _add(status: status_pb2.Status, detail: Message) -> None:
    packed = Any()
    packed.Pack(detail)
    status.details.append(packed)


def _duration(seconds: float) -> Duration:
    # Whole milliseconds, so that it equals grpc-retry-pushback-ms.
    milliseconds = round(seconds * 1000)
    return Duration(seconds=milliseconds // 1000, nanos=milliseconds % 1000 * 1_000_000)
