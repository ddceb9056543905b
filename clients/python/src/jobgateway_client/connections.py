"""The connections of the sync client, which all its calls share."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import grpc
from jobgateway.v1 import job_service_pb2_grpc as rpc

from jobgateway_client import calls
from jobgateway_client.waiting import Closing


class Connection:
    """A channel, and the number of calls over it."""

    def __init__(self, channel: grpc.Channel) -> None:
        self.channel = channel
        self.stub: calls.Stub = rpc.JobServiceStub(channel)
        self.calls = 0


class Connections:
    """The current connection of a client, and the older ones that still have calls.

    Several calls share a connection. The first of them that finds it broken replaces it for all; the old one is closed
    after its last call, because closing it earlier would cancel its other calls.

    Attributes:
        closing: The end of the client.

    """

    def __init__(
        self, target: str, credentials: grpc.ChannelCredentials | None, options: list[tuple[str, int | str]]
    ) -> None:
        self.closing = Closing()
        self._target = target
        self._credentials = credentials
        self._options = options
        self._current = self._connect()
        self._used = {self._current}

    @property
    def closed(self) -> bool:
        """True if the client is closed."""
        return self.closing.closed

    def _connect(self) -> Connection:
        if self._credentials is None:
            return Connection(grpc.insecure_channel(self._target, self._options))
        return Connection(grpc.secure_channel(self._target, self._credentials, self._options))

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
        with self.closing.changed:
            if self.closed:
                raise calls.closed_error()
            self._current.calls += 1
            return self._current

    def release(self, connection: Connection) -> None:
        """Note the end of a call. An old connection is closed after its last one."""
        with self.closing.changed:
            connection.calls -= 1
            unused = not connection.calls and connection is not self._current and connection in self._used
            if unused:
                self._used.remove(connection)
        if unused:
            connection.channel.close()

    def replace(self, connection: Connection) -> None:
        """Use a new connection from now on, unless another call has already replaced this one."""
        with self.closing.changed:
            if self.closed or connection is not self._current:
                return
            self._current = self._connect()
            self._used.add(self._current)
            unused = not connection.calls
            if unused:
                self._used.remove(connection)
        if unused:
            connection.channel.close()

    def close(self) -> None:
        """Close all connections, and end all waits."""
        with self.closing.changed:
            self.closing.close()
            used, self._used = self._used, set()
        for connection in used:
            connection.channel.close()
