"""Connections to the upstream: opened directly or through a proxy, and kept for later exchanges of the same owner."""

from __future__ import annotations

import asyncio
import math
import re
import socket
from dataclasses import dataclass
from typing import TYPE_CHECKING, cast

import aiohappyeyeballs

from gateway.clock import RearmableTimer
from gateway.upstream.causes import Step, TunnelRefused, connect_failure
from gateway.upstream.connection import NotSent
from gateway.upstream.http1_connection import Http1Connection
from gateway.upstream.http2_connection import Http2Connection

if TYPE_CHECKING:
    import ssl
    from collections.abc import Callable

    from gateway.clock import Clock
    from gateway.time_limits import TimeLimits
    from gateway.upstream.http_request import ConnectionKey, Origin
    from gateway.upstream.resolver import Resolver

    AnyConnection = Http1Connection | Http2Connection

# When the next address is tried beside one that does not respond (RFC 8305).
NEXT_ADDRESS_SECONDS = 0.25
# How long the end of TLS is waited for when a connection is closed.
TLS_END_SECONDS = 1.0
MAX_PROXY_HEAD_BYTES = 64 << 10
# The name of HTTP/2 in a handshake (ALPN).
HTTP2 = "h2"


class _Handshake(asyncio.Protocol):
    """Makes the connection of the protocol that a handshake selected, before bytes that came with its end are read."""

    connection: AnyConnection

    def __init__(self, make: Callable[[str | None], AnyConnection]) -> None:
        self._make = make

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Pass the transport on."""
        tls = transport.get_extra_info("ssl_object")
        self.connection = self._make(tls.selected_alpn_protocol())
        # Those of uvloop are not of the class `asyncio.Transport`.
        cast("asyncio.Transport", transport).set_protocol(self.connection)
        self.connection.connection_made(transport)


@dataclass(slots=True)
class _Progress:
    """The progress of opening a connection."""

    step: Step = Step.RESOLVE


class ConnectionPool:
    """Keeps at most `max_connections` connections, each for a time after its last exchange.

    A connection is HTTP/2 if `tls` offers it and the upstream selects it, and HTTP/1.1 otherwise.

    The caller limits how many are in use at a time. If there are too many, the one that was idle for longest is closed.

    Args:
        resolver: Finds the addresses of a host.
        clock: Measures idle times and silence.
        time_limits: Limit the time to open a connection.
        connect_seconds: Longest time to open a connection, with TLS and a proxy's tunnel.
        idle_seconds: Longest time for which an unused HTTP/1.1 connection is kept.
        max_connections: The largest number of connections.
        tls: Verifies the upstream's certificate, and offers protocols to it.
        proxy: The HTTP proxy, if requests go through one.
    """

    def __init__(
        self,
        resolver: Resolver,
        clock: Clock,
        time_limits: TimeLimits,
        *,
        connect_seconds: float,
        idle_seconds: float,
        max_connections: int,
        tls: ssl.SSLContext,
        proxy: Origin | None,
    ) -> None:
        self._resolver = resolver
        self._clock = clock
        self._time_limits = time_limits
        self._connect_seconds = connect_seconds
        self._idle_seconds = idle_seconds
        self._max_connections = max_connections
        self._tls = tls
        self._proxy = proxy
        self._all: set[AnyConnection] = set()
        # Since when each is idle, the longest first; and those of each key, the longest first.
        self._idle: dict[AnyConnection, float] = {}
        self._of_key: dict[ConnectionKey, list[AnyConnection]] = {}
        self._keys: dict[AnyConnection, ConnectionKey] = {}
        self._expiry = RearmableTimer(clock, self._expire)
        # When the timer expires. It is not later than the end of any idle time.
        self._expires = math.inf

    async def acquire(self, key: ConnectionKey, max_idle_seconds: float, *, new: bool) -> AnyConnection:
        """Return a connection for one exchange: the one of this key that was used last, or a new one.

        Args:
            key: Origin and credential.
            max_idle_seconds: Longest idle time of a reused HTTP/1.1 connection.
            new: Open a new one in any case.

        Raises:
            NotSent: No connection could be opened in time.
        """
        if not new and (kept := await self._take(key, max_idle_seconds)) is not None:
            return kept
        if len(self._all) >= self._max_connections and self._idle:
            self._discard(next(iter(self._idle)))
        connection = await self._open(key.origin)
        self._keys[connection] = key
        return connection

    async def _take(self, key: ConnectionKey, max_idle_seconds: float) -> AnyConnection | None:
        oldest = self._clock.monotonic() - max_idle_seconds
        # The most recently used one is most likely still open.
        while kept := self._of_key.get(key):
            connection = kept[-1]
            if connection.idle_seconds is None and self._idle[connection] < oldest:
                break
            self._forget_idle(connection)
            usable = False
            try:
                usable = connection.is_reusable or (
                    isinstance(connection, Http2Connection) and await connection.settle()
                )
            finally:
                if not usable:
                    connection.close()
            if usable:
                return connection
        return None

    def release(self, connection: AnyConnection) -> None:
        """Keep a connection for the next exchange of its key, or close it if it cannot be used again."""
        if not connection.may_be_kept:
            connection.close()
            return
        self._idle[connection] = now = self._clock.monotonic()
        self._of_key.setdefault(self._keys[connection], []).append(connection)
        if (until := now + self._idle_limit(connection)) < self._expires:
            self._expire_at(until)

    def _idle_limit(self, connection: AnyConnection) -> float:
        return self._idle_seconds if connection.idle_seconds is None else connection.idle_seconds

    def _expire_at(self, when: float) -> None:
        self._expires = when
        self._expiry.set(when)

    def _expire(self) -> None:
        self._expires = math.inf
        now = self._clock.monotonic()
        for connection, since in list(self._idle.items()):
            if since + self._idle_limit(connection) <= now:
                self._discard(connection)
        if self._idle:
            self._expire_at(min(since + self._idle_limit(each) for each, since in self._idle.items()))

    def _discard(self, connection: AnyConnection) -> None:
        self._forget_idle(connection)
        connection.close()

    def _forget_idle(self, connection: AnyConnection) -> None:
        if self._idle.pop(connection, None) is not None:
            key = self._keys[connection]
            self._of_key[key].remove(connection)
            if not self._of_key[key]:
                del self._of_key[key]

    def _lost(self, connection: AnyConnection) -> None:
        self._forget_idle(connection)
        self._keys.pop(connection, None)
        self._all.discard(connection)

    async def aclose(self) -> None:
        """Close all connections."""
        self._expiry.close()
        for connection in list(self._all):
            connection.abort()
        for connection in list(self._all):
            await connection.wait_closed()

    def _make(self, protocol: str | None) -> AnyConnection:
        kind = Http2Connection if protocol == HTTP2 else Http1Connection
        return kind(asyncio.get_running_loop(), self._clock, self._lost)

    async def _open(self, origin: Origin) -> AnyConnection:
        progress = _Progress()
        try:
            with self._time_limits.until(self._clock.monotonic() + self._connect_seconds):
                return await self._connect(origin, progress)
        except OSError as error:
            cause, message = connect_failure(error, progress.step, proxy=self._proxy is not None)
            raise NotSent(message, cause=cause) from error

    async def _connect(self, origin: Origin, progress: _Progress) -> AnyConnection:
        loop = asyncio.get_running_loop()
        first = self._proxy or origin
        addresses = await self._resolver.resolve(first.host, first.port)
        progress.step = Step.CONNECT
        connecting = await aiohappyeyeballs.start_connection(
            addresses, happy_eyeballs_delay=NEXT_ADDRESS_SECONDS, loop=loop
        )
        if self._proxy is not None and origin.secure:
            progress.step = Step.TUNNEL
            try:
                await _open_tunnel(connecting, origin)
            except BaseException:
                connecting.close()
                raise
        progress.step = Step.HANDSHAKE
        connection = await self._start(connecting, origin)
        self._all.add(connection)
        return connection

    async def _start(self, connected: socket.socket, origin: Origin) -> AnyConnection:
        loop = asyncio.get_running_loop()
        connection: AnyConnection
        try:
            if origin.secure:
                _, handshake = await loop.create_connection(
                    lambda: _Handshake(self._make),
                    sock=connected,
                    ssl=self._tls,
                    server_hostname=origin.host,
                    ssl_handshake_timeout=self._connect_seconds,
                    ssl_shutdown_timeout=TLS_END_SECONDS,
                )
                connection = handshake.connection
            else:
                _, connection = await loop.create_connection(lambda: self._make(None), sock=connected)
        finally:
            # The event loop closes the socket, also after a failure. uvloop closes the descriptor itself, and a second
            # close by Python would hit a newer connection with the same number (MagicStack/uvloop#645).
            if not isinstance(loop, asyncio.BaseEventLoop):
                connected.detach()
        return connection


async def _open_tunnel(connection: socket.socket, origin: Origin) -> None:
    """Ask a proxy for a tunnel. Raises `OSError` if it refuses."""
    loop = asyncio.get_running_loop()
    host = f"[{origin.host}]" if ":" in origin.host else origin.host
    target = f"{host}:{origin.port}"
    await loop.sock_sendall(connection, f"CONNECT {target} HTTP/1.1\r\nHost: {target}\r\n\r\n".encode())
    head = b""
    while b"\n\r\n" not in head and b"\n\n" not in head:
        piece = await loop.sock_recv(connection, MAX_PROXY_HEAD_BYTES - len(head))
        if not piece:
            raise ConnectionResetError("the proxy ended its response, or it is too long")
        head += piece
        # A refusal may have a body, or no end.
        if b"\n" in head and not re.match(rb"HTTP/1\.[01] (1|2)\d\d[ \r\n]", head):
            refusal = re.match(rb"HTTP/1\.[01] ([3-5]\d\d)[ \r\n]", head)
            raise TunnelRefused(int(refusal[1]) if refusal else None)
        # Interim responses come before the response.
        head = re.sub(rb"\A(?:HTTP/1\.[01] 1\d\d[^\n]*\n(?:[^\r\n][^\n]*\n)*\r?\n)+", b"", head)
    if not re.fullmatch(rb"HTTP/1\.[01] 2\d\d[ \r\n].*?\n\r?\n", head, re.DOTALL):
        # Bytes after its response.
        raise TunnelRefused(None)
