"""What one greedy caller costs the others: latencies of modest callers without it and with it, side by side in one run.

The gateway, the simulator and the greedy caller are processes of their own, over real sockets; this process is the
modest callers. Rounds of three phases: nobody is greedy; somebody is, who waits as `RetryInfo` says; and somebody who
does not. Takes under a minute.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import json
import logging
import os
import statistics
import subprocess
import sys
import time
from collections import Counter, defaultdict
from collections.abc import Awaitable, Callable, Iterator
from functools import partial
from pathlib import Path
from typing import Any

import grpc
import structlog
from google.rpc import error_details_pb2, status_pb2
from jobgateway.v1 import job_service_pb2 as pb
from jobgateway.v1 import job_service_pb2_grpc as rpc

ROOT = Path(__file__).resolve().parent.parent
PHASES = ("quiet", "greedy", "rude")
MODEST_CALLERS = 8
PAUSE_SECONDS = 0.05
# What the greedy one wants at once, each more than it may have or as much as its machine can do.
WATCHES, CALLS, SUBMISSIONS, FETCHES = 600, 150, 50, 3
# Settings that it meets in full even on a small machine; all others are the defaults.
SETTINGS = {"JOBGATEWAY_MAX_WATCHES": "500", "JOBGATEWAY_MAX_CALLS": "120"}
JOBS = 50
LARGE_RESULT, SMALL_RESULT = 20_000_000, 2_000_000
TOKENS = frozenset({"token-of-greedy", *(f"token-of-modest-{number}" for number in range(MODEST_CALLERS))})
CHANNEL = (("grpc.max_receive_message_length", -1), ("grpc.use_local_subchannel_pool", 1))

Work = Callable[[], Awaitable[None]]


class Caller:
    """A caller with a token, on some connections of its own."""

    def __init__(self, address: str, name: str, connections: int = 1) -> None:
        self.metadata = (("authorization", f"Bearer token-of-{name}"),)
        self.channels = [grpc.aio.insecure_channel(address, CHANNEL) for _ in range(connections)]
        self.stubs: list[rpc.JobServiceAsyncStub] = [rpc.JobServiceStub(channel) for channel in self.channels]

    async def send(self, method: str = "succeed", stub: int = 0, **params: Any) -> int:
        """Sends a job and returns its uid."""
        request = pb.SendJobRequest(workspace_id="1", entity_id=1, method_name=method)
        request.params_json = json.dumps(params).encode()
        return (await self.stubs[stub].SendJob(request, metadata=self.metadata)).uid

    async def get(self, uid: int, stub: int = 0) -> None:
        """Reads a job."""
        await self.stubs[stub].GetJob(pb.GetJobRequest(uid=uid), metadata=self.metadata)

    async def watch(self, uid: int, stub: int = 0, *, to_the_end: bool = False) -> None:
        """Watches a job until its first event, or until it is done."""
        call: Any = self.stubs[stub].WatchJob(pb.WatchJobRequest(uid=uid), metadata=self.metadata)
        try:
            while (event := await call.read()) is not grpc.aio.EOF:
                if not to_the_end and event.WhichOneof("payload") == "job":
                    return
        finally:
            call.cancel()


class Modest:
    """Does a little of everything, and keeps how long it took."""

    def __init__(self, address: str, number: int) -> None:
        self.caller = Caller(address, f"modest-{number}")
        self.seconds: dict[str, list[float]] = defaultdict(list)
        self.errors: Counter[str] = Counter()
        self.works: dict[str, Work] = {}

    async def prepare(self) -> None:
        """Sends the jobs that it will read and watch."""
        running = await self.caller.send("never")
        done = await self.caller.send(duration=0, result_bytes=SMALL_RESULT)

        async def send() -> None:
            await self.caller.send(duration=0)

        self.works = {
            "GetJob": lambda: self.caller.get(running),
            "SendJob": send,
            "WatchJob, first state": lambda: self.caller.watch(running),
            "WatchJob, 2 MB result": lambda: self.caller.watch(done, to_the_end=True),
        }

    async def work(self, until: float) -> None:
        """Works until then, with a pause after each call."""
        while time.monotonic() < until:
            for name, work in self.works.items():
                began = time.monotonic()
                try:
                    await work()
                except grpc.aio.AioRpcError as error:
                    self.errors[f"{name}: {error.code().name}"] += 1
                self.seconds[name].append(time.monotonic() - began)
                await asyncio.sleep(PAUSE_SECONDS)


class Greedy:
    """Does as much of everything as it is let; with `polite` false it tries again at once where it is refused."""

    def __init__(self, address: str, *, polite: bool) -> None:
        self.caller = Caller(address, "greedy", connections=20)
        self.polite = polite
        self.counts: Counter[str] = Counter()
        self.running: list[int] = []
        self.large: list[int] = []

    async def prepare(self) -> None:
        """Sends the jobs that it will read and watch."""
        self.large = [await self.caller.send(duration=0, result_bytes=LARGE_RESULT) for _ in range(FETCHES)]
        while len(self.running) < JOBS:
            self.running.append(await self.caller.send("never"))
            await asyncio.sleep(PAUSE_SECONDS / 2)

    async def work(self) -> None:
        """Works until it is cancelled."""
        async with asyncio.TaskGroup() as group:
            for number in range(WATCHES):
                group.create_task(self._repeat("watch", partial(self._watch, self.running, number)))
            for number in range(CALLS):
                group.create_task(self._repeat("call", partial(self._get, number)))
            for number in range(SUBMISSIONS):
                group.create_task(self._repeat("submission", partial(self._send, number % 20)))
            for number in range(FETCHES):
                group.create_task(self._repeat("large result", partial(self._watch, self.large, number)))

    async def _watch(self, uids: list[int], number: int) -> None:
        await self.caller.watch(uids[number % len(uids)], number % 20, to_the_end=True)

    async def _get(self, number: int) -> None:
        await self.caller.get(self.running[number % len(self.running)], number % 20)

    async def _send(self, stub: int) -> None:
        await self.caller.send(stub=stub, duration=0)

    async def _repeat(self, kind: str, work: Work) -> None:
        while True:
            try:
                await work()
                self.counts[f"{kind} OK"] += 1
            except grpc.aio.AioRpcError as error:
                self.counts[f"{kind} {error.code().name}"] += 1
                await asyncio.sleep(_retry_after(error) if self.polite else 0)


def _retry_after(error: grpc.aio.AioRpcError) -> float:
    status = status_pb2.Status.FromString(dict(error.trailing_metadata() or ()).get("grpc-status-details-bin", b""))
    info = error_details_pb2.RetryInfo()
    for detail in status.details:
        if detail.Is(info.DESCRIPTOR):
            detail.Unpack(info)
    return float(info.retry_delay.ToTimedelta().total_seconds())


async def be_greedy(address: str) -> None:
    """The greedy process: works as its standard input says, a phase a line, and prints what it got."""
    loop = asyncio.get_running_loop()
    callers = {"greedy": Greedy(address, polite=True), "rude": Greedy(address, polite=False)}
    for caller in callers.values():
        await caller.prepare()
    print("ready", flush=True)
    task: asyncio.Task[None] | None = None
    while line := (await loop.run_in_executor(None, sys.stdin.readline)).strip():
        if task is not None:
            task.cancel()
            await asyncio.wait([task])
        task = asyncio.create_task(callers[line].work()) if line in callers else None
        print("ready", flush=True)
    print(json.dumps({name: caller.counts for name, caller in callers.items()}), flush=True)
    os._exit(0)


async def simulate() -> None:
    """The simulator's process, with a token for each caller."""
    from gateway.simulator import Simulator

    structlog.configure(wrapper_class=structlog.make_filtering_bound_logger(logging.CRITICAL))
    simulator = Simulator(tokens=TOKENS)
    await simulator.start("127.0.0.1", 0)
    print(simulator.url, flush=True)
    await asyncio.Event().wait()


@contextlib.contextmanager
def process(*arguments: str, **options: Any) -> Iterator[subprocess.Popen[str]]:
    """A process of ours, that is ended in the end."""
    child = subprocess.Popen([sys.executable, *arguments], text=True, cwd=ROOT, **options)
    try:
        yield child
    finally:
        child.kill()
        child.wait()


def line_of(stream: Any) -> str:
    """The next line of a process; raises where it has ended."""
    line = str(stream.readline())
    if not line:
        raise RuntimeError("a process of the benchmark has ended")
    return line.strip()


async def measure(address: str, greedy: subprocess.Popen[str], rounds: int, seconds: float) -> dict[str, list[Modest]]:
    """What the modest callers met, by phase."""
    loop = asyncio.get_running_loop()
    callers: dict[str, list[Modest]] = defaultdict(list)
    assert greedy.stdin
    await loop.run_in_executor(None, line_of, greedy.stdout)
    for phase in PHASES:
        callers[phase] = [Modest(address, number) for number in range(MODEST_CALLERS)]
        for caller in callers[phase]:
            await caller.prepare()
    for _ in range(rounds):
        for phase in PHASES:
            greedy.stdin.write(f"{phase}\n")
            greedy.stdin.flush()
            await loop.run_in_executor(None, line_of, greedy.stdout)
            # Until its watches are open, or those of the phase before are closed.
            await asyncio.sleep(seconds / 2)
            until = time.monotonic() + seconds
            await asyncio.gather(*(caller.work(until) for caller in callers[phase]))
    return callers


def report(callers: dict[str, list[Modest]]) -> None:
    """Prints the latencies of each kind of call and phase, and their ratio to the quiet phase."""
    print(
        f"{'modest callers':24} {'phase':8} {'calls':>6} {'median ms':>10} {'p99 ms':>8} {'ratio':>7} {'p99 ratio':>10}"
    )
    for name in callers["quiet"][0].works:
        base = (1.0, 1.0)
        for phase in PHASES:
            took = sorted(each for caller in callers[phase] for each in caller.seconds[name])
            median, p99 = statistics.median(took) * 1e3, took[int(len(took) * 0.99)] * 1e3
            base = (median, p99) if phase == "quiet" else base
            ratios = f"{median / base[0]:7.1f} {p99 / base[1]:10.1f}"
            print(f"{name:24} {phase:8} {len(took):6} {median:10.1f} {p99:8.1f} {ratios}")
    for phase in PHASES:
        errors = sum((caller.errors for caller in callers[phase]), Counter[str]())
        print(f"errors of the modest callers, {phase}: {dict(errors) or 'none'}")


def main() -> None:
    """Starts the processes, measures, prints."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rounds", type=int, default=2)
    parser.add_argument("--seconds", type=float, default=4.0, help="of each phase")
    parser.add_argument("--part", choices=["simulator", "greedy"], help=argparse.SUPPRESS)
    parser.add_argument("--address", help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.part:
        asyncio.run(simulate() if options.part == "simulator" else be_greedy(options.address))
        return
    own = str(Path(__file__).resolve())
    with process(own, "--part", "simulator", stdout=subprocess.PIPE) as simulator:
        environment = os.environ | SETTINGS
        environment |= {"JOBGATEWAY_UPSTREAM_URL": line_of(simulator.stdout), "JOBGATEWAY_LISTEN": "127.0.0.1:0"}
        log = subprocess.PIPE
        with process("-m", "gateway", "serve", stderr=log, env=environment) as gateway:
            address = json.loads(line_of(gateway.stderr))["address"]
            # Its log is read all the time, for a full pipe would stop it.
            sink = subprocess.Popen(["cat"], stdin=gateway.stderr, stdout=subprocess.DEVNULL)  # noqa: S607
            pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE}
            with process(own, "--part", "greedy", "--address", address, **pipes) as greedy:
                report(asyncio.run(measure(address, greedy, options.rounds, options.seconds)))
                assert greedy.stdin
                greedy.stdin.write("\n")
                greedy.stdin.flush()
                for name, counts in json.loads(greedy.stdout.read().splitlines()[-1]).items():  # type: ignore[union-attr]
                    print(f"{name} caller: {counts}")
            sink.kill()
            sink.wait()


if __name__ == "__main__":
    main()
