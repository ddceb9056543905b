"""OpenTelemetry spans, exported over OTLP in a thread. Imported only if tracing is configured."""

from __future__ import annotations

import asyncio
import logging
import os
from contextlib import contextmanager, nullcontext
from typing import TYPE_CHECKING

import structlog
from grpc import Compression, StatusCode
from opentelemetry.context import Context
from opentelemetry.exporter.otlp.proto.grpc.trace_exporter import OTLPSpanExporter
from opentelemetry.sdk.resources import OTELResourceDetector, Resource
from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.sdk.trace.export import BatchSpanProcessor, SpanExporter, SpanExportResult
from opentelemetry.sdk.trace.id_generator import RandomIdGenerator
from opentelemetry.sdk.trace.sampling import ALWAYS_ON, Decision
from opentelemetry.trace import Link, SpanKind, Status, TraceFlags, set_span_in_context
from opentelemetry.trace import StatusCode as SpanStatus
from opentelemetry.trace.propagation.tracecontext import TraceContextTextMapPropagator

from gateway import __version__
from gateway.errors import GatewayError
from gateway.rpc.status import mapping_for
from gateway.threads import run_detached, wait_done

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence
    from contextlib import AbstractContextManager

    from opentelemetry.sdk.trace import ReadableSpan
    from opentelemetry.trace import Span, SpanContext

    Headers = Mapping[str, str]

JOB_SERVICE_NAME = "jobgateway.v1.JobService"
UID = "jobgateway.job.uid"
ERROR = "error.type"
# The longest wait for the export of the last spans.
FLUSH_SPANS_SECONDS = 1.0
# The codes of server errors, according to OpenTelemetry's conventions for RPC.
SERVER_FAULTS = frozenset(
    {
        StatusCode.UNKNOWN,
        StatusCode.DEADLINE_EXCEEDED,
        StatusCode.UNIMPLEMENTED,
        StatusCode.INTERNAL,
        StatusCode.UNAVAILABLE,
        StatusCode.DATA_LOSS,
    }
)

NO_PARENT = Context()

_log = structlog.get_logger()
_propagator = TraceContextTextMapPropagator()


class OtlpTracer:
    """A tracer that exports to the collector in the `OTEL_*` variables, which the SDK reads.

    Raises:
        ValueError: A variable is wrong.
        OSError: A file that a variable names cannot be read.
    """

    def __init__(self) -> None:
        # The SDK logs each attempt, with text of the collector. `_Exporter` logs the first failure and the recovery.
        for name in ("opentelemetry.exporter", "opentelemetry.sdk._shared_internal"):
            logging.getLogger(name).setLevel(logging.CRITICAL)
        resource = _resource()
        self._exporter = _Exporter(OTLPSpanExporter(compression=_compression()))
        self._processor = BatchSpanProcessor(self._exporter)
        self._ids = _Ids()
        provider = TracerProvider(resource=resource, shutdown_on_exit=False, id_generator=self._ids)
        provider.add_span_processor(self._processor)
        # Poll spans are roots, but they are sampled if the call that started the loop is.
        poll_provider = TracerProvider(sampler=ALWAYS_ON, resource=resource, shutdown_on_exit=False)
        poll_provider.add_span_processor(self._processor)
        self._provider = provider
        self._tracer = provider.get_tracer("jobgateway", __version__)
        self._poll_tracer = poll_provider.get_tracer("jobgateway", __version__)

    def call(self, method: str, traceparent: str | None) -> OtlpCallSpan | UnsampledCallSpan:
        """See `rpc.tracing.Tracer`."""
        name = f"{JOB_SERVICE_NAME}/{method}"
        attributes = {"rpc.system": "grpc", "rpc.service": JOB_SERVICE_NAME, "rpc.method": method}
        if traceparent is None and self._dropped(name, attributes):
            return UnsampledCallSpan(self._ids.generate_trace_id(), self._ids.generate_span_id())
        parent = NO_PARENT if traceparent is None else _propagator.extract({"traceparent": traceparent}, NO_PARENT)
        return OtlpCallSpan(self, self._tracer.start_span(name, parent, SpanKind.SERVER, attributes))

    def _dropped(self, name: str, attributes: Mapping[str, str]) -> bool:
        # A span that records nothing costs twice as much as this check. Samplers decide by the trace id, so the SDK's
        # own check has the same result.
        trace_id = self._ids.next_trace_id
        sampled = self._provider.sampler.should_sample(NO_PARENT, trace_id, name, SpanKind.SERVER, attributes)
        return sampled.decision is Decision.DROP

    def begin_submission(self, parent: Span) -> Span:
        """Start a span within `parent`."""
        return self._tracer.start_span("submit", set_span_in_context(parent, NO_PARENT), SpanKind.CLIENT)

    def begin_poll(self, uid: int, on_behalf_of: SpanContext) -> Span:
        """Start a span in its own trace, with a link to the call's span."""
        return self._poll_tracer.start_span("poll", NO_PARENT, SpanKind.CLIENT, {UID: uid}, [Link(on_behalf_of)])

    async def aclose(self) -> None:
        """See `rpc.tracing.Tracer`."""
        closing = run_detached("traces", self._processor.shutdown)
        await wait_done(closing, FLUSH_SPANS_SECONDS)
        # This cancels a running export, which could take up to 30 seconds, and so ends the thread.
        self._exporter.shutdown()
        await wait_done(closing, FLUSH_SPANS_SECONDS)


class _Ids(RandomIdGenerator):
    """Random ids. The next trace id is known in advance."""

    def __init__(self) -> None:
        self.next_trace_id = super().generate_trace_id()

    def generate_trace_id(self) -> int:
        """Return the trace id that was announced."""
        trace_id, self.next_trace_id = self.next_trace_id, super().generate_trace_id()
        return trace_id


class UnsampledCallSpan:
    """A `CallSpan` of a trace that starts here and is not sampled."""

    def __init__(self, trace_id: int, span_id: int) -> None:
        self.trace_id = f"{trace_id:032x}"
        self._traceparent = f"00-{self.trace_id}-{span_id:016x}-{TraceFlags.RANDOM_TRACE_ID:02x}"

    def inject(self, headers: Headers) -> Headers:
        """See `rpc.tracing.CallSpan`."""
        return {**headers, "traceparent": self._traceparent}

    def submission(self, headers: Headers) -> AbstractContextManager[Headers]:
        """See `rpc.tracing.CallSpan`."""
        return nullcontext(headers)

    def poll(self, uid: int, headers: Headers) -> AbstractContextManager[Headers]:
        """See `rpc.tracing.CallSpan`."""
        del uid
        return nullcontext(headers)

    def end(self, code: StatusCode, uid: int | None, reason: str) -> None:
        """Do nothing: the span is not recorded."""


class OtlpCallSpan:
    """A `CallSpan` that is exported. It never has the text of an error, which the upstream may have written."""

    def __init__(self, tracer: OtlpTracer, span: Span) -> None:
        self._tracer = tracer
        self._span = span
        self._context = span.get_span_context()
        self._sampled = self._context.trace_flags.sampled
        self.trace_id = f"{self._context.trace_id:032x}"

    def inject(self, headers: Headers) -> Headers:
        """See `rpc.tracing.CallSpan`."""
        return _with_traceparent(headers, self._context)

    def submission(self, headers: Headers) -> AbstractContextManager[Headers]:
        """See `rpc.tracing.CallSpan`."""
        # If nothing is recorded, the headers of `inject` are complete.
        return _child(self._tracer.begin_submission(self._span), headers) if self._sampled else nullcontext(headers)

    def poll(self, uid: int, headers: Headers) -> AbstractContextManager[Headers]:
        """See `rpc.tracing.CallSpan`."""
        return _child(self._tracer.begin_poll(uid, self._context), headers) if self._sampled else nullcontext(headers)

    def end(self, code: StatusCode, uid: int | None, reason: str) -> None:
        """See `rpc.tracing.CallSpan`."""
        span = self._span
        span.set_attribute("rpc.grpc.status_code", code.value[0])
        if uid is not None:
            span.set_attribute(UID, uid)
        if reason:
            span.set_attribute(ERROR, reason)
        if code in SERVER_FAULTS:
            span.set_status(Status(SpanStatus.ERROR))
        span.end()


@contextmanager
def _child(span: Span, headers: Headers) -> Iterator[Headers]:
    """Yield `headers` with the `traceparent` of `span`; end it with the context, and with the reason of an error."""
    try:
        yield _with_traceparent(headers, span.get_span_context())
    except Exception as error:
        span.set_attribute(ERROR, mapping_for(error).reason if isinstance(error, GatewayError) else "GATEWAY_DEFECT")
        span.set_status(Status(SpanStatus.ERROR))
        raise
    except asyncio.CancelledError:
        # No one waits for it any more, which is not an error.
        span.set_attribute(ERROR, "CANCELLED")
        raise
    finally:
        span.end()


def _with_traceparent(headers: Headers, context: SpanContext) -> Headers:
    parent = f"00-{context.trace_id:032x}-{context.span_id:016x}-{context.trace_flags:02x}"
    return {**headers, "traceparent": parent}


def _compression() -> Compression:
    # OpenTelemetry specifies `none` as the default, but the exporter rejects the word.
    names = ("OTEL_EXPORTER_OTLP_TRACES_COMPRESSION", "OTEL_EXPORTER_OTLP_COMPRESSION")
    value = next((value for name in names if (value := os.environ.get(name, "").strip().lower())), "none")
    return {"none": Compression.NoCompression, "gzip": Compression.Gzip}[value]


def _resource() -> Resource:
    configured = OTELResourceDetector().detect().attributes
    defaults = {"service.name": "jobgateway", "service.version": __version__}
    # Resource.create would prefer its arguments to the variables of the operator.
    return Resource.create({name: value for name, value in defaults.items() if name not in configured})


class _Exporter(SpanExporter):
    """Logs the first failure of an outage of the collector, and the recovery."""

    def __init__(self, exporter: SpanExporter) -> None:
        self._exporter = exporter
        self._failing = False

    def export(self, spans: Sequence[ReadableSpan]) -> SpanExportResult:
        """Export a batch, in the thread of the processor."""
        result = self._exporter.export(spans)
        failing = result is not SpanExportResult.SUCCESS
        if failing and not self._failing:
            _log.warning("traces.lost")
        elif self._failing and not failing:
            _log.info("traces.exported_again")
        self._failing = failing
        return result

    def shutdown(self) -> None:
        """Close the connection to the collector."""
        self._exporter.shutdown()
