"""A trace collector: the OTLP service on a real grpc.aio server, which keeps the spans."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import grpc
from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import (
    ExportTraceServiceRequest,
    ExportTraceServiceResponse,
)
from opentelemetry.proto.collector.trace.v1.trace_service_pb2_grpc import (
    TraceServiceServicer,
    add_TraceServiceServicer_to_server,
)

if TYPE_CHECKING:
    from opentelemetry.proto.trace.v1.trace_pb2 import Span as Proto


class Span:
    """A span as it was received."""

    def __init__(self, span: Proto) -> None:
        self.name = span.name
        self.kind = span.kind
        self.trace = span.trace_id.hex()
        self.id = span.span_id.hex()
        self.parent = span.parent_span_id.hex()
        self.links = [(link.trace_id.hex(), link.span_id.hex()) for link in span.links]
        self.status = span.status.code
        self.message = span.status.message
        self.events = len(span.events)
        self.attributes: dict[str, Any] = {
            each.key: getattr(each.value, each.value.WhichOneof("value") or "string_value") for each in span.attributes
        }
        self.ended = span.end_time_unix_nano >= span.start_time_unix_nano > 0


class TraceCollector(TraceServiceServicer):
    """Accept spans on a free port, and reject them while `broken` is set."""

    def __init__(self) -> None:
        self.requests: list[ExportTraceServiceRequest] = []
        self.metadata: list[Any] = []
        self.broken = False
        self.url = ""

    async def start(self) -> None:
        self._server = grpc.aio.server()
        add_TraceServiceServicer_to_server(self, self._server)  # type: ignore[no-untyped-call]
        self.url = f"http://127.0.0.1:{self._server.add_insecure_port('127.0.0.1:0')}"
        await self._server.start()

    async def stop(self) -> None:
        await self._server.stop(None)

    async def Export(self, request: ExportTraceServiceRequest, context: Any) -> ExportTraceServiceResponse:
        if self.broken:
            await context.abort(grpc.StatusCode.INTERNAL, "broken")
        self.requests.append(request)
        self.metadata.append(context.invocation_metadata())
        return ExportTraceServiceResponse()

    @property
    def spans(self) -> list[Span]:
        return [
            Span(span)
            for request in self.requests
            for resource in request.resource_spans
            for scope in resource.scope_spans
            for span in scope.spans
        ]

    def named(self, name: str) -> list[Span]:
        """Return the spans whose name ends with `name` after the last slash."""
        return [span for span in self.spans if span.name.rpartition("/")[2] == name]

    @property
    def resource(self) -> dict[str, str]:
        (first, *_) = self.requests
        return {each.key: each.value.string_value for each in first.resource_spans[0].resource.attributes}
