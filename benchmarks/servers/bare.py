"""The bare server: a `grpc.aio` server that only writes encoded bytes.

    python -m benchmarks.servers.bare [PERIOD]

The stream of a watch depends on its uid:

- odd: an event each time the job changes
- even: one event
- negative: chunks with this number of bytes

All jobs change at SIGUSR1. With PERIOD (seconds), each job also changes once per period, at a random time.
"""

from __future__ import annotations

import asyncio
import random
import signal
import sys
import time
from typing import Any

import grpc
import uvloop
from jobgateway.v1 import job_service_pb2 as pb

from benchmarks.pauses import report_pauses
from gateway.server.defaults import OPTIONS

CHUNK = bytes(256 << 10)


class Changes:
    """The changes of one job. All watchers get the same bytes."""

    def __init__(self) -> None:
        self._next: asyncio.Future[bytes] = asyncio.get_running_loop().create_future()

    def change(self, uid: int) -> None:
        """Encode an event, and wake all watchers with it."""
        current, self._next = self._next, asyncio.get_running_loop().create_future()
        current.set_result(_event(uid))

    async def next(self) -> bytes:
        """Return the next event."""
        return await asyncio.shield(self._next)


def _event(uid: int) -> bytes:
    progress = pb.Progress(message=f"{time.monotonic():.6f}", message_type="progress", percentage=50)
    job = pb.Job(uid=uid, status=pb.JOB_STATUS_RUNNING, status_text="running", kind="result", progress=progress)
    return pb.JobEvent(uid=uid, job=job, resume_token="x" * 43).SerializeToString()


class Streams:
    """The handler of `WatchJob`, and the jobs."""

    def __init__(self) -> None:
        self._jobs: dict[int, Changes] = {}

    async def watch(self, data: bytes, context: Any) -> None:
        """Serve a stream."""
        uid = pb.WatchJobRequest.FromString(data).uid
        await context.send_initial_metadata(())
        if uid < 0:
            await self._chunks(-uid, context)
            return
        await context.write(_event(uid))
        if uid % 2 == 0:
            await asyncio.get_running_loop().create_future()
        job = self._jobs.setdefault(uid, Changes())
        while True:
            await context.write(await job.next())

    async def _chunks(self, size: int, context: Any) -> None:
        for start in range(0, size, len(CHUNK)):
            chunk = pb.ContentChunk(offset=start, data=CHUNK, content_size=size)
            await context.write(pb.JobEvent(content_chunk=chunk).SerializeToString())

    def change_all(self) -> None:
        """Change all jobs now."""
        for uid, job in self._jobs.items():
            job.change(uid)

    async def change_each(self, period: float) -> None:
        """Change each job once per period, at a random time."""
        loop = asyncio.get_running_loop()
        while True:
            await asyncio.sleep(period)
            for uid, job in self._jobs.items():
                loop.call_later(random.uniform(0, period), job.change, uid)  # noqa: S311 - jitter


async def main() -> None:
    """Serve until the process is killed."""
    streams = Streams()
    handler: dict[str, Any] = {"WatchJob": grpc.unary_stream_rpc_method_handler(streams.watch)}
    server = grpc.aio.server(options=OPTIONS)
    server.add_generic_rpc_handlers((grpc.method_handlers_generic_handler("jobgateway.v1.JobService", handler),))
    port = server.add_insecure_port("127.0.0.1:0")
    await server.start()
    asyncio.get_running_loop().add_signal_handler(signal.SIGUSR1, streams.change_all)
    tasks = [asyncio.create_task(report_pauses())]
    if len(sys.argv) > 1:
        tasks.append(asyncio.create_task(streams.change_each(float(sys.argv[1]))))
    print(f"127.0.0.1:{port}", flush=True)
    await server.wait_for_termination()


uvloop.run(main())
