"""The REST client: one attempt and its outcome. It is independent of gRPC and protobuf."""

from gateway.upstream.client import RestClient, UnknownStatusObserver
from gateway.upstream.transport import RequestObserver, Timeouts, Transport

__all__ = ["RequestObserver", "RestClient", "Timeouts", "Transport", "UnknownStatusObserver"]
