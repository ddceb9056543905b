"""Parse the HTTP/1.1 responses of one connection, and limit everything beside their bodies."""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

import httptools

if TYPE_CHECKING:
    from collections.abc import Mapping

# One header, name and value together.
MAX_HEADER_BYTES = 64 << 10
# All headers of a response: one of the largest size, and the usual ones beside it.
MAX_HEADERS_BYTES = 72 << 10
# Everything but the body: headers, the framing of chunks, trailers. A chunk of one byte has a framing of five.
MAX_FRAMING_BYTES = 384 << 10
MAX_FRAMING_PER_BODY_BYTE = 32
# Interim responses (1xx) before the response, such as early hints.
MAX_INTERIM_RESPONSES = 100
MAX_INTERIM_BYTES = 1 << 20
SWITCHING_PROTOCOLS = 101

# The headers of a response that the gateway reads.
READ_HEADERS = frozenset(
    {b"content-encoding", b"content-length", b"location", b"retry-after", b"transfer-encoding"},
)


class InvalidResponse(Exception):
    """The bytes are not an HTTP response that can be read, or are too many."""


class ResponseHead(NamedTuple):
    """Status and headers of a response; of the headers, those in `READ_HEADERS`, with names in lower case."""

    status: int
    headers: Mapping[str, str]


class ResponseParser:
    """Parses one response after another, with the interim responses before each. Call `begin` before each request.

    Attributes:
        begun: Whether a byte of the response came.
        head: Status and headers, once they are complete.
        complete: Whether the whole response was parsed.
        excess: Whether bytes of something else followed the response.
        keeps_alive: Whether the connection may be used again. Valid once the response is complete.
        buffered: How many bytes of the body `take` returns.
    """

    def __init__(self) -> None:
        self._parser = httptools.HttpResponseParser(self)
        # As the major HTTP clients do: servers send bare line feeds, and spaces after the size of a chunk.
        self._parser.set_dangerous_leniencies(
            lenient_headers=True, lenient_optional_cr_before_lf=True, lenient_spaces_after_chunk_size=True
        )
        self.begin()

    def begin(self) -> None:
        """Expect the response to another request."""
        self.begun = False
        self.head: ResponseHead | None = None
        self.complete = False
        self.excess = False
        self.keeps_alive = False
        self.buffered = 0
        self._headers: dict[str, str] = {}
        self._header_bytes = 0
        self._pieces: list[bytes] = []
        self._received = self._body_bytes = 0
        self._interim_responses = self._interim_bytes = 0
        self._failure: str | None = None

    def feed(self, data: bytes) -> None:
        """Parse the next bytes.

        Raises:
            InvalidResponse: The response cannot be read, or has too many bytes of headers and framing. Not raised for
                bytes after a complete response; they set `excess`.
        """
        self.begun = True
        self._received += len(data)
        try:
            self._parser.feed_data(data)
        except httptools.HttpParserUpgrade:
            self.complete = True
        except httptools.HttpParserError as error:
            if not self.complete:
                raise InvalidResponse("the upstream's response is not valid HTTP") from error
            self.excess = True
        if self._failure is not None:
            raise InvalidResponse(self._failure)
        if self.head is None and self._received > MAX_HEADERS_BYTES:
            raise InvalidResponse("the upstream's response has headers of more than 64 KiB")
        if self._received - self._body_bytes > MAX_FRAMING_BYTES + MAX_FRAMING_PER_BODY_BYTE * self._body_bytes:
            framing = self._received - self._body_bytes
            raise InvalidResponse(f"the upstream's response has {framing} bytes of headers and framing, too many")

    def end(self) -> None:
        """Complete a response without a length, because the connection has ended."""
        if self.head is not None:
            headers = self.head.headers
            chunked = headers.get("transfer-encoding", "").lower().rstrip().endswith("chunked")
            endless = "content-length" not in headers and not chunked
            self.complete = self.complete or endless

    def take(self) -> bytes:
        """Return the bytes of the body that were parsed since the last call."""
        pieces, self._pieces = self._pieces, []
        self.buffered = 0
        return pieces[0] if len(pieces) == 1 else b"".join(pieces)

    # Callbacks of httptools. An exception in one would not stop the parser, and costs more than a flag.

    def on_message_begin(self) -> None:
        """Note another response after a complete one."""
        self.excess = self.complete

    def on_header(self, name: bytes, value: bytes) -> None:
        """Count a header, and keep it if the gateway reads it."""
        if self.head is not None:
            return
        size = len(name) + len(value) + 4
        self._header_bytes += size
        if size > MAX_HEADER_BYTES or self._header_bytes > MAX_HEADERS_BYTES:
            self._failure = "the upstream's response has headers of more than 64 KiB"
        elif b"\0" in value:
            self._failure = "the upstream's response has a NUL in a header"
        elif (lower := name.rstrip().lower()) in READ_HEADERS:
            key, text = lower.decode(), value.decode("latin-1")
            self._headers[key] = f"{self._headers[key]}, {text}" if key in self._headers else text

    def on_headers_complete(self) -> None:
        """Keep status and headers, except those of an interim response."""
        if self.head is not None:
            return
        status = self._parser.get_status_code()
        if 100 <= status < 200 and status != SWITCHING_PROTOCOLS:
            self._interim_responses += 1
            self._interim_bytes += self._header_bytes
            if self._interim_responses > MAX_INTERIM_RESPONSES or self._interim_bytes > MAX_INTERIM_BYTES:
                self._failure = "the upstream sends interim responses (1xx) without end"
        else:
            self.head = ResponseHead(status, self._headers)
        self._header_bytes = 0

    def on_body(self, piece: bytes) -> None:
        """Keep a piece of the body."""
        if not self.complete:
            self._pieces.append(piece)
            self.buffered += len(piece)
            self._body_bytes += len(piece)

    def on_message_complete(self) -> None:
        """Complete the response, or skip an interim one."""
        if self.head is None:
            self._headers = {}
            self._received = 0
        elif not self.complete:
            self.complete = True
            self.keeps_alive = self._parser.should_keep_alive()
