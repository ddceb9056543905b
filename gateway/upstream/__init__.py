"""The REST client: one attempt, and what it was. It knows HTTP and JSON, and no protobuf."""

from gateway.upstream.client import RestClient, WordObserver
from gateway.upstream.transport import Observer, TimeLimits, Transport

__all__ = ["Observer", "RestClient", "TimeLimits", "Transport", "WordObserver"]
