"""Measure the cost of an idle process, an idle watch and a poll. The results are in docs/operations/sizing.md.

The gateway and the simulator run as separate processes; this process has the watches.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import os
import re
import subprocess
import sys
from contextlib import contextmanager
from typing import IO, TYPE_CHECKING, cast

import grpc
import psutil
from jobgateway.v1 import job_service_pb2 as pb
from jobgateway.v1 import job_service_pb2_grpc as rpc

from gateway.config import PREFIX, Settings

if TYPE_CHECKING:
    from collections.abc import AsyncIterable, Iterator

CREDENTIAL = (("authorization", "Bearer demo-token"),)
JOB = pb.SendJobRequest(workspace_id="1", entity_id=1, method_name="succeed", params_json=b'{"duration": 86400}')
# Any free port, and no rate limits, because all watches have the same credential.
REST = {"admin_listen": "127.0.0.1:0"} | dict.fromkeys(
    ("calls_per_second", "polls_per_second", "submissions_per_second"), "100000"
)
# The age at which a watch polls at the longest interval, as a multiple of that interval.
SETTLED_AFTER_LONGEST_INTERVALS = 7


@contextmanager
def process(command: list[str], variables: dict[str, str], *, log: int) -> Iterator[tuple[int, str]]:
    """Run a command of the gateway until the context is left; yield its process id and the first line of its output."""
    with subprocess.Popen(  # noqa: S603 - our own command
        [sys.executable, "-m", "gateway", *command],
        env=os.environ | variables,
        stdout=subprocess.PIPE,
        stderr=log,
        text=True,
    ) as started:
        try:
            yield started.pid, cast("IO[str]", started.stdout).readline()
        finally:
            started.kill()


@contextmanager
def gateway(interval: float) -> Iterator[tuple[psutil.Process, str]]:
    """Run a gateway that polls every `interval` seconds; yield its process and address."""
    simulate = ["simulate", "--listen", "127.0.0.1:0"]
    with process(simulate, {}, log=subprocess.DEVNULL) as (_, welcome):
        variables = {
            "JOBGATEWAY_UPSTREAM_URL": re.sub(r"^.*: ", "", welcome).strip(),
            "JOBGATEWAY_LISTEN": "127.0.0.1:0",
            "JOBGATEWAY_POLL_INTERVAL_MIN_SECONDS": str(min(0.25, interval)),
            "JOBGATEWAY_POLL_INTERVAL_MAX_SECONDS": str(interval),
        }
        variables |= {f"{PREFIX}{name.upper()}": value for name, value in REST.items() if name in Settings.model_fields}
        with process(["serve"], variables, log=subprocess.STDOUT) as (pid, serving):
            yield psutil.Process(pid), json.loads(serving)["address"]


async def _read(events: AsyncIterable[pb.JobEvent], received: asyncio.Semaphore) -> None:
    async for _ in events:
        received.release()


async def _open(jobs: rpc.JobServiceAsyncStub, watches: int, uid: int | None) -> list[asyncio.Task[None]]:
    """Open watches of the job `uid` (None: of a new job each), one after the other; return the tasks that read them."""
    received = asyncio.Semaphore(0)
    readers = []
    for _ in range(watches):
        events = (
            jobs.RunJob(pb.RunJobRequest(request=JOB), metadata=CREDENTIAL)
            if uid is None
            else jobs.WatchJob(pb.WatchJobRequest(uid=uid), metadata=CREDENTIAL)
        )
        readers.append(asyncio.create_task(_read(events, received)))
        await received.acquire()
    return readers


async def measure(watches: int, interval: float, seconds: float, *, one_job: bool) -> None:
    """Open `watches`, and print their memory, and their CPU time over `seconds`."""
    with gateway(interval) as (server, address):
        async with grpc.aio.insecure_channel(address) as channel:
            jobs = rpc.JobServiceStub(channel)
            uid = (await jobs.SendJob(JOB, metadata=CREDENTIAL)).uid
            before = server.memory_info().rss
            readers = await _open(jobs, watches, uid if one_job else None)
            await asyncio.sleep(interval * SETTLED_AFTER_LONGEST_INTERVALS)
            start = server.cpu_times()
            await asyncio.sleep(seconds)
            end = server.cpu_times()
            each = (server.memory_info().rss - before) / watches
            for reader in readers:
                reader.cancel()
            await asyncio.gather(*readers, return_exceptions=True)
    cpu = end.user + end.system - start.user - start.system
    polls = (1 if one_job else watches) * seconds / interval
    print(f"idle process: {before / 1e6:.0f} MB")
    print(f"each of {watches} watches of {'one job' if one_job else 'a job each'}: {each / 1e3:.0f} kB")
    print(
        f"{cpu / seconds:.3f} of a core; {cpu / polls * 1e6:.0f} us for each of about {polls:.0f} polls and its heartbeats"
    )


def main() -> None:
    """Run the command line."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--watches", type=int, default=2_000)
    parser.add_argument("--interval", type=float, default=5.0, help="seconds between two polls of a job")
    parser.add_argument("--seconds", type=float, default=30.0, help="duration of the CPU measurement")
    options = parser.parse_args()
    for one_job in (False, True):
        asyncio.run(measure(options.watches, options.interval, options.seconds, one_job=one_job))


if __name__ == "__main__":
    main()
