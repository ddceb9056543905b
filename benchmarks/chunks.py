"""Read the chunks of one watch.

    python -m benchmarks.chunks ADDRESS UID

It prints the seconds from the first chunk to the last, and the number of bytes.
"""

from __future__ import annotations

import sys
import time
from typing import Any

import grpc
from jobgateway.v1 import job_service_pb2 as pb

METADATA = (("authorization", "Bearer token-of-the-benchmark"),)

with grpc.insecure_channel(sys.argv[1]) as channel:
    watch: Any = channel.unary_stream("/jobgateway.v1.JobService/WatchJob")
    start, size = 0.0, 0
    for event in watch(pb.WatchJobRequest(uid=int(sys.argv[2])).SerializeToString(), metadata=METADATA):
        start = start or time.perf_counter()
        size += len(event)
    print(f"{time.perf_counter() - start:.6f} {size}")
