"""The REST client: one attempt, and what it was. It knows HTTP and JSON, and no protobuf."""

from gateway.upstream.client import RequestContext, RestClient, UnknownStatusObserver
from gateway.upstream.transport import RequestObserver, Timeouts, Transport

__all__ = ["RequestContext", "RequestObserver", "RestClient", "Timeouts", "Transport", "UnknownStatusObserver"]
