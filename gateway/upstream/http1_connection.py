"""A connection to the upstream with HTTP/1.1."""

from __future__ import annotations

import os
import re
from typing import TYPE_CHECKING, ClassVar

from gateway.upstream.connection import (
    SENT,
    SMALL_BYTES,
    WRITE_BYTES,
    Connection,
    ConnectionLost,
    ReusedConnectionLost,
)
from gateway.upstream.response_parser import InvalidResponse, ResponseHead, ResponseParser

if TYPE_CHECKING:
    import asyncio
    from collections.abc import Callable

    from gateway.clock import Clock

# Pause reading at this many unread bytes.
BUFFER_BYTES = 256 << 10
SALVAGE_BYTES = 1 << 18
# Statuses without a body (RFC 9110, section 6.4.1). Some frameworks send one, with these headers.
BODILESS = frozenset({204, 304})
BODY_HEADERS = frozenset({"content-length", "transfer-encoding"})


class DoubtfulResponse(ReusedConnectionLost, InvalidResponse):
    """More than one response came together on a connection that was used before.

    The first may be a late one, to an earlier request.
    """


class Http1Connection(Connection[ResponseParser]):
    """A connection with HTTP/1.1. Bytes that no request asked for end it."""

    idle_seconds: ClassVar[float | None] = None

    def __init__(self, loop: asyncio.AbstractEventLoop, clock: Clock, lost: Callable[[Http1Connection], None]) -> None:
        super().__init__(loop, clock, lost, ResponseParser())

    async def _send(self, head: bytes, body: bytes) -> None:
        self._begin()
        self._transport.write(head + body if len(body) <= WRITE_BYTES else head + body[:WRITE_BYTES])
        for start in range(WRITE_BYTES, len(body), WRITE_BYTES):
            if not await self._awaits_response():
                break
            self._transport.write(body[start : start + WRITE_BYTES])

    def data_received(self, data: bytes) -> None:
        """Parse bytes of the response, one slice at a time (called by the event loop)."""
        if not self._in_exchange:
            # No request asked for these bytes, and later ones could be taken for a response.
            self.close()
            return
        if self._parser.begun or len(data) > SMALL_BYTES:
            self._input.feed(data, self)
        else:
            self._parse_piece(data)
        if self._in_exchange:
            self._restart_silence()
        self._wake()

    def parse(self, data: bytes, at: int) -> int:
        """Parse one slice from `at`, and return its end. Bytes after the response are dropped (called by the input)."""
        end = at + self._input.slice_bytes
        self._parse_piece(data[at:end])
        if self._in_exchange:
            return min(end, len(data))
        parser = self._parser
        if parser.complete and not parser.excess and data[end:].strip(b"\r\n"):
            parser.excess = True
            self._end_with_excess(data[end:])
        return len(data)

    def _parse_piece(self, data: bytes) -> None:
        parser = self._parser
        had_head = parser.head is not None
        try:
            parser.feed(data)
        except InvalidResponse as error:
            self._fail(error)
            return
        if parser.head is not None and not had_head and not self._accept_head(parser.head):
            return
        if parser.complete:
            self._complete(reusable=parser.keeps_alive)
            if parser.excess:
                self._end_with_excess(data)
        elif parser.buffered > BUFFER_BYTES:
            self._input.hold()

    def _accept_head(self, head: ResponseHead) -> bool:
        if self._state is SENT and not self._transport.get_write_buffer_size():
            return True
        # A refusal may come early. A success before the whole request was sent belongs to an earlier request.
        if self._exchanges > 1 and 200 <= head.status < 300:
            self._fail(InvalidResponse("the upstream sent a success before it had the whole request"))
            return False
        # The rest of the request is not sent, so that no other can follow it.
        self._cut_short()
        return True

    def _end_with_excess(self, data: bytes) -> None:
        # On a reused connection, it may be the response to an earlier request.
        if self._exchanges > 1 and not self._is_forbidden_body(data):
            self._parser.take()
            self._fail(DoubtfulResponse("extra bytes followed the response on a reused connection"))
        else:
            self.close()

    def _is_forbidden_body(self, data: bytes) -> bool:
        """Check whether the excess is a body that the head announces, although its status allows none."""
        head = self._parser.head
        if head is None or head.status not in BODILESS or not head.headers.keys() & BODY_HEADERS:
            return False
        return not re.split(rb"\n\r?\n", data, maxsplit=1)[-1].startswith(b"HTTP/")

    def _parse_unread(self) -> None:
        if self._parser.head is None and (data := self._salvage()):
            self._input.feed(data, self)

    def _salvage(self) -> bytes:
        """Read the bytes that have arrived on a connection that can no longer be written to.

        The event loop drops such a connection without reading them. With TLS, only the loop could decrypt it.
        """
        if self._transport.get_extra_info("sslcontext"):
            return b""
        # The socket is open until `connection_lost` returns.
        connection = self._transport.get_extra_info("socket")
        try:
            return os.read(connection.fileno(), SALVAGE_BYTES) if connection is not None else b""
        except OSError:
            return b""

    def _loss(self) -> ConnectionLost | None:
        parser = self._parser
        # The end of the connection is the end of a response without a length.
        parser.end()
        if parser.complete:
            return None
        kind = ReusedConnectionLost if self._exchanges > 1 and not parser.begun else ConnectionLost
        return kind("the connection to the upstream was lost")
