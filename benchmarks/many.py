"""Open streams of many jobs, and read their events as bytes.

    python -m benchmarks.many ADDRESS FIRST_UID STEP JOBS STREAMS [own]

Each of STREAMS streams, on a connection of its own, watches JOBS jobs, with uids from FIRST_UID in steps of STEP. With
`own`, each stream has other jobs. It prints `open` when all watches have caught up. Then it reads commands from
standard input:

- `count` prints the number of events since the last `count`.
- `beside UID` watches another job on the first stream to its end, and prints a JSON object: the `seconds` from the
  first chunk of its result to the last, the number of `chunks`, and the `delays` of the changes of other jobs in the
  meantime, in seconds. The message of a change is its time.
- `delays SECONDS` prints a JSON list of the delays of these changes in some seconds.
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


class Stream:
    """One stream, with the number of its events, and the times of its chunks and changes while it `looks`."""

    def __init__(self, address: str) -> None:
        self._channel = grpc.aio.insecure_channel(address, (("grpc.use_local_subchannel_pool", 1),))
        self._call: Any = self._channel.stream_stream("/jobgateway.v1.JobService/WatchJobs")(metadata=METADATA)
        self.events = 0
        self.looks = False
        self.chunks: list[float] = []
        # The time of each change, and its delay.
        self.changes: list[tuple[float, float]] = []
        self.ended = asyncio.Event()

    async def watch(self, uids: list[int], content_format: pb.ContentFormat.ValueType) -> None:
        """Request the watches."""
        for uid in uids:
            request = pb.WatchJobRequest(uid=uid, content_format=content_format)
            request.heartbeat_interval.seconds = 3_600
            await self._call.write(pb.WatchJobsRequest(watch=request).SerializeToString())

    async def catch_up(self, jobs: int) -> None:
        """Read until all `jobs` have their first state."""
        while pb.JobEvent.FromString(await self._call.read()).synced.watch_requests < jobs:
            pass

    async def read(self) -> None:
        """Read to the end."""
        while (event := await self._call.read()) is not grpc.aio.EOF:
            self.events += 1
            if self.looks:
                self._look(event, time.monotonic())

    def _look(self, raw: bytes, now: float) -> None:
        event = pb.JobEvent.FromString(raw)
        if event.HasField("content_chunk"):
            self.chunks.append(now)
        elif event.job.done:
            self.ended.set()
        elif event.HasField("job"):
            self.changes.append((now, now - float(event.job.progress.message)))


async def beside(stream: Stream, uid: int) -> dict[str, Any]:
    """Watch a large result, and return the delays of other jobs in the meantime."""
    stream.changes.clear()
    stream.looks = True
    await stream.watch([uid], pb.CONTENT_FORMAT_JSON_CHUNKS)
    await stream.ended.wait()
    stream.looks = False
    first, last = stream.chunks[0], stream.chunks[-1]
    delays = [delay for moment, delay in stream.changes if first <= moment <= last]
    return {"seconds": last - first, "chunks": len(stream.chunks), "delays": delays}


async def delays_in(stream: Stream, seconds: float) -> list[float]:
    """Return the delays of the changes in some seconds."""
    stream.changes.clear()
    stream.looks = True
    await asyncio.sleep(seconds)
    stream.looks = False
    return [delay for _, delay in stream.changes]


async def main() -> None:
    """Open the streams, and run the commands."""
    address, first, step, jobs, count = sys.argv[1], *map(int, sys.argv[2:6])
    streams = [Stream(address) for _ in range(count)]
    reading = []
    for number, stream in enumerate(streams):
        start = first + number * jobs * step * (len(sys.argv) > 6)
        await stream.watch([start + job * step for job in range(jobs)], pb.CONTENT_FORMAT_NONE)
        await stream.catch_up(jobs)
        reading.append(asyncio.ensure_future(stream.read()))
    print("open", flush=True)
    loop = asyncio.get_running_loop()
    while line := (await loop.run_in_executor(None, sys.stdin.readline)).strip():
        match line.split():
            case ["beside", uid]:
                print(json.dumps(await beside(streams[0], int(uid))), flush=True)
            case ["delays", seconds]:
                print(json.dumps(await delays_in(streams[0], float(seconds))), flush=True)
            case _:
                print(sum(stream.events for stream in streams), flush=True)
                for stream in streams:
                    stream.events = 0


if __name__ == "__main__":
    uvloop.run(main())
