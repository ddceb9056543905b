"""Connections to the upstream: opened directly or through a proxy, and kept for later exchanges of the same owner."""

from __future__ import annotations

import asyncio
import socket
from typing import TYPE_CHECKING

import aiohappyeyeballs

from gateway.upstream.connection import Connection, NotSent

if TYPE_CHECKING:
    import ssl

    from gateway.upstream.http_request import ConnectionKey, Origin
    from gateway.upstream.resolver import Resolver

# When the next address is tried beside one that does not respond (RFC 8305).
NEXT_ADDRESS_SECONDS = 0.25
# How long the end of TLS is waited for when a connection is closed.
TLS_END_SECONDS = 1.0
MAX_PROXY_HEAD_BYTES = 64 << 10


class ConnectionPool:
    """Keeps at most `max_connections` connections, each for `idle_seconds` after its last exchange.

    The caller limits how many are in use at a time. If there are too many, the one that was idle for longest is closed.

    Args:
        resolver: Finds the addresses of a host.
        connect_seconds: Longest time to open a connection, with TLS and a proxy's tunnel.
        idle_seconds: Longest time for which an unused connection is kept.
        max_connections: The largest number of connections.
        tls: Verifies the upstream's certificate.
        proxy: The HTTP proxy, if requests go through one.
    """

    def __init__(
        self,
        resolver: Resolver,
        *,
        connect_seconds: float,
        idle_seconds: float,
        max_connections: int,
        tls: ssl.SSLContext,
        proxy: Origin | None,
    ) -> None:
        self._resolver = resolver
        self._connect_seconds = connect_seconds
        self._idle_seconds = idle_seconds
        self._max_connections = max_connections
        self._tls = tls
        self._proxy = proxy
        self._all: set[Connection] = set()
        # Since when each is idle, the longest first; and those of each key, the longest first.
        self._idle: dict[Connection, float] = {}
        self._of_key: dict[ConnectionKey, list[Connection]] = {}
        self._keys: dict[Connection, ConnectionKey] = {}
        self._expiry: asyncio.TimerHandle | None = None

    async def acquire(self, key: ConnectionKey, max_idle_seconds: float, *, new: bool) -> Connection:
        """Return a connection for one exchange: the one of this key that was used last, or a new one.

        Args:
            key: Origin and credential.
            max_idle_seconds: Longest idle time of a reused connection.
            new: Open a new one in any case.

        Raises:
            NotSent: No connection could be opened in time.
        """
        if not new and (kept := self._take(key, max_idle_seconds)) is not None:
            return kept
        if len(self._all) >= self._max_connections and self._idle:
            self._discard(next(iter(self._idle)))
        connection = await self._open(key.origin)
        self._keys[connection] = key
        return connection

    def _take(self, key: ConnectionKey, max_idle_seconds: float) -> Connection | None:
        oldest = asyncio.get_running_loop().time() - max_idle_seconds
        kept = self._of_key.get(key, [])
        # The most recently used one is most likely still open.
        while kept and self._idle[kept[-1]] >= oldest:
            connection = kept[-1]
            self._forget_idle(connection)
            if connection.is_reusable:
                return connection
            connection.close()
        return None

    def release(self, connection: Connection) -> None:
        """Keep a connection for the next exchange of its key, or close it if it cannot be used again."""
        if not connection.may_be_kept:
            connection.close()
            return
        loop = asyncio.get_running_loop()
        self._idle[connection] = loop.time()
        self._of_key.setdefault(self._keys[connection], []).append(connection)
        if self._expiry is None:
            self._expiry = loop.call_later(self._idle_seconds, self._expire)

    def _expire(self) -> None:
        loop = asyncio.get_running_loop()
        self._expiry = None
        while self._idle:
            connection, since = next(iter(self._idle.items()))
            if since + self._idle_seconds > loop.time():
                self._expiry = loop.call_at(since + self._idle_seconds, self._expire)
                return
            self._discard(connection)

    def _discard(self, connection: Connection) -> None:
        self._forget_idle(connection)
        connection.close()

    def _forget_idle(self, connection: Connection) -> None:
        if self._idle.pop(connection, None) is not None:
            key = self._keys[connection]
            self._of_key[key].remove(connection)
            if not self._of_key[key]:
                del self._of_key[key]

    def _lost(self, connection: Connection) -> None:
        self._forget_idle(connection)
        self._keys.pop(connection, None)
        self._all.discard(connection)

    async def aclose(self) -> None:
        """Close all connections."""
        if self._expiry is not None:
            self._expiry.cancel()
            self._expiry = None
        for connection in list(self._all):
            connection.abort()
        for connection in list(self._all):
            await connection.wait_closed()

    def _make(self) -> Connection:
        return Connection(asyncio.get_running_loop(), self._lost)

    async def _open(self, origin: Origin) -> Connection:
        try:
            async with asyncio.timeout(self._connect_seconds):
                return await self._connect(origin)
        except (OSError, TimeoutError) as error:
            raise NotSent("no connection to the upstream could be made") from error

    async def _connect(self, origin: Origin) -> Connection:
        loop = asyncio.get_running_loop()
        first = self._proxy or origin
        addresses = await self._resolver.resolve(first.host, first.port)
        connecting = await aiohappyeyeballs.start_connection(
            addresses, happy_eyeballs_delay=NEXT_ADDRESS_SECONDS, loop=loop
        )
        try:
            if self._proxy is not None and origin.secure:
                await _open_tunnel(connecting, origin)
            connection: Connection
            if origin.secure:
                _, connection = await loop.create_connection(
                    self._make,
                    sock=connecting,
                    ssl=self._tls,
                    server_hostname=origin.host,
                    ssl_shutdown_timeout=TLS_END_SECONDS,
                )
            else:
                _, connection = await loop.create_connection(self._make, sock=connecting)
        except BaseException:
            connecting.close()
            raise
        self._all.add(connection)
        return connection


async def _open_tunnel(connection: socket.socket, origin: Origin) -> None:
    """Ask a proxy for a tunnel. Raises `OSError` if it refuses."""
    loop = asyncio.get_running_loop()
    host = f"[{origin.host}]" if ":" in origin.host else origin.host
    target = f"{host}:{origin.port}"
    await loop.sock_sendall(connection, f"CONNECT {target} HTTP/1.1\r\nHost: {target}\r\n\r\n".encode())
    head = b""
    while not head.endswith(b"\r\n\r\n"):
        piece = await loop.sock_recv(connection, MAX_PROXY_HEAD_BYTES - len(head))
        if not piece:
            raise ConnectionResetError("the proxy ended its response, or it is too long")
        head += piece
    status = head.split(b" ", 2)[1:2]
    if not head.startswith(b"HTTP/1.") or not status or not status[0].startswith(b"2"):
        raise ConnectionRefusedError("the proxy refused the tunnel")
