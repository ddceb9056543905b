"""Peers without HTTP and gRPC libraries: TCP servers, and an HTTP/2 client that can send any metadata."""

from __future__ import annotations

import asyncio
import contextlib
import fcntl
import secrets
import socket
import ssl
import struct
import subprocess
import termios
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import h2.config
import h2.connection
import h2.events

from tests.support.clock import settle

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Awaitable, Callable, Iterable
    from pathlib import Path

    Accept = Callable[[asyncio.StreamReader, asyncio.StreamWriter], Awaitable[None]]


@asynccontextmanager
async def tcp_server(
    accept: Accept, *, tls: ssl.SSLContext | None = None, host: str = "127.0.0.1", port: int = 0
) -> AsyncIterator[int]:
    """Run a server that passes each connection to `accept` and closes it afterwards. Return its port."""
    tasks = set()

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        assert task is not None
        tasks.add(task)
        try:
            await accept(reader, writer)
        except (ConnectionError, asyncio.IncompleteReadError, asyncio.CancelledError):
            return
        finally:
            tasks.discard(task)
            writer.close()

    server = await asyncio.start_server(serve, host, port, ssl=tls)
    try:
        yield server.sockets[0].getsockname()[1]
    finally:
        server.close()
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks)


async def delivered(writer: asyncio.StreamWriter) -> None:
    """Return when the peer, which uses this event loop too, has read all that was written."""
    sock: socket.socket = writer.get_extra_info("socket")
    while writer.transport.get_write_buffer_size() or _unacknowledged(sock):  # noqa: ASYNC110 - the system has no event
        await asyncio.sleep(0.001)
    await settle()


def _unacknowledged(sock: socket.socket) -> int:
    """Return how many bytes the peer's system has not acknowledged."""
    return int(struct.unpack("i", fcntl.ioctl(sock.fileno(), termios.TIOCOUTQ, bytes(4)))[0])


def free_port() -> int:
    """Return an unused port, below those that the system assigns automatically."""
    while True:
        port = 15_000 + secrets.randbelow(15_000)
        with socket.socket() as sock, contextlib.suppress(OSError):
            sock.bind(("127.0.0.1", port))
            return port


def self_signed(folder: Path) -> ssl.SSLContext:
    """Return the TLS context of a server with an untrusted certificate."""
    key, certificate = folder / "key.pem", folder / "certificate.pem"
    command = "openssl req -x509 -newkey ec -pkeyopt ec_paramgen_curve:prime256v1 -nodes -days 1 -subj /CN=127.0.0.1"
    subprocess.run([*command.split(), "-keyout", key, "-out", certificate], check=True, capture_output=True)  # noqa: S603 - fixed
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(certificate, key)
    return context


@dataclass
class RawResponse:
    """The response of a raw HTTP/2 call: its messages, and its headers merged with its trailers."""

    messages: list[bytes] = field(default_factory=list)
    headers: dict[str, str] = field(default_factory=dict)

    @property
    def code(self) -> int:
        return int(self.headers["grpc-status"])


class RawCall:
    """A gRPC call whose metadata no client library has checked."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self._reader = reader
        self._writer = writer
        config = h2.config.H2Configuration(
            client_side=True,
            header_encoding="utf-8",
            validate_outbound_headers=False,
            normalize_outbound_headers=False,
            validate_inbound_headers=False,
        )
        self._connection = h2.connection.H2Connection(config)

    async def begin(self, path: str, message: bytes, metadata: Iterable[tuple[bytes, bytes]]) -> None:
        connection = self._connection
        connection.initiate_connection()
        stream = connection.get_next_available_stream_id()
        headers = {
            b":method": b"POST",
            b":scheme": b"http",
            b":path": path.encode(),
            b":authority": b"localhost",
            b"te": b"trailers",
            b"content-type": b"application/grpc",
        }
        connection.send_headers(stream, [*headers.items(), *metadata])
        connection.send_data(stream, b"\0" + len(message).to_bytes(4, "big") + message, end_stream=True)
        await self._send()

    async def _send(self) -> None:
        self._writer.write(self._connection.data_to_send())
        await self._writer.drain()

    async def end(self) -> RawResponse:
        """Read until the end of the call."""
        answer, data = RawResponse(), b""
        while True:
            received = await self._reader.read(65536)
            if not received:
                raise ConnectionError("the server closed the connection")
            for event in self._connection.receive_data(received):
                if isinstance(event, h2.events.ResponseReceived | h2.events.TrailersReceived):
                    answer.headers |= dict(event.headers)  # type: ignore[arg-type]
                elif isinstance(event, h2.events.DataReceived):
                    data += event.data or b""
                elif isinstance(event, h2.events.StreamReset):
                    raise ConnectionError(f"the server reset the stream: {event.error_code}")
                elif isinstance(event, h2.events.StreamEnded):
                    while data:
                        size = int.from_bytes(data[1:5], "big")
                        answer.messages.append(data[5 : 5 + size])
                        data = data[5 + size :]
                    return answer
            await self._send()

    def vanish(self) -> None:
        """Drop the connection without an HTTP/2 frame."""
        self._writer.transport.abort()


@asynccontextmanager
async def raw_call(
    address: str, path: str, message: bytes, metadata: Iterable[tuple[bytes, bytes]] = ()
) -> AsyncIterator[RawCall]:
    """Send a call on a new connection."""
    host, _, port = address.rpartition(":")
    reader, writer = await asyncio.open_connection(host, int(port))
    call = RawCall(reader, writer)
    try:
        await call.begin(path, message, metadata)
        yield call
    finally:
        writer.close()
