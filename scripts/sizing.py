"""Measures what an idle process, an idle watch and a poll cost, for the figures in docs/operations/sizing.md.

The gateway runs in a process of its own, before the embedded upstream in another; this one holds the watches.
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
# No port that is taken, and no limit to what the one credential here may do.
REST = {"admin_listen": "127.0.0.1:0"} | dict.fromkeys(
    ("calls_per_second", "polls_per_second", "submissions_per_second"), "100000"
)
# Intervals grow with the age of a watch, up to the longest.
SETTLED_AFTER_LONGEST_INTERVALS = 7


@contextmanager
def process(command: list[str], variables: dict[str, str], *, log: int) -> Iterator[tuple[int, str]]:
    """Runs a command of the gateway's until the context is left: its process id, and the first line that it prints."""
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
    """A gateway that polls every `interval` seconds, and its address."""
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


async def _hold(events: AsyncIterable[pb.JobEvent], seen: asyncio.Semaphore) -> None:
    async for _ in events:
        seen.release()


async def measure(watches: int, interval: float, seconds: float, *, one_job: bool) -> None:
    """Opens `watches`, and prints what they take over `seconds`."""
    with gateway(interval) as (server, address):
        async with grpc.aio.insecure_channel(address) as channel:
            jobs = rpc.JobServiceStub(channel)
            uid = (await jobs.SendJob(JOB, metadata=CREDENTIAL)).uid
            before = server.memory_info().rss
            seen = asyncio.Semaphore(0)
            holders = []
            for _ in range(watches):
                events = (
                    jobs.WatchJob(pb.WatchJobRequest(uid=uid), metadata=CREDENTIAL)
                    if one_job
                    else jobs.RunJob(pb.RunJobRequest(request=JOB), metadata=CREDENTIAL)
                )
                holders.append(asyncio.create_task(_hold(events, seen)))
                await seen.acquire()
            await asyncio.sleep(interval * SETTLED_AFTER_LONGEST_INTERVALS)
            began = server.cpu_times()
            await asyncio.sleep(seconds)
            ended = server.cpu_times()
            each = (server.memory_info().rss - before) / watches
            for holder in holders:
                holder.cancel()
            await asyncio.gather(*holders, return_exceptions=True)
    cpu = ended.user + ended.system - began.user - began.system
    polls = (1 if one_job else watches) * seconds / interval
    print(f"idle process: {before / 1e6:.0f} MB")
    print(f"each of {watches} watches of {'one job' if one_job else 'a job each'}: {each / 1e3:.0f} kB")
    print(
        f"{cpu / seconds:.3f} of a core; {cpu / polls * 1e6:.0f} us for each of about {polls:.0f} polls and its heartbeats"
    )


def main() -> None:
    """Runs the command line."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--watches", type=int, default=2_000)
    parser.add_argument("--interval", type=float, default=5.0, help="seconds between two polls of a job")
    parser.add_argument("--seconds", type=float, default=30.0, help="how long the CPU is measured")
    options = parser.parse_args()
    for one_job in (False, True):
        asyncio.run(measure(options.watches, options.interval, options.seconds, one_job=one_job))


if __name__ == "__main__":
    main()
