"""What happens to all clients at once behind one proxy, and what must be seen then."""

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
    from collections.abc import Awaitable, Callable

    from clients.mesh.programs import Run

# Longer than any run: these jobs end when the mesh says so.
JOB_SECONDS = 1000
# How long the upstream takes for a POST that a time limit is to meet.
POST_SECONDS = 6
# And for one that stays until a gateway is killed.
HELD_SECONDS = 120
# Silences in a watch: the idle timeout and a reconnect, with a lot of room for a busy machine.
LONGEST_SILENCE = 15.0
DEFAULT_HEARTBEAT = 15.0


class _Noticed(Recording):
    """A recording that tells of each request."""

    def __init__(self, signal: Signal) -> None:
        super().__init__()
        self._signal = signal

    def record(self, request: Recorded) -> None:
        """See the base."""
        super().record(request)
        self._signal.changed()


@dataclass(frozen=True)
class Case:
    """A row of the matrix.

    Attributes:
        name: of the row.
        about: what happens.
        play: makes it happen; it returns when the jobs may end.
        faults: what is wrong with the proxy nearest to the gateways.
        outer: what is wrong with another proxy of the same kind before it; None: there is none.
        watch: the clients watch their job; else they only send it.
        heartbeat_seconds: of the watch.
        proxies: those that have the fault.

    """

    name: str
    about: str
    play: Callable[[Mesh], Awaitable[None]]
    faults: Faults = field(default_factory=Faults)
    outer: Faults | None = None
    watch: bool = True
    heartbeat_seconds: int = 1
    proxies: tuple[type[Proxy], ...] = (Envoy, Nginx, HAProxy)

    @property
    def answer_seconds(self) -> float:
        """How long the upstream takes for each answer."""
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
    """Simulator, two gateways and the proxies of a case, with clients that run at the same time."""

    def __init__(self, case: Case, proxy: type[Proxy]) -> None:
        self._case = case
        self._kind = proxy
        self._exit = AsyncExitStack()
        self._ended_seconds: float | None = None
        self.signal = Signal()
        self.simulator = Simulator(tokens=frozenset({TOKEN}), clock=self._time)
        self.simulator.requests = _Noticed(self.signal)
        self.gateways: list[Gateway] = []
        self.proxies: list[Proxy] = []
        self.runs: list[Run] = []
        # Figures for the table.
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
            if self._case.answer_seconds:
                here = ("127.0.0.1", url.port or 0)
                slow = await self._exit.enter_async_context(SlowProxy(here, delay_seconds=self._case.answer_seconds))
                url = url._replace(netloc=slow.address)
            for _ in range(2):
                gateway = Gateway(url.geturl())
                gateway.on_line = self.signal.changed
                self._exit.push_async_callback(gateway.kill)
                await gateway.start()
                self.gateways.append(gateway)
            self.proxies.append(await self._exit.enter_async_context(self._kind(self.gateways, self._case.faults)))
            if self._case.outer is not None:
                outer = self._kind(self.proxies[:], self._case.outer)
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
        """How many submissions of a client reached the upstream."""
        return sum(f"/workspaces/{name}/" in each.path for each in self.simulator.requests if each.method == "POST")

    async def all_watch(self) -> None:
        """Return once each client has seen its job."""
        await self.signal.until(lambda: all(run.heard for run in self.runs), "all clients watch", 60)

    async def all_hear_more(self) -> None:
        """Return once each client has heard something more."""
        heard = {run.name: run.heard for run in self.runs}
        await self.signal.until(
            lambda: all(run.heard > heard[run.name] for run in self.runs), "all clients hear more", 60
        )

    async def all_were_cut(self) -> None:
        """Return once a watch of each client has ended at a gateway."""

        def cut() -> bool:
            ended = {line["uid"] for gateway in self.gateways for line in gateway.ended("WatchJob")}
            return all(run.uid in ended for run in self.runs)

        await self.signal.until(cut, "a watch of each client is cut", 60)

    async def all_posted(self) -> None:
        """Return once the submission of each client has arrived at the upstream."""
        await self.signal.until(lambda: all(self.posts(run.name) for run in self.runs), "all clients post", 60)


async def kill_in_watch(mesh: Mesh) -> None:
    """Kill one gateway after the other, so that every watch breaks."""
    await mesh.all_watch()
    for gateway in mesh.gateways:
        await gateway.restart()
        await mesh.all_hear_more()


async def drain(mesh: Mesh) -> None:
    """Drain one gateway after the other, as a rolling restart does."""
    await mesh.all_watch()
    for gateway in mesh.gateways:
        await gateway.roll()
        await mesh.all_hear_more()


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
    """Kill one gateway after the other while submissions are under way, so that each of these breaks."""
    await mesh.all_posted()
    for gateway in mesh.gateways:
        await gateway.restart()


async def nothing(_: Mesh) -> None:
    """Let the proxy's settings be the fault."""


RETRIES = Faults(retries=True)
CASES = (
    Case("kill", "each gateway is killed in mid-watch", kill_in_watch),
    Case("drain", "each gateway is drained and replaced", drain),
    Case("idle_timeout", "an idle timeout below the heartbeats", cut, Faults(idle_seconds=5), heartbeat_seconds=20),
    Case("route_timeout", "a time limit of the whole stream", cut, Faults(lifetime_seconds=5), proxies=(Envoy,)),
    Case("reload", "a reload that ends streams", reload, Faults(lifetime_seconds=1), proxies=(Nginx, HAProxy)),
    Case("kill_in_post", "each gateway is killed while a job is sent", kill_in_post, watch=False),
    Case("kill_in_post_retries", "the same, and the proxy retries all that it can", kill_in_post, RETRIES, watch=False),
    Case(
        "timeout_in_post_retries",
        "an idle timeout while a job is sent, and the proxy retries all that it can",
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
    """Return what is wrong with a client's run."""
    found = []
    # A time limit may strike before the job was posted.
    failed = not case.watch and run.has("send", "error")
    if (posts := mesh.posts(run.name)) > 1 or (posts == 0 and not failed):
        found.append(f"{posts} POSTs")
    # The command line ends with an error if a call did.
    if run.exit_code and (case.watch or run.exit_code < 0 or run.name != CLI):
        found.append(f"exit code {run.exit_code}")
    if TOKEN in run.text:
        found.append("it printed the token")
    if not case.watch:
        if not run.has("send", "job") and not run.has("send", "error"):
            found.append("the submission neither succeeded nor failed")
        return found
    if run.end != "JOB_STATUS_SUCCESS":
        found.append("no end")
    # The command line asks for no interval of heartbeats, so it gets the default.
    heartbeat = DEFAULT_HEARTBEAT if run.name == CLI else case.heartbeat_seconds
    if (silence := run.silence()) > LONGEST_SILENCE + heartbeat:
        found.append(f"silent for {silence:.0f} s")
    return found
