"""The connections and the token of the asyncio client, which all its calls share."""

from __future__ import annotations

import asyncio
import inspect
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from contextlib import asynccontextmanager, contextmanager
from typing import TYPE_CHECKING, TypeAlias

import grpc
from jobgateway.v1 import job_service_pb2_grpc as rpc

from jobgateway_client import calls
from jobgateway_client.errors import from_rpc_error

if TYPE_CHECKING:
    from jobgateway_client.tls import Tls

AsyncToken: TypeAlias = str | Callable[[], str | Awaitable[str | None] | None]
"""As `Token` of the sync client; the function may be a coroutine function."""


@contextmanager
def gateway_errors(connections: Connections) -> Iterator[None]:
    """Raise what ends a call as a `GatewayError`.

    If the client is closed, grpc.aio raises `CancelledError` in its calls. That must not look like a cancelled task.
    """
    task = asyncio.current_task()
    before = task.cancelling() if task else 0
    try:
        yield
    except grpc.RpcError as error:
        raise from_rpc_error(error) from None
    except asyncio.CancelledError:
        if not connections.closed or (task and task.cancelling() > before):
            raise
        raise calls.closed_error() from None
    except grpc.aio.UsageError:
        if not connections.closed:
            raise
        raise calls.closed_error() from None


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
    """

    def __init__(self, target: str, tls: Tls | None, options: list[tuple[str, int | str]]) -> None:
        self.closed = False
        self._target = target
        self._credentials = None if tls is None else tls.credentials()
        self._options = options
        self._current = self._connect()
        self._used = {self._current}

    def _connect(self) -> Connection:
        if self._credentials is None:
            return Connection(grpc.aio.insecure_channel(self._target, self._options))
        return Connection(grpc.aio.secure_channel(self._target, self._credentials, self._options))

    @asynccontextmanager
    async def lease(self) -> AsyncIterator[Connection]:
        """Use the current connection for one call.

        Raises:
            GatewayError: The client was closed.

        """
        if self.closed:
            raise calls.closed_error()
        connection = self._current
        connection.calls += 1
        try:
            yield connection
        finally:
            connection.calls -= 1
            await self._close_unused(connection)

    async def replace(self, connection: Connection) -> None:
        """Use a new connection from now on, unless another call has already replaced this one."""
        if self.closed or connection is not self._current:
            return
        self._current = self._connect()
        self._used.add(self._current)
        await self._close_unused(connection)

    async def _close_unused(self, connection: Connection) -> None:
        if not connection.calls and connection is not self._current and connection in self._used:
            self._used.remove(connection)
            await connection.channel.close()

    async def close(self) -> None:
        """Close all connections."""
        self.closed = True
        used, self._used = self._used, set()
        for connection in used:
            await connection.channel.close()


class Credential:
    """The token of a client, which its calls share."""

    def __init__(self, source: AsyncToken | None) -> None:
        self._source = source
        self._lock = asyncio.Lock()
        self._asked = False
        self._token: str | None = None

    async def token(self) -> str | None:
        """Return the current token."""
        async with self._lock:
            if not self._asked:
                self._token = calls.checked_token(await self._ask())
                self._asked = True
            return self._token

    async def renew(self, rejected: str | None) -> bool:
        """Get another token than the one that was rejected; return False if there is none."""
        async with self._lock:
            # Another call may have renewed it meanwhile.
            if self._token != rejected:
                return True
            fresh = calls.checked_token(await self._ask()) if callable(self._source) else None
            if fresh is None:
                return False
            self._token = fresh
            return True

    async def _ask(self) -> str | None:
        if not callable(self._source):
            return self._source
        found = self._source()
        return await found if inspect.isawaitable(found) else found
