"""The connections of the asyncio client, which all its calls share."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from contextlib import contextmanager

import grpc
from jobgateway.v1 import job_service_pb2_grpc as rpc

from jobgateway_client import calls


class Connection:
    """A channel, and the number of calls over it."""

    def __init__(self, channel: grpc.aio.Channel) -> None:
        self.channel = channel
        self.stub: calls.Stub = rpc.JobServiceStub(channel)
        self.calls = 0


class Connections:
    """The current connection of a client, and the older ones that still have calls.

    Several calls share a connection. The first of them that finds it broken replaces it for all; the old one is closed
    after its last call, because closing it earlier would cancel its other calls.

    Attributes:
        closing: Is done when the client is closed.

    """

    def __init__(
        self, target: str, credentials: grpc.ChannelCredentials | None, options: list[tuple[str, int | str]]
    ) -> None:
        self.closing: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._target = target
        self._credentials = credentials
        self._options = options
        self._current = self._connect()
        self._used = {self._current}
        # The event loop has only weak references to its tasks.
        self._disposals: set[asyncio.Task[None]] = set()

    @property
    def closed(self) -> bool:
        """True if the client is closed."""
        return self.closing.done()

    def _connect(self) -> Connection:
        if self._credentials is None:
            return Connection(grpc.aio.insecure_channel(self._target, self._options))
        return Connection(grpc.aio.secure_channel(self._target, self._credentials, self._options))

    @contextmanager
    def lease(self) -> Iterator[Connection]:
        """Use the current connection for one call.

        Raises:
            GatewayError: The client was closed.

        """
        connection = self.acquire()
        try:
            yield connection
        finally:
            self.release(connection)

    def acquire(self) -> Connection:
        """Return the current connection. Release it after the call.

        Raises:
            GatewayError: The client was closed.

        """
        if self.closed:
            raise calls.closed_error()
        self._current.calls += 1
        return self._current

    def release(self, connection: Connection) -> None:
        """Note the end of a call. An old connection is closed after its last one."""
        connection.calls -= 1
        self._dispose_unused(connection)

    def replace(self, connection: Connection) -> None:
        """Use a new connection from now on, unless another call has already replaced this one."""
        if self.closed or connection is not self._current:
            return
        self._current = self._connect()
        self._used.add(self._current)
        self._dispose_unused(connection)

    def _dispose_unused(self, connection: Connection) -> None:
        if connection.calls or connection is self._current or connection not in self._used:
            return
        self._used.remove(connection)
        disposal = self.closing.get_loop().create_task(connection.channel.close())
        self._disposals.add(disposal)
        disposal.add_done_callback(self._disposals.discard)

    async def close(self) -> None:
        """Close all connections, and end all waits."""
        if not self.closed:
            self.closing.set_result(None)
        used, self._used = self._used, set()
        await asyncio.gather(*self._disposals, *(connection.channel.close() for connection in used))
