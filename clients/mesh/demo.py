"""`make demo-fleet`: one request_id is sent twenty times through two gateways, which are killed in turn."""

from __future__ import annotations

import asyncio
import contextlib
import shutil
import sys
import tempfile
from contextlib import AsyncExitStack
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple
from urllib.parse import urlsplit

import grpc
import structlog
from jobgateway.v1 import job_service_pb2 as pb
from jobgateway.v1 import job_service_pb2_grpc as rpc
from rich.console import Console

from clients.mesh.cases import SignallingRecording
from clients.mesh.checks import BEARER
from clients.mesh.signal import Signal
from clients.runner.calls import Call
from clients.runner.gateways import GatewayProcess, free_address
from clients.runner.http2_proxy import Http2Proxy
from clients.runner.proxy import Proxy
from clients.runner.stack import TOKEN
from gateway.simulator import Simulator

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

    from clients.runner.proxy import Connection

REQUEST = pb.SendJobRequest(workspace_id="1", entity_id=7, method_name="succeed", request_id="order-4711")
SENDS = 20
SECONDS = 60.0
REPLAYED = ("jobgateway-replayed", "true")


class HeldUpstream(Proxy):
    """A proxy in front of the upstream that holds all responses until `release` is set."""

    def __init__(self, target: tuple[str, int]) -> None:
        super().__init__(target)
        self.release = asyncio.Event()

    async def _pump(
        self, connection: Connection, reader: asyncio.StreamReader, writer: asyncio.StreamWriter, *, downstream: bool
    ) -> None:
        if downstream:
            await self.release.wait()
        await super()._pump(connection, reader, writer, downstream=downstream)


class Arrivals(list[Call]):
    """The calls that have arrived, with a signal for each."""

    def __init__(self, signal: Signal) -> None:
        super().__init__()
        self._signal = signal

    def append(self, call: Call) -> None:
        """Append a call, and set the signal."""
        super().append(call)
        self._signal.changed()


class Answer(NamedTuple):
    """The answer to one send: the uid, the gateway that gave it, whether it was a repetition, and failed attempts."""

    uid: int
    gateway: int
    replayed: bool
    failures: int


@contextlib.asynccontextmanager
async def redis_server(folder: Path) -> AsyncIterator[str]:
    """Run a Redis that syncs each change to disk, and yield its URL."""
    host, port = free_address()
    process = await asyncio.create_subprocess_exec(
        *("redis-server", "--bind", host, "--port", str(port), "--dir", str(folder), "--save", ""),
        *("--appendonly", "yes", "--appendfsync", "always"),
        stdout=asyncio.subprocess.DEVNULL,
    )
    try:
        yield f"redis://{host}:{port}/0"
    finally:
        process.kill()
        await process.wait()


async def send(addresses: list[str], first: int) -> Answer:
    """Send the request through the gateway `first`, and through the other one if it does not answer."""
    for failures, number in enumerate((first, 1 - first)):
        async with grpc.aio.insecure_channel(addresses[number]) as channel:
            call = rpc.JobServiceStub(channel).SendJob(REQUEST, metadata=BEARER, timeout=SECONDS)
            if await call.code() is grpc.StatusCode.OK:
                replayed = REPLAYED in tuple(await call.trailing_metadata())
                return Answer((await call).uid, 1 + number, replayed, failures)
    raise RuntimeError(f"no gateway answered: {await call.code()} {await call.details()}")


async def main() -> int:
    """Run the demo; return the exit code."""
    console = Console(highlight=False, soft_wrap=True)
    if not shutil.which("redis-server"):
        console.print("redis-server: not on the PATH; install it, such as with `apt-get install redis-server`")
        return 2
    structlog.configure(wrapper_class=structlog.make_filtering_bound_logger(50))
    async with AsyncExitStack() as stack:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="demo-fleet-")))
        signal = Signal()
        simulator = Simulator(tokens=frozenset({TOKEN}))
        simulator.requests = SignallingRecording(signal)
        await simulator.start("127.0.0.1", 0)
        stack.push_async_callback(simulator.stop)
        held = await stack.enter_async_context(HeldUpstream(("127.0.0.1", urlsplit(simulator.url).port or 0)))
        url = urlsplit(simulator.url)._replace(netloc=held.address).geturl()
        key = folder / "key"
        key.write_text("of this demo only, thrown away at its end")
        state = await stack.enter_async_context(redis_server(folder))
        settings = {"JOBGATEWAY_STATE_URL": state, "JOBGATEWAY_STATE_KEY_FILE": str(key)}
        gateways = [GatewayProcess(url, settings) for _ in range(2)]
        for each in gateways:
            stack.push_async_callback(each.kill)
        await asyncio.gather(*(each.start() for each in gateways))
        arrived = Arrivals(signal)
        addresses = []
        for each in gateways:
            proxy = await stack.enter_async_context(Http2Proxy(each.address))
            proxy.calls = arrived
            addresses.append(proxy.address)
        console.print("A simulated upstream, a Redis and two gateways run.\n")
        answers = await _play(console, gateways, addresses, arrived, simulator, signal, held)
        posts = sum(each.method == "POST" for each in simulator.requests)
    uids = {each.uid for each in answers}
    console.print(f"\n[bold]{len(answers)} sends, {posts} POST, {len(uids)} job[/]. All processes are stopped.")
    return 0 if (len(answers), posts, len(uids)) == (SENDS, 1, 1) else 1


async def _play(
    console: Console,
    gateways: list[GatewayProcess],
    addresses: list[str],
    arrived: list[Call],
    simulator: Simulator,
    signal: Signal,
    held: HeldUpstream,
) -> list[Answer]:
    console.print(f"Send 1 of request_id {REQUEST.request_id!r} goes through gateway 1.")
    sends = [asyncio.create_task(send(addresses, 0))]
    await signal.until(lambda: any(each.method == "POST" for each in simulator.requests), "the POST", SECONDS)
    console.print("Its POST has arrived at the upstream. Sends 2 to 10 go through both gateways, and wait for it.")
    half = SENDS // 2
    sends += [asyncio.create_task(send(addresses, number % 2)) for number in range(1, half)]
    await signal.until(lambda: len(arrived) == half, "the other sends", SECONDS)
    await gateways[1].kill()
    console.print("[red]Gateway 2 is killed (-9).[/] Its callers send again, through gateway 1. The upstream responds.")
    held.release.set()
    answers = await asyncio.gather(*sends)
    _show(console, answers, 1)
    await gateways[1].start()
    console.print("\nGateway 2 is started again. It has never seen the job.")
    await gateways[0].kill()
    console.print("[red]Gateway 1, which sent the job, is killed (-9).[/] Sends 11 to 20 go through both.")
    later = await asyncio.gather(*(send(addresses, number % 2) for number in range(half)))
    _show(console, later, 1 + half)
    return [*answers, *later]


def _show(console: Console, answers: list[Answer], first: int) -> None:
    for number, each in enumerate(answers, first):
        marks = ["the job of an earlier send"] * each.replayed + ["second attempt"] * each.failures
        text = f"  send {number:2}: job {each.uid} from gateway {each.gateway}"
        console.print(text + (f" [dim]({', '.join(marks)})[/]" if marks else ""))


if __name__ == "__main__":
    with contextlib.suppress(KeyboardInterrupt, asyncio.CancelledError):
        sys.exit(asyncio.run(main()))
    sys.exit(130)
