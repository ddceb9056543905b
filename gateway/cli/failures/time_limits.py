"""The end of a command at its own time limit."""

from __future__ import annotations

from typing import TYPE_CHECKING

import grpc
from jobgateway_client import GatewayError

if TYPE_CHECKING:
    from jobgateway_client.deadline import Deadline

# gRPC's timer may be this much early, in seconds.
_NEARLY = 0.1
_LONGEST_CAUSE = 200


def passed(error: GatewayError, deadline: Deadline) -> bool:
    """Return whether `error` is about this time limit, and not about one of the gateway or the client."""
    left = deadline.left()
    if left is None or error.from_gateway or error.code is not grpc.StatusCode.DEADLINE_EXCEEDED:
        return False
    return left < _NEARLY or cause(error) is not None


def cause(error: GatewayError) -> GatewayError | None:
    """Return the failure before the time was over, if there was one."""
    return error.__cause__ if isinstance(error.__cause__, GatewayError) else None


def problem(error: GatewayError, deadline: Deadline, option: str, seconds: float) -> str:
    """Return the line about a time limit, which was given as `option`."""
    before = cause(error)
    failure = f" ({before.message[:_LONGEST_CAUSE]})" if before else ""
    is_early = (deadline.left() or 0.0) >= _NEARLY
    end = "leave no time for another attempt" if is_early else "passed"
    return f"the {seconds:.10g} s of {option} {end}{failure}"
