"""The admin address: the status page, metrics, liveness and readiness over HTTP."""

from __future__ import annotations

from typing import TYPE_CHECKING

from aiohttp import web
from prometheus_client.exposition import choose_encoder

from gateway.server.addresses import bind, resolve, split

if TYPE_CHECKING:
    import socket
    from collections.abc import Callable

    from prometheus_client import CollectorRegistry

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

    def __init__(self, registry: CollectorRegistry, ready: Callable[[], bool], status: StatusPages) -> None:
        self._registry = registry
        self._ready = ready
        self._status = status
        application = web.Application()
        application.router.add_get("/", status.html)
        application.router.add_get("/statusz", status.json)
        application.router.add_get("/runbook", status.runbook)
        application.router.add_get("/metrics", self._metrics)
        application.router.add_get("/livez", self._livez)
        application.router.add_get("/readyz", self._readyz)
        # Other methods on the paths above, too.
        application.router.add_route("*", "/{path:.*}", _not_found)
        application.on_response_prepare.append(_hide_versions)
        self._runner = web.AppRunner(application, access_log=None, handle_signals=False, shutdown_timeout=CLOSE_SECONDS)

    async def start(self, listen: str) -> str:
        """Serve at all addresses of HOST:PORT, and return HOST:PORT with the port that was chosen for port 0.

        Raises:
            OSError: One of the addresses cannot be bound.
        """
        host, port = split(listen)
        await self._runner.setup()
        sockets: list[socket.socket] = []
        try:
            sockets += bind(await resolve(host), port)
            for each in sockets:
                await web.SockSite(self._runner, each).start()
        except OSError as error:
            await self._runner.cleanup()
            # The runner closes only the sockets that it was started with.
            for each in sockets:
                each.close()
            raise OSError(f"JOBGATEWAY_ADMIN_LISTEN: {listen} cannot be bound: {error.strerror}") from error
        return f"{listen.rpartition(':')[0]}:{self._runner.addresses[0][1]}"

    async def aclose(self) -> None:
        """Stop serving. Does nothing if it was not started."""
        await self._runner.cleanup()
        self._status.close()

    async def _metrics(self, request: web.Request) -> web.Response:
        try:
            encode, content_type = choose_encoder(request.headers.get("accept", ""))
        except (TypeError, ValueError):
            # The header asks for a version that is not a number.
            encode, content_type = choose_encoder("")
        return web.Response(body=encode(self._registry), headers={"content-type": content_type})

    async def _livez(self, _: web.Request) -> web.Response:
        return web.Response(text="alive\n")

    async def _readyz(self, _: web.Request) -> web.Response:
        return web.Response(text="ready\n") if self._ready() else web.Response(status=503, text="not ready\n")


async def _not_found(_: web.Request) -> web.Response:
    return web.Response(status=404, text="not found\n")


async def _hide_versions(_: web.Request, response: web.StreamResponse) -> None:
    response.headers["server"] = "jobgateway"
