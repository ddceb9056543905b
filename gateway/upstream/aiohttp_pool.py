"""The connection pool: which connection a request may use, and which connections are closed."""

from __future__ import annotations

import time
from contextvars import ContextVar
from functools import partial
from typing import TYPE_CHECKING, Any

import aiohttp
from aiohttp import hdrs

from gateway.upstream.aiohttp_protocol import UpstreamProtocol

if TYPE_CHECKING:
    from aiohttp.client_reqrep import ConnectionKey

# The longest idle time of a connection for a request that cannot be repeated, because many servers close idle
# connections after 5 seconds.
UNREPEATABLE_IDLE_SECONDS = 4.0

# True if a request must not use a connection that was used before.
NEW_CONNECTION_ONLY: ContextVar[bool] = ContextVar("NEW_CONNECTION_ONLY", default=False)


class Connector(aiohttp.TCPConnector):
    """A pool of connections, each of which belongs to one credential (see `Request.connection_key`).

    A connection is used again only if no bytes arrived after its last response. A new connection over
    `max_connections` closes the one that has been idle longest. The caller must limit the connections in use.
    """

    def __init__(self, *, max_connections: int, **options: Any) -> None:
        super().__init__(limit=0, **options)
        self._max_connections = max_connections
        self._factory: Any = partial(UpstreamProtocol, loop=self._loop)

    async def connect(self, req: aiohttp.ClientRequest, *args: Any, **kwargs: Any) -> aiohttp.connector.Connection:
        """Return a connection from the pool, or a new one (overrides aiohttp)."""
        if self._conns and (kept := self._take_kept(req)) is not None:
            return kept
        self._make_room()
        return await super().connect(req, *args, **kwargs)

    async def _get(self, key: ConnectionKey, traces: list[Any]) -> None:
        # `connect` has already looked in the pool.
        return None

    def _take_kept(self, req: aiohttp.ClientRequest) -> aiohttp.connector.Connection | None:
        # The one used last, because it is the most likely to be open.
        key = req.connection_key
        protocols = self._conns.get(key)
        if protocols is None or NEW_CONNECTION_ONLY.get():
            return None
        max_idle = self._keepalive_timeout or 0.0
        if req.method != hdrs.METH_GET:
            max_idle = min(max_idle, UNREPEATABLE_IDLE_SECONDS)
        oldest = time.monotonic() - max_idle
        kept = None
        while protocols and kept is None and protocols[-1][1] >= oldest:
            protocol: Any = protocols.pop()[0]
            if protocol.is_reusable():
                self._acquired.add(protocol)
                kept = aiohttp.connector.Connection(self, key, protocol, self._loop)
            else:
                protocol.close()
        if not protocols:
            del self._conns[key]
        if kept is not None and req.proxy:
            self._update_proxy_auth_header_and_build_proxy_req(req)
        return kept

    def _make_room(self) -> None:
        idle = sum(map(len, self._conns.values()))
        while idle and idle + len(self._acquired) >= self._max_connections:
            # Keys are in the order in which their first connection became idle.
            key, protocols = next(iter(self._conns.items()))
            protocol, _ = protocols.popleft()
            protocol.close()
            if not protocols:
                del self._conns[key]
            idle -= 1
