"""The cases: a fault that all clients meet behind one proxy, and the checks of their output."""

from __future__ import annotations

import time
from contextlib import AsyncExitStack
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Self
from urllib.parse import urlsplit

from clients.mesh.gateways import Gateway
from clients.mesh.programs import CLI
from clients.mesh.proxies import Envoy, Faults, HAProxy, Nginx, Proxy
from clients.mesh.signal import Signal
from clients.runner.proxy import Proxy as SlowProxy
from clients.runner.stack import TOKEN
from gateway.simulator import Simulator
from gateway.simulator.recording import Recorded, Recording

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Mapping

    from clients.mesh.programs import Run

# Longer than any run: these jobs end with `Mesh.release`.
JOB_SECONDS = 1000
# The response time of the upstream for a POST that runs into a timeout.
POST_SECONDS = 6
# The same for a POST that lasts until its gateway is killed.
HELD_SECONDS = 120
# The longest time without an event: the idle timeout and a reconnect, with a margin for a busy machine.
LONGEST_SILENCE = 15.0
DEFAULT_HEARTBEAT = 15.0


class SignallingRecording(Recording):
    """A recording that sets a signal with each request."""

    def __init__(self, signal: Signal) -> None:
        super().__init__()
        self._signal = signal

    def record(self, request: Recorded) -> None:
        """Record a request, and set the signal."""
        super().record(request)
        self._signal.changed()


@dataclass(frozen=True)
class Case:
    """A row of the matrix.

    Attributes:
        name: The name of the row.
        about: A description.
        play: Injects the fault, and returns when the jobs may end.
        faults: The faults of the proxy next to the gateways.
        outer: The faults of a second proxy of the same kind in front of it; None if there is none.
        watch: The clients watch their job; otherwise they only send it.
        heartbeat_seconds: The heartbeat interval of the watch.
        proxies: The proxies that can have the fault.
        replicas: The number of gateways.
        settings: Further settings of the gateways.

    """

    name: str
    about: str
    play: Callable[[Mesh], Awaitable[None]]
    faults: Faults = field(default_factory=Faults)
    outer: Faults | None = None
    watch: bool = True
    heartbeat_seconds: int = 1
    proxies: tuple[type[Proxy], ...] = (Envoy, Nginx, HAProxy)
    replicas: int = 2
    settings: Mapping[str, str] = field(default_factory=dict, hash=False)

    @property
    def response_seconds(self) -> float:
        """The time that the upstream takes for each response."""
        if self.watch:
            return 0
        return HELD_SECONDS if self.play is kill_in_post else POST_SECONDS

    def steps(self, name: str) -> list[dict[str, Any]]:
        """Return the steps of a client."""
        params = {"duration": JOB_SECONDS, "steps": 2}
        request = {"workspace_id": name, "entity_id": 7, "method_name": "succeed", "params": params}
        send = {"do": "send", "request": request}
        return [send, {"do": "watch", "heartbeat_seconds": self.heartbeat_seconds}] if self.watch else [send]


class Mesh:
    """Simulator, gateways and the proxies of a case, with clients that run at the same time."""

    def __init__(self, case: Case, proxy: type[Proxy]) -> None:
        self._case = case
        self.kind = proxy
        self._exit = AsyncExitStack()
        self._ended_seconds: float | None = None
        self.signal = Signal()
        self.simulator = Simulator(tokens=frozenset({TOKEN}), clock=self._time)
        self.simulator.requests = SignallingRecording(self.signal)
        self.gateways: list[Gateway] = []
        self.proxies: list[Proxy] = []
        self.runs: list[Run] = []
        # A text for the table.
        self.notes = ""

    def _time(self) -> float:
        return time.monotonic() + (0 if self._ended_seconds is None else 2 * JOB_SECONDS)

    def release(self) -> None:
        """Let all jobs end."""
        self._ended_seconds = time.monotonic()

    async def __aenter__(self) -> Self:
        await self.simulator.start("127.0.0.1", 0)
        self._exit.push_async_callback(self.simulator.stop)
        try:
            url = urlsplit(self.simulator.url)
            if self._case.response_seconds:
                here = ("127.0.0.1", url.port or 0)
                slow = await self._exit.enter_async_context(SlowProxy(here, delay_seconds=self._case.response_seconds))
                url = url._replace(netloc=slow.address)
            for _ in range(self._case.replicas):
                gateway = Gateway(url.geturl(), self._case.settings)
                gateway.on_line = self.signal.changed
                self._exit.push_async_callback(gateway.kill)
                await gateway.start()
                self.gateways.append(gateway)
            self.proxies.append(await self._exit.enter_async_context(self.kind(self.gateways, self._case.faults)))
            if self._case.outer is not None:
                outer = self.kind(self.proxies[:], self._case.outer)
                self.proxies.append(await self._exit.enter_async_context(outer))
        except BaseException:
            await self._exit.aclose()
            raise
        return self

    async def __aexit__(self, *_: object) -> None:
        await self._exit.aclose()

    @property
    def target(self) -> str:
        """The address for the clients."""
        return self.proxies[-1].target

    def posts(self, name: str) -> int:
        """Return the number of submissions of a client that reached the upstream."""
        return sum(f"/workspaces/{name}/" in each.path for each in self.simulator.requests if each.method == "POST")

    async def all_watch(self) -> None:
        """Return when each client has received an event."""
        await self.signal.until(lambda: all(run.events for run in self.runs), "an event for each client", 60)

    async def all_receive_more(self) -> None:
        """Return when each client has received a further event."""
        before = {run.name: run.events for run in self.runs}
        await self.signal.until(
            lambda: all(run.events > before[run.name] for run in self.runs), "a further event for each client", 60
        )

    async def all_were_cut(self) -> None:
        """Return when a watch of each client has ended at a gateway."""

        def cut() -> bool:
            ended = {line["uid"] for gateway in self.gateways for line in gateway.ended("WatchJob")}
            return all(run.uid in ended for run in self.runs)

        await self.signal.until(cut, "the end of a watch of each client", 60)

    async def all_posted(self) -> None:
        """Return when the submission of each client has arrived at the upstream."""
        await self.signal.until(lambda: all(self.posts(run.name) for run in self.runs), "a POST of each client", 60)


async def kill_in_watch(mesh: Mesh) -> None:
    """Kill one gateway after the other, so that every watch breaks."""
    await mesh.all_watch()
    for gateway in mesh.gateways:
        await gateway.restart()
        await mesh.all_receive_more()


async def drain(mesh: Mesh) -> None:
    """Drain one gateway after the other, as a rolling restart does."""
    await mesh.all_watch()
    for gateway in mesh.gateways:
        await gateway.roll()
        await mesh.all_receive_more()


async def cut(mesh: Mesh) -> None:
    """Wait until the proxy has ended a watch of each client."""
    await mesh.all_watch()
    await mesh.all_were_cut()


async def reload(mesh: Mesh) -> None:
    """Reload the proxy, which ends all watches soon after."""
    await mesh.all_watch()
    mesh.proxies[0].reload()
    await mesh.all_were_cut()


async def kill_in_post(mesh: Mesh) -> None:
    """Kill one gateway after the other while submissions are in flight, so that each submission breaks."""
    await mesh.all_posted()
    for gateway in mesh.gateways:
        await gateway.restart()


async def nothing(_: Mesh) -> None:
    """Do nothing, because the settings of the proxy are the fault."""


RETRIES = Faults(retries=True)
CASES = (
    Case("kill", "each gateway is killed during a watch", kill_in_watch),
    Case("drain", "each gateway is drained and replaced", drain),
    Case(
        "idle_timeout",
        "an idle timeout shorter than the heartbeat interval",
        cut,
        # The command line asks for heartbeats every 3 seconds.
        Faults(idle_seconds=2),
        heartbeat_seconds=20,
    ),
    Case("route_timeout", "a timeout for the whole stream", cut, Faults(lifetime_seconds=5), proxies=(Envoy,)),
    Case("reload", "a reload that ends streams", reload, Faults(lifetime_seconds=1), proxies=(Nginx, HAProxy)),
    Case("kill_in_post", "each gateway is killed while a job is sent", kill_in_post, watch=False),
    Case(
        "kill_in_post_retries", "the same, and the proxy retries as much as it can", kill_in_post, RETRIES, watch=False
    ),
    Case(
        "timeout_in_post_retries",
        "an idle timeout while a job is sent, and the proxy retries as much as it can",
        nothing,
        Faults(retries=True, idle_seconds=2),
        watch=False,
    ),
    Case(
        "two_hops",
        "a route timeout on the inner hop, retries on the outer one",
        nothing,
        Faults(lifetime_seconds=2),
        RETRIES,
        watch=False,
        proxies=(Envoy,),
    ),
    Case(
        "two_hops_uncounted",
        "the same, and no proxy counts attempts",
        nothing,
        Faults(lifetime_seconds=2, counts_attempts=False),
        Faults(retries=True, counts_attempts=False),
        watch=False,
        proxies=(Envoy,),
    ),
    Case(
        "kill_two_hops",
        "each gateway is killed while a job is sent, retries on both hops",
        kill_in_post,
        RETRIES,
        RETRIES,
        watch=False,
        proxies=(Envoy,),
    ),
)


def problems(case: Case, mesh: Mesh, run: Run) -> list[str]:
    """Return the problems of a client's run."""
    found = []
    # The timeout of a proxy may expire before the POST.
    failed = not case.watch and run.has("send", "error")
    if (posts := mesh.posts(run.name)) > 1 or (posts == 0 and not failed):
        found.append(f"{posts} POSTs")
    # The command line exits with an error if its call failed.
    if run.exit_code and (case.watch or run.exit_code < 0 or run.name != CLI):
        found.append(f"exit code {run.exit_code}")
    if TOKEN in run.text:
        found.append("the client printed the token")
    if not case.watch:
        if not run.has("send", "job") and not run.has("send", "error"):
            found.append("the submission neither succeeded nor failed")
        return found
    if run.end != "JOB_STATUS_SUCCESS":
        found.append("no end")
    # The command line uses the default heartbeat interval.
    heartbeat = DEFAULT_HEARTBEAT if run.name == CLI else case.heartbeat_seconds
    if (silence := run.silence()) > LONGEST_SILENCE + heartbeat:
        found.append(f"silent for {silence:.0f} s")
    return found
