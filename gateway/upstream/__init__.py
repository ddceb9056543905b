"""The REST client: one attempt, and what it was. It knows HTTP and JSON, and no protobuf."""

from gateway.upstream.client import RestClient, UnknownStatusObserver
from gateway.upstream.transport import RequestObserver, Timeouts, Transport

__all__ = ["RequestObserver", "RestClient", "Timeouts", "Transport", "UnknownStatusObserver"]
