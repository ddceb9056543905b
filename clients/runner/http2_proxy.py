"""A proxy that ends gRPC streams, like Envoy, nginx and HAProxy after a timeout or if a gateway died."""

from __future__ import annotations

import asyncio
import contextlib
import time
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import grpc

from clients.runner import frames
from clients.runner.calls import Call, CallReader, End, Lifetime
from clients.runner.proxy import Proxy

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

    from clients.runner.proxy import Connection


@dataclass
class _Streams:
    """The streams of one connection: its calls, the streams that are open, and those that the proxy ended."""

    lifetime: Lifetime
    calls: CallReader
    client: asyncio.StreamWriter
    target: asyncio.StreamWriter
    open: set[int] = field(default_factory=set)
    ended: set[int] = field(default_factory=set)

    def end(self, stream: int, last_frame: bytes) -> None:
        """End a stream on both sides."""
        self.calls.end(stream, End(time.monotonic()))
        self.open.discard(stream)
        self.ended.add(stream)
        self.client.write(last_frame)
        self.target.write(frames.reset(stream, "CANCEL"))


class Http2Proxy(Proxy):
    """An HTTP/2 proxy that can end all open streams, and respond to a call itself.

    Attributes:
        calls: The calls that it passed on, or dropped on a silent connection.
        lifetimes: The lifetime of each connection that it passed on.
        hold_after_bytes: After the proxy has sent this many bytes to clients, it sends nothing until `release`.
        before_failure: Called before a client receives the error of a call.

    """

    def __init__(self, target: tuple[str, int]) -> None:
        super().__init__(target)
        self.calls: list[Call] = []
        self.lifetimes: list[Lifetime] = []
        self.hold_after_bytes: int | None = None
        self.before_failure: Callable[[], Awaitable[None]] = _nothing
        self._released = asyncio.Event()
        self._streams: dict[Connection, _Streams] = {}
        self._responses: list[dict[str, str]] = []
        # The connections on which the proxy itself responds, and those of them that have had no call yet.
        self._own: set[asyncio.StreamWriter] = set()
        self._idle: set[asyncio.StreamWriter] = set()

    def end_streams(self, status: str) -> None:
        """End all open streams with a status without details, such as `INTERNAL`."""
        code = str(grpc.StatusCode[status].value[0])
        self._end_all(lambda stream: frames.headers(stream, {"grpc-status": code}))

    def reset_streams(self, error: str) -> None:
        """End all open streams with RST_STREAM and an HTTP/2 error, such as `CANCEL`."""
        self._end_all(lambda stream: frames.reset(stream, error))

    def respond(self, status: str) -> None:
        """Cut all connections, and end the next call with an HTTP status (`503`) or a gRPC status (`UNKNOWN`)."""
        if status.isdigit():
            self._responses.append({":status": status, "content-type": "text/html"})
        else:
            code = str(grpc.StatusCode[status].value[0])
            self._responses.append({":status": "200", "content-type": "application/grpc", "grpc-status": code})
        self.cut()

    def cut(self) -> None:
        """Cut all connections. New ones pass through, unless a response of the proxy is pending."""
        for streams in self._streams.values():
            streams.calls.end_all()
        super().cut()
        for writer in self._own:
            writer.transport.abort()

    def release(self) -> None:
        """Send what `hold_after_bytes` has held back, and hold nothing any more."""
        self._released.set()

    def _end_all(self, last_frame: Callable[[int], bytes]) -> None:
        for streams in self._streams.values():
            for stream in tuple(streams.open):
                streams.end(stream, last_frame(stream))

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        if not self._responses:
            await super()._serve(reader, writer)
            return
        self._own.add(writer)
        self._idle.add(writer)
        try:
            await self._respond(reader, writer)
        finally:
            self._own.discard(writer)
            self._idle.discard(writer)
            writer.transport.abort()

    async def _respond(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        with contextlib.suppress(OSError, asyncio.IncompleteReadError):  # the client has left
            await reader.readexactly(len(frames.PREFACE))
            writer.write(frames.frame(frames.SETTINGS, 0, 0))
            while True:
                head, payload = await _read(reader)
                if head.kind == frames.HEADERS and writer in self._idle:
                    writer.write(frames.headers(head.stream, self._responses.pop(0)) + frames.go_away(head.stream))
                    # Libraries keep idle connections for later calls, and these lead to no gateway.
                    self._idle.discard(writer)
                    for other in self._idle:
                        other.transport.abort()
                elif head.kind in (frames.SETTINGS, frames.PING) and not head.flags & frames.ACK:
                    writer.write(frames.frame(head.kind, frames.ACK, 0, payload if head.kind == frames.PING else b""))

    async def _pump(
        self, connection: Connection, reader: asyncio.StreamReader, writer: asyncio.StreamWriter, *, downstream: bool
    ) -> None:
        streams = self._streams.get(connection) or self._new_streams(connection)
        try:
            with contextlib.suppress(OSError, asyncio.IncompleteReadError):  # one side has left, or was cut
                if not downstream:
                    writer.write(await reader.readexactly(len(frames.PREFACE)))
                while True:
                    head, payload = await _read(reader)
                    if not downstream:
                        streams.calls.take(head, payload)
                    if connection.blackholed:
                        continue
                    if downstream:
                        await self._before_client(streams, head, payload)
                    _note(streams, head, downstream=downstream)
                    if head.stream in streams.ended and head.kind != frames.HEADERS:
                        continue
                    writer.write(frames.frame(head.kind, head.flags, head.stream, payload))
                    await writer.drain()
        finally:
            if not downstream:
                streams.lifetime.closed = time.monotonic()
            streams.calls.end_all(by_client=not downstream)
            self._streams.pop(connection, None)
        if not connection.blackholed:
            connection.cut()

    async def _before_client(self, streams: _Streams, head: frames.Head, payload: bytes) -> None:
        self._count(frames.HEAD_BYTES + head.size)
        if self.hold_after_bytes is not None and self._passed_bytes >= self.hold_after_bytes:
            await self._released.wait()
        if streams.calls.pass_on(head, payload):
            await self.before_failure()

    def _new_streams(self, connection: Connection) -> _Streams:
        lifetime = Lifetime(len(self.lifetimes), time.monotonic())
        self.lifetimes.append(lifetime)
        calls = CallReader(self.calls, lifetime.number)
        self._streams[connection] = _Streams(lifetime, calls, *connection.writers)
        return self._streams[connection]


async def _nothing() -> None:
    pass


def _note(streams: _Streams, head: frames.Head, *, downstream: bool) -> None:
    ends = downstream and head.kind <= frames.HEADERS and head.flags & frames.END_STREAM
    if head.kind == frames.HEADERS and not downstream:
        streams.open.add(head.stream)
    elif head.kind == frames.RST_STREAM or ends:
        streams.open.discard(head.stream)


async def _read(reader: asyncio.StreamReader) -> tuple[frames.Head, bytes]:
    head = frames.Head.of(await reader.readexactly(frames.HEAD_BYTES))
    return head, await reader.readexactly(head.size)
