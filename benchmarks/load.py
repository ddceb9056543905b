"""Make unary calls.

    python -m benchmarks.load ADDRESS METHOD IN_FLIGHT SECONDS

It keeps IN_FLIGHT calls in flight for SECONDS, and prints the number of calls that ended.
"""

from __future__ import annotations

import asyncio
import sys
from typing import Any

import grpc
import uvloop
from jobgateway.v1 import job_service_pb2 as pb

METADATA = (("authorization", "Bearer token-of-the-benchmark"),)
SEND = pb.SendJobRequest(workspace_id="1", entity_id=7, method_name="succeed")
SEND.params.update({"length": 7.5, "count": 3})
REQUESTS = {"SendJob": SEND.SerializeToString(), "GetJob": pb.GetJobRequest(uid=42).SerializeToString()}
CONNECTIONS = 4


async def main() -> None:
    """Make the calls, and print their number."""
    address, method, in_flight, seconds = sys.argv[1], sys.argv[2], int(sys.argv[3]), float(sys.argv[4])
    options = (("grpc.use_local_subchannel_pool", 1),)
    channels = [grpc.aio.insecure_channel(address, options) for _ in range(min(CONNECTIONS, in_flight))]
    calls: list[Any] = [channel.unary_unary(f"/jobgateway.v1.JobService/{method}") for channel in channels]
    request = REQUESTS[method]
    loop = asyncio.get_running_loop()
    end = loop.time() + seconds
    done = 0

    async def work(number: int) -> None:
        nonlocal done
        call = calls[number % len(calls)]
        while loop.time() < end:
            await call(request, metadata=METADATA)
            done += 1

    await asyncio.gather(*map(work, range(in_flight)))
    print(done)


if __name__ == "__main__":
    uvloop.run(main())
