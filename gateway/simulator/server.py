"""The simulator as an HTTP server: start, stop, socket and log."""

from __future__ import annotations

import asyncio
import logging
import socket
import time
from collections.abc import Callable

import msgspec
import structlog
from aiohttp import web
from aiohttp.http_exceptions import HttpProcessingError
from aiohttp.typedefs import Handler

from gateway.simulator.endpoints import BASE_PATH, Endpoints
from gateway.simulator.faults import Fault, FaultPlan
from gateway.simulator.recording import Recorded, Recording
from gateway.simulator.responses import Refused, json_response

_MAX_BODY_BYTES = 256 * 1024 * 1024
_MAX_HEADER_BYTES = 64 * 1024
_BACKLOG = 4096
# aiohttp has nothing to wait for at shutdown, because all connections are closed before.
_SHUTDOWN_TIMEOUT = 1.0

_log = structlog.get_logger()
_library_log = logging.getLogger("gateway.simulator.http")


def _hide_malformed_requests(record: logging.LogRecord) -> bool:
    """Replace the error of a malformed request, because it quotes the request, including the token."""
    if record.exc_info and isinstance(record.exc_info[1], HttpProcessingError):
        record.msg, record.args, record.exc_info = "a request could not be read", (), None
    return True


_library_log.addFilter(_hide_malformed_requests)


class Simulator:
    """The VIKTOR REST API, served over HTTP.

    Args:
        tokens: the tokens that are accepted.
        clock: the time of jobs, in seconds. A test may pass one that it steps.

    Attributes:
        requests: the latest requests, oldest first.

    """

    def __init__(self, *, tokens: frozenset[str], clock: Callable[[], float] = time.monotonic) -> None:
        self.requests = Recording()
        self._clock = clock
        self._faults = FaultPlan()
        self._endpoints = Endpoints(tokens=tokens, clock=clock, faults=self._faults)
        self._runner: web.AppRunner | None = None
        self._site: web.SockSite | None = None
        # While connections are refused, this socket reserves the port without listening.
        self._reserved: socket.socket | None = None
        # The connections that have a request in flight. The others are idle.
        self._busy: set[asyncio.Transport] = set()
        self._host = ""
        self._port = 0

    @property
    def url(self) -> str:
        """The base URL of the REST API, without a slash at the end. Valid after `start`."""
        host = f"[{self._host}]" if ":" in self._host else self._host
        return f"http://{host}:{self._port}{BASE_PATH}"

    async def start(self, host: str, port: int) -> None:
        """Listen at `host` and `port` (0 to 65535). With port 0, the system chooses a free one.

        Raises:
            OSError: the host is unknown, or the address cannot be bound.
            RuntimeError: the simulator is already running.

        """
        if self._runner is not None:
            raise RuntimeError("the simulator is already running")
        listener = await _bind(host, port)
        self._host, self._port = host, listener.getsockname()[1]
        application = web.Application(middlewares=[self._serve], client_max_size=_MAX_BODY_BYTES)
        application.add_routes(self._endpoints.routes())
        self._runner = web.AppRunner(
            application,
            access_log=None,
            logger=_library_log,
            handler_cancellation=True,
            shutdown_timeout=_SHUTDOWN_TIMEOUT,
            max_line_size=_MAX_HEADER_BYTES,
            max_field_size=_MAX_HEADER_BYTES,
        )
        await self._runner.setup()
        try:
            await self._listen(self._runner, listener)
        except OSError:
            listener.close()
            await self.stop()
            raise

    async def stop(self) -> None:
        """Close the port and all connections immediately. Without effect if the simulator is not running."""
        runner, self._runner = self._runner, None
        if runner is None:
            return
        if self._site is not None:
            await self._site.stop()
            self._site = None
        if self._reserved is not None:
            self._reserved.close()
            self._reserved = None
        for connection in runner.server.connections if runner.server else ():
            if connection.transport is not None:
                connection.transport.abort()
        await runner.cleanup()

    def inject(self, fault: Fault) -> None:
        """Append a fault to those of all requests."""
        self._faults.add(fault)

    def rotate_token(self, old: str, new: str) -> None:
        """Accept the token `new` instead of `old`, and give it the jobs of `old`."""
        self._endpoints.rotate_token(old, new)

    def has_ended(self, uid: str) -> bool:
        """Return whether there is a job with this uid that has ended."""
        return self._endpoints.has_ended(uid)

    async def refuse(self, refusing: bool) -> None:
        """Start or stop refusing connections. The port stays the same.

        Idle connections are closed. Requests in flight still get their responses.

        Raises:
            OSError: the port cannot be bound again.
            RuntimeError: the simulator is not running.

        """
        if self._runner is None or self._runner.server is None:
            raise RuntimeError("the simulator is not running")
        if refusing and self._site is not None:
            await self._site.stop()
            self._site = None
            self._reserved = await _bind(self._host, self._port)
            for connection in self._runner.server.connections:
                connection.close()
                if connection.transport is not None and connection.transport not in self._busy:
                    connection.transport.close()
        elif not refusing and self._reserved is not None:
            reserved, self._reserved = self._reserved, None
            await self._listen(self._runner, reserved)

    async def _listen(self, runner: web.AppRunner, listener: socket.socket) -> None:
        self._site = web.SockSite(runner, listener, backlog=_BACKLOG)
        await self._site.start()

    @web.middleware
    async def _serve(self, request: web.Request, handler: Handler) -> web.StreamResponse:
        arrived = self._clock()
        transport = request.transport
        if transport is not None:
            self._busy.add(transport)
        try:
            recorded = Recorded(
                method=request.method,
                path=request.raw_path,
                headers=request.headers,
                body=await request.read(),
                time=arrived,
            )
            self.requests.record(recorded)
            response = await handler(request)
        except Refused as refusal:
            response = json_response(refusal.body, status=refusal.status)
        except web.HTTPException as error:
            # aiohttp's router refuses with text, but the API refuses with JSON.
            response = json_response(msgspec.json.encode({"detail": error.reason}), status=error.status)
        finally:
            if transport is not None:
                self._busy.discard(transport)
        _log.info("simulator request", method=request.method, path=request.raw_path, status=response.status)
        return response


async def _bind(host: str, port: int) -> socket.socket:
    """Return a socket that is bound to an address, but does not listen yet."""
    found = await asyncio.get_running_loop().getaddrinfo(host, port, type=socket.SOCK_STREAM)
    family, kind, protocol, _, address = found[0]
    listener = socket.socket(family, kind, protocol)
    try:
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        listener.bind(address)
    except OSError:
        listener.close()
        raise
    return listener
