"""A load of `SendJob`, each with a request id of its own or without one.

    python -m benchmarks.sends ADDRESS with|without IN_FLIGHT SECONDS

Prints the number of calls that ended within the time, and the median of their latency in seconds.
"""

from __future__ import annotations

import asyncio
import secrets
import sys
import time
from statistics import median
from typing import Any

import grpc
import uvloop
from jobgateway.v1 import job_service_pb2 as pb

from benchmarks.load import METADATA, SEND

CONNECTIONS = 4


async def main() -> None:
    """Keep so many calls in flight for so long."""
    address, ids, in_flight, seconds = sys.argv[1], sys.argv[2], int(sys.argv[3]), float(sys.argv[4])
    options = (("grpc.use_local_subchannel_pool", 1),)
    channels = [grpc.aio.insecure_channel(address, options) for _ in range(min(CONNECTIONS, in_flight))]
    calls: list[Any] = [channel.unary_unary("/jobgateway.v1.JobService/SendJob") for channel in channels]
    loop = asyncio.get_running_loop()
    end = loop.time() + seconds
    run = secrets.token_hex(8)
    latencies: list[float] = []

    async def work(number: int) -> None:
        request = pb.SendJobRequest()
        request.CopyFrom(SEND)
        sent = 0
        while loop.time() < end:
            began = time.perf_counter()
            if ids == "with":
                sent += 1
                request.request_id = f"{run}-{number}-{sent}"
            await calls[number % len(calls)](request.SerializeToString(), metadata=METADATA)
            latencies.append(time.perf_counter() - began)

    await asyncio.gather(*map(work, range(in_flight)))
    print(len(latencies), median(latencies))


if __name__ == "__main__":
    uvloop.run(main())
