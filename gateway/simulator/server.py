"""The simulator as a server: its life, its socket, its log."""

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

_LARGEST_BODY = 256 * 1024 * 1024
_LARGEST_HEADER = 64 * 1024
_BACKLOG = 4096
# Nothing is left to wait for when aiohttp shuts down: every connection was closed before.
_SHUTDOWN_TIMEOUT = 1.0

_log = structlog.get_logger()
_library_log = logging.getLogger("gateway.simulator.http")


def _quotes_nothing(record: logging.LogRecord) -> bool:
    """Let a record pass, but without the error of a malformed request, which quotes it, tokens included."""
    if record.exc_info and isinstance(record.exc_info[1], HttpProcessingError):
        record.msg, record.args, record.exc_info = "a request could not be read", (), None
    return True


_library_log.addFilter(_quotes_nothing)


class Simulator:
    """The VIKTOR REST API, served over HTTP.

    Args:
        tokens: the tokens that it lets in.
        clock: seconds that its jobs go by; a test may step its own.

    Attributes:
        requests: what it was sent, oldest first, bounded.

    """

    def __init__(self, *, tokens: frozenset[str], clock: Callable[[], float] = time.monotonic) -> None:
        self.requests = Recording()
        self._clock = clock
        self._faults = FaultPlan()
        self._endpoints = Endpoints(tokens=tokens, clock=clock, faults=self._faults)
        self._runner: web.AppRunner | None = None
        self._site: web.SockSite | None = None
        # While connections are refused: it keeps the port from others without listening at it.
        self._reserved: socket.socket | None = None
        # The connections whose request is being handled; the others are idle.
        self._busy: set[asyncio.Transport] = set()
        self._host = ""
        self._port = 0

    @property
    def url(self) -> str:
        """The base URL of the REST API, without a slash at its end; meaningful once it was started."""
        host = f"[{self._host}]" if ":" in self._host else self._host
        return f"http://{host}:{self._port}{BASE_PATH}"

    async def start(self, host: str, port: int) -> None:
        """Listen at `host` and `port`, 0 to 65535; with 0 the system chooses a free one.

        Raises:
            OSError: the address cannot be bound, or there is no such host.
            RuntimeError: it runs already.

        """
        if self._runner is not None:
            raise RuntimeError("the simulator runs already")
        listener = await _bound(host, port)
        self._host, self._port = host, listener.getsockname()[1]
        application = web.Application(middlewares=[self._serve], client_max_size=_LARGEST_BODY)
        application.add_routes(self._endpoints.routes())
        self._runner = web.AppRunner(
            application,
            access_log=None,
            logger=_library_log,
            handler_cancellation=True,
            shutdown_timeout=_SHUTDOWN_TIMEOUT,
            max_line_size=_LARGEST_HEADER,
            max_field_size=_LARGEST_HEADER,
        )
        await self._runner.setup()
        try:
            await self._listen(self._runner, listener)
        except OSError:
            listener.close()
            await self.stop()
            raise

    async def stop(self) -> None:
        """Close the port and every connection at once; nothing happens where it does not run."""
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
        """Put a fault behind those that requests will meet, whatever their job."""
        self._faults.add(fault)

    def rotate_token(self, old: str, new: str) -> None:
        """Let in the token `new` in the place of `old`, whose jobs are its own from now on."""
        self._endpoints.rotate_token(old, new)

    async def refuse(self, refusing: bool) -> None:
        """Begin or cease to refuse connections, at the same port.

        Idle connections are closed; requests in flight get their answers.

        Raises:
            OSError: the port cannot be bound again.
            RuntimeError: it does not run.

        """
        if self._runner is None or self._runner.server is None:
            raise RuntimeError("the simulator does not run")
        if refusing and self._site is not None:
            await self._site.stop()
            self._site = None
            self._reserved = await _bound(self._host, self._port)
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
            answer = await handler(request)
        except Refused as refusal:
            answer = json_response(refusal.body, status=refusal.status)
        except web.HTTPException as error:
            # The router's own refusals are text, the API's are JSON.
            answer = json_response(msgspec.json.encode({"detail": error.reason}), status=error.status)
        finally:
            if transport is not None:
                self._busy.discard(transport)
        _log.info("simulator request", method=request.method, path=request.raw_path, status=answer.status)
        return answer


async def _bound(host: str, port: int) -> socket.socket:
    """Return a socket that is bound to an address and does not listen yet."""
    found = await asyncio.get_running_loop().getaddrinfo(host, port, type=socket.SOCK_STREAM)
    family, kind, protocol, _, address = found[0]
    bound = socket.socket(family, kind, protocol)
    try:
        bound.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        bound.bind(address)
    except OSError:
        bound.close()
        raise
    return bound
