"""The admin address: the status page, metrics, liveness and readiness over HTTP."""

from __future__ import annotations

from typing import TYPE_CHECKING

from prometheus_client.exposition import choose_encoder

from gateway.server.addresses import bind, resolve, split
from gateway.server.http_messages import Response
from gateway.server.http_server import HttpServer

if TYPE_CHECKING:
    import socket
    from collections.abc import Awaitable, Callable, Mapping

    from prometheus_client import CollectorRegistry

    from gateway.clock import Clock
    from gateway.server.http_messages import Request
    from gateway.server.status_page.pages import StatusPages

# A scrape that is in flight when the process stops may end within this time.
CLOSE_SECONDS = 0.5


class AdminServer:
    """Serves HTTP, without a credential.

    - `/`, `/statusz` and `/runbook`: see `StatusPages`
    - `/metrics`: for Prometheus
    - `/livez`: 200 while the event loop runs
    - `/readyz`: 200 while `ready`, otherwise 503
    """

    def __init__(
        self, registry: CollectorRegistry, ready: Callable[[], bool], status: StatusPages, clock: Clock
    ) -> None:
        self._registry = registry
        self._ready = ready
        self._status = status
        self._pages: Mapping[str, Callable[[Request], Awaitable[Response]]] = {
            "/": status.html,
            "/statusz": status.json,
            "/runbook": status.runbook,
            "/metrics": self._metrics,
            "/livez": self._livez,
            "/readyz": self._readyz,
        }
        self._server = HttpServer(self._respond, clock)

    async def start(self, listen: str) -> str:
        """Serve at all addresses of HOST:PORT, and return HOST:PORT with the port that was chosen for port 0.

        Raises:
            OSError: One of the addresses cannot be bound.
        """
        host, port = split(listen)
        sockets: list[socket.socket] = []
        try:
            sockets += bind(await resolve(host), port)
            chosen = sockets[0].getsockname()[1]
            await self._server.start(sockets)
        except OSError as error:
            await self._server.aclose(0)
            for each in sockets:
                each.close()
            raise OSError(f"JOBGATEWAY_ADMIN_LISTEN: {listen} cannot be bound: {error.strerror}") from error
        return f"{listen.rpartition(':')[0]}:{chosen}"

    async def aclose(self) -> None:
        """Stop serving. Does nothing if it was not started."""
        await self._server.aclose(CLOSE_SECONDS)
        self._status.close()

    async def _respond(self, request: Request) -> Response:
        page = self._pages.get(request.path) if request.method in {"GET", "HEAD"} else None
        return await page(request) if page else Response(b"not found\n", 404)

    async def _metrics(self, request: Request) -> Response:
        try:
            encode, content_type = choose_encoder(request.accept)
        except (TypeError, ValueError):
            # The header asks for a version that is not a number.
            encode, content_type = choose_encoder("")
        return Response(encode(self._registry), content_type=content_type)

    async def _livez(self, _: Request) -> Response:
        return Response(b"alive\n")

    async def _readyz(self, _: Request) -> Response:
        return Response(b"ready\n") if self._ready() else Response(b"not ready\n", 503)
