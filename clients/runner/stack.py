"""What one client meets in one scenario: simulator, gateway, the proxy between, and the faults."""

from __future__ import annotations

import asyncio
import functools
import time
from contextlib import AsyncExitStack
from typing import TYPE_CHECKING, Any, Self
from urllib.parse import urlsplit

from clients.runner.breaker import Breaker
from clients.runner.gateways import GatewayProcess
from clients.runner.proxy import Proxy
from gateway.simulator import Simulator

if TYPE_CHECKING:
    from clients.runner.scenarios import Fault, Scenario

TOKEN, FRESH_TOKEN = "vktrpat_clients-first", "vktrpat_clients-fresh"


class Stack:
    """Everything that a scenario needs; `target` is the address to give to the client."""

    def __init__(self, scenario: Scenario) -> None:
        self._scenario = scenario
        self._exit = AsyncExitStack()
        self._waiting = list(scenario.faults)
        self._counts: dict[str, int] = {}
        self._tasks: set[asyncio.Task[None]] = set()
        self._gateways: list[GatewayProcess] = []
        self._breaks = 0
        self._job_seconds = 0.0
        clock = self._paced if scenario.pace else time.monotonic
        self.simulator = Simulator(tokens=frozenset({TOKEN}), clock=clock)

    async def __aenter__(self) -> Self:
        await self.simulator.start("127.0.0.1", 0)
        self._exit.push_async_callback(self.simulator.stop)
        try:
            url = urlsplit(self.simulator.url)
            if delay := self._scenario.upstream_delay_seconds:
                slow = await self._exit.enter_async_context(Proxy(("127.0.0.1", url.port or 0), delay_seconds=delay))
                url = url._replace(netloc=slow.address)
            self._url = url.geturl()
            self._proxy = await self._exit.enter_async_context(Breaker((await self._new_gateway()).address))
            self._arm()
            await self.settled()
        except BaseException:
            await self._exit.aclose()
            raise
        return self

    async def __aexit__(self, *_: object) -> None:
        for task in self._tasks:
            task.cancel()
        await self._exit.aclose()

    @property
    def target(self) -> str:
        """Where the client finds the gateway."""
        return self._proxy.address

    @property
    def gateway_log(self) -> str:
        """What the gateways logged."""
        return "".join(line for gateway in self._gateways for line in gateway.log)

    @property
    def missed(self) -> list[Fault]:
        """The faults whose time did not come."""
        by_bytes = [fault for fault in self._scenario.faults if fault.at_bytes and self._proxy.cut_after_bytes]
        return self._waiting + by_bytes

    @property
    def posts(self) -> list[bytes]:
        """The bodies of the submissions that reached the upstream."""
        return [each.body for each in self.simulator.requests if each.method == "POST"]

    @property
    def paths(self) -> list[str]:
        """The paths that were asked for there."""
        return [each.path for each in self.simulator.requests]

    def saw(self, line: dict[str, Any]) -> None:
        """Takes a line of the client's, and plays the faults whose time has come with it."""
        for kind in line.keys() - {"do"}:
            for name in (kind, f"{line.get('do')}.{kind}"):
                self._counts[name] = self._counts.get(name, 0) + 1
        self._play_due()
        resumed = self._counts.get("watch.resume", 0) >= self._breaks
        if self._scenario.pace and resumed and "resume" not in line:
            self._job_seconds = self._scenario.pace.seconds * self._counts.get(self._scenario.pace.by, 0)

    def _paced(self) -> float:
        return self._job_seconds

    async def settled(self) -> None:
        """Returns once the faults that began are over. Raises what went wrong in them."""
        await asyncio.gather(*self._tasks)

    def _arm(self) -> None:
        for fault in self._scenario.faults:
            if fault.at_bytes:
                self._waiting.remove(fault)
                self._proxy.cut_after_bytes = fault.at_bytes
                self._proxy.after_cut = functools.partial(self._begin, fault)
        self._play_due()

    def _play_due(self) -> None:
        for fault in tuple(self._waiting):
            if fault.is_due(self._counts):
                self._waiting.remove(fault)
                self._begin(fault)

    def _begin(self, fault: Fault) -> None:
        self._breaks += 1
        self._tasks.add(asyncio.create_task(self._play(fault)))

    async def _play(self, fault: Fault) -> None:
        match fault.kind:
            case "cut":
                self._proxy.cut()
            case "swallow":
                self._proxy.swallow()
            case "end":
                self._proxy.end_streams(fault.by)
            case "reset":
                self._proxy.reset_streams(fault.by)
            case "answer":
                self._proxy.answer(fault.by)
            case "restart":
                await self._gateways[-1].kill()
                await self._gateways[-1].start()
            case "drain":
                former = self._gateways[-1]
                self._proxy.target = (await self._new_gateway()).address
                former.drain()
            case "upstream_down" | "upstream_up":
                await self.simulator.refuse(fault.kind == "upstream_down")
            case "expire_token":
                self.simulator.rotate_token(TOKEN, FRESH_TOKEN)
            case _:
                raise ValueError(f"no fault is called {fault.kind}")

    async def _new_gateway(self) -> GatewayProcess:
        gateway = GatewayProcess(self._url, self._scenario.gateway)
        self._exit.push_async_callback(gateway.kill)
        await gateway.start()
        self._gateways.append(gateway)
        return gateway
