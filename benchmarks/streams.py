"""Many watches, read as bytes.

    python -m benchmarks.streams ADDRESS FIRST_UID STEP JOBS WATCHERS

Opens WATCHERS watches of each of JOBS jobs, from FIRST_UID in steps of STEP; prints `open` once each has its first
event. Then it obeys lines on standard input: `count` prints the number of events since the last count, `delays` prints
what the last watcher of each moment waited (seconds, of events whose message is a moment), as a JSON list; for that a
further argument has to stand on the command line.
"""

from __future__ import annotations

import asyncio
import json
import sys
import time
from typing import Any

import grpc
import uvloop
from jobgateway.v1 import job_service_pb2 as pb

METADATA = (("authorization", "Bearer token-of-the-benchmark"),)
WATCHES_PER_CONNECTION = 100


class Watches:
    """All the watches, and what they were given."""

    def __init__(self, address: str, *, timed: bool) -> None:
        self._address = address
        self._timed = timed
        self._channels: list[grpc.aio.Channel] = []
        self._opened = 0
        # Kept, for asyncio holds tasks only weakly.
        self._reading: set[asyncio.Future[None]] = set()
        self.events = 0
        self.moments: dict[str, tuple[int, float]] = {}

    async def open(self, uids: list[int]) -> None:
        """Opens a watch for each, some hundred at once."""
        gate = asyncio.Semaphore(200)
        await asyncio.gather(*(self._open(uid, gate) for uid in uids))

    async def _open(self, uid: int, gate: asyncio.Semaphore) -> None:
        async with gate:
            if self._opened % WATCHES_PER_CONNECTION == 0:
                options = (("grpc.use_local_subchannel_pool", 1),)
                self._channels.append(grpc.aio.insecure_channel(self._address, options))
            self._opened += 1
            request = pb.WatchJobRequest(uid=uid, content_format=pb.CONTENT_FORMAT_NONE)
            request.heartbeat_interval.seconds = 3_600
            watch: Any = self._channels[-1].unary_stream("/jobgateway.v1.JobService/WatchJob")
            call = watch(request.SerializeToString(), metadata=METADATA)
            await call.read()
        self._reading.add(asyncio.ensure_future(self._read(call)))

    async def _read(self, call: Any) -> None:
        while (event := await call.read()) is not grpc.aio.EOF:
            self.events += 1
            if self._timed:
                now = time.monotonic()
                moment = pb.JobEvent.FromString(event).job.progress.message
                self.moments[moment] = (self.moments.get(moment, (0, 0.0))[0] + 1, now)


async def main() -> None:
    """Obeys."""
    address, first, step, jobs, watchers = sys.argv[1], *map(int, sys.argv[2:6])
    watches = Watches(address, timed=len(sys.argv) > 6)
    # The watches of one job lie on different connections, as those of different clients do.
    await watches.open([first + number * step for _ in range(watchers) for number in range(jobs)])
    print("open", flush=True)
    loop = asyncio.get_running_loop()
    while line := (await loop.run_in_executor(None, sys.stdin.readline)).strip():
        if line == "count":
            print(watches.events, flush=True)
            watches.events = 0
        else:
            told = [last - float(moment) for moment, (count, last) in watches.moments.items() if count == watchers]
            print(json.dumps(told), flush=True)
            watches.moments.clear()


uvloop.run(main())
