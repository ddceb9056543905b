"""The promises of a watch, judged by their checker while the gateway carries the load of the other cases."""

from __future__ import annotations

import asyncio
import itertools
from contextlib import ExitStack
from typing import TYPE_CHECKING

import grpc

from benchmarks.processes import Process, gateway, process, watches
from benchmarks.table import Row
from tests.invariants.checks import violations
from tests.invariants.sockets import LONGEST, OUTAGE, SHORTEST, SILENCE, SocketRun, TroubledUpstream, job_answer

if TYPE_CHECKING:
    from tests.support.upstream import Connection, ReceivedRequest

LOAD = "token-of-the-benchmark"
# As many events a second as in `fanout`, of jobs that change with each poll, and calls beside them.
JOBS, WATCHERS = 15, 100
CALLS_IN_FLIGHT = 4


class Upstream(TroubledUpstream):
    """That of a run, and one without troubles for the load, which is not recorded."""

    changes = itertools.count()

    async def respond(self, seen: ReceivedRequest, connection: Connection) -> bool:
        """See `TroubledUpstream`."""
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
            # The load is far above what one caller may have beside others.
            "calls_per_second": 100_000,
        }
        _, self._address = self._stack.enter_context(gateway(self.upstream.url, **settings))
        load = self._stack.enter_context(watches(self._address, 1_000_001, 1, JOBS, self._watchers))
        self._calls = self._stack.enter_context(
            process("benchmarks.load", self._address, "GetJob", CALLS_IN_FLIGHT, 3_600)
        )
        return load

    async def finish(self) -> None:
        """See `SocketRun`; the load must have lasted until now."""
        if not self._calls.running:
            raise RuntimeError(f"the calls beside it ended: {self._calls.log()[-2_000:]}")
        await super().finish()

    async def _stop_gateway(self, grace: float) -> None:
        pass


def run(*, quick: bool) -> list[Row]:
    """See the package."""
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
    began = clock()
    await asyncio.to_thread(judged.load.ask, "count")
    for _ in range(20 if quick else 200):
        await judged.step()
    events = int(await asyncio.to_thread(judged.load.ask, "count"))
    seconds = clock() - began
    await judged.finish()
    return judged, events, seconds
