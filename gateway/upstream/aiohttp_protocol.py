"""One connection to the upstream: it checks, limits and paces the bytes that arrive.

aiohttp has no public hooks for this, so its protocol is extended here
(docs/internals/decisions/0003-extend-aiohttps-connector.md).
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import select
import time
from typing import Any

import aiohttp
from aiohttp.client_proto import ResponseHandler
from aiohttp.http_exceptions import HttpProcessingError
from aiohttp.streams import EmptyStreamReader

from gateway.upstream.share import EventLoopShare

# The largest header, name and value together.
MAX_HEADER_BYTES = 64 << 10
# All headers of a response: one of the largest size, and the usual ones.
MAX_HEADERS_BYTES = 72 << 10
# The shortest useful header takes six bytes.
MAX_HEADER_LINES = MAX_HEADERS_BYTES // 6
# Everything except the body: headers, the framing of chunks, their extensions, trailers. A chunk of one byte takes six,
# which is wasteful but no attack.
MAX_FRAMING_BYTES = 384 << 10
MAX_FRAMING_PER_BODY_BYTE = 32
# The first slice to parse, until its duration is known. In chunks of one byte, it takes some milliseconds.
FIRST_SLICE_BYTES = 16 << 10
LARGEST_SLICE_BYTES = 1 << 20
SLOW_SLICE_SECONDS = 0.002
# Interim responses, such as early hints, before the response itself.
MAX_INTERIM_RESPONSES = 100
MAX_INTERIM_BYTES = 1 << 20
# More pieces of a body are joined, because reading them one by one costs a hundred times as much.
MAX_PIECES = 64
# Iterations of the loop that a write waits, so that arrived input is read first.
READ_ITERATIONS = 10
SALVAGE_BYTES = 1 << 18


class ReusedConnectionLost(aiohttp.ClientConnectionError):
    """A reused connection ended before the first byte of the response."""


class UnsolicitedResponse(aiohttp.ClientConnectionError):
    """Bytes arrived before the first byte of the request was sent. Nothing was sent afterwards."""


class InvalidResponse(aiohttp.ClientError):
    """The bytes are HTTP, but cannot be the response to the request."""


class DoubtfulResponse(ReusedConnectionLost, InvalidResponse):
    """More than one response arrived on a reused connection, and the first may belong to an earlier request."""


class UpstreamProtocol(ResponseHandler):
    """One connection, which carries one exchange after another.

    Attributes:
        exchanges: the number of exchanges that have started.
        request_started: the first byte of the request was written.
        request_sent: the last byte of the request was written.
        response_started: the headers of the response arrived.
    """

    def __init__(self, loop: asyncio.AbstractEventLoop) -> None:
        super().__init__(loop)
        self.exchanges = 0
        self._poll: select.poll | None = None
        self._reset()

    def _reset(self) -> None:
        self.request_started = self.request_sent = True
        self.response_started = False
        self._received_any = False
        self._body: aiohttp.StreamReader | None = None
        self._received = 0
        self._slice = FIRST_SLICE_BYTES
        self._share: EventLoopShare | None = None
        self._unparsed = b""
        self._pause_end: asyncio.Handle | None = None
        self._broken = False
        self._loss: tuple[BaseException | None] | None = None
        self._interim_responses = self._interim_bytes = 0
        # The bytes up to the end of the headers, because they may have to be parsed again.
        self._heads: list[bytes] = []
        self._second_response = False

    # Reuse

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Prepare to look for unread input (overrides asyncio)."""
        super().connection_made(transport)
        connection = transport.get_extra_info("socket")
        self._poll = select.poll()
        self._poll.register(connection.fileno(), select.POLLIN)

    def _has_input(self) -> bool:
        """Return whether bytes, an end or an error are waiting to be read."""
        return self.transport is None or self.transport.is_closing() or bool(self._poll and self._poll.poll(0))

    def set_response_params(self, **params: Any) -> None:
        """Start an exchange (overrides aiohttp)."""
        self._reset()
        self.exchanges += 1
        if self._tail:
            self._tail = b""
            self._reject(UnsolicitedResponse("the upstream sent bytes before the request"))
        self._params = params
        super().set_response_params(**params)

    def is_reusable(self) -> bool:
        """Return whether the connection is open, and no bytes have arrived since the last response."""
        return not (self.should_close or self._has_input() or self._has_partial_response())

    def _has_partial_response(self) -> bool:
        try:
            # If the parser holds a part of a second response, it reports an incomplete message.
            return self._parser is not None and self._parser.feed_eof() is not None
        except Exception:  # noqa: BLE001 - any error means that something arrived
            return True

    async def awaits_response(self) -> bool:
        """Let the loop read waiting input, and return True unless the response has started."""
        for _ in range(READ_ITERATIONS):
            await asyncio.sleep(0)
            if self.response_started or self.transport is None or not self._has_input():
                break
        return not self.response_started

    def _reject(self, error: Exception) -> None:
        self._broken = True
        self.set_exception(error)
        if self.transport is not None:
            self.transport.close()

    # Pacing

    def data_received(self, data: bytes) -> None:
        """Parse bytes in slices, with pauses (overrides asyncio)."""
        if not data:
            self._feed(b"")
        elif self._unparsed:
            self._unparsed += data
        elif not self.exchanges:
            super().data_received(data)
        elif not self.request_started:
            self._reject(UnsolicitedResponse("the upstream responded before the request"))
        elif self._body is not None and self._body.is_eof():
            # Bytes after the response: they cannot be told from a later response, so the connection ends.
            self.force_close()
            if self.transport is not None:
                self.transport.close()
        else:
            self._take(data)
            self._received_any = True

    def _take(self, data: bytes) -> None:
        at = 0
        while at < len(data) and self._parser is not None and not self._broken:
            pause = self._share.rest(self._loop.time()) if self._share is not None else None
            if pause is not None or self._reading_paused:
                self._unparsed = data[at:]
                self._pause_reading_for_buffer()
                self._drop_timeout()
                if pause:
                    self._pause_end = self._loop.call_later(pause, self._continue)
                elif pause is not None:
                    self._pause_end = self._loop.call_soon(self._continue)
                return
            piece = data[at : at + self._slice]
            at += len(piece)
            self._feed(piece)
            if self._complete and not self._broken and data[at:].strip(b"\r\n"):
                self._end_after_response()

    def _feed(self, piece: bytes) -> None:
        started = time.thread_time()
        self._received += len(piece)
        self._parse(piece)
        if self._body is not None:
            _join_pieces(self._body)
        took = time.thread_time() - started
        if took > SLOW_SLICE_SECONDS:
            self._slice = max(FIRST_SLICE_BYTES, self._slice // 2)
        elif len(piece) == self._slice < LARGEST_SLICE_BYTES:
            self._slice *= 2
        if self._share is None:
            self._share = EventLoopShare(self._loop.time())
        self._share.spend(took, self._loop.time(), len(piece))
        size = self._body.total_bytes if self._body is not None else 0
        if self._received - size > MAX_FRAMING_BYTES + MAX_FRAMING_PER_BODY_BYTE * size:
            self._reject(InvalidResponse("the upstream's response has too many bytes that are not its body"))

    def _parse(self, data: bytes) -> None:
        if not self.response_started:
            self._heads.append(data)
        super().data_received(data)
        if self._broken:
            return
        if self.response_started:
            self._heads.clear()
            if self._second_response or (self.exchanges > 1 and self._complete and self._has_partial_response()):
                self._end_after_response()
        elif self._interim_responses:
            # aiohttp stops the timer after an interim response too, although the response is still missing.
            self._reschedule_timeout()

    @property
    def _complete(self) -> bool:
        return self._body is not None and self._body.is_eof()

    def _end_after_response(self) -> None:
        # More bytes arrived with a complete response. It counts only if it cannot belong to an earlier request.
        self._broken = True
        self.force_close()
        if self.exchanges > 1:
            error = DoubtfulResponse("more than one response arrived on a reused connection")
            self._buffer.clear()
            if self._body is not None:
                self._body.set_exception(error)
            super().set_exception(error)
        if self.transport is not None:
            self.transport.close()

    def _feed_complete_response(self) -> None:
        # The parser reports no response if unreadable bytes follow in the same piece. So parse it again without them.
        data = b"".join(self._heads)
        super().set_response_params(**self._params)
        parser: Any = self._parser
        code, at = 100, 0
        with contextlib.suppress(ValueError, HttpProcessingError):
            while 100 <= code < 200:
                end = data.index(b"\r\n\r\n", at) + 4
                for message, payload in parser.feed_data(data[at:end])[0]:
                    code, response = message.code, (message, payload)
                at = end
            with contextlib.suppress(HttpProcessingError):
                parser.feed_data(data[at:])
            if response[1].is_eof():
                self.feed_data(response)

    def _continue(self) -> None:
        self._pause_end = None
        if self._reading_paused:
            # Continue with the bytes that the parser holds.
            super().resume_reading()
        data, self._unparsed = self._unparsed, b""
        self._take(data)
        if self._unparsed:
            return
        if self._loss is not None:
            if not self._reading_paused:
                super().connection_lost(*self._loss)
        elif self._buffer_paused:
            self._resume_reading_for_buffer()

    def resume_reading(self, resume_parser: bool = True) -> None:
        """Continue in a later iteration of the loop (overrides aiohttp). Called for each piece that is read."""
        if not self._reading_paused:
            return
        if not resume_parser:
            super().resume_reading(resume_parser)
        elif self._pause_end is None:
            self._pause_end = self._loop.call_soon(self._continue)

    def feed_data(self, data: Any, size: int = 0) -> None:
        """Check the headers of an interim response or of the response itself (overrides aiohttp)."""
        if self._broken:
            return
        if self.response_started:
            self._second_response = True
            return
        message, body = data
        if self._received > MAX_HEADERS_BYTES < sum(len(each[0]) + len(each[1]) + 4 for each in message.raw_headers):
            problem = "the upstream's response has too many or too large headers"
        elif 100 <= message.code < 200 and message.code != 101:
            problem = self._count_interim_response()
        else:
            problem = self._start_response(message.code, body)
        if problem:
            self._reject(InvalidResponse(problem))
        else:
            super().feed_data(data, size)

    def _count_interim_response(self) -> str:
        self._interim_responses += 1
        self._interim_bytes += self._received
        self._received = 0
        if self._interim_responses > MAX_INTERIM_RESPONSES or self._interim_bytes > MAX_INTERIM_BYTES:
            return "the upstream sent too many interim responses"
        return ""

    def _start_response(self, status: int, body: aiohttp.StreamReader) -> str:
        early = not self.request_sent or (self.transport is not None and self.transport.get_write_buffer_size() > 0)
        if early and self.exchanges > 1 and 200 <= status < 300:
            # An error may arrive early. A success before the end of the request belongs to an earlier request.
            return "the upstream reported success before it had the whole request"
        if early:
            self.force_close()
        self.response_started = True
        self._body = body
        return ""

    # The end

    def set_exception(self, exc: BaseException, *cause: BaseException) -> None:
        """End the exchange because the connection failed or the bytes are not HTTP (overrides aiohttp)."""
        if isinstance(self._exception, UnsolicitedResponse | InvalidResponse):
            return
        if isinstance(exc, HttpProcessingError) and not self._broken:
            if not self.response_started:
                self._feed_complete_response()
            if self._complete:
                self._end_after_response()
                return
        lost = isinstance(exc, OSError | aiohttp.ClientConnectionError) and not isinstance(
            exc, TimeoutError | UnsolicitedResponse
        )
        if lost and not self.response_started and self._loss is None:
            self._take_salvaged(self._salvage())
        self._broken = self._broken or not lost
        if self.response_started:
            self._should_close = True
            self._drop_timeout()
            if isinstance(exc, HttpProcessingError):
                exc = InvalidResponse("the upstream's response is not valid HTTP")
            if isinstance(exc, InvalidResponse) and self._payload is not None:
                self._payload.set_exception(exc)
                # Keep this error, although the connection is lost next.
                self._payload = None
            return
        if lost and self.exchanges > 1 and not self._received_any:
            exc, cause = ReusedConnectionLost(str(exc)), (exc,)
        super().set_exception(exc, *cause)

    def connection_lost(self, exc: BaseException | None) -> None:
        """End the connection (overrides asyncio), after all bytes that arrived before are parsed at the usual pace."""
        if not self.response_started and self._parser is not None and not self._broken:
            salvage = self._salvage()
            if self._unparsed:
                self._unparsed += salvage
            else:
                self._take_salvaged(salvage)
        if self.transport is None or self._broken or not (self._unparsed or self._reading_paused):
            self._cancel_pause()
            super().connection_lost(exc)
            return
        self._should_close = True
        self._loss = (exc,)

    def close(self) -> None:
        """Close the connection, and drop unparsed bytes (overrides aiohttp)."""
        self._cancel_pause()
        if self._loss is not None:
            super().connection_lost(*self._loss)
        super().close()

    def _cancel_pause(self) -> None:
        if self._pause_end is not None:
            self._pause_end.cancel()
            self._pause_end = None

    def _take_salvaged(self, data: bytes) -> None:
        if data:
            self._received_any = True
            self._take(data)

    def _salvage(self) -> bytes:
        """Return the bytes that have arrived on a connection that cannot be written to any more.

        The event loop drops them. With TLS they cannot be read here, because the loop holds the keys.
        """
        transport = self.transport
        if (
            transport is None
            or not self.request_started
            or self._parser is None
            or transport.get_extra_info("sslcontext")
        ):
            return b""
        # The socket is open until `connection_lost` returns.
        connection = transport.get_extra_info("socket")
        try:
            return os.read(connection.fileno(), SALVAGE_BYTES) if connection is not None else b""
        except OSError:
            return b""


def _join_pieces(body: aiohttp.StreamReader) -> None:
    if isinstance(body, EmptyStreamReader):
        return
    pieces, ends = body._buffer, body._http_chunk_splits  # noqa: SLF001 - aiohttp has no public access
    if len(pieces) > MAX_PIECES and not body._buffer_offset:  # noqa: SLF001
        joined = b"".join(pieces)
        pieces.clear()
        pieces.append(joined)
    if ends is not None and len(ends) > MAX_PIECES:
        # Only the last one is used: it is the start of the next chunk.
        last = ends[-1]
        ends.clear()
        ends.append(last)
