"""A collector of traces that discards all spans.

    python -m benchmarks.collector

It prints its address.
"""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor

import grpc
from opentelemetry.proto.collector.trace.v1 import trace_service_pb2 as pb
from opentelemetry.proto.collector.trace.v1 import trace_service_pb2_grpc as rpc


class Collector(rpc.TraceServiceServicer):
    """Discards all spans."""

    def Export(self, request: pb.ExportTraceServiceRequest, context: grpc.ServicerContext) -> object:
        """Accept spans."""
        return pb.ExportTraceServiceResponse()


server = grpc.server(ThreadPoolExecutor(1))
rpc.add_TraceServiceServicer_to_server(Collector(), server)  # type: ignore[no-untyped-call]
port = server.add_insecure_port("127.0.0.1:0")
server.start()
print(f"127.0.0.1:{port}", flush=True)
server.wait_for_termination()
