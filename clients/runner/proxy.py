"""A TCP proxy that can cut its connections, make them silent, and delay responses."""

from __future__ import annotations

import asyncio
import contextlib
from typing import TYPE_CHECKING, Self

if TYPE_CHECKING:
    from collections.abc import Callable

_READ_BYTES = 64 * 1024


class Connection:
    """A pair of connections, to the client and to the target.

    Attributes:
        blackholed: The proxy drops all data of both connections.
        writers: The writers to the client and to the target.

    """

    def __init__(self, client: asyncio.StreamWriter, target: asyncio.StreamWriter) -> None:
        self.blackholed = False
        self.writers = (client, target)

    def cut(self) -> None:
        """Abort both connections."""
        for writer in self.writers:
            writer.transport.abort()

    async def gone(self) -> None:
        """Return when both connections are closed."""
        for writer in self.writers:
            with contextlib.suppress(OSError):
                await writer.wait_closed()


class Proxy:
    """A proxy on a free port.

    Attributes:
        target: Host and port for new connections.
        delay_seconds: The delay of each piece of a response.
        cut_after_bytes: The proxy cuts all connections, once, after it has sent this many bytes to clients.
        after_cut: Called after that cut.

    """

    def __init__(self, target: tuple[str, int], *, delay_seconds: float = 0) -> None:
        self.target = target
        self.delay_seconds = delay_seconds
        self.cut_after_bytes: int | None = None
        self.after_cut: Callable[[], object] = lambda: None
        self.address = ""
        self._passed_bytes = 0
        self._connections: set[Connection] = set()
        self._serving: set[asyncio.Task[None]] = set()

    async def __aenter__(self) -> Self:
        self._server = await asyncio.start_server(self._accept, "127.0.0.1", 0)
        self.address = f"127.0.0.1:{self._server.sockets[0].getsockname()[1]}"
        return self

    async def __aexit__(self, *_: object) -> None:
        self._server.close()
        self.cut()
        # Without the cancellation, this would wait for delayed responses.
        for task in self._serving:
            task.cancel()
        await asyncio.gather(*self._serving, return_exceptions=True)

    @property
    def open(self) -> int:
        """The number of open connections."""
        return len(self._connections)

    def cut(self) -> None:
        """Cut all connections. New ones pass through."""
        for connection in tuple(self._connections):
            connection.cut()

    def blackhole(self) -> None:
        """Drop all data of the open connections, and keep them open. New ones pass through."""
        for connection in self._connections:
            connection.blackholed = True

    def _accept(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.create_task(self._serve(reader, writer))
        self._serving.add(task)
        task.add_done_callback(self._serving.discard)

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            target_reader, target_writer = await asyncio.open_connection(*self.target)
        except OSError:
            writer.transport.abort()
            return
        connection = Connection(writer, target_writer)
        self._connections.add(connection)
        try:
            async with asyncio.TaskGroup() as pumps:
                pumps.create_task(self._pump(connection, reader, target_writer, downstream=False))
                pumps.create_task(self._pump(connection, target_reader, writer, downstream=True))
        finally:
            connection.cut()
            await connection.gone()
            self._connections.discard(connection)

    async def _pump(
        self, connection: Connection, reader: asyncio.StreamReader, writer: asyncio.StreamWriter, *, downstream: bool
    ) -> None:
        with contextlib.suppress(OSError):  # one side has left, or was cut
            while data := await reader.read(_READ_BYTES):
                if connection.blackholed:
                    continue
                if downstream:
                    await asyncio.sleep(self.delay_seconds)
                    self._count(len(data))
                writer.write(data)
                await writer.drain()
        if not connection.blackholed and writer.can_write_eof():
            with contextlib.suppress(OSError):
                writer.write_eof()

    def _count(self, size: int) -> None:
        self._passed_bytes += size
        if self.cut_after_bytes is not None and self._passed_bytes >= self.cut_after_bytes:
            self.cut_after_bytes = None
            self.cut()
            self.after_cut()
