"""The admin address: metrics, liveness and readiness over HTTP, and nothing else."""

from __future__ import annotations

from typing import TYPE_CHECKING

from aiohttp import web
from prometheus_client.exposition import choose_encoder

from gateway.server.addresses import bound, resolved, split

if TYPE_CHECKING:
    import socket
    from collections.abc import Callable

    from prometheus_client import CollectorRegistry

# A scrape that is under way when the process stops may end within this time.
CLOSE_SECONDS = 0.5


class AdminServer:
    """`/metrics`, `/livez` (200 while the event loop answers) and `/readyz` (200 while `ready`, else 503)."""

    def __init__(self, registry: CollectorRegistry, ready: Callable[[], bool]) -> None:
        self._registry = registry
        self._ready = ready
        application = web.Application()
        application.router.add_get("/metrics", self._metrics)
        application.router.add_get("/livez", self._livez)
        application.router.add_get("/readyz", self._readyz)
        # Also for other methods on these paths: there is nothing there.
        application.router.add_route("*", "/{path:.*}", _nothing)
        application.on_response_prepare.append(_say_no_versions)
        self._runner = web.AppRunner(application, access_log=None, handle_signals=False, shutdown_timeout=CLOSE_SECONDS)

    async def start(self, listen: str) -> str:
        """Serve at all addresses of HOST:PORT, port 0 being any free one; return HOST:PORT. Raises `OSError`."""
        host, port = split(listen)
        await self._runner.setup()
        sockets: list[socket.socket] = []
        try:
            sockets += bound(await resolved(host), port)
            for each in sockets:
                await web.SockSite(self._runner, each).start()
        except OSError as error:
            await self._runner.cleanup()
            # Those that were never started are not the runner's.
            for each in sockets:
                each.close()
            raise OSError(f"JOBGATEWAY_ADMIN_LISTEN: {listen} cannot be bound: {error.strerror}") from error
        return f"{listen.rpartition(':')[0]}:{self._runner.addresses[0][1]}"

    async def aclose(self) -> None:
        """Stops serving; does nothing where it never did."""
        await self._runner.cleanup()

    async def _metrics(self, request: web.Request) -> web.Response:
        try:
            encode, content_type = choose_encoder(request.headers.get("accept", ""))
        except (TypeError, ValueError):
            # It compares a version that is no number with one that is.
            encode, content_type = choose_encoder("")
        return web.Response(body=encode(self._registry), headers={"content-type": content_type})

    async def _livez(self, _: web.Request) -> web.Response:
        return web.Response(text="alive\n")

    async def _readyz(self, _: web.Request) -> web.Response:
        return web.Response(text="ready\n") if self._ready() else web.Response(status=503, text="not ready\n")


async def _nothing(_: web.Request) -> web.Response:
    return web.Response(status=404, text="not found\n")


async def _say_no_versions(_: web.Request, response: web.StreamResponse) -> None:
    response.headers["server"] = "jobgateway"
