"""The lines for a failed call: the problem, and the fix."""

import re

import grpc
from jobgateway_client import GatewayError

from gateway.cli.failures.connection_faults import Fault

_LONGEST_FOREIGN_MESSAGE = 200
_LATER = re.compile(r"\b(?:(?:try again|retry) later|call again)\b")
_HANDSHAKE_FAILED = "OPENSSL_internal:"

# The reasons whose fix is another than that of their code.
_BY_REASON = {
    # Their messages have the fix.
    "SUBMIT_OUTCOME_UNKNOWN": "",
    "REQUEST_ID_REUSED": "",
    # The command that gets it is in a line of its own.
    "RESULT_TOO_LARGE": "",
    "UPSTREAM_TIMEOUT": "try again later",
}

_NOT_FROM_GATEWAY = {
    grpc.StatusCode.UNAVAILABLE: "check that the gateway runs there, or name another one with --target",
    grpc.StatusCode.UNIMPLEMENTED: "is this the address of a Job Gateway? name another one with --target",
}

_BY_CODE = {
    grpc.StatusCode.INVALID_ARGUMENT: "correct the request",
    grpc.StatusCode.UNAUTHENTICATED: "put a valid token into JOBGATEWAY_TOKEN or the --token-file",
    grpc.StatusCode.PERMISSION_DENIED: "ask for access, or use another token",
    grpc.StatusCode.NOT_FOUND: "check the ids, and the access of the token",
    grpc.StatusCode.RESOURCE_EXHAUSTED: "make it smaller",
    grpc.StatusCode.UNAVAILABLE: "try again later",
    grpc.StatusCode.DEADLINE_EXCEEDED: "give it more time with --deadline",
    grpc.StatusCode.ABORTED: "read the job, then decide",
    grpc.StatusCode.DATA_LOSS: "get it again",
    grpc.StatusCode.INTERNAL: "report it if it happens again",
}


def error_lines(error: GatewayError, target: str, fault: Fault | None = None) -> list[str]:
    """Return the line for an error, and a line for each further invalid field.

    `fault` is the known cause of a failed connection.
    """
    if fault:
        return [f"{fault.problem}; {fault.fix}"]
    fields = _field_lines(error)
    return [_line(error, target, fields), *(f"  {each}" for each in fields[1:])]


def _line(error: GatewayError, target: str, fields: list[str]) -> str:
    message = error.message
    if error.uid and error.code is grpc.StatusCode.NOT_FOUND:
        message = f"job {error.uid}: {message}"
    if fields:
        # The message of the gateway continues with all fields.
        before = message.partition(f"{error.fields[0].path}: ")[0].rstrip(": ;")
        message = ": ".join(filter(None, (before, fields[0])))
    if not error.from_gateway and error.code is grpc.StatusCode.UNAVAILABLE:
        message = f"{target} cannot be reached ({_cause(error)[:_LONGEST_FOREIGN_MESSAGE]})"
    if error.reason == "SUBMIT_OUTCOME_UNKNOWN":
        message = message.replace("request_id", "--request-id")
    advice = _advice(error)
    if advice.startswith("try again") and error.from_gateway:
        message, found = _LATER.subn(advice, message)
        advice = "" if found else advice
    # OK is the code of a stream that ended too early.
    code = "" if error.code is grpc.StatusCode.OK else error.code.name
    status = ", ".join(filter(None, (code, error.reason)))
    return (
        (message.rstrip(".") or "no message") + (f"; {advice}" if advice else "") + (f" [{status}]" if status else "")
    )


def _field_lines(error: GatewayError) -> list[str]:
    # A RunJobRequest contains the SendJobRequest that the options of a command are about.
    around = "" if error.reason.startswith("UPSTREAM_") else "request."
    return [f"{each.path.removeprefix(around) or '(request)'}: {each.problem}" for each in error.fields]


def _advice(error: GatewayError) -> str:
    if error.reason in _BY_REASON:
        return _BY_REASON[error.reason]
    if error.retry_delay is not None:
        return f"try again in {error.retry_delay:.3g} s"
    if not error.from_gateway and error.code in _NOT_FROM_GATEWAY:
        return _NOT_FROM_GATEWAY[error.code]
    if error.fields:
        return ""  # their problems have it
    return _BY_CODE.get(error.code, "")


def _cause(error: GatewayError) -> str:
    """Return the cause in a message of gRPC about a failed connection, which comes last in it."""
    message = error.message
    if not error.connection_failed:
        return message
    _, failed, cause = message.partition(_HANDSHAKE_FAILED)
    if failed:
        return cause.removesuffix(": OK")
    _, found, cause = message.rpartition("remote host: ")
    return cause if found else message.rpartition(": ")[2].rstrip("]")
