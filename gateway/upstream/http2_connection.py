"""One HTTP/2 connection to the upstream: one exchange after another, and proof that a request was not processed."""

from __future__ import annotations

import asyncio
import select
import time
from typing import TYPE_CHECKING, Any, ClassVar

import h2.config
import h2.connection
import h2.events
import h2.exceptions
import h2.settings
from h2.errors import ErrorCodes
from h2.settings import SettingCodes
from hpack import Encoder
from hpack.hpack import encode_integer

from gateway.upstream.connection import SMALL_BYTES, TURNS, WRITE_BYTES, ConnectionLost, NotSent
from gateway.upstream.http_request import http2_fields
from gateway.upstream.response_parser import (
    MAX_HEADERS_BYTES,
    MAX_INTERIM_BYTES,
    MAX_INTERIM_RESPONSES,
    READ_HEADERS,
    InvalidResponse,
    ResponseHead,
)
from gateway.upstream.share import EventLoopShare

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable

# A body waits to be taken within this window. Responses of at most this size reserve no memory.
WINDOW_BYTES = 1 << 20
FIRST_WINDOW_BYTES = 65_535
FRAME_HEAD_BYTES = 9
MAX_FRAME_BYTES = 16 << 10
# Frames without a byte of a response: for each exchange, and in addition for the bytes of its bodies.
MAX_OTHER_FRAMES = 2_000
BYTES_PER_OTHER_FRAME = 256
# Frames that are read before the time that they took is counted.
FRAMES_AT_A_TIME = 16
SLOW_FRAME_BYTES = 1 << 10
# h2 remembers each stream.
MAX_EXCHANGES = 10_000

# Of HPACK: the size of the table is 0; a header that also proxies keep out of their tables.
TABLE_IS_EMPTY = b"\x20"
NEVER_INDEXED = b"\x10"

DATA, HEADERS, PUSH_PROMISE, GOAWAY, CONTINUATION = 0, 1, 5, 7, 9


class LiteralEncoder(Encoder):
    """Encodes headers as they are, in a tenth of the time of a compressed encoding.

    It keeps no headers, so that requests do not share a compression context and the upstream cannot make it grow.
    """

    def __init__(self) -> None:
        self._is_told = False

    @property
    def header_table_size(self) -> int:
        """The size of the table, which is not used."""
        return 0

    @header_table_size.setter
    def header_table_size(self, value: int) -> None:
        # The upstream expects to be told after it has changed the limit.
        self._is_told = False

    def encode(self, headers: Any, huffman: bool = True) -> bytes:
        """Encode a header block."""
        block = bytearray() if self._is_told else bytearray(TABLE_IS_EMPTY)
        self._is_told = True
        for name, value in headers:
            block += NEVER_INDEXED
            block += encode_integer(len(name), 7) + name
            block += encode_integer(len(value), 7) + value
        return bytes(block)


class Http2Connection(asyncio.Protocol):
    """A connection that carries one exchange at a time.

    Call `exchange`, then `read` until it returns nothing. Check `is_reusable` before the next exchange.

    Frames are passed to h2 one at a time, because it loses the events of the frames before a broken one. GOAWAY is
    read here: after it, h2 accepts no frame, not even of the response that the upstream still sends.

    Attributes:
        idle_seconds: How long it may be unused, for any method. A request that meets its end is known to be
            unprocessed.

    Args:
        loop: The running event loop.
        lost: Is called once, when the connection has ended.
    """

    idle_seconds: ClassVar[float | None] = 60.0

    def __init__(self, loop: asyncio.AbstractEventLoop, lost: Callable[[Http2Connection], None]) -> None:
        self._loop = loop
        self._lost = lost
        self._transport: Any = None
        self._poll = select.poll()
        self._exchanges = 0
        self._stream = 0
        self._ended = False
        self._closed = asyncio.Event()
        # The upstream accepts no further request on this connection.
        self._going_away = False
        self._writable = True
        self._wakeup: asyncio.Future[None] | None = None
        # Bytes that wait to be parsed, and who parses them later.
        self._unparsed = b""
        self._parsing: asyncio.Handle | None = None
        self._header_bytes = 0
        # The error of a connection that ended while bytes of it were not parsed yet.
        self._end: tuple[Exception | None] | None = None
        # Our own headers are valid, and of the upstream's, few are read.
        config = h2.config.H2Configuration(
            validate_outbound_headers=False, normalize_outbound_headers=False, validate_inbound_headers=False
        )
        self._h2 = h2.connection.H2Connection(config)
        self._h2.encoder = LiteralEncoder()
        self._begin()

    def _begin(self) -> None:
        self._head: ResponseHead | None = None
        self._pieces: list[bytes] = []
        self._buffered = 0
        # Flow-controlled bytes that were received and not taken yet.
        self._untaken = 0
        # Whether the last byte of the request was written, the first frame of the response came, and the last one.
        self._request_sent = self._heard = self._complete = False
        self._error: Exception | None = None
        self._silence: float = 0
        self._heard_at = 0.0
        self._timer: asyncio.TimerHandle | None = None
        self._share: EventLoopShare | None = None
        self._interim_responses = self._interim_bytes = 0
        self._other_frames = self._exchanged_bytes = 0

    # The exchange

    async def exchange(self, head: bytes, body: bytes, silence: float) -> ResponseHead:
        """Send a request, and return the head of its response.

        Args:
            head: The request line and headers of HTTP/1.1, with the empty line.
            body: The body.
            silence: The longest wait for the first byte of the response, and between two reads of it, in seconds.

        Raises:
            NotSent: The connection had ended, or the upstream declared that it did not process the request.
            ConnectionLost: The connection or the stream ended.
            InvalidResponse: The response is not HTTP that can be read.
            TimeoutError: The upstream was silent.
        """
        self._begin()
        self._silence = silence
        if not self._exchanges:
            await self._read_arrived()
        if not self._is_open():
            self.close()
            raise NotSent("the upstream closed the connection before the request")
        self._exchanges += 1
        try:
            self._stream = self._h2.get_next_available_stream_id()
            self._h2.send_headers(self._stream, http2_fields(head), end_stream=not body)
        except h2.exceptions.ProtocolError as error:
            self.close()
            raise NotSent("the upstream takes no further request on the connection") from error
        await self._send(body)
        if self._head is None:
            self._request_sent = True
            self._restart_silence()
        while self._head is None:
            await self._progress()
        return self._head

    async def _send(self, body: bytes) -> None:
        view, at = memoryview(body), 0
        while True:
            until = min(len(body), at + WRITE_BYTES)
            while at < until and (window := self._h2.local_flow_control_window(self._stream)) > 0:
                end = min(until, at + min(window, self._h2.max_outbound_frame_size))
                self._h2.send_data(self._stream, view[at:end], end_stream=end == len(body))
                at = end
            self._exchanged_bytes = at
            self._flush()
            if at == len(body) or not await self._awaits_response():
                return

    async def _awaits_response(self) -> bool:
        """Let the event loop read bytes that have arrived, and wait until more can be sent.

        A write after the upstream has closed fails, and with it the connection and a response that is there.
        """
        for _ in range(TURNS):
            await asyncio.sleep(0)
            if self._head is not None or not self._has_input():
                break
        while self._head is None and (
            self._error is not None or not self._writable or self._h2.local_flow_control_window(self._stream) <= 0
        ):
            await self._progress()
        return self._head is None

    async def read(self) -> bytes:
        """Return the next piece of the body, or nothing at its end. Raises the errors of `exchange`."""
        while True:
            # Bytes before the loss of the connection are part of the response. Other errors put it in doubt.
            if self._error is not None and type(self._error) is not ConnectionLost:
                raise self._error
            if self._buffered:
                return self._take()
            if self._complete:
                return b""
            await self._progress()

    def _take(self) -> bytes:
        pieces, self._pieces = self._pieces, []
        untaken, self._untaken = self._untaken, 0
        self._buffered = 0
        if not self._complete and self._error is None:
            self._heard_at = self._loop.time()
        self._h2.acknowledge_received_data(untaken, self._stream)
        if not self._complete:
            self._flush()
        return pieces[0] if len(pieces) == 1 else b"".join(pieces)

    async def _progress(self) -> None:
        """Wait until something has happened. Raises the error that ended the exchange."""
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

    def _flush(self) -> None:
        if (data := self._h2.data_to_send()) and not self._transport.is_closing():
            self._transport.write(data)

    # Between two exchanges

    async def settle(self) -> bool:
        """Read frames that came after the response, such as settings, and return whether it is reusable then."""
        await self._read_arrived()
        return self.is_reusable

    async def _read_arrived(self) -> None:
        for _ in range(TURNS):
            if not self._has_input():
                break
            await asyncio.sleep(0)

    def _is_open(self) -> bool:
        return not (self._ended or self._going_away or self._error is not None or self._transport.is_closing())

    @property
    def may_be_kept(self) -> bool:
        """True if request and response are complete, and the upstream takes further requests."""
        return self._complete and self._request_sent and self._is_open() and self._exchanges < MAX_EXCHANGES

    @property
    def is_reusable(self) -> bool:
        """True if it may be kept, is still open, and no bytes wait to be read, such as its end."""
        return self.may_be_kept and self._parsing is None and not self._unparsed and not self._has_input()

    def _has_input(self) -> bool:
        """Return true if bytes, an end or an error wait to be read, or the connection has ended."""
        return self._ended or self._transport.is_closing() or bool(self._poll.poll(0))

    def close(self) -> None:
        """Cancel an exchange that is not complete, and close the connection. Bytes that still come are dropped."""
        self._stop()
        self._end = None
        if self._ended or self._transport.is_closing():
            return
        # To close flushes the rest of a request first.
        if self._transport.get_write_buffer_size():
            self._transport.abort()
            return
        try:
            if self._stream and not (self._complete and self._request_sent):
                self._h2.reset_stream(self._stream, ErrorCodes.CANCEL)
            self._h2.close_connection()
        except h2.exceptions.ProtocolError:
            # The upstream has reset the stream, or broken the protocol.
            pass
        else:
            self._flush()
        self._transport.close()

    def abort(self) -> None:
        """Close the connection at once, without the end of TLS."""
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
        if self._complete or self._error is not None:
            self._timer = None
        elif left > 0 or self._buffered or self._parsing is not None:
            self._timer = self._loop.call_later(left if left > 0 else self._silence, self._check_silence)
        else:
            self._timer = None
            self._fail(TimeoutError("the upstream did not respond in time"))

    # Input

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Take the transport. The preface is sent with the first request."""
        self._transport = transport
        self._poll.register(transport.get_extra_info("socket").fileno(), select.POLLIN)
        connection = self._h2
        connection.local_settings = h2.settings.Settings(
            client=True,
            initial_values={
                SettingCodes.ENABLE_PUSH: 0,
                SettingCodes.INITIAL_WINDOW_SIZE: WINDOW_BYTES,
                SettingCodes.MAX_HEADER_LIST_SIZE: MAX_HEADERS_BYTES,
            },
        )
        # A setting of servers only.
        del connection.local_settings[SettingCodes.ENABLE_CONNECT_PROTOCOL]
        connection.decoder.max_header_list_size = MAX_HEADERS_BYTES
        connection.initiate_connection()
        connection.increment_flow_control_window(WINDOW_BYTES - FIRST_WINDOW_BYTES)

    def pause_writing(self) -> None:
        """Take note that the socket takes no more."""
        self._writable = False

    def resume_writing(self) -> None:
        """Take note that the socket takes more."""
        self._writable = True
        self._wake()

    def data_received(self, data: bytes) -> None:
        """Parse frames, a few at a time."""
        if self._error is not None:
            return
        self._unparsed += data
        if self._parsing is None:
            self._parse(measured=self._heard or len(data) > SMALL_BYTES)

    def _parse(self, *, measured: bool) -> bool:
        """Parse complete frames, and return whether the rest of them must wait."""
        data, at, rest = self._unparsed, 0, None
        while self._error is None:
            rest = self._share.rest(self._loop.time()) if measured and self._share is not None else None
            if rest is not None:
                self._pause(rest)
                break
            before, since = at, time.thread_time() if measured else 0
            at = self._parse_frames(data, at)
            if measured:
                self._count_time(time.thread_time() - since, at - before)
            if at == before:
                break
        self._unparsed = data[at:] if self._error is None else b""
        self._flush()
        self._wake()
        return rest is not None

    def _count_time(self, took: float, size: int) -> None:
        if self._share is None:
            self._share = EventLoopShare(self._loop.time())
        self._share.spend(took, self._loop.time(), size)

    def _pause(self, rest: float) -> None:
        if self._parsing is None and not self._ended and not self._transport.is_closing():
            self._transport.pause_reading()
        self._parsing = self._loop.call_later(rest, self._go_on)

    def _go_on(self) -> None:
        """Parse the bytes that were left, and take up reading."""
        self._parsing = None
        if self._parse(measured=True):
            return
        if self._end is not None:
            (error,), self._end = self._end, None
            self._finish(error)
        elif not self._ended and not self._transport.is_closing():
            self._heard_at = self._loop.time()
            self._transport.resume_reading()

    def _parse_frames(self, data: bytes, at: int) -> int:
        """Parse a few frames from `at`, and return where the next one begins."""
        for _ in range(FRAMES_AT_A_TIME):
            if len(data) - at < FRAME_HEAD_BYTES:
                break
            size = int.from_bytes(data[at : at + 3])
            if size > MAX_FRAME_BYTES:
                self._fail(InvalidResponse("the upstream sent an HTTP/2 frame of more than 16 KiB"))
                break
            end = at + FRAME_HEAD_BYTES + size
            if len(data) < end:
                break
            kind = data[at + 3]
            self._parse_frame(kind, data[at:end])
            at = end
            # Headers of 64 KiB take up to 15 ms.
            if self._error is not None or (kind != DATA and size > SLOW_FRAME_BYTES):
                break
        return at

    def _parse_frame(self, kind: int, frame: bytes) -> None:
        size = len(frame) - FRAME_HEAD_BYTES
        if kind in (HEADERS, PUSH_PROMISE, CONTINUATION):
            self._header_bytes = size + (self._header_bytes if kind == CONTINUATION else 0)
            if self._header_bytes > MAX_HEADERS_BYTES:
                self._fail(InvalidResponse("the upstream's response has headers of more than 64 KiB"))
        elif kind != DATA:
            self._count_other_frame()
        if self._error is not None:
            return
        if kind == GOAWAY:
            self._go_away(frame)
            return
        try:
            for event in self._h2.receive_data(frame):
                self._take_event(event)
        except h2.exceptions.ProtocolError as error:
            self._fail(InvalidResponse("the upstream's response is not HTTP/2 that can be read"), error)

    def _count_other_frame(self) -> None:
        self._other_frames += 1
        if self._other_frames > MAX_OTHER_FRAMES + self._exchanged_bytes // BYTES_PER_OTHER_FRAME:
            self._fail(InvalidResponse("the upstream sends HTTP/2 frames without a response"))

    def _go_away(self, frame: bytes) -> None:
        last = int.from_bytes(frame[FRAME_HEAD_BYTES : FRAME_HEAD_BYTES + 4]) & 0x7FFF_FFFF
        self._going_away = True
        if not self._stream or self._complete:
            self.close()
        elif not self._heard and last < self._stream:
            self._refuse()

    def _refuse(self) -> None:
        self._stop_silence()
        self._error = NotSent("the upstream did not process the request")

    def _take_event(self, event: h2.events.Event) -> None:
        if isinstance(event, h2.events.DataReceived):
            self._take_data(event)
        elif isinstance(event, h2.events.ResponseReceived):
            self._take_head(event.headers or [])
        elif isinstance(event, h2.events.StreamEnded):
            self._complete = True
            self._stop_silence()
        elif isinstance(event, h2.events.StreamReset):
            self._take_reset(event)
        elif isinstance(event, h2.events.InformationalResponseReceived):
            self._take_interim(event.headers or [])

    def _take_data(self, event: h2.events.DataReceived) -> None:
        self._heard = True
        self._untaken += event.flow_controlled_length or 0
        if event.data:
            self._heard_at = self._loop.time()
            self._pieces.append(event.data)
            self._buffered += len(event.data)
            self._exchanged_bytes += len(event.data)
            return
        self._count_other_frame()
        if self._untaken > self._buffered + SMALL_BYTES and self._error is None:
            # Padding is taken by nobody.
            self._h2.acknowledge_received_data(self._untaken - self._buffered, self._stream)
            self._untaken = self._buffered

    def _take_head(self, fields: Iterable[tuple[bytes, bytes]]) -> None:
        self._heard = True
        self._heard_at = self._loop.time()
        status, headers = b"", dict[str, str]()
        for name, value in fields:
            if b"\0" in value:
                self._fail(InvalidResponse("the upstream's response has a NUL in a header"))
                return
            if name == b":status":
                status = value
            elif name in READ_HEADERS:
                key, text = name.decode(), value.decode("latin-1")
                headers[key] = f"{headers[key]}, {text}" if key in headers else text
        if len(status) != 3 or not status.isdigit():
            self._fail(InvalidResponse("the upstream's response has no status"))
            return
        # If the response comes early, the rest of the request is not sent.
        self._restart_silence()
        self._head = ResponseHead(int(status), headers)

    def _take_interim(self, fields: Iterable[tuple[bytes, bytes]]) -> None:
        self._heard = True
        self._heard_at = self._loop.time()
        self._interim_responses += 1
        self._interim_bytes += sum(len(name) + len(value) + 4 for name, value in fields)
        if self._interim_responses > MAX_INTERIM_RESPONSES or self._interim_bytes > MAX_INTERIM_BYTES:
            self._fail(InvalidResponse("the upstream sends interim responses (1xx) without end"))

    def _take_reset(self, event: h2.events.StreamReset) -> None:
        if self._complete:
            # It needs no more of the request.
            return
        if not event.remote_reset:
            self._fail(InvalidResponse("the upstream's response is not HTTP/2 that can be read"))
        elif event.error_code == ErrorCodes.REFUSED_STREAM and not self._heard:
            self._refuse()
        else:
            self._stop_silence()
            self._error = ConnectionLost("the upstream ended the exchange without a complete response")

    # How it ends

    def _stop_silence(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None

    def _stop(self) -> None:
        self._stop_silence()
        if self._parsing is not None:
            self._parsing.cancel()
            self._parsing = None
        self._unparsed = b""

    def _fail(self, error: Exception, cause: Exception | None = None) -> None:
        error.__cause__ = cause
        self._error = error
        self._stop()
        self._transport.abort()
        self._wake()

    def connection_lost(self, exc: Exception | None) -> None:
        """Take note of the end, after the bytes before it."""
        self._ended = True
        self._closed.set()
        self._lost(self)
        if self._parsing is not None:
            self._end = (exc,)
        else:
            self._finish(exc)

    def _finish(self, exc: Exception | None) -> None:
        if self._error is None and not self._complete:
            self._error = ConnectionLost("the connection to the upstream was lost")
            self._error.__cause__ = exc
        self._stop()
        self._wake()
