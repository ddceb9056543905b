"""The reasons for which a proxy refuses a call that it could pass on."""

from __future__ import annotations

from typing import TYPE_CHECKING

from gateway.cli.doctor.between import Fault
from gateway.cli.doctor.findings import Finding, Outcome
from gateway.cli.output.formatting import clean

if TYPE_CHECKING:
    from gateway.cli.doctor.between import Between
    from gateway.cli.doctor.ends import End

_BUSY = ("429", "503")
_LOGIN = ("401", "407")
_FORBIDDEN = "403"
_PERMISSION_DENIED = "7"


def _is_overload(end: End) -> bool:
    """Return True if a proxy refused the call because of a rate limit or its load."""
    # Envoy responds to gRPC with a status, and puts its reason into the message.
    return end.http_status in _BUSY or "rate_limited" in end.grpc_message


def refusal(check: str, problem: str, end: End | None, peer: Between) -> Finding | None:
    """Return the finding if a proxy itself refused a call, or None.

    Args:
        check: The name of the check.
        problem: The beginning of the text.
        end: The end of the call, or None if it did not end.
        peer: The program at the other end of the connection.

    """
    if end is None:
        return None
    said = f"{problem}: {peer.subject} responds {end.described()}"
    if _is_overload(end):
        return _failed(check, f"{said}, as with a rate limit or too much load", peer, Fault.RATE)
    if "overflow" in end.grpc_message:
        return _failed(check, f"{said}, because a circuit breaker is open", peer, Fault.OVERFLOW)
    if end.http_status in _LOGIN:
        fix = "the proxy wants its own login; exempt the paths of the gateway, which checks its callers itself"
        return Finding(check, Outcome.FAIL, f"{said}: it wants a login of its own", fix)
    if end.http_status.startswith("3"):
        to = clean(end.fields.get("location", ""))[:100]
        where = f" to {to}" if to else ""
        fix = "exempt the paths of the gateway from the redirect, such as one to a login (SSO): gRPC follows none"
        return Finding(check, Outcome.FAIL, f"{said}: it redirects the call{where}", fix)
    if end.http_status == _FORBIDDEN or (peer.name and end.grpc_status == _PERMISSION_DENIED):
        fix = "let the proxy pass all paths of the gateway, such as /jobgateway.v1.JobService/WatchJobs"
        return Finding(check, Outcome.FAIL, f"{said}: it blocks the call", fix)
    return None


def _failed(check: str, text: str, peer: Between, fault: Fault) -> Finding:
    fix = "raise the limit in the proxy"
    return Finding(check, Outcome.FAIL, text, fix, peer.paste(fault))
