"""Restart the gRPC server when its accept loop ends: any error in it is final by design (grpc/grpc#20805).

A request whose path is not UTF-8 is such an error (grpc.aio 1.85): the port is closed, open streams continue, and the
process seems healthy. `test_grpc_still_stops_at_a_bad_path` fails once grpc is fixed; then delete this module.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections import deque
from typing import TYPE_CHECKING, Any

import structlog

from gateway.server.addresses import Address, add_ports, resolve, split

if TYPE_CHECKING:
    from collections.abc import Callable

    import grpc

# The port was bound a moment ago, so binding it again succeeds soon.
REBIND_SECONDS = 0.1
REBINDS = 50
# The time between two checks whether the server still runs.
CHECK_SECONDS = 0.25
# Ended servers that are kept for the streams that are open on them.
MAX_ENDED_SERVERS = 20
RELEASE_SECONDS = 0.1

_log = structlog.get_logger()


class ListenerLost(Exception):
    """A server has ended, and its address cannot be bound again."""


class Listener:
    """A gRPC server at all addresses of HOST:PORT, which is replaced when it ends.

    `make` returns a server with its handlers. Without `credentials`, it serves plain text. After the start, `address`
    has the port that was chosen for port 0.
    """

    def __init__(
        self, listen: str, make: Callable[[], grpc.aio.Server], credentials: grpc.ServerCredentials | None
    ) -> None:
        self.address = listen
        self._addresses: list[Address] = []
        self._make = make
        self._credentials = credentials
        self._server: grpc.aio.Server | None = None
        # The open streams of a server end when the server is freed.
        self._ended: deque[grpc.aio.Server] = deque()
        self._restarting: asyncio.Task[None] | None = None

    @property
    def serving(self) -> bool:
        """True while it accepts connections."""
        return self._server is not None

    async def start(self) -> None:
        """Serve. Raises `OSError` if one of the addresses cannot be bound."""
        try:
            self._addresses = await resolve(split(self.address)[0])
        except OSError as error:
            raise self._cannot_be_bound(error) from error
        server = await self._start_server()
        self._restarting = asyncio.get_running_loop().create_task(self._restart(server))

    async def wait_closed(self) -> None:
        """Wait until `stop` is called. Raises `ListenerLost` if it ends before."""
        if self._restarting is not None:
            with contextlib.suppress(asyncio.CancelledError):
                await asyncio.shield(self._restarting)

    async def stop(self, grace: float) -> None:
        """Close the port, and after `grace` seconds all connections. Does nothing if it was not started."""
        if self._restarting is not None:
            self._restarting.cancel()
            await asyncio.wait([self._restarting])
        if self._server is not None:
            await self._server.stop(grace)
            self._server = None
        while self._ended:
            await _stop_ended(self._ended.popleft(), grace)

    async def _start_server(self) -> grpc.aio.Server:
        server = self._make()
        host, _, port = self.address.rpartition(":")
        try:
            self.address = f"{host}:{add_ports(server, self._addresses, int(port), self._credentials)}"
        except OSError as error:
            raise self._cannot_be_bound(error) from error
        await server.start()
        self._server = server
        return server

    def _cannot_be_bound(self, error: OSError) -> OSError:
        return OSError(f"JOBGATEWAY_LISTEN: {self.address} cannot be bound: {error.strerror}")

    async def _restart(self, server: grpc.aio.Server) -> None:
        while True:
            await _wait_ended(server)
            self._server = None
            self._ended.append(server)
            # Not an error, because a peer without a credential can cause it.
            _log.warning("listener.restarted", seldom=True)
            server = await self._start_server_again()
            if len(self._ended) > MAX_ENDED_SERVERS:
                await _stop_ended(self._ended.popleft(), 0.0)

    async def _start_server_again(self) -> grpc.aio.Server:
        for _ in range(REBINDS):
            with contextlib.suppress(OSError):
                return await self._start_server()
            await asyncio.sleep(REBIND_SECONDS)
        try:
            return await self._start_server()
        except OSError as error:
            raise ListenerLost(str(error)) from error


async def _stop_ended(server: grpc.aio.Server, grace: float) -> None:
    # A server whose loop has ended does not always report that it has stopped.
    stopping = asyncio.get_running_loop().create_task(server.stop(grace))
    await asyncio.wait([stopping], timeout=grace + RELEASE_SECONDS)
    stopping.cancel()


async def _wait_ended(server: grpc.aio.Server) -> None:
    """Wait until the accept loop of a server has ended."""
    # In a task, because cancelling it directly would break the server's own stop.
    ending = asyncio.get_running_loop().create_task(server.wait_for_termination())
    ending.add_done_callback(lambda done: done.cancelled() or done.exception())
    # It returns only when all streams have ended, long after the port was closed.
    inner: Any = server._server  # type: ignore[attr-defined]  # noqa: SLF001 - there is no public way to ask
    while not ending.done() and inner.is_running():
        await asyncio.wait([ending], timeout=CHECK_SECONDS)
