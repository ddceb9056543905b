"""The REST client: one attempt and its outcome. It is independent of gRPC and protobuf."""

from gateway.upstream.client import JobObserver, LastRead, RequestContext, RestClient
from gateway.upstream.connection_pool import HTTP2
from gateway.upstream.health import UpstreamHealth
from gateway.upstream.jobs import DROPPABLE
from gateway.upstream.probe import probe
from gateway.upstream.transport import RequestObserver, Timeouts, Transport

__all__ = [
    "DROPPABLE",
    "HTTP2",
    "JobObserver",
    "LastRead",
    "RequestContext",
    "RequestObserver",
    "RestClient",
    "Timeouts",
    "Transport",
    "UpstreamHealth",
    "probe",
]
