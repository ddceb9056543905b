"""The Job Gateway: one gRPC service in front of the VIKTOR REST API."""

__version__ = "0.1.0"
