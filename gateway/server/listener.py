"""The gRPC listener: bound, and started anew should it end by itself."""

from __future__ import annotations

import asyncio
import contextlib
import errno
from collections import deque
from typing import TYPE_CHECKING, Any

import structlog

from gateway.server.addresses import Address, bound, joined, numeric, resolved, split

if TYPE_CHECKING:
    from collections.abc import Callable

    import grpc

# Between attempts to bind the port again that was bound a moment ago, in seconds, and how often it is tried.
REBIND_SECONDS = 0.1
REBINDS = 50
# How often it is looked whether the listener is there still.
LOOK_SECONDS = 0.25
# How many servers that ended are kept for the streams that are open on them.
MOST_FORMER = 20
LET_GO_SECONDS = 0.1

_log = structlog.get_logger()


class Listener:
    """Serves at all addresses of HOST:PORT; port 0 is any free one, and `address` what it came to be.

    `make` gives a server with its handlers, `credentials` what it is served with, None being plain text.
    """

    def __init__(
        self, listen: str, make: Callable[[], grpc.aio.Server], credentials: grpc.ServerCredentials | None
    ) -> None:
        self.address = listen
        self._addresses: list[Address] = []
        self._make = make
        self._credentials = credentials
        self._server: grpc.aio.Server | None = None
        # Those that ended by themselves: streams that are open on one end with it.
        self._former: deque[grpc.aio.Server] = deque()
        self._keeping: asyncio.Task[None] | None = None

    @property
    def serving(self) -> bool:
        """Whether it takes connections."""
        return self._server is not None

    async def start(self) -> None:
        """Serve. Raises `OSError` if one of the addresses cannot be bound."""
        try:
            self._addresses = await resolved(split(self.address)[0])
        except OSError as error:
            raise self._cannot_be_bound(error) from error
        server = await self._bound()
        self._keeping = asyncio.get_running_loop().create_task(self._keep(server))

    async def lost(self) -> None:
        """Returns when it was stopped. Raises `OSError` where it ended by itself and cannot be bound again."""
        if self._keeping is not None:
            with contextlib.suppress(asyncio.CancelledError):
                await asyncio.shield(self._keeping)

    async def stop(self, grace: float) -> None:
        """Closes the listener, and what is open after `grace` seconds. Does nothing where it was not started."""
        if self._keeping is not None:
            self._keeping.cancel()
            await asyncio.wait([self._keeping])
        if self._server is not None:
            await self._server.stop(grace)
            self._server = None
        while self._former:
            await _let_go(self._former.popleft(), grace)

    async def _bound(self) -> grpc.aio.Server:
        server = self._make()
        try:
            port = self._add_ports(server)
        except OSError as error:
            raise self._cannot_be_bound(error) from error
        self.address = f"{self.address.rpartition(':')[0]}:{port}"
        await server.start()
        self._server = server
        return server

    def _add_ports(self, server: grpc.aio.Server) -> int:
        # grpc is content with one address of a name, and says why another failed in its own log only. So the port is
        # found, and each address tried, with sockets of ours.
        sockets = bound(self._addresses, split(self.address)[1])
        port: int = sockets[0].getsockname()[1]
        hosts = [each.getsockname() for each in sockets]
        for each in sockets:
            each.close()
        for host in map(numeric, hosts):
            try:
                if self._credentials is None:
                    server.add_insecure_port(joined(host, port))
                else:
                    server.add_secure_port(joined(host, port), self._credentials)
            except RuntimeError as error:
                raise OSError(errno.EADDRINUSE, f"another process took the port ({host})") from error
        return port

    def _cannot_be_bound(self, error: OSError) -> OSError:
        return OSError(f"JOBGATEWAY_LISTEN: {self.address} cannot be bound: {error.strerror}")

    async def _keep(self, server: grpc.aio.Server) -> None:
        # A request whose path is not UTF-8 ends the accept loop of grpc.aio (1.85). Streams that are open go on; all
        # else would be refused from then on, by a process that seems to be well.
        while True:
            await _ended(server)
            self._server = None
            self._former.append(server)
            # No error, because alerts look for these and a peer without a credential can cause it.
            _log.warning("listener.restarted", seldom=True)
            server = await self._bound_again()
            if len(self._former) > MOST_FORMER:
                await _let_go(self._former.popleft(), 0.0)

    async def _bound_again(self) -> grpc.aio.Server:
        for _ in range(REBINDS):
            with contextlib.suppress(OSError):
                return await self._bound()
            await asyncio.sleep(REBIND_SECONDS)
        return await self._bound()


async def _let_go(server: grpc.aio.Server, grace: float) -> None:
    # One that ended by itself does not always say that it has stopped.
    stopping = asyncio.get_running_loop().create_task(server.stop(grace))
    await asyncio.wait([stopping], timeout=grace + LET_GO_SECONDS)
    stopping.cancel()


async def _ended(server: grpc.aio.Server) -> None:
    """Returns when a server has ended."""
    # A task of its own, for to cancel it would break the server's own stop.
    ending = asyncio.get_running_loop().create_task(server.wait_for_termination())
    ending.add_done_callback(lambda done: done.cancelled() or done.exception())
    # It does not end before all streams have, and the listener is closed long before.
    inner: Any = server._server  # type: ignore[attr-defined]  # noqa: SLF001 - no public way tells
    while not ending.done() and inner.is_running():
        await asyncio.wait([ending], timeout=LOOK_SECONDS)
