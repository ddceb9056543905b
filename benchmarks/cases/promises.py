"""The checker of the watch promises, while the gateway is under the load of `fanout` and `calls`."""

from __future__ import annotations

import asyncio
import itertools
from contextlib import ExitStack
from typing import TYPE_CHECKING

import grpc

from benchmarks.processes import WITH_PAUSES, Process, gateway, process, watches
from benchmarks.table import Row
from tests.invariants.checks import violations
from tests.invariants.sockets import LONGEST, OUTAGE, SHORTEST, SILENCE, SocketRun, TroubledUpstream, job_answer

if TYPE_CHECKING:
    from tests.support.upstream import Connection, ReceivedRequest

LOAD = "token-of-the-benchmark"
# As many events per second as in `fanout`.
JOBS, WATCHERS = 15, 100
CALLS_IN_FLIGHT = 4


class Upstream(TroubledUpstream):
    """The upstream of the checked run. Requests of the load have no faults and are not recorded."""

    changes = itertools.count()

    async def respond(self, seen: ReceivedRequest, connection: Connection) -> bool:
        """Respond to a request, by its credential."""
        if seen.headers["authorization"] != f"Bearer {LOAD}":
            return await super().respond(seen, connection)
        uid = int(seen.path.rstrip("/").rpartition("/")[2])
        await connection.send(job_answer(uid, f"step {next(self.changes)}", None))
        return True


class LoadedRun(SocketRun):
    """A run with the gateway in a separate process under load, which is never restarted."""

    def __init__(self, seed: int, stack: ExitStack, *, quick: bool) -> None:
        super().__init__(seed)
        self.upstream = Upstream(self.dice)
        self.faults = self.upstream.faults
        self.load: Process | None = None
        self._stack = stack
        self._watchers = 5 if quick else WATCHERS

    async def _start_gateway(self) -> None:
        if self.load is None:
            self.load = await asyncio.to_thread(self._start_processes)
            self._channel = grpc.aio.insecure_channel(self._address)

    def _start_processes(self) -> Process:
        settings = {
            "poll_interval_min_seconds": SHORTEST,
            "poll_interval_max_seconds": LONGEST,
            "poll_outage_seconds": OUTAGE,
            "upstream_timeout_seconds": SILENCE,
            # The load exceeds the default rate of one credential.
            "calls_per_second": 100_000,
        }
        _, self._address = self._stack.enter_context(gateway(self.upstream.url, WITH_PAUSES, **settings))
        load = self._stack.enter_context(watches(self._address, 1_000_001, 1, JOBS, self._watchers))
        self._calls = self._stack.enter_context(
            process("benchmarks.load", self._address, "GetJob", CALLS_IN_FLIGHT, 3_600)
        )
        return load

    async def finish(self) -> None:
        """Check that the load has lasted until now, and finish the run."""
        if not self._calls.running:
            raise RuntimeError(f"the calls of the load ended: {self._calls.log()[-2_000:]}")
        await super().finish()

    async def _stop_gateway(self, grace: float) -> None:
        pass


def run(*, quick: bool) -> list[Row]:
    """Count the broken promises of a run."""
    with ExitStack() as stack:
        judged, events, seconds = asyncio.run(_run(stack, quick=quick))
    broken = violations(judged.history)
    return [
        Row(
            "promises broken under that load",
            len(broken),
            "",
            0,
            figures={
                "watches": len(judged.watches),
                "polls": len(judged.upstream.polls),
                "faults": sum(judged.faults.values()),
                "events/s of the load": events / seconds,
            },
            note=str(broken) if broken else "",
        )
    ]


async def _run(stack: ExitStack, *, quick: bool) -> tuple[LoadedRun, int, float]:
    judged = LoadedRun(1, stack, quick=quick)
    await judged.start()
    assert judged.load is not None
    clock = asyncio.get_running_loop().time
    start = clock()
    await asyncio.to_thread(judged.load.ask, "count")
    for _ in range(20 if quick else 200):
        await judged.step()
    events = int(await asyncio.to_thread(judged.load.ask, "count"))
    seconds = clock() - start
    await judged.finish()
    return judged, events, seconds
