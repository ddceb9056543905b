"""The checks that a Job Gateway responds: health, and reflection."""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import TYPE_CHECKING

from grpc_health.v1 import health_pb2
from grpc_reflection.v1alpha import reflection_pb2
from jobgateway.v1 import job_service_pb2 as pb

from gateway.cli.doctor.between import Between, Fault, between
from gateway.cli.doctor.ends import End, Kind
from gateway.cli.doctor.findings import Finding, Outcome, ok, skipped
from gateway.cli.doctor.refusals import refusal
from gateway.cli.output.formatting import clean

if TYPE_CHECKING:
    from gateway.cli.doctor.http2 import Http2Connection
    from gateway.cli.doctor.stream import Stream

RESPONSE_SECONDS = 10.0
"""The time for a response that takes milliseconds."""

SERVICE = pb.DESCRIPTOR.services_by_name["JobService"].full_name
HEALTH_CHECK = "/grpc.health.v1.Health/Check"
HEALTH_WATCH = "/grpc.health.v1.Health/Watch"
REFLECTION = "/grpc.reflection.v1alpha.ServerReflection/ServerReflectionInfo"
HEALTH_REQUEST = health_pb2.HealthCheckRequest(service=SERVICE).SerializeToString()
LIST_REQUEST = reflection_pb2.ServerReflectionRequest(list_services="").SerializeToString()

_OK, _NOT_FOUND, _UNIMPLEMENTED, _UNAVAILABLE = "0", "5", "12", "14"
_NO_HTTP1 = "000"
_NO_GATEWAY = ("502", "503", "504")
_READY = ("curl -sS http://127.0.0.1:9464/readyz",)
_SERVING = health_pb2.HealthCheckResponse.SERVING


@dataclass(frozen=True)
class Service:
    """The findings about the service.

    Attributes:
        finding: Whether it is a Job Gateway that serves.
        peer: The program at the other end of the connection.
        serves: True if it is a Job Gateway that serves.

    """

    finding: Finding
    peer: Between
    serves: bool = False


async def check_health(connection: Http2Connection) -> Service:
    """Check that a Job Gateway serves."""
    stream = connection.call(HEALTH_CHECK, HEALTH_REQUEST)
    end = await stream.until_end(RESPONSE_SECONDS)
    fields = stream.headers or (end.fields if end else {})
    peer = between(connection.settings or {}, fields)
    finding = _finding(end, stream, peer)
    return Service(finding, peer, serves=finding.outcome is Outcome.OK)


def is_serving(message: bytes) -> bool:
    """Return True if a message of the health service says that the gateway serves."""
    return health_pb2.HealthCheckResponse.FromString(message).status == _SERVING


def _finding(end: End | None, stream: Stream, peer: Between) -> Finding:
    if end is None:
        text = f"{peer.subject} accepts the call, and does not respond within {RESPONSE_SECONDS:g} s"
        if peer.name:
            fix = "check that the gateway runs, and that the proxy passes gRPC to it"
            return _failed(text, fix, peer.paste(Fault.NOT_GRPC))
        return _failed(text, "look at the log of the gateway; if this does not say ok, restart it", _READY)
    if end.kind is Kind.STATUS and end.grpc_status == _OK and stream.messages:
        if is_serving(stream.messages[0]):
            return ok("gateway", f"a Job Gateway responds; {peer.described}")
        text = f"the gateway is shutting down and accepts no calls; {peer.described}"
        return _failed(
            text,
            "wait for its successor; if it stays so, this shows why",
            ("kubectl get pods -A -l app.kubernetes.io/name=jobgateway",),
        )
    if end.kind is Kind.NO_TRAILERS:
        text = f"{peer.subject} ends the response without grpc-status: trailers are lost, as over HTTP/1.1"
        return _failed(text, "speak HTTP/2 on every part of the way", peer.paste(Fault.NOT_GRPC))
    if end.kind is not Kind.STATUS:
        text = f"{peer.subject} ends the call without a response: {end.described()}"
        return _failed(text, "speak HTTP/2 on every part of the way", peer.paste(Fault.NOT_GRPC))
    return _other_status(end, peer, _title(stream.page))


def _other_status(end: End, peer: Between, title: str) -> Finding:
    said = end.described()
    status = end.fields.get(":status", "")
    # nginx says 502 or 504 without a gateway.
    refused = refusal("gateway", "the health service does not work", end, peer)
    if refused and (status != "503" or peer.name == "nginx"):
        return refused
    if status in _NO_GATEWAY or end.grpc_status == _UNAVAILABLE:
        text = f"{peer.subject} reaches no gateway behind it: {said}{title}"
        fix = "start the gateway, and check its address in the proxy; on its machine, this must say ok"
        return _failed(text, fix, _READY)
    if end.grpc_status in (_NOT_FOUND, _UNIMPLEMENTED):
        text = f"a gRPC server responds ({said}), but it does not have the service {SERVICE}"
        fix = "name a Job Gateway with --target; if a proxy is at this address, let it pass all paths"
        return _failed(text, fix, ())
    if end.grpc_status:
        return _failed(f"the health service fails: {said}", "look at the log of the gateway", ())
    if "certificate" in title:
        # nginx agrees on TLS without a client certificate, and rejects the request.
        text = f"{peer.subject} requires a client certificate (mTLS): {said}{title}"
        return _failed(text, "present one with --cert-file and --key-file", ())
    if status == _NO_HTTP1:
        # nginx says so if the response of the gateway is not HTTP/1.
        text = f"{peer.subject} does not understand the response of the gateway: it passes calls on with HTTP/1.1"
        return _failed(text, "let the proxy pass gRPC", peer.paste(Fault.NOT_GRPC))
    kind = end.fields.get("content-type", "no content type")[:40]
    text = f"{peer.subject} responds {said}{title} ({kind}), which is not gRPC"
    return _failed(text, "name a Job Gateway with --target, or let the proxy pass gRPC", peer.paste(Fault.NOT_GRPC))


def _title(page: bytes) -> str:
    """Return the title of a page of HTML, in which nginx gives its reason."""
    found = re.search(r"<title>(.{1,100}?)</title>", page.decode(errors="replace"))
    return f", {clean(found[1])!r}" if found else ""


def _failed(text: str, fix: str, paste: tuple[str, ...]) -> Finding:
    return Finding("gateway", Outcome.FAIL, text, fix, paste)


async def check_reflection(stream: Stream, peer: Between) -> Finding:
    """Check the response of a reflection stream on which the client has not half-closed."""
    if await stream.until_message(RESPONSE_SECONDS):
        return ok("reflection", "on; requests of a stream arrive before its end")
    if stream.end is not None and stream.end.grpc_status == _UNIMPLEMENTED:
        return skipped("reflection", "off (JOBGATEWAY_REFLECTION), which is no fault")
    if refused := refusal("reflection", "the stream ends", stream.end, peer):
        return refused
    if stream.end is not None:
        return Finding("reflection", Outcome.WARN, f"the stream ends: {stream.end.described()}")
    text = (
        f"a request of an open stream gets no response within {RESPONSE_SECONDS:g} s: {peer.subject} buffers requests"
    )
    fix = "turn the buffering of requests off, because WatchJobs and reflection send them one by one"
    return Finding(
        "reflection",
        Outcome.FAIL,
        text,
        fix,
        ("proxy_request_buffering off;  # nginx", "# Envoy: remove envoy.filters.http.buffer"),
    )
