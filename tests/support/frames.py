"""An HTTP/2 peer that keeps no rule but its own: it sends frames as they are, and reads what comes back."""

from __future__ import annotations

import asyncio
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING, Any

from hpack import Decoder, Encoder
from hyperframe.frame import (
    ContinuationFrame,
    DataFrame,
    Frame,
    GoAwayFrame,
    HeadersFrame,
    PingFrame,
    RstStreamFrame,
    SettingsFrame,
)

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Iterable

PREFACE = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"
MAX_FRAME_BYTES = 16_384
CANCEL = 8


def header_block(path: str, metadata: Iterable[tuple[Any, Any]] = ()) -> bytes:
    """The encoded headers of a gRPC call. Never indexed, so that any order of streams may use them again."""
    fixed = {":method": "POST", ":scheme": "http", ":path": path, ":authority": "localhost"}
    grpc = {"te": "trailers", "content-type": "application/grpc"}
    headers = [(name, value, True) for name, value in [*fixed.items(), *grpc.items(), *metadata]]
    return Encoder().encode(headers)


def headers(stream: int, block: bytes, *, end: bool = False) -> bytes:
    """A HEADERS frame and as many CONTINUATION frames as its block needs."""
    first, *more = [block[start : start + MAX_FRAME_BYTES] for start in range(0, len(block), MAX_FRAME_BYTES)]
    frames: list[Frame] = [HeadersFrame(stream, first), *(ContinuationFrame(stream, piece) for piece in more)]
    frames[-1].flags.add("END_HEADERS")
    if end:
        frames[0].flags.add("END_STREAM")
    return b"".join(frame.serialize() for frame in frames)


def message(stream: int, data: bytes, *, compressed: bool = False, end: bool = True) -> bytes:
    """DATA frames with one gRPC message."""
    data = bytes([compressed]) + len(data).to_bytes(4, "big") + data
    pieces = [data[start : start + MAX_FRAME_BYTES] for start in range(0, len(data), MAX_FRAME_BYTES)]
    frames = [DataFrame(stream, piece) for piece in pieces]
    if end:
        frames[-1].flags.add("END_STREAM")
    return b"".join(frame.serialize() for frame in frames)


def reset(stream: int) -> bytes:
    """A RST_STREAM frame, as of a client that cancels."""
    return RstStreamFrame(stream, CANCEL).serialize()


def ping(number: int) -> bytes:
    """A PING frame."""
    return PingFrame(0, number.to_bytes(8, "big")).serialize()


class Peer:
    """A connection to a server."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self._reader = reader
        self._writer = writer
        self._decoder = Decoder()

    async def greet(self, *, acknowledge: bool = True) -> None:
        """Exchanges settings; a peer that does not `acknowledge` is held to none of the server's."""
        await self.send(PREFACE + SettingsFrame(0).serialize())
        await self.until(SettingsFrame)
        if acknowledge:
            await self.send(SettingsFrame(0, flags=["ACK"]).serialize())
            # The server has read the acknowledgement when it answers what came after it.
            await self.send(ping(0))
            await self.until(PingFrame)

    async def send(self, data: bytes) -> None:
        self._writer.write(data)
        await self._writer.drain()

    async def frames(self) -> AsyncIterator[Frame]:
        """What the server sends, until it closes the connection."""
        try:
            while True:
                frame, length = Frame.parse_frame_header(memoryview(await self._reader.readexactly(9)))
                frame.parse_body(memoryview(await self._reader.readexactly(length)))
                yield frame
        except (asyncio.IncompleteReadError, ConnectionError):
            return

    async def until(self, kind: type[Frame]) -> Frame:
        """The next frame of a kind."""
        async for frame in self.frames():
            if isinstance(frame, kind):
                return frame
        raise ConnectionError(f"the connection ended without {kind.__name__}")

    async def ending(self, stream: int) -> dict[str, str]:
        """The headers and trailers of a call, once it has ended."""
        got: dict[str, str] = {}
        async for frame in self.frames():
            if isinstance(frame, HeadersFrame):
                decoded = self._decoder.decode(frame.data)
                if frame.stream_id == stream:
                    got |= {str(name): str(value) for name, value in decoded}
                    if "END_STREAM" in frame.flags:
                        return got
            elif isinstance(frame, RstStreamFrame | GoAwayFrame) and frame.stream_id in (0, stream):
                return got
        return got


@asynccontextmanager
async def peer(address: str, *, acknowledge: bool = True) -> AsyncIterator[Peer]:
    """A peer that has exchanged settings with the server at `address`."""
    host, _, port = address.rpartition(":")
    reader, writer = await asyncio.open_connection(host, int(port))
    made = Peer(reader, writer)
    try:
        await made.greet(acknowledge=acknowledge)
        yield made
    finally:
        writer.transport.abort()
