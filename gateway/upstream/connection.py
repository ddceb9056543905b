"""One HTTP/1.1 connection to the upstream, which carries one exchange after another.

Its exceptions say whether the upstream can have read the request.
"""

from __future__ import annotations

import asyncio
import os
import re
import select
import time
from typing import TYPE_CHECKING, Any, ClassVar

from gateway.upstream.response_parser import InvalidResponse, ResponseHead, ResponseParser
from gateway.upstream.share import EventLoopShare

if TYPE_CHECKING:
    from collections.abc import Callable

# Parsed in one go until it is known how long that takes: chunks of one byte take a hundred times as long as others.
FIRST_SLICE_BYTES = 16 << 10
LARGEST_SLICE_BYTES = 1 << 20
SLOW_SLICE_SECONDS = 0.001
# A first read of at most this size is parsed without measuring how long it takes. Almost every response is one.
SMALL_BYTES = 4 << 10
# Pause reading at this many unread bytes.
BUFFER_BYTES = 256 << 10
# A request is written in pieces of this size, and no further once the response has come.
WRITE_BYTES = 64 << 10
# Event loop iterations in which a write yields to pending input.
TURNS = 10
SALVAGE_BYTES = 1 << 18
# Statuses without a body (RFC 9110, section 6.4.1). Some frameworks send one, with these headers.
BODILESS = frozenset({204, 304})
BODY_HEADERS = frozenset({"content-length", "transfer-encoding"})


class NotSent(Exception):
    """Nothing of the request was sent."""


class ConnectionLost(Exception):
    """The connection ended before the response did. The upstream may have read the request."""


class ReusedConnectionLost(ConnectionLost):
    """A connection that was used before ended before the first byte of this response.

    The upstream may have closed it while the request was on its way.
    """


class DoubtfulResponse(ReusedConnectionLost, InvalidResponse):
    """More than one response came together on a connection that was used before.

    The first may be a late one, to an earlier request.
    """


class Connection(asyncio.Protocol):
    """A connection that carries one exchange at a time.

    Call `exchange`, then `read` until it returns nothing. Check `is_reusable` before the next exchange.

    Attributes:
        idle_seconds: None, because how long it may be unused depends on the next request.

    Args:
        loop: the running event loop.
        lost: is called once, when the connection has ended.
    """

    idle_seconds: ClassVar[float | None] = None

    def __init__(self, loop: asyncio.AbstractEventLoop, lost: Callable[[Connection], None]) -> None:
        self._loop = loop
        self._lost = lost
        self._transport: Any = None
        self._poll = select.poll()
        # How many exchanges were begun.
        self._exchanges = 0
        self._ended = False
        self._closed = asyncio.Event()
        # Bytes came that no request asked for.
        self._unsolicited = False
        self._writable = True
        self._wakeup: asyncio.Future[None] | None = None
        self._parser = ResponseParser()
        self._begin()

    def _begin(self) -> None:
        self._parser.begin()
        self._error: Exception | None = None
        # The first byte of the request was written, the last one was, and a byte of the response arrived.
        self._request_begun = self._request_sent = self._heard = False
        self._silence: float = 0
        self._heard_at = 0.0
        self._timer: asyncio.TimerHandle | None = None
        # Bytes that wait to be parsed, and the callback that will parse them.
        self._unparsed = b""
        self._parsing: asyncio.Handle | None = None
        self._slice = FIRST_SLICE_BYTES
        self._share: EventLoopShare | None = None
        self._reading = True
        # The error of a connection that ended while bytes of it were not parsed yet.
        self._end: tuple[Exception | None] | None = None

    # The exchange

    async def exchange(self, head: bytes, body: bytes, silence: float) -> ResponseHead:
        """Send a request, and return the head of its response.

        Args:
            head: The request line and headers, with the empty line.
            body: The body.
            silence: The longest wait for the first byte of the response, and between two reads of it, in seconds.

        Raises:
            NotSent: The connection had ended, or unsolicited bytes came.
            ConnectionLost: The connection ended.
            InvalidResponse: The response is not valid HTTP, or exceeds a limit.
            TimeoutError: The upstream was silent.
        """
        self._begin()
        if not self._exchanges and self._has_input():
            self.close()
            raise NotSent("the upstream closed the connection, or wrote to it, before the request")
        self._exchanges += 1
        self._silence = silence
        self._request_begun = True
        self._transport.write(head + body if len(body) <= WRITE_BYTES else head + body[:WRITE_BYTES])
        for start in range(WRITE_BYTES, len(body), WRITE_BYTES):
            if not await self._awaits_response():
                break
            self._transport.write(body[start : start + WRITE_BYTES])
        if self._parser.head is None:
            self._request_sent = True
            self._restart_silence()
        while self._parser.head is None:
            await self._progress()
        return self._parser.head

    async def read(self) -> bytes:
        """Return the next piece of the body, or nothing at its end. Raises the errors of `exchange`."""
        while True:
            # Bytes from before the loss of the connection are part of the response. Other errors put them in doubt.
            if self._error is not None and type(self._error) is not ConnectionLost:
                raise self._error
            if self._parser.buffered:
                piece = self._parser.take()
                self._resume()
                return piece
            if self._parser.complete:
                return b""
            await self._progress()

    async def _progress(self) -> None:
        """Wait until bytes arrive, more can be written, or the exchange fails. Raises the error of the exchange."""
        if self._error is not None:
            raise self._error
        self._wakeup = self._loop.create_future()
        try:
            await self._wakeup
        finally:
            self._wakeup = None

    def _wake(self) -> None:
        if self._wakeup is not None and not self._wakeup.done():
            self._wakeup.set_result(None)

    async def _awaits_response(self) -> bool:
        """Let the event loop read a response that has arrived, then wait until more can be written.

        If the upstream has closed, a write fails and ends the connection, and a response that was not read is lost.

        Returns:
            Whether the response has not begun.
        """
        for _ in range(TURNS):
            await asyncio.sleep(0)
            if self._parser.head is not None or not self._has_input():
                break
        while self._parser.head is None and (self._error is not None or not self._writable):
            await self._progress()
        return self._parser.head is None

    # Between two exchanges

    @property
    def may_be_kept(self) -> bool:
        """True if the response is complete and no unsolicited bytes came."""
        parser = self._parser
        return (
            parser.complete
            and parser.keeps_alive
            and not parser.excess
            and self._request_sent
            and self._error is None
            and not self._unsolicited
            and not self._ended
        )

    @property
    def is_reusable(self) -> bool:
        """True if it may be kept, is open, and has no bytes to be read."""
        return self.may_be_kept and not self._has_input()

    def _has_input(self) -> bool:
        """Check for unread bytes, an unread end or error, and for the end of the connection."""
        return self._ended or self._transport.is_closing() or bool(self._poll.poll(0))

    def close(self) -> None:
        """Close the connection, and drop all bytes that still arrive."""
        self._stop_parsing()
        self._stop_silence()
        self._unparsed = b""
        self._end = None
        if not self._ended:
            # `close` would first send the rest of the request.
            if self._transport.get_write_buffer_size():
                self._transport.abort()
            else:
                self._transport.close()

    def abort(self) -> None:
        """Close the connection immediately, without TLS close_notify."""
        self.close()
        if not self._ended:
            self._transport.abort()

    async def wait_closed(self) -> None:
        """Return when the connection has ended."""
        await self._closed.wait()

    # The silence of the upstream

    def _restart_silence(self) -> None:
        self._heard_at = self._loop.time()
        if self._timer is None:
            self._timer = self._loop.call_later(self._silence, self._check_silence)

    def _check_silence(self) -> None:
        left = self._heard_at + self._silence - self._loop.time()
        if self._parser.complete or self._error is not None:
            self._timer = None
        elif left > 0 or not self._reading:
            self._timer = self._loop.call_later(left if left > 0 else self._silence, self._check_silence)
        else:
            self._timer = None
            self._fail(TimeoutError("the upstream did not respond in time"))

    def _stop_silence(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None

    # Reading

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Keep the transport (called by the event loop)."""
        self._transport = transport
        self._poll.register(transport.get_extra_info("socket").fileno(), select.POLLIN)

    def pause_writing(self) -> None:
        """Stop writing, because the socket buffer is full (called by the event loop)."""
        self._writable = False

    def resume_writing(self) -> None:
        """Continue to write (called by the event loop)."""
        self._writable = True
        self._wake()

    def data_received(self, data: bytes) -> None:
        """Parse bytes of the response, one slice at a time (called by the event loop)."""
        if not self._request_begun or self._parser.complete or self._error is not None:
            # No request asked for these bytes, and later ones could be taken for a response.
            self._unsolicited = True
            self._transport.close()
            return
        if self._unparsed:
            self._unparsed += data
            return
        self._heard_at = self._loop.time()
        parse = self._parse_slices if self._heard or len(data) > SMALL_BYTES else self._parse
        self._heard = True
        parse(data)
        self._wake()

    def _parse(self, data: bytes) -> None:
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
            self._stop_silence()
            if parser.excess:
                self._end_with_excess(data)
        elif parser.buffered > BUFFER_BYTES:
            self._pause()

    def _accept_head(self, head: ResponseHead) -> bool:
        if self._request_sent and not self._transport.get_write_buffer_size():
            return True
        # A refusal may come early. A success before the whole request was sent belongs to an earlier request.
        if self._exchanges > 1 and 200 <= head.status < 300:
            self._fail(InvalidResponse("the upstream sent a success before it had the whole request"))
            return False
        # The rest of the request is not sent, so that no other can follow it.
        self._request_sent = False
        self._restart_silence()
        return True

    def _end_with_excess(self, data: bytes) -> None:
        # On a reused connection, it may be the response to an earlier request.
        if self._exchanges > 1 and not self._is_forbidden_body(data):
            self._parser.take()
            self._fail(DoubtfulResponse("extra bytes followed the response on a reused connection"))
        else:
            self._transport.close()

    def _is_forbidden_body(self, data: bytes) -> bool:
        """Check whether the excess is a body that the head announces, although its status allows none."""
        head = self._parser.head
        if head is None or head.status not in BODILESS or not head.headers.keys() & BODY_HEADERS:
            return False
        return not re.split(rb"\n\r?\n", data, maxsplit=1)[-1].startswith(b"HTTP/")

    def _parse_slices(self, data: bytes) -> None:
        at = 0
        while at < len(data) and self._error is None and not self._parser.complete:
            rest = self._share.rest(self._loop.time()) if self._share is not None else None
            if rest is not None or not self._reading:
                self._unparsed = data[at:]
                self._pause()
                if rest is not None:
                    self._parsing = self._loop.call_later(rest, self._go_on)
                return
            piece = data[at : at + self._slice] if at or len(data) > self._slice else data
            at += len(piece)
            self._parse_measured(piece)
        if at < len(data) and self._parser.complete and not self._parser.excess and data[at:].strip(b"\r\n"):
            self._parser.excess = True
            self._end_with_excess(data[at:])

    def _parse_measured(self, piece: bytes) -> None:
        before = time.thread_time()
        self._parse(piece)
        took = time.thread_time() - before
        if took > SLOW_SLICE_SECONDS:
            self._slice = max(FIRST_SLICE_BYTES, self._slice // 2)
        elif len(piece) == self._slice < LARGEST_SLICE_BYTES:
            self._slice *= 2
        if self._share is None:
            self._share = EventLoopShare(self._loop.time())
        self._share.spend(took, self._loop.time(), len(piece))

    def _go_on(self) -> None:
        """Parse the bytes that waited, and resume reading."""
        self._parsing = None
        data, self._unparsed = self._unparsed, b""
        self._reading = True
        self._parse_slices(data)
        self._wake()
        if self._unparsed or self._parsing is not None:
            return
        if self._end is not None:
            (error,), self._end = self._end, None
            self._finish(error)
        elif self._reading and not self._transport.is_closing():
            self._heard_at = self._loop.time()
            self._transport.resume_reading()

    def _pause(self) -> None:
        if self._reading:
            self._reading = False
            if not self._ended and not self._transport.is_closing():
                self._transport.pause_reading()

    def _resume(self) -> None:
        if not self._reading and self._parsing is None:
            self._parsing = self._loop.call_soon(self._go_on)

    def _stop_parsing(self) -> None:
        if self._parsing is not None:
            self._parsing.cancel()
            self._parsing = None

    # The end of the connection

    def _fail(self, error: Exception) -> None:
        self._error = error
        self._stop_silence()
        self._stop_parsing()
        self._unparsed = b""
        self._transport.abort()
        self._wake()

    def connection_lost(self, exc: Exception | None) -> None:
        """Parse the bytes that came before the end, then end the exchange (called by the event loop)."""
        self._ended = True
        self._closed.set()
        self._lost(self)
        if not self._request_begun or self._error is not None or self._parser.complete:
            return
        if self._parser.head is None:
            salvage = self._salvage()
            if self._unparsed:
                self._unparsed += salvage
            elif salvage:
                self._heard = True
                self._parse_slices(salvage)
        if self._unparsed:
            self._end = (exc,)
        else:
            self._finish(exc)

    def _finish(self, exc: Exception | None) -> None:
        if self._error is None:
            self._parser.end()
            if not self._parser.complete:
                reused = self._exchanges > 1 and not self._heard
                kind = ReusedConnectionLost if reused else ConnectionLost
                self._error = kind("the connection to the upstream was lost")
                self._error.__cause__ = exc
        self._stop_silence()
        self._wake()

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
