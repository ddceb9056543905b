"""An upstream that speaks HTTP/2 over TLS, and anything else that a test writes to its connections."""

from __future__ import annotations

import asyncio
import ssl
from collections import deque
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import h2.config
import h2.connection
import h2.events
import trustme

from tests.support.raw import tcp_server

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Awaitable, Callable, Iterable

    Fields = Iterable[tuple[bytes, bytes]]

NO_ERROR, REFUSED_STREAM, CANCEL = 0, 7, 8
DATA, HEADERS, SETTINGS, PING, GOAWAY, WINDOW_UPDATE, CONTINUATION = 0, 1, 4, 6, 7, 8, 9
END_STREAM, END_HEADERS = 1, 4


def frame(kind: int, payload: bytes = b"", *, stream: int = 0, flags: int = 0) -> bytes:
    """Encode a frame, which may be wrong."""
    return len(payload).to_bytes(3) + bytes((kind, flags)) + stream.to_bytes(4) + payload


def goaway(last: int, error: int = NO_ERROR) -> bytes:
    """Encode a GOAWAY frame: the upstream processes no stream after `last`."""
    return frame(GOAWAY, last.to_bytes(4) + error.to_bytes(4))


@dataclass
class Request:
    """A request as the upstream received it."""

    stream: int
    fields: dict[bytes, bytes]
    body: bytearray = field(default_factory=bytearray)


class Peer:
    """The upstream's end of one connection. `resets` are the codes of the streams that the gateway reset."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self._reader = reader
        self._events: deque[h2.events.Event] = deque()
        self.writer = writer
        self.h2 = h2.connection.H2Connection(h2.config.H2Configuration(client_side=False))
        self.h2.initiate_connection()
        self.resets: list[int] = []

    async def event(self) -> h2.events.Event:
        """Return the next event. Raises `ConnectionError` at the end of the connection."""
        while not self._events:
            await self.flush()
            if not (data := await self._reader.read(65_536)):
                raise ConnectionResetError
            self._events.extend(self.h2.receive_data(data))
        event = self._events.popleft()
        if isinstance(event, h2.events.StreamReset):
            self.resets.append(int(event.error_code or 0))
        return event

    async def head(self) -> Request:
        """Return the next request without its body."""
        while not isinstance(event := await self.event(), h2.events.RequestReceived):
            pass
        assert event.stream_id is not None
        return Request(event.stream_id, dict(event.headers or ()))

    async def request(self) -> Request:
        """Return the next request, whole."""
        request = await self.head()
        while not isinstance(event := await self.event(), h2.events.StreamEnded):
            if isinstance(event, h2.events.DataReceived):
                request.body += event.data or b""
                self.h2.acknowledge_received_data(event.flow_controlled_length or 0, request.stream)
        return request

    async def flush(self) -> None:
        self.writer.write(self.h2.data_to_send())
        await self.writer.drain()

    async def send(self, raw: bytes) -> None:
        """Send bytes after what h2 has to send."""
        self.writer.write(self.h2.data_to_send() + raw)
        await self.writer.drain()

    async def respond(self, stream: int, status: int = 201, body: bytes = b"{}", more: Fields = ()) -> None:
        """Respond within the gateway's windows."""
        self.h2.send_headers(stream, [(b":status", str(status).encode()), *more], end_stream=not body)
        await self.flush()
        at = 0
        while (at := await self.fill(stream, body, at)) < len(body):
            await self.event()

    async def fill(self, stream: int, body: bytes, at: int) -> int:
        """Send as much of the body from `at` as the gateway's windows take, and return where the rest begins."""
        while at < len(body) and (window := self.h2.local_flow_control_window(stream)) > 0:
            if self.h2.state_machine.state is h2.connection.ConnectionState.CLOSED:
                # The gateway has sent GOAWAY.
                raise ConnectionResetError
            end = at + min(window, self.h2.max_outbound_frame_size)
            self.h2.send_data(stream, body[at:end], end_stream=end >= len(body))
            at = end
            await self.flush()
        return at

    async def ping(self) -> None:
        """Return when the gateway has read all that was sent."""
        self.h2.ping(b"12345678")
        while not isinstance(await self.event(), h2.events.PingAckReceived):
            pass

    async def until_gone(self) -> None:
        """Read until the gateway has closed the connection."""
        while True:
            await self.event()


@dataclass
class Http2Upstream:
    """An upstream, and what it was asked on each connection.

    Attributes:
        protocols: What it selects in a handshake.
        accepted: The protocol of each connection.
    """

    authority: trustme.CA
    protocols: list[str]
    serve: Callable[[Peer], Awaitable[None]]
    url: str = ""
    accepted: list[str | None] = field(default_factory=list)

    async def accept(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        selected = writer.get_extra_info("ssl_object").selected_alpn_protocol()
        self.accepted.append(selected)
        if selected == "h2":
            await self.serve(Peer(reader, writer))
            return
        while True:
            head = await reader.readuntil(b"\r\n\r\n")
            if b"content-length: 2" in head:
                await reader.readexactly(2)
            writer.write(b"HTTP/1.1 201 Created\r\nContent-Length: 2\r\n\r\n{}")


def client_tls(authority: trustme.CA) -> ssl.SSLContext:
    """Return a client that trusts an authority and offers HTTP/2."""
    context = ssl.create_default_context()
    authority.configure_trust(context)
    context.set_alpn_protocols(["h2", "http/1.1"])
    return context


@asynccontextmanager
async def http2_upstream(
    serve: Callable[[Peer], Awaitable[None]], *, protocols: Iterable[str] = ("h2", "http/1.1")
) -> AsyncIterator[Http2Upstream]:
    """Run an upstream whose HTTP/2 connections `serve` serves. Those of HTTP/1.1 respond with 201."""
    made = Http2Upstream(trustme.CA(), list(protocols), serve)
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    made.authority.issue_cert("localhost", "127.0.0.1").configure_cert(context)
    context.set_alpn_protocols(made.protocols)
    async with tcp_server(made.accept, tls=context) as port:
        made.url = f"https://localhost:{port}/api"
        yield made
