"""The HTTP/1.1 server of the admin address.

A web framework would take a fifth of the start of the process (docs/internals/performance.md).
"""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING

from gateway.clock import RearmableTimer
from gateway.server.http_messages import InvalidRequest, RequestParser, Response
from gateway.time_limits import limited_until

if TYPE_CHECKING:
    import socket
    from collections.abc import Awaitable, Callable, Iterable

    from gateway.clock import Clock
    from gateway.server.http_messages import Request

    Handle = Callable[[Request], Awaitable[Response]]

# The time for a request from the begin of the connection or from the last response, whose client reads it in this time.
IDLE_SECONDS = 75.0


class HttpServer:
    """Serves `handle` at sockets. A connection has one request at a time."""

    def __init__(self, handle: Handle, clock: Clock) -> None:
        self._handle = handle
        self._clock = clock
        self._servers: list[asyncio.Server] = []
        self._connections: set[_Connection] = set()
        self._all_ended = asyncio.Event()

    async def start(self, sockets: Iterable[socket.socket]) -> None:
        """Serve at each of the listening sockets, which then belong to this server."""
        loop = asyncio.get_running_loop()
        for each in sockets:
            self._servers.append(await loop.create_server(self._connection, sock=each))

    async def aclose(self, grace: float) -> None:
        """Stop listening, and close the connections. Requests in flight may end within `grace` seconds."""
        for server in self._servers:
            server.close()
        for each in list(self._connections):
            each.finish()
        try:
            with limited_until(self._clock, self._clock.monotonic() + grace):
                while self._connections:
                    self._all_ended.clear()
                    await self._all_ended.wait()
        except TimeoutError:
            for each in list(self._connections):
                each.abort()

    def _connection(self) -> _Connection:
        connection = _Connection(self._handle, self._clock, self._ended)
        self._connections.add(connection)
        return connection

    def _ended(self, connection: _Connection) -> None:
        self._connections.discard(connection)
        if not self._connections:
            self._all_ended.set()


class _Connection(asyncio.Protocol):
    """One connection. While a response is made, further bytes are dropped, and it then ends the connection."""

    _transport: asyncio.Transport

    def __init__(self, handle: Handle, clock: Clock, ended: Callable[[_Connection], None]) -> None:
        self._handle = handle
        self._clock = clock
        self._ended = ended
        self._parser = RequestParser()
        self._responding: asyncio.Task[None] | None = None
        self._is_last = False
        self._timer = RearmableTimer(clock, self._expire)

    def finish(self) -> None:
        """Close the connection after the response that is being made, if any."""
        self._is_last = True
        if self._responding is None:
            self._transport.close()

    def abort(self) -> None:
        """Close the connection now, and make no response."""
        if self._responding is not None:
            self._responding.cancel()
        self._transport.abort()

    # asyncio.Protocol

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override] # it is for TCP
        self._transport = transport
        self._timer.set(self._clock.monotonic() + IDLE_SECONDS)

    def data_received(self, data: bytes) -> None:
        if self._responding is not None:
            self._is_last = True
        if self._is_last:
            return
        try:
            request = self._parser.feed(data)
        except InvalidRequest as error:
            self._is_last = True
            self._send(Response(f"{error}\n".encode(), 400), has_body=True)
            return
        if request is not None:
            self._is_last |= not self._parser.keeps_alive
            self._responding = asyncio.get_running_loop().create_task(self._respond(request))

    def eof_received(self) -> bool:
        # The client may have closed its half only.
        self._is_last = True
        return self._responding is not None

    def pause_writing(self) -> None:
        # The client does not read, and would get further responses.
        self._transport.pause_reading()

    def resume_writing(self) -> None:
        if not self._transport.is_closing():
            self._transport.resume_reading()

    def connection_lost(self, _: Exception | None) -> None:
        self._timer.close()
        self._parser.close()
        self._ended(self)

    async def _respond(self, request: Request) -> None:
        try:
            response = await self._handle(request)
        except Exception as error:  # noqa: BLE001 - the defect of a page must not leave the client without a response
            asyncio.get_running_loop().call_exception_handler({"message": "admin request failed", "exception": error})
            response = Response(b"internal error\n", 500)
        self._responding = None
        if not self._transport.is_closing():
            self._send(response, has_body=request.method != "HEAD")

    def _send(self, response: Response, *, has_body: bool) -> None:
        self._transport.write(response.encode(self._clock.time(), has_body=has_body, closes=self._is_last))
        self._timer.set(self._clock.monotonic() + IDLE_SECONDS)
        if self._is_last:
            self._transport.close()
        else:
            self._parser.begin()

    def _expire(self) -> None:
        if self._responding is None:
            self._transport.abort()
