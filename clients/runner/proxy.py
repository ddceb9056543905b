"""A TCP proxy whose connections can be cut, silently swallowed and slowed down."""

from __future__ import annotations

import asyncio
import contextlib
from typing import TYPE_CHECKING, Self

if TYPE_CHECKING:
    from collections.abc import Callable

_READ_BYTES = 64 * 1024


class Connection:
    """A client's connection and the one to the target that belongs to it; `writers` are to the one and the other."""

    def __init__(self, client: asyncio.StreamWriter, target: asyncio.StreamWriter) -> None:
        self.swallowed = False
        self.writers = (client, target)

    def cut(self) -> None:
        """Aborts both."""
        for writer in self.writers:
            writer.transport.abort()

    async def gone(self) -> None:
        """Waits until both are closed."""
        for writer in self.writers:
            with contextlib.suppress(OSError):
                await writer.wait_closed()


class Proxy:
    """Listens at a free port and connects each client with the target.

    Attributes:
        target: host and port that new connections go to.
        delay_seconds: how long each piece of an answer is held back.
        cut_after_bytes: once so many bytes went to clients, all connections are cut; once only.
        after_cut: what is called then.

    """

    def __init__(self, target: tuple[str, int], *, delay_seconds: float = 0) -> None:
        self.target = target
        self.delay_seconds = delay_seconds
        self.cut_after_bytes: int | None = None
        self.after_cut: Callable[[], None] = lambda: None
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
        # An answer that is held back would be waited for.
        for task in self._serving:
            task.cancel()
        await asyncio.gather(*self._serving, return_exceptions=True)

    def cut(self) -> None:
        """Cuts all connections; new ones pass."""
        for connection in tuple(self._connections):
            connection.cut()

    def swallow(self) -> None:
        """Lets all connections stand and nothing of them pass; new ones pass."""
        for connection in self._connections:
            connection.swallowed = True

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
                pumps.create_task(self._pump(connection, reader, target_writer, answers=False))
                pumps.create_task(self._pump(connection, target_reader, writer, answers=True))
        finally:
            connection.cut()
            await connection.gone()
            self._connections.discard(connection)

    async def _pump(
        self, connection: Connection, reader: asyncio.StreamReader, writer: asyncio.StreamWriter, *, answers: bool
    ) -> None:
        with contextlib.suppress(OSError):  # one side has left, or was cut
            while data := await reader.read(_READ_BYTES):
                if connection.swallowed:
                    continue
                if answers:
                    await asyncio.sleep(self.delay_seconds)
                    self._count(len(data))
                writer.write(data)
                await writer.drain()
        if not connection.swallowed and writer.can_write_eof():
            with contextlib.suppress(OSError):
                writer.write_eof()

    def _count(self, size: int) -> None:
        self._passed_bytes += size
        if self.cut_after_bytes is not None and self._passed_bytes >= self.cut_after_bytes:
            self.cut_after_bytes = None
            self.cut()
            self.after_cut()
