"""An HTTP/2 peer without a state machine: it sends any frames, valid or not, and reads the replies."""

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
    """Encode the headers of a gRPC call without indexing, so that streams can reuse them in any order."""
    fixed = {":method": "POST", ":scheme": "http", ":path": path, ":authority": "localhost"}
    grpc = {"te": "trailers", "content-type": "application/grpc"}
    headers = [(name, value, True) for name, value in [*fixed.items(), *grpc.items(), *metadata]]
    return Encoder().encode(headers)


def headers(stream: int, block: bytes, *, end: bool = False) -> bytes:
    """Serialize a HEADERS frame and the CONTINUATION frames that its block needs."""
    first, *more = [block[start : start + MAX_FRAME_BYTES] for start in range(0, len(block), MAX_FRAME_BYTES)]
    frames: list[Frame] = [HeadersFrame(stream, first), *(ContinuationFrame(stream, piece) for piece in more)]
    frames[-1].flags.add("END_HEADERS")
    if end:
        frames[0].flags.add("END_STREAM")
    return b"".join(frame.serialize() for frame in frames)


def message(stream: int, data: bytes, *, compressed: bool = False, end: bool = True) -> bytes:
    """Serialize DATA frames with one gRPC message."""
    data = bytes([compressed]) + len(data).to_bytes(4, "big") + data
    pieces = [data[start : start + MAX_FRAME_BYTES] for start in range(0, len(data), MAX_FRAME_BYTES)]
    frames = [DataFrame(stream, piece) for piece in pieces]
    if end:
        frames[-1].flags.add("END_STREAM")
    return b"".join(frame.serialize() for frame in frames)


def reset(stream: int) -> bytes:
    """Serialize the RST_STREAM frame of a client that cancels."""
    return RstStreamFrame(stream, CANCEL).serialize()


def ping(number: int) -> bytes:
    """Serialize a PING frame."""
    return PingFrame(0, number.to_bytes(8, "big")).serialize()


class Peer:
    """The client side of an HTTP/2 connection."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self._reader = reader
        self._writer = writer
        self._decoder = Decoder()

    async def greet(self, *, acknowledge: bool = True) -> None:
        """Exchange settings. Without `acknowledge`, the server must not yet rely on its own settings."""
        await self.send(PREFACE + SettingsFrame(0).serialize())
        await self.until(SettingsFrame)
        if acknowledge:
            await self.send(SettingsFrame(0, flags=["ACK"]).serialize())
            # A reply to a later ping proves that the server has read the acknowledgement.
            await self.send(ping(0))
            await self.until(PingFrame)

    async def send(self, data: bytes) -> None:
        self._writer.write(data)
        await self._writer.drain()

    async def frames(self) -> AsyncIterator[Frame]:
        """Yield the frames of the server until it closes the connection."""
        try:
            while True:
                frame, length = Frame.parse_frame_header(memoryview(await self._reader.readexactly(9)))
                frame.parse_body(memoryview(await self._reader.readexactly(length)))
                yield frame
        except (asyncio.IncompleteReadError, ConnectionError):
            return

    async def until(self, kind: type[Frame]) -> Frame:
        """Return the next frame of a kind, and skip others."""
        async for frame in self.frames():
            if isinstance(frame, kind):
                return frame
        raise ConnectionError(f"the connection ended without {kind.__name__}")

    async def ending(self, stream: int) -> dict[str, str]:
        """Return the headers and trailers of a call after its end."""
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
    """Connect to the server at `address`, and exchange settings."""
    host, _, port = address.rpartition(":")
    reader, writer = await asyncio.open_connection(host, int(port))
    connection = Peer(reader, writer)
    try:
        await connection.greet(acknowledge=acknowledge)
        yield connection
    finally:
        writer.transport.abort()
