"""The end of an HTTP/2 stream: how it ended, and what it says about its author."""

from __future__ import annotations

from dataclasses import dataclass, field
from enum import StrEnum

from h2.errors import ErrorCodes

from gateway.cli.output.formatting import clean

_LONGEST_DESCRIPTION = 120


class Kind(StrEnum):
    """The ways in which a stream can end."""

    STATUS = "status"
    """With trailers, or with headers alone."""
    NO_TRAILERS = "no trailers"
    RESET = "reset"
    GOAWAY = "goaway"
    CLOSED = "closed"
    NO_REPLY = "no reply"
    """The peer did not reply to a ping."""
    NOT_BEGUN = "not begun"
    """The peer allows no further stream."""


@dataclass(frozen=True)
class End:
    """The end of a stream.

    Attributes:
        kind: How it ended.
        fields: The last headers, with lower-case names.
        code: The HTTP/2 error code of a reset or GOAWAY.
        seconds: The time since the request.
        debug: The text of a GOAWAY.

    """

    kind: Kind
    fields: dict[str, str] = field(default_factory=dict)
    code: int = 0
    seconds: float = 0.0
    debug: str = ""

    @property
    def of_connection(self) -> bool:
        """True if the whole connection ended."""
        return self.kind in (Kind.GOAWAY, Kind.CLOSED, Kind.NO_REPLY)

    @property
    def http_status(self) -> str:
        """The HTTP status of a response without a gRPC status, or an empty text."""
        return "" if self.grpc_status else self.fields.get(":status", "")

    @property
    def grpc_status(self) -> str:
        """The number of the gRPC status, or an empty text."""
        return self.fields.get("grpc-status", "")

    @property
    def grpc_message(self) -> str:
        """The message of the gRPC status."""
        return self.fields.get("grpc-message", "")

    def described(self) -> str:
        """Return the end in a few words, on one line. The peer may have written some of them."""
        return clean(self._words())[:_LONGEST_DESCRIPTION]

    def _words(self) -> str:
        match self.kind:
            case Kind.STATUS if self.grpc_status:
                message = f" {self.grpc_message}" if self.grpc_message else ""
                return f"grpc-status {self.grpc_status}{message}"
            case Kind.STATUS:
                return f"HTTP {self.fields.get(':status', '?')}"
            case Kind.NO_TRAILERS:
                return "end without grpc-status"
            case Kind.RESET:
                return f"RST_STREAM {code_name(self.code)}"
            case Kind.GOAWAY:
                debug = f" {self.debug}" if self.debug else ""
                return f"GOAWAY {code_name(self.code)}{debug}"
            case Kind.CLOSED:
                return "connection closed"
            case Kind.NO_REPLY:
                return "no reply to a ping"
            case Kind.NOT_BEGUN:
                return "no further call is allowed on the connection"


def code_name(code: int) -> str:
    """Return the name of an HTTP/2 error code."""
    try:
        return ErrorCodes(code).name
    except ValueError:
        return str(code)
