"""The exit code for each way in which a call fails: the same reason has the same code in every command."""

from grpc import StatusCode
from jobgateway_client import GatewayError

from gateway.cli.exit_codes import (
    CALL_FAILED,
    NOT_FOUND,
    NOT_PERMITTED,
    OUTCOME_UNKNOWN,
    REFUSED,
    TIME_PASSED,
    UNAVAILABLE,
)

# Every reason of the gateway. Its gRPC code says too little, for example whether it helps to try again.
BY_REASON = {
    "ALREADY_WATCHED": CALL_FAILED,
    "CREDENTIAL_INVALID": NOT_PERMITTED,
    "DRAINING": UNAVAILABLE,
    "GATEWAY_DEFECT": CALL_FAILED,
    "GATEWAY_OVERLOADED": UNAVAILABLE,
    "JOB_OVERDUE": CALL_FAILED,
    "LIMIT_REACHED": UNAVAILABLE,
    "NO_STATE_YET": UNAVAILABLE,
    "REQUEST_IDS_EXHAUSTED": UNAVAILABLE,
    "REQUEST_ID_REUSED": REFUSED,
    "REQUEST_INVALID": REFUSED,
    "REQUEST_TOO_LARGE": REFUSED,
    "RESULT_TOO_LARGE": CALL_FAILED,
    "SLOW_READER": UNAVAILABLE,
    "STATE_UNAVAILABLE": UNAVAILABLE,
    "SUBMIT_OUTCOME_UNKNOWN": OUTCOME_UNKNOWN,
    "UPSTREAM_ANSWER_TOO_LARGE": CALL_FAILED,
    "UPSTREAM_BAD_REQUEST": REFUSED,
    "UPSTREAM_CANCELLED": UNAVAILABLE,
    "UPSTREAM_CONFLICT": CALL_FAILED,
    "UPSTREAM_CONNECTION_LOST": UNAVAILABLE,
    "UPSTREAM_ERROR": UNAVAILABLE,
    "UPSTREAM_MALFORMED": CALL_FAILED,
    "UPSTREAM_NOT_FOUND": NOT_FOUND,
    "UPSTREAM_NOT_READY": UNAVAILABLE,
    "UPSTREAM_OUTAGE": UNAVAILABLE,
    "UPSTREAM_PERMISSION_DENIED": NOT_PERMITTED,
    "UPSTREAM_RATE_LIMITED": UNAVAILABLE,
    "UPSTREAM_REFUSED": REFUSED,
    "UPSTREAM_REQUEST_TOO_LARGE": REFUSED,
    "UPSTREAM_TIMEOUT": UNAVAILABLE,
    "UPSTREAM_UNAUTHENTICATED": NOT_PERMITTED,
    "UPSTREAM_UNAVAILABLE": UNAVAILABLE,
    "UPSTREAM_UNREACHABLE": UNAVAILABLE,
}

# For errors of gRPC itself or of a proxy, and reasons of later gateways.
_BY_CODE = {
    StatusCode.OK: UNAVAILABLE,
    StatusCode.DEADLINE_EXCEEDED: TIME_PASSED,
    StatusCode.INVALID_ARGUMENT: REFUSED,
    StatusCode.NOT_FOUND: NOT_FOUND,
    StatusCode.PERMISSION_DENIED: NOT_PERMITTED,
    StatusCode.RESOURCE_EXHAUSTED: UNAVAILABLE,
    StatusCode.UNAUTHENTICATED: NOT_PERMITTED,
    StatusCode.UNAVAILABLE: UNAVAILABLE,
}


def failure_code(error: GatewayError, *, sending: bool = False) -> int:
    """Return the exit code for a failed call.

    `sending`: The call was to create a job, and the job is not known.
    """
    if sending and error.may_have_arrived:
        return OUTCOME_UNKNOWN
    return BY_REASON.get(error.reason) or _BY_CODE.get(error.code, CALL_FAILED)
