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
from gateway.rpc.codec.text import CUT_MARK, clean, clean_detail

if TYPE_CHECKING:
    from google.protobuf.message import Message


DOMAIN = "jobgateway"

# Message and details travel in the trailers, which have 8 KB before clients cut them off. The message travels twice,
# once of it percent-encoded, and the details in base64.
MAX_DETAILS_BYTES = 3_600

# The wait if the upstream asks to slow down and does not say for how long.
DEFAULT_RETRY_SECONDS = 1.0
# The shortest wait that is told: a client built on gRPC's C core hangs after a pushback of 0 (grpc/grpc#41036).
SHORTEST_RETRY_SECONDS = 0.1


class Row(NamedTuple):
    """What a caller gets: the gRPC status, and the reason in `ErrorInfo`."""

    code: StatusCode
    reason: str


BY_HTTP_STATUS = {
    400: Row(StatusCode.INVALID_ARGUMENT, "UPSTREAM_BAD_REQUEST"),
    401: Row(StatusCode.UNAUTHENTICATED, "UPSTREAM_UNAUTHENTICATED"),
    403: Row(StatusCode.PERMISSION_DENIED, "UPSTREAM_PERMISSION_DENIED"),
    404: Row(StatusCode.NOT_FOUND, "UPSTREAM_NOT_FOUND"),
    # Too early or too slow at HTTP's level (RFC 9110, 8470); by the contract any other 4xx.
    408: Row(StatusCode.FAILED_PRECONDITION, "UPSTREAM_NOT_READY"),
    409: Row(StatusCode.ABORTED, "UPSTREAM_CONFLICT"),
    413: Row(StatusCode.RESOURCE_EXHAUSTED, "UPSTREAM_REQUEST_TOO_LARGE"),
    425: Row(StatusCode.FAILED_PRECONDITION, "UPSTREAM_NOT_READY"),
    429: Row(StatusCode.RESOURCE_EXHAUSTED, "UPSTREAM_RATE_LIMITED"),
    444: Row(StatusCode.CANCELLED, "UPSTREAM_CANCELLED"),
    460: Row(StatusCode.CANCELLED, "UPSTREAM_CANCELLED"),
    499: Row(StatusCode.CANCELLED, "UPSTREAM_CANCELLED"),
    502: Row(StatusCode.UNAVAILABLE, "UPSTREAM_UNAVAILABLE"),
    503: Row(StatusCode.UNAVAILABLE, "UPSTREAM_UNAVAILABLE"),
    504: Row(StatusCode.DEADLINE_EXCEEDED, "UPSTREAM_TIMEOUT"),
}
OTHER_4XX = Row(StatusCode.FAILED_PRECONDITION, "UPSTREAM_REFUSED")
OTHER_5XX = Row(StatusCode.INTERNAL, "UPSTREAM_ERROR")

BY_ERROR: dict[type[errors.GatewayError], Row] = {
    errors.RequestInvalid: Row(StatusCode.INVALID_ARGUMENT, "REQUEST_INVALID"),
    errors.RequestIdReused: Row(StatusCode.INVALID_ARGUMENT, "REQUEST_ID_REUSED"),
    errors.RequestTooLarge: Row(StatusCode.RESOURCE_EXHAUSTED, "REQUEST_TOO_LARGE"),
    errors.CredentialInvalid: Row(StatusCode.UNAUTHENTICATED, "CREDENTIAL_INVALID"),
    errors.RequestIdsExhausted: Row(StatusCode.RESOURCE_EXHAUSTED, "REQUEST_IDS_EXHAUSTED"),
    errors.UpstreamMalformed: Row(StatusCode.INTERNAL, "UPSTREAM_MALFORMED"),
    errors.UpstreamAnswerTooLarge: Row(StatusCode.RESOURCE_EXHAUSTED, "UPSTREAM_ANSWER_TOO_LARGE"),
    errors.UpstreamTimedOut: Row(StatusCode.DEADLINE_EXCEEDED, "UPSTREAM_TIMEOUT"),
    errors.UpstreamConnectionLost: Row(StatusCode.UNAVAILABLE, "UPSTREAM_CONNECTION_LOST"),
    errors.UpstreamUnreachable: Row(StatusCode.UNAVAILABLE, "UPSTREAM_UNREACHABLE"),
    errors.GatewayOverloaded: Row(StatusCode.UNAVAILABLE, "GATEWAY_OVERLOADED"),
    # Never UNAVAILABLE: clients and meshes retry that automatically, and the job would run twice.
    errors.SubmitOutcomeUnknown: Row(StatusCode.UNKNOWN, "SUBMIT_OUTCOME_UNKNOWN"),
    errors.UpstreamOutage: Row(StatusCode.UNAVAILABLE, "UPSTREAM_OUTAGE"),
    errors.JobOverdue: Row(StatusCode.FAILED_PRECONDITION, "JOB_OVERDUE"),
    errors.NoStateYet: Row(StatusCode.UNAVAILABLE, "NO_STATE_YET"),
    errors.SlowReader: Row(StatusCode.UNAVAILABLE, "SLOW_READER"),
    errors.ResultTooLarge: Row(StatusCode.RESOURCE_EXHAUSTED, "RESULT_TOO_LARGE"),
    errors.LimitReached: Row(StatusCode.RESOURCE_EXHAUSTED, "LIMIT_REACHED"),
    errors.Draining: Row(StatusCode.UNAVAILABLE, "DRAINING"),
    errors.GatewayError: Row(StatusCode.INTERNAL, "GATEWAY_DEFECT"),
}

_ADVICE = {
    "SUBMIT_OUTCOME_UNKNOWN": "whether the job runs is not known; look for it before sending it under another id: {}",
    "GATEWAY_DEFECT": "the gateway failed; its log has the cause: {}",
}


class Ending(NamedTuple):
    """How a call ends that failed: what `ServicerContext.abort` takes, and the reason for the log."""

    code: StatusCode
    message: str
    trailers: tuple[tuple[str, str | bytes], ...]
    reason: str


def row_of(error: errors.GatewayError) -> Row:
    """The row of the table for an error."""
    if isinstance(error, errors.UpstreamAnswered):
        if not error.certain:
            return BY_ERROR[errors.UpstreamMalformed]
        other = OTHER_5XX if error.http_status >= 500 else OTHER_4XX
        return BY_HTTP_STATUS.get(error.http_status, other)
    return next(BY_ERROR[kind] for kind in type(error).__mro__ if kind in BY_ERROR)


def ending_of(error: errors.GatewayError, uid: int | None = None) -> Ending:
    """How a call ends with an error; `uid` is the job, where it is known."""
    code, reason = row_of(error)
    message = clean(_ADVICE.get(reason, "{}").format(error))
    wait = retry_after(error, reason)
    return Ending(
        code,
        message,
        (
            ("grpc-status-details-bin", _details(error, Row(code, reason), message, wait, uid)),
            *(() if wait is None else (("grpc-retry-pushback-ms", str(round(wait * 1000))),)),
        ),
        reason,
    )


def retry_after(error: errors.GatewayError, reason: str) -> float | None:
    """Return the wait before a retry, at least 0.1 seconds; None if none is known, or a retry is unsafe or useless."""
    if isinstance(error, errors.UpstreamError) and not error.passing:
        # Whatever the upstream says of a time: gRPC's own retry would take it as an invitation.
        return None
    wait = error.retry_after
    if wait is None:
        return DEFAULT_RETRY_SECONDS if reason == "UPSTREAM_RATE_LIMITED" else None
    return max(wait, SHORTEST_RETRY_SECONDS)


def _details(error: errors.GatewayError, row: Row, message: str, wait: float | None, uid: int | None) -> bytes:
    status = status_pb2.Status(code=row.code.value[0], message=message)
    info = error_details_pb2.ErrorInfo(reason=row.reason, domain=DOMAIN)
    http_status = getattr(error, "http_status", None)
    if http_status is not None:
        info.metadata["http_status"] = str(http_status)
    if uid is not None:
        info.metadata["uid"] = str(uid)
    if isinstance(error, errors.UpstreamOutage):
        info.metadata["last_failure"] = row_of(error.last).reason
    _add(status, info)
    if wait is not None:
        _add(status, error_details_pb2.RetryInfo(retry_delay=_duration(wait)))
    if row.code is StatusCode.NOT_FOUND and uid is not None:
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
