"""A proxy that ends gRPC streams by itself, as Envoy, nginx and HAProxy do when a time is over or a gateway died."""

from __future__ import annotations

import asyncio
import contextlib
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import grpc

from clients.runner import frames
from clients.runner.proxy import Proxy

if TYPE_CHECKING:
    from collections.abc import Callable

    from clients.runner.proxy import Connection


@dataclass
class _Streams:
    """The streams of one connection: those that are open, and those that were ended here."""

    client: asyncio.StreamWriter
    target: asyncio.StreamWriter
    open: set[int] = field(default_factory=set)
    ended: set[int] = field(default_factory=set)

    def end(self, stream: int, last_frame: bytes) -> None:
        """Ends a stream on both sides."""
        self.open.discard(stream)
        self.ended.add(stream)
        self.client.write(last_frame)
        self.target.write(frames.reset(stream, "CANCEL"))


class Breaker(Proxy):
    """A proxy for HTTP/2 that can end the streams that are open, and answer a connection itself."""

    def __init__(self, target: tuple[str, int]) -> None:
        super().__init__(target)
        self._streams: dict[Connection, _Streams] = {}
        self._answers: list[dict[str, str]] = []
        self._answering: set[asyncio.StreamWriter] = set()
        self._idle: set[asyncio.StreamWriter] = set()

    def end_streams(self, status: str) -> None:
        """Ends all open streams with a status that has no details, such as `INTERNAL`."""
        code = str(grpc.StatusCode[status].value[0])
        self._end_all(lambda stream: frames.headers(stream, {"grpc-status": code}))

    def reset_streams(self, error: str) -> None:
        """Ends all open streams with RST_STREAM, and an HTTP/2 error such as `CANCEL`."""
        self._end_all(lambda stream: frames.reset(stream, error))

    def answer(self, said: str) -> None:
        """Cuts all connections. The next call gets an HTTP status such as `503`, or the name of a gRPC status."""
        if said.isdigit():
            self._answers.append({":status": said, "content-type": "text/html"})
        else:
            code = str(grpc.StatusCode[said].value[0])
            self._answers.append({":status": "200", "content-type": "application/grpc", "grpc-status": code})
        self.cut()

    def cut(self) -> None:
        """Cuts all connections; new ones pass, or get an answer that is left."""
        super().cut()
        for writer in self._answering:
            writer.transport.abort()

    def _end_all(self, last_frame: Callable[[int], bytes]) -> None:
        for streams in self._streams.values():
            for stream in tuple(streams.open):
                streams.end(stream, last_frame(stream))

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        if not self._answers:
            await super()._serve(reader, writer)
            return
        self._answering.add(writer)
        self._idle.add(writer)
        try:
            await self._answer(reader, writer)
        finally:
            self._answering.discard(writer)
            self._idle.discard(writer)
            writer.transport.abort()

    async def _answer(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        with contextlib.suppress(OSError, asyncio.IncompleteReadError):  # the client has left
            await reader.readexactly(len(frames.PREFACE))
            writer.write(frames.frame(frames.SETTINGS, 0, 0))
            while True:
                head, payload = await _read(reader)
                if head.kind == frames.HEADERS and writer in self._idle:
                    writer.write(frames.headers(head.stream, self._answers.pop(0)) + frames.go_away(head.stream))
                    # Libraries keep connections without a call, and these would lead nowhere.
                    self._idle.discard(writer)
                    for other in self._idle:
                        other.transport.abort()
                elif head.kind in (frames.SETTINGS, frames.PING) and not head.flags & frames.ACK:
                    writer.write(frames.frame(head.kind, frames.ACK, 0, payload if head.kind == frames.PING else b""))

    async def _pump(
        self, connection: Connection, reader: asyncio.StreamReader, writer: asyncio.StreamWriter, *, answers: bool
    ) -> None:
        streams = self._streams.setdefault(connection, _Streams(*connection.writers))
        try:
            with contextlib.suppress(OSError, asyncio.IncompleteReadError):  # one side has left, or was cut
                if not answers:
                    writer.write(await reader.readexactly(len(frames.PREFACE)))
                while True:
                    head, payload = await _read(reader)
                    if connection.swallowed:
                        continue
                    if answers:
                        self._count(frames.HEAD_BYTES + head.size)
                    _note(streams, head, answers=answers)
                    if head.stream in streams.ended and head.kind != frames.HEADERS:
                        continue
                    writer.write(frames.frame(head.kind, head.flags, head.stream, payload))
                    await writer.drain()
        finally:
            self._streams.pop(connection, None)
        if not connection.swallowed:
            connection.cut()


def _note(streams: _Streams, head: frames.Head, *, answers: bool) -> None:
    if head.kind == frames.HEADERS and not answers:
        streams.open.add(head.stream)
    elif head.kind == frames.RST_STREAM or (answers and head.flags & frames.END_STREAM and head.kind <= frames.HEADERS):
        streams.open.discard(head.stream)


async def _read(reader: asyncio.StreamReader) -> tuple[frames.Head, bytes]:
    head = frames.Head.of(await reader.readexactly(frames.HEAD_BYTES))
    return head, await reader.readexactly(head.size)
