"""The one table from what went wrong to a gRPC status and its details (docs/reference/errors.md says what callers do).

gRPC's own table from HTTP to status is for clients that got no grpc-status at all; this one differs on purpose.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

from google.protobuf.any_pb2 import Any
from google.protobuf.duration_pb2 import Duration
from google.rpc import error_details_pb2, status_pb2
from grpc import StatusCode

from gateway import errors
from gateway.rpc.codec.text import clean, clean_detail
from gateway.text import CUT_MARK

if TYPE_CHECKING:
    from google.protobuf.message import Message


DOMAIN = "jobgateway"

# Message and details travel in the trailers, which have 8 KB before clients cut them off. The message travels twice,
# once of it percent-encoded, and the details in base64.
MAX_DETAILS_BYTES = 3_600
MAX_STATUS_MESSAGE_BYTES = 1_000

# The wait if the upstream asks to slow down and does not say for how long.
DEFAULT_RETRY_SECONDS = 1.0
# The shortest wait that is told: a client built on gRPC's C core hangs after a pushback of 0 (grpc/grpc#41036).
SHORTEST_RETRY_SECONDS = 0.1


class StatusMapping(NamedTuple):
    """What a caller gets: the gRPC status, and the reason in `ErrorInfo`."""

    code: StatusCode
    reason: str


BY_HTTP_STATUS = {
    400: StatusMapping(StatusCode.INVALID_ARGUMENT, "UPSTREAM_BAD_REQUEST"),
    401: StatusMapping(StatusCode.UNAUTHENTICATED, "UPSTREAM_UNAUTHENTICATED"),
    403: StatusMapping(StatusCode.PERMISSION_DENIED, "UPSTREAM_PERMISSION_DENIED"),
    404: StatusMapping(StatusCode.NOT_FOUND, "UPSTREAM_NOT_FOUND"),
    # Too early or too slow at HTTP's level (RFC 9110, 8470); by the contract any other 4xx.
    408: StatusMapping(StatusCode.FAILED_PRECONDITION, "UPSTREAM_NOT_READY"),
    409: StatusMapping(StatusCode.ABORTED, "UPSTREAM_CONFLICT"),
    413: StatusMapping(StatusCode.RESOURCE_EXHAUSTED, "UPSTREAM_REQUEST_TOO_LARGE"),
    425: StatusMapping(StatusCode.FAILED_PRECONDITION, "UPSTREAM_NOT_READY"),
    429: StatusMapping(StatusCode.RESOURCE_EXHAUSTED, "UPSTREAM_RATE_LIMITED"),
    444: StatusMapping(StatusCode.CANCELLED, "UPSTREAM_CANCELLED"),
    460: StatusMapping(StatusCode.CANCELLED, "UPSTREAM_CANCELLED"),
    499: StatusMapping(StatusCode.CANCELLED, "UPSTREAM_CANCELLED"),
    502: StatusMapping(StatusCode.UNAVAILABLE, "UPSTREAM_UNAVAILABLE"),
    503: StatusMapping(StatusCode.UNAVAILABLE, "UPSTREAM_UNAVAILABLE"),
    504: StatusMapping(StatusCode.DEADLINE_EXCEEDED, "UPSTREAM_TIMEOUT"),
}
OTHER_4XX = StatusMapping(StatusCode.FAILED_PRECONDITION, "UPSTREAM_REFUSED")
OTHER_5XX = StatusMapping(StatusCode.INTERNAL, "UPSTREAM_ERROR")

BY_ERROR: dict[type[errors.GatewayError], StatusMapping] = {
    errors.RequestInvalid: StatusMapping(StatusCode.INVALID_ARGUMENT, "REQUEST_INVALID"),
    errors.RequestIdReused: StatusMapping(StatusCode.INVALID_ARGUMENT, "REQUEST_ID_REUSED"),
    errors.RequestTooLarge: StatusMapping(StatusCode.RESOURCE_EXHAUSTED, "REQUEST_TOO_LARGE"),
    errors.CredentialInvalid: StatusMapping(StatusCode.UNAUTHENTICATED, "CREDENTIAL_INVALID"),
    errors.RequestIdsExhausted: StatusMapping(StatusCode.RESOURCE_EXHAUSTED, "REQUEST_IDS_EXHAUSTED"),
    errors.UpstreamMalformed: StatusMapping(StatusCode.INTERNAL, "UPSTREAM_MALFORMED"),
    errors.UpstreamResponseTooLarge: StatusMapping(StatusCode.RESOURCE_EXHAUSTED, "UPSTREAM_ANSWER_TOO_LARGE"),
    errors.UpstreamTimeout: StatusMapping(StatusCode.DEADLINE_EXCEEDED, "UPSTREAM_TIMEOUT"),
    errors.UpstreamConnectionLost: StatusMapping(StatusCode.UNAVAILABLE, "UPSTREAM_CONNECTION_LOST"),
    errors.UpstreamUnreachable: StatusMapping(StatusCode.UNAVAILABLE, "UPSTREAM_UNREACHABLE"),
    errors.GatewayOverloaded: StatusMapping(StatusCode.UNAVAILABLE, "GATEWAY_OVERLOADED"),
    # Never UNAVAILABLE: clients and meshes retry that automatically, and the job would run twice.
    errors.SubmitOutcomeUnknown: StatusMapping(StatusCode.UNKNOWN, "SUBMIT_OUTCOME_UNKNOWN"),
    errors.UpstreamOutage: StatusMapping(StatusCode.UNAVAILABLE, "UPSTREAM_OUTAGE"),
    errors.JobOverdue: StatusMapping(StatusCode.FAILED_PRECONDITION, "JOB_OVERDUE"),
    errors.NoStateYet: StatusMapping(StatusCode.UNAVAILABLE, "NO_STATE_YET"),
    errors.SlowConsumer: StatusMapping(StatusCode.UNAVAILABLE, "SLOW_READER"),
    errors.ResultTooLarge: StatusMapping(StatusCode.RESOURCE_EXHAUSTED, "RESULT_TOO_LARGE"),
    errors.LimitReached: StatusMapping(StatusCode.RESOURCE_EXHAUSTED, "LIMIT_REACHED"),
    errors.Draining: StatusMapping(StatusCode.UNAVAILABLE, "DRAINING"),
    errors.InternalError: StatusMapping(StatusCode.INTERNAL, "GATEWAY_DEFECT"),
}

_ADVICE = {
    "SUBMIT_OUTCOME_UNKNOWN": "whether the job runs is not known; look for it before sending it under another id: {}",
    "GATEWAY_DEFECT": "the gateway failed; its log has the cause: {}",
}


class RpcError(NamedTuple):
    """How a call ends that failed: what `ServicerContext.abort` takes, and the reason for the log."""

    code: StatusCode
    message: str
    trailers: tuple[tuple[str, str | bytes], ...]
    reason: str


def mapping_for(error: errors.GatewayError) -> StatusMapping:
    """The row of the table for an error."""
    if isinstance(error, errors.UpstreamStatusError):
        if not error.certain:
            return BY_ERROR[errors.UpstreamMalformed]
        other = OTHER_5XX if error.http_status >= 500 else OTHER_4XX
        return BY_HTTP_STATUS.get(error.http_status, other)
    return next((BY_ERROR[kind] for kind in type(error).__mro__ if kind in BY_ERROR), BY_ERROR[errors.InternalError])


def to_rpc_error(error: errors.GatewayError, uid: int | None = None) -> RpcError:
    """How a call ends with an error; `uid` is the job, where it is known."""
    code, reason = mapping_for(error)
    message = clean(_ADVICE.get(reason, "{}").format(error), MAX_STATUS_MESSAGE_BYTES)
    wait = retry_after(error, reason)
    return RpcError(
        code,
        message,
        (
            ("grpc-status-details-bin", _details(error, StatusMapping(code, reason), message, wait, uid)),
            *(() if wait is None else (("grpc-retry-pushback-ms", str(round(wait * 1000))),)),
        ),
        reason,
    )


def retry_after(error: errors.GatewayError, reason: str) -> float | None:
    """Return the wait before a retry, at least 0.1 seconds; None if none is known, or a retry is unsafe or useless."""
    if isinstance(error, errors.UpstreamError) and not error.transient:
        # Whatever the upstream says of a time: gRPC's own retry would take it as an invitation.
        return None
    wait = error.retry_after
    if wait is None:
        return DEFAULT_RETRY_SECONDS if reason == "UPSTREAM_RATE_LIMITED" else None
    return max(wait, SHORTEST_RETRY_SECONDS)


def _details(
    error: errors.GatewayError, mapping: StatusMapping, message: str, wait: float | None, uid: int | None
) -> bytes:
    status = status_pb2.Status(code=mapping.code.value[0], message=message)
    info = error_details_pb2.ErrorInfo(reason=mapping.reason, domain=DOMAIN)
    http_status = getattr(error, "http_status", None)
    if http_status is not None:
        info.metadata["http_status"] = str(http_status)
    if uid is not None:
        info.metadata["uid"] = str(uid)
    if isinstance(error, errors.UpstreamOutage):
        info.metadata["last_failure"] = mapping_for(error.last).reason
    _add(status, info)
    if wait is not None:
        _add(status, error_details_pb2.RetryInfo(retry_delay=_duration(wait)))
    if mapping.code is StatusCode.NOT_FOUND and uid is not None:
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
    # What is kept back is for the mark and for wrapping the message as a detail, which take about fifty bytes each.
    room = MAX_DETAILS_BYTES - status.ByteSize() - 120
    bad = error_details_pb2.BadRequest()
    for violation in violations:
        field = clean_detail(violation.field, 200)
        description = clean_detail(violation.description, 400)
        added = bad.field_violations.add(field=field, description=description)
        if bad.ByteSize() > room:
            bad.field_violations.remove(added)
            bad.field_violations.add(field=CUT_MARK, description="more fields are at fault than fit here")
            break
    _add(status, bad)


def _add(status: status_pb2.Status, detail: Message) -> None:
    packed = Any()
    packed.Pack(detail)
    status.details.append(packed)


def _duration(seconds: float) -> Duration:
    # Whole milliseconds, so that it agrees with grpc-retry-pushback-ms.
    milliseconds = round(seconds * 1000)
    return Duration(seconds=milliseconds // 1000, nanos=milliseconds % 1000 * 1_000_000)
