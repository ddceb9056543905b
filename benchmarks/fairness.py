"""Measure the cost of one greedy client for the others: the latencies of modest clients with and without it.

The gateway, the simulator and the greedy client are separate processes; this process is the modest clients. Each round
has three phases: `quiet` without a greedy client, `greedy` with one that waits as `RetryInfo` asks, and `rude` with one
that retries immediately. It takes less than a minute.
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
MODEST_CLIENTS = 8
PAUSE_SECONDS = 0.05
# The concurrent calls of the greedy client: more than it may have, or as much as the machine can do.
WATCHES, CALLS, SUBMISSIONS, FETCHES = 600, 150, 50, 3
# Limits that it can reach on a small machine, and free ports. All other settings have their defaults.
SETTINGS = {
    "JOBGATEWAY_MAX_WATCHES": "500",
    "JOBGATEWAY_MAX_CALLS": "120",
    "JOBGATEWAY_LISTEN": "127.0.0.1:0",
    "JOBGATEWAY_ADMIN_LISTEN": "127.0.0.1:0",
}
JOBS = 50
LARGE_RESULT, SMALL_RESULT = 20_000_000, 2_000_000
TOKENS = frozenset({"token-of-greedy", *(f"token-of-modest-{number}" for number in range(MODEST_CLIENTS))})
CHANNEL = (("grpc.max_receive_message_length", -1), ("grpc.use_local_subchannel_pool", 1))

Work = Callable[[], Awaitable[None]]


class Client:
    """A client with a token and some connections."""

    def __init__(self, address: str, name: str, connections: int = 1) -> None:
        self.metadata = (("authorization", f"Bearer token-of-{name}"),)
        self.channels = [grpc.aio.insecure_channel(address, CHANNEL) for _ in range(connections)]
        self.stubs: list[rpc.JobServiceAsyncStub] = [rpc.JobServiceStub(channel) for channel in self.channels]

    async def send(self, method: str = "succeed", stub: int = 0, **params: Any) -> int:
        """Send a job, and return its uid."""
        request = pb.SendJobRequest(workspace_id="1", entity_id=1, method_name=method)
        request.params_json = json.dumps(params).encode()
        return (await self.stubs[stub].SendJob(request, metadata=self.metadata)).uid

    async def get(self, uid: int, stub: int = 0) -> None:
        """Read a job."""
        await self.stubs[stub].GetJob(pb.GetJobRequest(uid=uid), metadata=self.metadata)

    async def watch(self, uid: int, stub: int = 0, *, to_the_end: bool = False) -> None:
        """Watch a job until its first state, or until it is done."""
        call: Any = self.stubs[stub].WatchJob(pb.WatchJobRequest(uid=uid), metadata=self.metadata)
        try:
            while (event := await call.read()) is not grpc.aio.EOF:
                if not to_the_end and event.WhichOneof("payload") == "job":
                    return
        finally:
            call.cancel()


class Modest:
    """A client that makes one call of each kind at a time, and measures their latencies."""

    def __init__(self, address: str, number: int) -> None:
        self.client = Client(address, f"modest-{number}")
        self.seconds: dict[str, list[float]] = defaultdict(list)
        self.errors: Counter[str] = Counter()
        self.works: dict[str, Work] = {}

    async def prepare(self) -> None:
        """Send the jobs that the calls read and watch."""
        running = await self.client.send("never")
        done = await self.client.send(duration=0, result_bytes=SMALL_RESULT)

        async def send() -> None:
            await self.client.send(duration=0)

        self.works = {
            "GetJob": lambda: self.client.get(running),
            "SendJob": send,
            "WatchJob, first state": lambda: self.client.watch(running),
            "WatchJob, 2 MB result": lambda: self.client.watch(done, to_the_end=True),
        }

    async def work(self, until: float) -> None:
        """Make calls until a time of the monotonic clock, with a pause after each call."""
        while time.monotonic() < until:
            for name, work in self.works.items():
                start = time.monotonic()
                try:
                    await work()
                except grpc.aio.AioRpcError as error:
                    self.errors[f"{name}: {error.code().name}"] += 1
                self.seconds[name].append(time.monotonic() - start)
                await asyncio.sleep(PAUSE_SECONDS)


class Greedy:
    """A client that makes as many calls as possible. If `polite` is false, it ignores `RetryInfo`."""

    def __init__(self, address: str, *, polite: bool) -> None:
        self.client = Client(address, "greedy", connections=20)
        self.polite = polite
        self.counts: Counter[str] = Counter()
        self.running: list[int] = []
        self.large: list[int] = []

    async def prepare(self) -> None:
        """Send the jobs that the calls read and watch."""
        self.large = [await self.client.send(duration=0, result_bytes=LARGE_RESULT) for _ in range(FETCHES)]
        while len(self.running) < JOBS:
            self.running.append(await self.client.send("never"))
            await asyncio.sleep(PAUSE_SECONDS / 2)

    async def work(self) -> None:
        """Make calls until the task is cancelled."""
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
        await self.client.watch(uids[number % len(uids)], number % 20, to_the_end=True)

    async def _get(self, number: int) -> None:
        await self.client.get(self.running[number % len(self.running)], number % 20)

    async def _send(self, stub: int) -> None:
        await self.client.send(stub=stub, duration=0)

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
    """Run the greedy client: read a phase per line from standard input, and print the numbers of calls at the end."""
    loop = asyncio.get_running_loop()
    clients = {"greedy": Greedy(address, polite=True), "rude": Greedy(address, polite=False)}
    for client in clients.values():
        await client.prepare()
    print("ready", flush=True)
    task: asyncio.Task[None] | None = None
    while line := (await loop.run_in_executor(None, sys.stdin.readline)).strip():
        if task is not None:
            task.cancel()
            await asyncio.wait([task])
        task = asyncio.create_task(clients[line].work()) if line in clients else None
        print("ready", flush=True)
    print(json.dumps({name: client.counts for name, client in clients.items()}), flush=True)
    os._exit(0)


async def simulate() -> None:
    """Run the simulator, with a token for each client."""
    from gateway.simulator import Simulator

    structlog.configure(wrapper_class=structlog.make_filtering_bound_logger(logging.CRITICAL))
    simulator = Simulator(tokens=TOKENS)
    await simulator.start("127.0.0.1", 0)
    print(simulator.url, flush=True)
    await asyncio.Event().wait()


@contextlib.contextmanager
def process(*arguments: str, **options: Any) -> Iterator[subprocess.Popen[str]]:
    """Run Python with arguments, and kill the process when the context is left."""
    child = subprocess.Popen([sys.executable, *arguments], text=True, cwd=ROOT, **options)
    try:
        yield child
    finally:
        child.kill()
        child.wait()


def line_of(stream: Any) -> str:
    """Return the next line of a process.

    Raises:
        RuntimeError: The process has ended.

    """
    line = str(stream.readline())
    if not line:
        raise RuntimeError("a process of the benchmark has ended")
    return line.strip()


async def measure(address: str, greedy: subprocess.Popen[str], rounds: int, seconds: float) -> dict[str, list[Modest]]:
    """Run the rounds, and return the modest clients of each phase."""
    loop = asyncio.get_running_loop()
    clients: dict[str, list[Modest]] = {}
    assert greedy.stdin
    await loop.run_in_executor(None, line_of, greedy.stdout)
    for phase in PHASES:
        clients[phase] = [Modest(address, number) for number in range(MODEST_CLIENTS)]
        for client in clients[phase]:
            await client.prepare()
    for _ in range(rounds):
        for phase in PHASES:
            greedy.stdin.write(f"{phase}\n")
            greedy.stdin.flush()
            await loop.run_in_executor(None, line_of, greedy.stdout)
            # Time to open the greedy client's watches, or to close those of the previous phase.
            await asyncio.sleep(seconds / 2)
            until = time.monotonic() + seconds
            await asyncio.gather(*(client.work(until) for client in clients[phase]))
    return clients


def report(clients: dict[str, list[Modest]]) -> None:
    """Print the latencies of each kind of call and phase, and their ratio to the quiet phase."""
    print(
        f"{'modest clients':24} {'phase':8} {'calls':>6} {'median ms':>10} {'p99 ms':>8} {'ratio':>7} {'p99 ratio':>10}"
    )
    for name in clients["quiet"][0].works:
        base = (1.0, 1.0)
        for phase in PHASES:
            latencies = sorted(each for client in clients[phase] for each in client.seconds[name])
            median, p99 = statistics.median(latencies) * 1e3, latencies[int(len(latencies) * 0.99)] * 1e3
            base = (median, p99) if phase == "quiet" else base
            ratios = f"{median / base[0]:7.1f} {p99 / base[1]:10.1f}"
            print(f"{name:24} {phase:8} {len(latencies):6} {median:10.1f} {p99:8.1f} {ratios}")
    for phase in PHASES:
        errors = sum((client.errors for client in clients[phase]), Counter[str]())
        print(f"errors of the modest clients, {phase}: {dict(errors) or 'none'}")


def run(rounds: int, seconds: float) -> None:
    """Start the processes, measure, and print the results."""
    own = str(Path(__file__).resolve())
    pipe = subprocess.PIPE
    with process(own, "--part", "simulator", stdout=pipe) as simulator:
        environment = os.environ | SETTINGS | {"JOBGATEWAY_UPSTREAM_URL": line_of(simulator.stdout)}
        with process("-m", "gateway", "serve", stderr=pipe, env=environment) as gateway:
            address = json.loads(line_of(gateway.stderr))["address"]
            with (
                discarded(gateway.stderr),
                process(own, "--part", "greedy", "--address", address, stdin=pipe, stdout=pipe) as greedy,
            ):
                report(asyncio.run(measure(address, greedy, rounds, seconds)))
                output, _ = greedy.communicate("\n")
                for name, counts in json.loads(output.splitlines()[-1]).items():
                    print(f"{name} client: {counts}")


@contextlib.contextmanager
def discarded(log: Any) -> Iterator[None]:
    """Read and discard a log until the context is left, because a full pipe would block its writer."""
    sink = subprocess.Popen(["cat"], stdin=log, stdout=subprocess.DEVNULL)  # noqa: S607
    try:
        yield
    finally:
        sink.kill()
        sink.wait()


def main() -> None:
    """Run the command line."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rounds", type=int, default=2)
    parser.add_argument("--seconds", type=float, default=4.0, help="duration of each phase")
    parser.add_argument("--part", choices=["simulator", "greedy"], help=argparse.SUPPRESS)
    parser.add_argument("--address", help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.part:
        asyncio.run(simulate() if options.part == "simulator" else be_greedy(options.address))
    else:
        run(options.rounds, options.seconds)


if __name__ == "__main__":
    main()
