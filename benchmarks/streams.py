"""Open many watches, and read their events as bytes.

    python -m benchmarks.streams ADDRESS FIRST_UID STEP JOBS WATCHERS [timed]

It opens WATCHERS watches of each of JOBS jobs, with uids from FIRST_UID in steps of STEP, and prints `open` when each
watch has an event. Then it reads commands from standard input:

- `count` prints the number of events since the last `count`.
- `delays` prints a JSON list: for each change since the last `delays`, the seconds until the last watcher had it. It
  needs the argument `timed`, and jobs whose message is the time of the change.
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
    """The open watches, with the number and the times of their events."""

    def __init__(self, address: str, *, timed: bool) -> None:
        self._address = address
        self._timed = timed
        self._channels: list[grpc.aio.Channel] = []
        self._opened = 0
        # asyncio has only weak references to tasks.
        self._reading: set[asyncio.Future[None]] = set()
        self.events = 0
        # The number of watchers that have a change, and the time of the last of them, by the message of the change.
        self.changes: dict[str, tuple[int, float]] = {}

    async def open(self, uids: list[int]) -> None:
        """Open a watch for each uid, 200 at a time."""
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
                change = pb.JobEvent.FromString(event).job.progress.message
                self.changes[change] = (self.changes.get(change, (0, 0.0))[0] + 1, now)


async def main() -> None:
    """Open the watches, and run the commands."""
    address, first, step, jobs, watchers = sys.argv[1], *map(int, sys.argv[2:6])
    watches = Watches(address, timed=len(sys.argv) > 6)
    # The watches of one job have different connections, like those of different clients.
    await watches.open([first + number * step for _ in range(watchers) for number in range(jobs)])
    print("open", flush=True)
    loop = asyncio.get_running_loop()
    while line := (await loop.run_in_executor(None, sys.stdin.readline)).strip():
        if line == "count":
            print(watches.events, flush=True)
            watches.events = 0
        else:
            delays = [last - float(change) for change, (count, last) in watches.changes.items() if count == watchers]
            print(json.dumps(delays), flush=True)
            watches.changes.clear()


uvloop.run(main())
