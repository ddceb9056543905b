"""The HTTP/2 frames (RFC 9113) that a proxy reads from a client, and sends when it ends a gRPC stream."""

from __future__ import annotations

import struct
from typing import Final, NamedTuple

PREFACE: Final = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"
HEAD_BYTES: Final = 9

DATA, HEADERS, RST_STREAM, SETTINGS, PING, GOAWAY, CONTINUATION = 0x0, 0x1, 0x3, 0x4, 0x6, 0x7, 0x9
END_STREAM, ACK, END_HEADERS, PADDED, PRIORITY = 0x1, 0x1, 0x4, 0x8, 0x20
_PRIORITY_BYTES: Final = 5

ERRORS: Final = {
    "NO_ERROR": 0x0,
    "PROTOCOL_ERROR": 0x1,
    "INTERNAL_ERROR": 0x2,
    "REFUSED_STREAM": 0x7,
    "CANCEL": 0x8,
    "ENHANCE_YOUR_CALM": 0xB,
}


class Head(NamedTuple):
    """The first nine bytes of a frame; `size` is the length of the payload."""

    size: int
    kind: int
    flags: int
    stream: int

    @classmethod
    def of(cls, data: bytes) -> Head:
        """Decode the nine bytes."""
        high, low, kind, flags, stream = struct.unpack("!BHBBI", data)
        return cls((high << 16) + low, kind, flags, stream & 0x7FFF_FFFF)


def frame(kind: int, flags: int, stream: int, payload: bytes = b"") -> bytes:
    """Encode a frame."""
    return struct.pack("!BHBBI", len(payload) >> 16, len(payload) & 0xFFFF, kind, flags, stream) + payload


def content(head: Head, payload: bytes) -> bytes:
    """Return the payload of a DATA, HEADERS or CONTINUATION frame without padding and priority."""
    if head.kind != CONTINUATION and head.flags & PADDED:
        payload = payload[1 : len(payload) - payload[0]]
    return payload[_PRIORITY_BYTES:] if head.kind == HEADERS and head.flags & PRIORITY else payload


def headers(stream: int, fields: dict[str, str]) -> bytes:
    """Encode a HEADERS frame that ends a stream.

    It does not change the peer's HPACK table, so it can be inserted between the frames of another sender.
    """
    # Literal header fields without indexing, with a new name (RFC 7541, section 6.2.2).
    literals = (b"\x00" + _string(name) + _string(value) for name, value in fields.items())
    return frame(HEADERS, END_STREAM | END_HEADERS, stream, b"".join(literals))


def reset(stream: int, error: str) -> bytes:
    """Encode a RST_STREAM frame."""
    return frame(RST_STREAM, 0, stream, struct.pack("!I", ERRORS[error]))


def go_away(last_stream: int) -> bytes:
    """Encode a GOAWAY frame without an error."""
    return frame(GOAWAY, 0, 0, struct.pack("!II", last_stream, ERRORS["NO_ERROR"]))


def _string(text: str) -> bytes:
    encoded = text.encode("ascii")
    if len(encoded) > 126:
        raise ValueError(f"header {text[:20]!r}: too long; use at most 126 bytes (got {len(encoded)})")
    return bytes([len(encoded)]) + encoded
