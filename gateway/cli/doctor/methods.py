"""The check that a call of each method arrives at the gateway."""

from __future__ import annotations

from typing import TYPE_CHECKING

from jobgateway.v1 import job_service_pb2 as pb

from gateway.cli.doctor import service
from gateway.cli.doctor.findings import Finding, Outcome, ok
from gateway.cli.doctor.refusals import refusal

if TYPE_CHECKING:
    from gateway.cli.doctor.between import Between
    from gateway.cli.doctor.ends import End
    from gateway.cli.doctor.http2 import Http2Connection

METHODS = tuple(method.name for method in pb.DESCRIPTOR.services_by_name["JobService"].methods)
_UNIMPLEMENTED = "12"


async def check(connection: Http2Connection, peer: Between, token: str | None) -> Finding:
    """Call each method with an empty request, which the gateway rejects before it asks the upstream."""
    metadata = [("authorization", f"Bearer {token}")] if token else []
    failed: dict[str, End | None] = {}
    # In turn, because a connection may allow one call at a time.
    for name in METHODS:
        stream = connection.call(f"/{service.SERVICE}/{name}", b"", metadata)
        end = await stream.until_end(service.RESPONSE_SECONDS)
        if not _arrived(end, peer):
            failed[name] = end
        if end is None:
            break
    if not failed:
        return ok("calls", f"each of the {len(METHODS)} methods arrives at the gateway")
    some = next(iter(failed.values()))
    problem = f"{len(failed)} of {len(METHODS)} methods do not arrive at the gateway ({', '.join(failed)})"
    if refused := refusal("calls", problem, some, peer):
        return refused
    said = some.described() if some else f"no response within {service.RESPONSE_SECONDS:g} s"
    fix = "let the proxy pass all paths of the gateway, and update a gateway that does not have these methods"
    return Finding("calls", Outcome.FAIL, f"{problem}: {said}", fix)


def _arrived(end: End | None, peer: Between) -> bool:
    """Return True if the gateway ended the call."""
    if end is None or refusal("calls", "", end, peer):
        return False
    return end.grpc_status not in ("", _UNIMPLEMENTED)
