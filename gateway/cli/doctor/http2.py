"""An HTTP/2 connection that shows the frames of its peer: settings, resets and GOAWAY."""

from __future__ import annotations

import asyncio
import contextlib
from typing import TYPE_CHECKING, Any, Self
from urllib.parse import unquote

import h2.config
import h2.connection
import h2.errors
import h2.events
import h2.exceptions
from h2.settings import SettingCodes

from gateway.cli.doctor.ends import Kind
from gateway.cli.doctor.stream import Stream
from gateway.upstream.http2_frames import FRAME_HEAD_BYTES, GOAWAY, Frame, last_stream, next_frame
from gateway.upstream.response_parser import InvalidResponse

if TYPE_CHECKING:
    import ssl
    from collections.abc import Iterable

    from gateway.cli.doctor.endpoint import Endpoint

# Those of the Python client (docs/clients/index.md).
PING_EVERY_SECONDS = 20.0
PING_TIMEOUT_SECONDS = 10.0

_READ_BYTES = 65_536
_WINDOW_BYTES = 1 << 24
_GOAWAY_HEAD_BYTES = FRAME_HEAD_BYTES + 8


class Http2Connection:
    """A connection. Use it as a context manager.

    Attributes:
        settings: The settings of the peer by number, or None before they arrived.
        ended: True if the peer ended the connection.

    """

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter, authority: str, scheme: str) -> None:
        self.settings: dict[int, int] | None = None
        self.ended = False
        self._reader = reader
        self._writer = writer
        self._authority = authority
        self._scheme = scheme
        # A doctor also looks at responses that are not valid.
        config = h2.config.H2Configuration(header_encoding="utf-8", validate_inbound_headers=False)
        self._h2 = h2.connection.H2Connection(config)
        self._streams: dict[int, Stream] = {}
        self._goaway: tuple[int, str] | None = None
        self._ready = asyncio.Event()
        self._pong = asyncio.Event()
        self._tasks: list[asyncio.Task[None]] = []

    @classmethod
    async def open(cls, endpoint: Endpoint, context: ssl.SSLContext | None, seconds: float) -> Self:
        """Connect within `seconds`.

        Raises:
            OSError: No connection, or no TLS (`ssl.SSLError`).
            TimeoutError: Not in time.

        """
        async with asyncio.timeout(seconds):
            name = endpoint.host if context else None
            reader, writer = await asyncio.open_connection(
                endpoint.host, endpoint.port, ssl=context, server_hostname=name
            )
        return cls(reader, writer, endpoint.authority, "https" if context else "http")

    async def __aenter__(self) -> Self:
        self._h2.local_settings.enable_push = 0
        self._h2.initiate_connection()
        self._h2.increment_flow_control_window(_WINDOW_BYTES)
        self._flush()
        self._tasks = [asyncio.create_task(self._read()), asyncio.create_task(self._ping())]
        return self

    async def __aexit__(self, *_: object) -> None:
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        # `close` would wait for the peer's part of the end of TLS.
        self._writer.transport.abort()

    @property
    def max_streams(self) -> int | None:
        """The number of calls that the peer allows at a time, or None if it has no limit."""
        return (self.settings or {}).get(SettingCodes.MAX_CONCURRENT_STREAMS)

    async def until_settings(self, seconds: float) -> bool:
        """Wait for the settings of the peer, or the end; return True if they arrived."""
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(seconds):
                await self._ready.wait()
        return self.settings is not None

    def call(
        self,
        path: str,
        message: bytes,
        metadata: Iterable[tuple[str, str]] = (),
        *,
        half_close: bool = True,
    ) -> Stream:
        """Start a call. Without `half_close`, further messages can follow."""
        if self.ended:
            stream = Stream(0)
            stream.finish(Kind.CLOSED)
            return stream
        number = self._h2.get_next_available_stream_id()
        stream = self._streams[number] = Stream(number)
        fields = [
            (":method", "POST"),
            (":scheme", self._scheme),
            (":path", path),
            (":authority", self._authority),
            ("te", "trailers"),
            ("content-type", "application/grpc"),
            ("user-agent", "jobgateway-doctor"),
            *metadata,
        ]
        try:
            self._h2.send_headers(number, fields)
        except h2.exceptions.TooManyStreamsError:
            del self._streams[number]
            stream.finish(Kind.NOT_BEGUN)
        else:
            self.send(stream, message, half_close=half_close)
        return stream

    def send(self, stream: Stream, message: bytes, *, half_close: bool = False) -> None:
        """Send a message, as soon as the peer's window permits."""
        stream.outgoing += b"\0" + len(message).to_bytes(4) + message
        stream.half_closes = half_close
        self._pump()

    def _pump(self) -> None:
        for number, stream in self._streams.items():
            while stream.outgoing and stream.end is None:
                room = min(self._h2.local_flow_control_window(number), self._h2.max_outbound_frame_size)
                if room <= 0:
                    break
                part = bytes(stream.outgoing[:room])
                del stream.outgoing[:room]
                self._h2.send_data(number, part, end_stream=stream.half_closes and not stream.outgoing)
        self._flush()

    def _flush(self) -> None:
        if data := self._h2.data_to_send():
            self._writer.write(data)

    async def _ping(self) -> None:
        while True:
            await asyncio.sleep(PING_EVERY_SECONDS)
            self._pong.clear()
            self._h2.ping(b"doctor__")
            self._flush()
            try:
                async with asyncio.timeout(PING_TIMEOUT_SECONDS):
                    await self._pong.wait()
            except TimeoutError:
                self._finish(Kind.NO_REPLY)
                return

    async def _read(self) -> None:
        waiting = bytearray()
        with contextlib.suppress(OSError, h2.exceptions.ProtocolError, InvalidResponse):
            while data := await self._reader.read(_READ_BYTES):
                waiting += data
                at = 0
                while frame := next_frame(waiting, at):  # type: ignore[arg-type] # a slice of a bytearray will do
                    at += len(frame.raw)
                    self._receive(Frame(frame.kind, bytes(frame.raw)))
                del waiting[:at]
                self._pump()
        self._finish(Kind.CLOSED)

    def _receive(self, frame: Frame) -> None:
        if frame.kind == GOAWAY:
            # h2 would treat the connection as closed, but its streams may continue.
            last = last_stream(frame)
            code = int.from_bytes(frame.raw[FRAME_HEAD_BYTES + 4 : _GOAWAY_HEAD_BYTES])
            self._goaway = code, frame.raw[_GOAWAY_HEAD_BYTES:].decode(errors="replace")
            for number, stream in self._streams.items():
                if number > last:
                    stream.finish(Kind.GOAWAY, code=code, debug=self._goaway[1])
            return
        for event in self._h2.receive_data(frame.raw):
            self._handle(event)

    def _handle(self, event: h2.events.Event) -> None:
        match event:
            case h2.events.RemoteSettingsChanged():
                changed = {int(code): each.new_value for code, each in event.changed_settings.items()}
                self.settings = (self.settings or {}) | changed
                self._ready.set()
            case h2.events.PingAckReceived():
                self._pong.set()
            case h2.events.ResponseReceived():
                self._streams[event.stream_id].receive_headers(_fields(event.headers))
            case h2.events.TrailersReceived():
                self._streams[event.stream_id].finish(Kind.STATUS, _fields(event.headers))
            case h2.events.DataReceived():
                self._h2.acknowledge_received_data(event.flow_controlled_length, event.stream_id)
                self._streams[event.stream_id].receive(event.data)
            case h2.events.StreamEnded():
                self._end(self._streams[event.stream_id])
            case h2.events.StreamReset():
                self._streams[event.stream_id].finish(Kind.RESET, code=int(event.error_code))

    def _end(self, stream: Stream) -> None:
        fields = stream.headers or {}
        # A response of headers alone has the status among them; a page of HTML has none at all.
        alone = "grpc-status" in fields or fields.get(":status") != "200"
        stream.finish(Kind.STATUS if alone else Kind.NO_TRAILERS, fields)

    def _finish(self, kind: Kind) -> None:
        self.ended = True
        self._ready.set()
        for stream in self._streams.values():
            if self._goaway:
                stream.finish(Kind.GOAWAY, code=self._goaway[0], debug=self._goaway[1])
            else:
                stream.finish(kind)


def _fields(headers: Iterable[tuple[Any, Any]] | None) -> dict[str, str]:
    found = {str(name): str(value) for name, value in headers or ()}
    if "grpc-message" in found:
        found["grpc-message"] = unquote(found["grpc-message"])
    return found
