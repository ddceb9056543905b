"""A simulated upstream and a gateway for the demo, in a thread of their own because the client blocks."""

from __future__ import annotations

import asyncio
import threading
from contextlib import AsyncExitStack
from typing import TYPE_CHECKING, Any, Self, TypeVar

from gateway.cli.servers import dev

if TYPE_CHECKING:
    from collections.abc import Coroutine

    from gateway.config import Settings
    from gateway.server.gateway import Gateway
    from gateway.simulator import Simulator

_T = TypeVar("_T")

_SECONDS = 15.0


class DemoServers:
    """Both servers, on free ports. Use it as a context manager.

    Attributes:
        upstream: The URL of the upstream.
        gateway: The address of the gateway.
    """

    def __init__(self) -> None:
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._loop.run_forever)
        self._stack = AsyncExitStack()
        self._settings: Settings
        self._simulator: Simulator
        self._gateway: Gateway
        self._restarting: asyncio.Task[None] | None = None
        self.upstream = self.gateway = ""

    def restart_gateway(self, after: float, *, down: float) -> None:
        """Stop the gateway in `after` seconds, and start another one at the same address `down` seconds later."""
        asyncio.run_coroutine_threadsafe(self._restart(after, down), self._loop)

    def reads(self, uid: int) -> int:
        """Return how often the upstream was asked for a job."""
        return self._run(self._reads(uid))

    def __enter__(self) -> Self:
        self._thread.start()
        try:
            self._run(self._start())
        except BaseException:
            self.__exit__()
            raise
        return self

    def __exit__(self, *_: object) -> None:
        try:
            self._run(self._stop())
        finally:
            self._loop.call_soon_threadsafe(self._loop.stop)
            self._thread.join()
            self._loop.close()

    def _run(self, coroutine: Coroutine[Any, Any, _T]) -> _T:
        return asyncio.run_coroutine_threadsafe(coroutine, self._loop).result(_SECONDS)

    async def _start(self) -> None:
        # Imported here, because this import would slow the other commands down.
        from gateway.config import Settings

        settings = Settings(
            listen="127.0.0.1:0",
            admin_listen="127.0.0.1:0",
            upstream_url=dev.REPLACED,
            poll_interval_max_seconds=0.25,
        )
        self._simulator, self._gateway = await dev.start(self._stack, settings)
        self.upstream, self.gateway = self._simulator.url, self._gateway.address
        self._settings = settings.model_copy(update={"listen": self.gateway, "upstream_url": self.upstream})

    async def _stop(self) -> None:
        if self._restarting:
            # Otherwise it could start a gateway that nothing stops.
            self._restarting.cancel()
            await asyncio.wait([self._restarting])
        await self._stack.aclose()

    async def _restart(self, after: float, down: float) -> None:
        from gateway.server.gateway import Gateway

        self._restarting = asyncio.current_task()
        await asyncio.sleep(after)
        await self._gateway.stop(0)
        await asyncio.sleep(down)
        self._gateway = Gateway(self._settings)
        self._stack.push_async_callback(self._gateway.stop, 0)
        await self._gateway.start()

    async def _reads(self, uid: int) -> int:
        return sum(each.method == "GET" and each.path.endswith(f"/jobs/{uid}/") for each in self._simulator.requests)
