"""The servers of one run: a simulator, a gateway, and a proxy between the client and the gateway, with their faults."""

from __future__ import annotations

import asyncio
import functools
import time
from contextlib import AsyncExitStack
from typing import TYPE_CHECKING, Any, Self
from urllib.parse import urlsplit

import httpx

from clients.runner.gateways import GatewayProcess
from clients.runner.http2_proxy import Http2Proxy
from clients.runner.proxy import Proxy
from gateway.simulator import Simulator

if TYPE_CHECKING:
    from clients.runner.calls import Call, Lifetime
    from clients.runner.scenarios import Fault, Scenario
    from gateway.simulator.recording import Recorded

TOKEN, FRESH_TOKEN = "vktrpat_clients-first", "vktrpat_clients-fresh"


class Stack:
    """The servers and the faults of one run."""

    def __init__(self, scenario: Scenario) -> None:
        self._scenario = scenario
        self._exit = AsyncExitStack()
        self._pending = list(scenario.faults)
        # Lines of the client, by kind, and by step and kind.
        self._counts: dict[str, int] = {}
        self._shown_ends: set[str] = set()
        self._tasks: set[asyncio.Task[None]] = set()
        self._gateways: list[GatewayProcess] = []
        # The clock of the jobs stops until there are as many. A loaded machine may cause others than the faults.
        self._resumes_due = 0
        self._job_seconds = 0.0
        clock = self._job_clock if scenario.pace else time.monotonic
        self.simulator = Simulator(tokens=frozenset({TOKEN}), clock=clock)

    async def __aenter__(self) -> Self:
        await self.simulator.start("127.0.0.1", 0)
        self._exit.push_async_callback(self.simulator.stop)
        try:
            await self._send_jobs()
            url = urlsplit(self.simulator.url)
            if delay := self._scenario.upstream_delay_seconds:
                slow = await self._exit.enter_async_context(Proxy(("127.0.0.1", url.port or 0), delay_seconds=delay))
                url = url._replace(netloc=slow.address)
            self._url = url.geturl()
            self._proxy = await self._exit.enter_async_context(Http2Proxy((await self._new_gateway()).address))
            self._proxy.before_failure = self._failed
            self.simulator.requests.on_record = self._recorded
            self._arm_faults()
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
        """The address for the client."""
        return self._proxy.address

    @property
    def gateway_log(self) -> str:
        """The log of all gateways."""
        return "".join(line for gateway in self._gateways for line in gateway.log)

    @property
    def missed(self) -> list[Fault]:
        """The faults that were not injected yet."""
        uncut = self._proxy.cut_after_bytes is not None
        by_bytes = [fault for fault in self._scenario.faults if fault.at_bytes and fault.kind != "hold" and uncut]
        return self._pending + by_bytes

    @property
    def calls(self) -> list[Call]:
        """The calls that the client made through the proxy."""
        return self._proxy.calls

    @property
    def connections(self) -> list[Lifetime]:
        """The connections that the client made."""
        return self._proxy.lifetimes

    @property
    def posts(self) -> list[bytes]:
        """The bodies of the client's submissions that reached the upstream."""
        bodies = [each.body for each in self.simulator.requests if each.method == "POST"]
        return bodies[self._scenario.sent.count if self._scenario.sent else 0 :]

    @property
    def paths(self) -> list[str]:
        """The paths of the requests that reached the upstream."""
        return [each.path for each in self.simulator.requests]

    def observe(self, line: dict[str, Any]) -> None:
        """Count a line of the client, and inject the faults that are due."""
        job = line.get("job", {})
        kinds = {*line, *(["done"] if job.get("done") else []), *(["step"] if job.get("message") else [])} - {"do"}
        for kind in kinds:
            self._count(kind)
            self._count(f"{line.get('do')}.{kind}")
        self._start_due_faults()
        resumed = self._counts.get("resume", 0) >= self._resumes_due
        if self._scenario.pace and resumed and "resume" not in line:
            self._job_seconds = self._scenario.pace.seconds * self._counts.get(self._scenario.pace.per, 0)

    def _recorded(self, request: Recorded) -> None:
        if request.method == "POST":
            self._count("posts")
        elif self.simulator.has_ended(uid := request.path.rstrip("/").rpartition("/")[2]):
            self._shown_ends.add(uid)
            self._counts["ends"] = len(self._shown_ends)
        self._start_due_faults()

    async def _failed(self) -> None:
        self._count("failed")
        await asyncio.gather(*self._start_due_faults())

    def _count(self, name: str) -> None:
        self._counts[name] = self._counts.get(name, 0) + 1

    def _job_clock(self) -> float:
        return self._job_seconds

    async def settled(self) -> None:
        """Return when no fault is in progress, or raise the error of a failed injection."""
        await asyncio.gather(*self._tasks)

    def _arm_faults(self) -> None:
        for fault in self._scenario.faults:
            if fault.at_bytes and fault.kind == "hold":
                self._pending.remove(fault)
                self._proxy.hold_after_bytes = fault.at_bytes
            elif fault.at_bytes:
                self._pending.remove(fault)
                self._proxy.cut_after_bytes = fault.at_bytes
                self._proxy.after_cut = functools.partial(self._start_fault, fault)
        self._start_due_faults()

    def _start_due_faults(self) -> list[asyncio.Task[None]]:
        due = [fault for fault in self._pending if fault.is_due(self._counts)]
        for fault in due:
            self._pending.remove(fault)
        return [self._start_fault(fault) for fault in due]

    def _start_fault(self, fault: Fault) -> asyncio.Task[None]:
        # A client resumes after every other fault.
        if fault.kind != "release":
            self._resumes_due = self._counts.get("resume", 0) + 1
        task = asyncio.create_task(self._inject(fault))
        self._tasks.add(task)
        return task

    async def _inject(self, fault: Fault) -> None:
        match fault.kind:
            case "cut" | "blackhole" | "release":
                getattr(self._proxy, fault.kind)()
            case "end":
                self._proxy.end_streams(fault.code)
            case "reset":
                self._proxy.reset_streams(fault.code)
            case "respond":
                self._proxy.respond(fault.code)
            case "restart":
                await self._gateways[-1].kill()
                await self._gateways[-1].start()
            case "drain":
                old = self._gateways[-1]
                self._proxy.target = (await self._new_gateway()).address
                old.drain()
            case "upstream_down" | "upstream_up":
                await self.simulator.refuse(fault.kind == "upstream_down")
            case "expire_token":
                self.simulator.rotate_token(TOKEN, FRESH_TOKEN)
            case _:
                raise ValueError(f"unknown fault {fault.kind}")

    async def _send_jobs(self) -> None:
        if (sent := self._scenario.sent) is None:
            return
        headers = {"Authorization": f"Bearer {TOKEN}"}
        async with httpx.AsyncClient(base_url=self.simulator.url, headers=headers) as client:
            for uid in range(sent.uid, sent.uid + sent.count):
                response = await client.post("/workspaces/1/entities/7/jobs/", json={"params": sent.params})
                if (got := response.raise_for_status().json()["uid"]) != uid:
                    raise ValueError(f"the job {uid} of the scenario has the uid {got}")

    async def _new_gateway(self) -> GatewayProcess:
        gateway = GatewayProcess(self._url, self._scenario.gateway)
        self._exit.push_async_callback(gateway.kill)
        await gateway.start()
        self._gateways.append(gateway)
        return gateway
