"""The checks of streams and sizes that need no time: buffering, calls at a time, large requests and metadata."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING

from grpc_health.v1 import health_pb2

from gateway.cli.doctor import service
from gateway.cli.doctor.between import Between, Fault
from gateway.cli.doctor.findings import Finding, Outcome, ok
from gateway.cli.doctor.refusals import refusal
from gateway.cli.doctor.service import HEALTH_CHECK, HEALTH_REQUEST, HEALTH_WATCH

if TYPE_CHECKING:
    from gateway.cli.doctor.ends import End
    from gateway.cli.doctor.http2 import Http2Connection

ENOUGH_STREAMS = 1_000
"""The recommended limit is 1,024 (docs/operations/load-balancing.md)."""
LEAST_STREAMS = 100
"""The least that RFC 9113 recommends, and the number of streams that the check opens."""

# More than nginx accepts by default. A token has at most as many characters.
METADATA_BYTES = 8_000
REQUEST_BYTES = 2 << 20
_OK, _NOT_FOUND, _UNAVAILABLE = "0", "5", "14"
# nginx says 400 to long headers.
_TOO_LARGE = ("400", "413", "431")


async def check_buffering(connection: Http2Connection, peer: Between) -> Finding:
    """Check that the first message of a stream arrives while the stream is open."""
    stream = connection.call(HEALTH_WATCH, HEALTH_REQUEST)
    if await stream.until_message(service.RESPONSE_SECONDS):
        return ok("buffering", "none: the first message of an open stream arrives")
    if refused := refusal("buffering", "a stream ends before its first message", stream.end, peer):
        return refused
    if stream.end is not None:
        return Finding("buffering", Outcome.FAIL, f"a stream ends before its first message: {stream.end.described()}")
    text = (
        f"no message of an open stream arrives within {service.RESPONSE_SECONDS:g} s, although single calls work: "
        f"{peer.subject} holds responses back until they end"
    )
    fix = "pass responses on as they arrive: remove filters that read or buffer whole responses"
    paste = (
        "proxy_buffering off;  # nginx, if it is not grpc_pass",
        "# Envoy: remove Lua, ext_proc and WAF filters that read response bodies",
    )
    return Finding("buffering", Outcome.FAIL, text, fix, paste)


async def check_limit(connection: Http2Connection, peer: Between) -> Finding:
    """Check how many calls a connection can have at a time."""
    limit = connection.max_streams
    wanted = LEAST_STREAMS if limit is None else min(limit, LEAST_STREAMS)
    streams = [connection.call(HEALTH_WATCH, HEALTH_REQUEST) for _ in range(wanted)]
    arrived = await asyncio.gather(*(each.until_message(service.RESPONSE_SECONDS) for each in streams))
    opened = sum(arrived)
    if opened < wanted:
        ends = [each.end for each in streams if each.end is not None]
        working = f"{opened} of {wanted} streams of one connection work"
        if refused := refusal("streams", working, ends[0] if ends else None, peer):
            return refused
        said = f"; the others end with {ends[0].described()}" if ends else "; the others get no response"
        text = f"{working}{said}: a limit behind {peer.subject}"
        return Finding("streams", Outcome.FAIL, text, peer.fix(), peer.paste(Fault.STREAMS))
    if limit is None:
        return ok("streams", f"no limit of calls on a connection; {opened} at a time work")
    text = f"{peer.subject} allows {limit:,} calls at a time on a connection"
    if limit >= ENOUGH_STREAMS:
        return ok("streams", text)
    outcome = Outcome.WARN if limit >= LEAST_STREAMS else Outcome.FAIL
    text += "; the next one waits in the client without an error"
    return Finding("streams", outcome, text, peer.fix(), peer.paste(Fault.STREAMS))


async def check_sizes(connection: Http2Connection, peer: Between) -> Finding:
    """Check that long metadata and a large request arrive."""
    # The gateway has no service with this name, and says so.
    large = health_pb2.HealthCheckRequest(service="~" * REQUEST_BYTES).SerializeToString()
    end = await connection.call(HEALTH_CHECK, large).until_end(service.RESPONSE_SECONDS)
    if problem := _problem(end, _NOT_FOUND):
        what = f"a request of {REQUEST_BYTES >> 20} MiB does not arrive"
        return _not_arrived(what, problem, end, peer, Fault.REQUEST_SIZE)
    # Last, because some proxies end the connection.
    long = connection.call(HEALTH_CHECK, HEALTH_REQUEST, [("x-jobgateway-doctor", "~" * METADATA_BYTES)])
    end = await long.until_end(service.RESPONSE_SECONDS)
    if problem := _problem(end, _OK):
        what = f"metadata of {METADATA_BYTES:,} bytes, such as a long token, does not arrive"
        return _not_arrived(what, problem, end, peer, Fault.METADATA_SIZE)
    return ok("sizes", f"requests of {REQUEST_BYTES >> 20} MiB and metadata of {METADATA_BYTES:,} bytes arrive")


def _not_arrived(what: str, problem: str, end: End | None, peer: Between, fault: Fault) -> Finding:
    if refused := refusal("sizes", what, end, peer):
        return refused
    if not _is_about_size(end):
        fix = "look at the logs of the proxy and of the gateway: this is no usual response to a size"
        return Finding("sizes", Outcome.FAIL, f"{what}: {peer.subject} {problem}", fix)
    return Finding("sizes", Outcome.FAIL, f"{what}: {peer.subject} {problem}", peer.fix(), peer.paste(fault))


def _is_about_size(end: End | None) -> bool:
    """Return True if proxies end calls that are too large in this way: by a status, or by a reset."""
    if end is None or end.grpc_status == _UNAVAILABLE:
        return False
    return not end.http_status or end.http_status in _TOO_LARGE


def _problem(end: End | None, expected: str) -> str:
    if end is None:
        return f"does not respond within {service.RESPONSE_SECONDS:g} s"
    return "" if end.grpc_status == expected else f"responds {end.described()}"
