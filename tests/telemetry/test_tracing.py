"""Traces as a collector receives them over real sockets, and behaviour without one."""

from __future__ import annotations

import json
import os
import socket
import subprocess
import sys
import time
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING, Any

import grpc
import pytest
from jobgateway.v1 import job_service_pb2 as pb

from gateway.errors import ConfigError
from gateway.rpc.tracing import NoopTracer
from gateway.telemetry.tracing import from_environment
from tests.support.collector import TraceCollector
from tests.support.gateways import BEARER, SEND, TOKEN, read_all, running, stub
from tests.support.raw import free_port
from tests.support.upstream import RUNNING, Connection, answer

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

    from gateway.server.gateway import Gateway
    from tests.support.upstream import ScriptedUpstream

JOB_SERVICE_NAME = "jobgateway.v1.JobService"
TRACE, PARENT = "4bf92f3577b34da6a3ce929d0e0e4736", "00f067aa0ba902b7"
SAMPLED, UNSAMPLED = f"00-{TRACE}-{PARENT}-01", f"00-{TRACE}-{PARENT}-00"
DONE = answer(200, {"uid": 42, "status": "success", "result": {"a": 1}, "completed_at": 1})
POST = ("POST", "/workspaces/1/entities/7/jobs/")
SERVER, CLIENT = 2, 3
UNSET, ERROR = 0, 2


@pytest.fixture(autouse=True)
def environment(monkeypatch: pytest.MonkeyPatch) -> pytest.MonkeyPatch:
    """An environment without OpenTelemetry's variables."""
    for name in list(os.environ):
        if name.startswith("OTEL_"):
            monkeypatch.delenv(name)
    return monkeypatch


@pytest.fixture
async def collector(environment: pytest.MonkeyPatch) -> AsyncIterator[TraceCollector]:
    """A collector that the environment names."""
    server = TraceCollector()
    await server.start()
    environment.setenv("OTEL_EXPORTER_OTLP_ENDPOINT", server.url)
    yield server
    await server.stop()


@asynccontextmanager
async def traced(upstream: ScriptedUpstream) -> AsyncIterator[Gateway]:
    """A gateway that the environment configures; its spans have arrived at the end of the context."""
    async with running(upstream.url, from_environment()) as gateway:
        yield gateway
        await gateway.wait_idle()


def parents(upstream: ScriptedUpstream, method: str) -> list[tuple[str, str, bool]]:
    """Return trace and parent of the upstream requests of a method, and whether they are sampled."""
    found = [request.headers["traceparent"].split("-") for request in upstream.requests(method)]
    return [(trace, parent, int(flags, 16) & 1 == 1) for _, trace, parent, flags in found]


async def test_a_call_continues_the_trace_of_its_client(collector: TraceCollector, upstream: ScriptedUpstream) -> None:
    upstream.script.append(RUNNING)
    async with traced(upstream) as gateway, stub(gateway) as jobs:
        await jobs.GetJob(pb.GetJobRequest(uid=42), metadata=(*BEARER, ("traceparent", SAMPLED)))
    (span,) = collector.spans
    assert (span.name, span.kind, span.ended) == (f"{JOB_SERVICE_NAME}/GetJob", SERVER, True)
    assert (span.trace, span.parent, span.status) == (TRACE, PARENT, UNSET)
    assert span.attributes == {
        "rpc.system": "grpc",
        "rpc.service": JOB_SERVICE_NAME,
        "rpc.method": "GetJob",
        "rpc.grpc.status_code": 0,
        "jobgateway.job.uid": 42,
    }
    assert parents(upstream, "GET") == [(TRACE, span.id, True)]


async def test_without_a_trace_of_the_client_one_starts_here(
    collector: TraceCollector, upstream: ScriptedUpstream, logged: list[dict[str, Any]]
) -> None:
    upstream.script.append(RUNNING)
    async with traced(upstream) as gateway, stub(gateway) as jobs:
        for metadata in (BEARER, (*BEARER, ("traceparent", "nonsense"))):
            await jobs.GetJob(pb.GetJobRequest(uid=42), metadata=metadata)
    one, other = collector.spans
    assert one.parent == other.parent == ""
    assert one.trace != other.trace
    assert [line["trace_id"] for line in logged if line["event"] == "call"] == [one.trace, other.trace]


async def test_a_submission_has_a_span_within_its_call(collector: TraceCollector, upstream: ScriptedUpstream) -> None:
    upstream.on(*POST, answer(201, {"uid": 42}))
    async with traced(upstream) as gateway, stub(gateway) as jobs:
        await jobs.SendJob(SEND, metadata=(*BEARER, ("traceparent", SAMPLED)))
    (call,), (submission,) = collector.named("SendJob"), collector.named("submit")
    assert (submission.trace, submission.parent, submission.kind) == (TRACE, call.id, CLIENT)
    assert parents(upstream, "POST") == [(TRACE, submission.id, True)]


async def test_each_poll_has_its_own_trace_linked_to_the_watch(
    collector: TraceCollector, upstream: ScriptedUpstream
) -> None:
    upstream.script.extend([RUNNING, answer(503, {"detail": "secret text"}), DONE])
    async with traced(upstream) as gateway, stub(gateway) as jobs:
        watch = jobs.WatchJob(pb.WatchJobRequest(uid=42), metadata=(*BEARER, ("traceparent", SAMPLED)))
        assert (await read_all(watch))[-1].job.done
    (call,), polls = collector.named("WatchJob"), collector.named("poll")
    assert len(polls) == 3
    assert len({poll.trace for poll in polls} | {TRACE}) == 4
    assert all(poll.links == [(TRACE, call.id)] and poll.parent == "" and poll.kind == CLIENT for poll in polls)
    assert [poll.status for poll in polls] == [UNSET, ERROR, UNSET]
    assert [poll.attributes for poll in polls] == [
        {"jobgateway.job.uid": 42},
        {"jobgateway.job.uid": 42, "error.type": "UPSTREAM_UNAVAILABLE"},
        {"jobgateway.job.uid": 42},
    ]
    assert parents(upstream, "GET") == [(poll.trace, poll.id, True) for poll in polls]
    assert not any(span.events or span.message for span in collector.spans)


async def test_an_abandoned_poll_ends_its_span_without_an_error(
    collector: TraceCollector, upstream: ScriptedUpstream
) -> None:
    async def hang(connection: Connection) -> None:
        await connection.gone()

    upstream.script.append(hang)
    async with traced(upstream) as gateway, stub(gateway) as jobs:
        watch = jobs.WatchJob(pb.WatchJobRequest(uid=42), metadata=BEARER)
        await upstream.wait_for(1)
        watch.cancel()
    (poll,), (call,) = collector.named("poll"), collector.named("WatchJob")
    assert (poll.attributes["error.type"], poll.status) == ("CANCELLED", UNSET)
    assert call.attributes["rpc.grpc.status_code"] == 1


@pytest.mark.parametrize(
    ("status", "code", "reason", "fault"),
    [(404, 5, "UPSTREAM_NOT_FOUND", UNSET), (503, 14, "UPSTREAM_UNAVAILABLE", ERROR)],
)
async def test_a_span_ends_with_the_status_of_its_call(
    collector: TraceCollector, upstream: ScriptedUpstream, status: int, code: int, reason: str, fault: int
) -> None:
    upstream.script.append(answer(status, {"detail": f"a text with {TOKEN}"}))
    async with traced(upstream) as gateway, stub(gateway) as jobs:
        with pytest.raises(grpc.aio.AioRpcError):
            await jobs.GetJob(pb.GetJobRequest(uid=42), metadata=BEARER)
        with pytest.raises(grpc.aio.AioRpcError):
            await jobs.GetJob(pb.GetJobRequest(uid=42))
    failed, refused = collector.spans
    assert (failed.attributes["rpc.grpc.status_code"], failed.attributes["error.type"]) == (code, reason)
    assert (failed.status, failed.message, failed.events) == (fault, "", 0)
    assert refused.attributes["error.type"] == "CREDENTIAL_INVALID"


async def test_an_unsampled_call_and_its_polls_are_not_recorded(
    collector: TraceCollector, upstream: ScriptedUpstream
) -> None:
    upstream.on(*POST, answer(201, {"uid": 42}))
    upstream.script.append(DONE)
    async with traced(upstream) as gateway, stub(gateway) as jobs:
        await read_all(jobs.RunJob(pb.RunJobRequest(request=SEND), metadata=(*BEARER, ("traceparent", UNSAMPLED))))
    assert collector.spans == []
    seen = [*parents(upstream, "POST"), *parents(upstream, "GET")]
    assert [(trace, sampled) for trace, _, sampled in seen] == [(TRACE, False)] * 2


async def test_an_unrecorded_new_trace_is_passed_to_the_upstream(
    collector: TraceCollector,
    upstream: ScriptedUpstream,
    environment: pytest.MonkeyPatch,
    logged: list[dict[str, Any]],
) -> None:
    environment.setenv("OTEL_TRACES_SAMPLER", "parentbased_always_off")
    upstream.on(*POST, answer(201, {"uid": 42}))
    upstream.script.append(DONE)
    async with traced(upstream) as gateway, stub(gateway) as jobs:
        for _ in range(2):
            await read_all(jobs.RunJob(pb.RunJobRequest(request=SEND), metadata=BEARER))
    assert collector.spans == []
    one, other = [line["trace_id"] for line in logged if line["event"] == "call"]
    assert one != other
    seen = parents(upstream, "POST")
    assert [(trace, sampled) for trace, _, sampled in seen] == [(one, False), (other, False)]
    assert len({parent for _, parent, _ in seen}) == 2
    # The end of the job was kept, so that the second call needed no poll.
    assert parents(upstream, "GET") == seen[:1]


async def test_a_ratio_samples_by_the_trace_id(
    collector: TraceCollector,
    upstream: ScriptedUpstream,
    environment: pytest.MonkeyPatch,
    logged: list[dict[str, Any]],
) -> None:
    environment.setenv("OTEL_TRACES_SAMPLER", "traceidratio")
    environment.setenv("OTEL_TRACES_SAMPLER_ARG", "0.5")
    upstream.script.extend([RUNNING] * 60)
    async with traced(upstream) as gateway, stub(gateway) as jobs:
        for _ in range(60):
            await jobs.GetJob(pb.GetJobRequest(uid=42), metadata=BEARER)
    traces = [line["trace_id"] for line in logged if line["event"] == "call"]
    # By the lower 8 bytes, as OpenTelemetry specifies, so that all services of a trace decide alike.
    taken = [trace for trace in traces if int(trace[16:], 16) < 2**63]
    assert len(set(traces)) == 60
    assert 0 < len(taken) < 60
    assert [span.trace for span in collector.spans] == taken
    assert [(trace, sampled) for trace, _, sampled in parents(upstream, "GET")] == [
        (trace, trace in taken) for trace in traces
    ]


async def test_the_variables_of_the_sdk_apply(
    collector: TraceCollector, upstream: ScriptedUpstream, environment: pytest.MonkeyPatch
) -> None:
    environment.setenv("OTEL_TRACES_SAMPLER", "parentbased_always_off")
    environment.setenv("OTEL_SERVICE_NAME", "my-gateway")
    environment.setenv("OTEL_EXPORTER_OTLP_HEADERS", "x-tenant=seven")
    upstream.script.extend([RUNNING, answer(200, {"uid": 43, "status": "running"})])
    async with traced(upstream) as gateway, stub(gateway) as jobs:
        await jobs.GetJob(pb.GetJobRequest(uid=42), metadata=BEARER)
        await jobs.GetJob(pb.GetJobRequest(uid=43), metadata=(*BEARER, ("traceparent", SAMPLED)))
    (span,) = collector.spans
    assert span.attributes["jobgateway.job.uid"] == 43
    assert collector.resource["service.name"] == "my-gateway"
    assert ("x-tenant", "seven") in [(each.key, each.value) for each in collector.metadata[0]]


async def test_the_default_service_name_is_jobgateway(collector: TraceCollector, upstream: ScriptedUpstream) -> None:
    upstream.script.append(RUNNING)
    async with traced(upstream) as gateway, stub(gateway) as jobs:
        await jobs.GetJob(pb.GetJobRequest(uid=42), metadata=BEARER)
    assert collector.resource["service.name"] == "jobgateway"
    assert collector.resource["telemetry.sdk.name"] == "opentelemetry"


async def test_a_rejecting_collector_costs_two_log_lines(
    collector: TraceCollector,
    upstream: ScriptedUpstream,
    environment: pytest.MonkeyPatch,
    logged: list[dict[str, Any]],
    caplog: pytest.LogCaptureFixture,
) -> None:
    environment.setenv("OTEL_BSP_MAX_EXPORT_BATCH_SIZE", "1")
    collector.broken = True
    upstream.script.append(RUNNING)
    async with traced(upstream) as gateway, stub(gateway) as jobs:
        for _ in range(30):
            await jobs.GetJob(pb.GetJobRequest(uid=42), metadata=BEARER)
    lost = [line for line in logged if line["event"].startswith("traces.lost")]
    assert len(lost) == 1
    assert caplog.records == []


async def test_a_collector_that_cannot_be_reached_disturbs_nothing(
    upstream: ScriptedUpstream, environment: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    environment.setenv("OTEL_EXPORTER_OTLP_ENDPOINT", f"http://127.0.0.1:{free_port()}")
    environment.setenv("OTEL_BSP_MAX_QUEUE_SIZE", "10")
    environment.setenv("OTEL_BSP_MAX_EXPORT_BATCH_SIZE", "5")
    upstream.script.append(RUNNING)
    async with running(upstream.url, from_environment()) as gateway, stub(gateway) as jobs:
        for _ in range(50):
            await jobs.GetJob(pb.GetJobRequest(uid=42), metadata=BEARER)
        began = time.monotonic()
        await gateway.stop(grace=0)
        # Far below the 30 seconds of the SDK, and above the one second of the gateway.
        assert time.monotonic() - began < 10
    assert caplog.records == []


async def test_a_silent_collector_delays_the_stop_for_a_moment_only(
    upstream: ScriptedUpstream, environment: pytest.MonkeyPatch
) -> None:
    upstream.script.append(RUNNING)
    with socket.socket() as silent:
        silent.bind(("127.0.0.1", 0))
        silent.listen()
        environment.setenv("OTEL_EXPORTER_OTLP_TRACES_ENDPOINT", f"http://127.0.0.1:{silent.getsockname()[1]}")
        async with running(upstream.url, from_environment()) as gateway, stub(gateway) as jobs:
            await jobs.GetJob(pb.GetJobRequest(uid=42), metadata=BEARER)
            began = time.monotonic()
            await gateway.stop(grace=0)
            assert time.monotonic() - began < 8


# Without a collector


def test_opentelemetry_is_imported_only_with_an_endpoint() -> None:
    code = "import sys, gateway.server.process as s; s.tracing.from_environment(); "
    code += "print([m for m in sys.modules if 'entel' in m])"
    environment = {name: value for name, value in os.environ.items() if not name.startswith("OTEL_")}
    ran = subprocess.run([sys.executable, "-c", code], env=environment, capture_output=True, text=True, check=True)  # noqa: S603 - fixed
    assert ran.stdout == "[]\n"


@pytest.mark.parametrize(
    "variables",
    [
        {},
        {"OTEL_EXPORTER_OTLP_ENDPOINT": " "},
        {"OTEL_EXPORTER_OTLP_ENDPOINT": "http://127.0.0.1:1", "OTEL_SDK_DISABLED": "True"},
        {"OTEL_EXPORTER_OTLP_ENDPOINT": "http://127.0.0.1:1", "OTEL_TRACES_EXPORTER": "none"},
        {"OTEL_EXPORTER_OTLP_METRICS_ENDPOINT": "http://127.0.0.1:1"},
    ],
)
def test_traces_are_off(environment: pytest.MonkeyPatch, variables: dict[str, str]) -> None:
    for name, value in variables.items():
        environment.setenv(name, value)
    assert isinstance(from_environment(), NoopTracer)


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("OTEL_EXPORTER_OTLP_PROTOCOL", "http/protobuf"),
        ("OTEL_EXPORTER_OTLP_TRACES_PROTOCOL", "http/json"),
        ("OTEL_EXPORTER_OTLP_TIMEOUT", "often"),
        ("OTEL_EXPORTER_OTLP_TRACES_TIMEOUT", "often"),
        ("OTEL_EXPORTER_OTLP_COMPRESSION", "zip"),
        ("OTEL_EXPORTER_OTLP_TRACES_COMPRESSION", "zip"),
        ("OTEL_EXPORTER_OTLP_CERTIFICATE", "/nowhere"),
        ("OTEL_EXPORTER_OTLP_TRACES_CLIENT_KEY", "/nowhere"),
        ("OTEL_PYTHON_EXPORTER_OTLP_GRPC_RETRYABLE_ERROR_CODES", "some"),
        ("OTEL_BSP_MAX_QUEUE_SIZE", "1"),
        ("OTEL_EXPORTER_OTLP_TRACES_TIMEOUT", "-1"),
        *(
            ("OTEL_EXPORTER_OTLP_TRACES_ENDPOINT", url)
            for url in ("::", ":::/", "ftp://x:1", "http://", "http://x:99999")
        ),
    ],
)
def test_a_wrong_variable_stops_the_start_with_one_line(environment: pytest.MonkeyPatch, name: str, value: str) -> None:
    environment.setenv("OTEL_EXPORTER_OTLP_ENDPOINT", "http://127.0.0.1:1")
    environment.setenv(name, value)
    with pytest.raises(ConfigError, match=rf"^{name}\b[^\n]+$"):
        from_environment()


def test_a_wrong_endpoint_is_not_quoted(environment: pytest.MonkeyPatch) -> None:
    environment.setenv("OTEL_EXPORTER_OTLP_ENDPOINT", "http://secret@[::1")
    with pytest.raises(ConfigError, match=r"^OTEL_[^\n]+$") as raised:
        from_environment()
    assert "secret" not in str(raised.value)


@pytest.mark.parametrize("value", ["none", "None", "gzip", ""])
async def test_each_specified_compression_is_accepted(environment: pytest.MonkeyPatch, value: str) -> None:
    environment.setenv("OTEL_EXPORTER_OTLP_ENDPOINT", "http://127.0.0.1:1")
    environment.setenv("OTEL_EXPORTER_OTLP_COMPRESSION", value)
    tracer = from_environment()
    assert not isinstance(tracer, NoopTracer)
    await tracer.aclose()


def test_a_wrong_limit_found_at_import_stops_the_start() -> None:
    child = subprocess.run(
        [sys.executable, "-m", "gateway", "serve"],
        env={
            **{name: value for name, value in os.environ.items() if not name.startswith(("JOBGATEWAY_", "OTEL_"))},
            "JOBGATEWAY_UPSTREAM_URL": "http://127.0.0.1:1",
            "JOBGATEWAY_LISTEN": "127.0.0.1:0",
            "JOBGATEWAY_ADMIN_LISTEN": "127.0.0.1:0",
            "OTEL_EXPORTER_OTLP_ENDPOINT": "http://127.0.0.1:1",
            "OTEL_SPAN_ATTRIBUTE_COUNT_LIMIT": "many",
        },
        capture_output=True,
        text=True,
        check=False,
    )
    assert child.returncode == 2
    line = json.loads(child.stderr)
    assert line["event"] == "start.failed"
    assert line["message"].startswith("OTEL_SPAN_ATTRIBUTE_COUNT_LIMIT='many': ")


@pytest.mark.parametrize(
    ("traceparent", "trace"),
    [
        (SAMPLED, TRACE),
        (UNSAMPLED, TRACE),
        (f"cc-{TRACE}-{PARENT}-01-more", TRACE),
        (f"ff-{TRACE}-{PARENT}-01", ""),
        (f"00-{TRACE.upper()}-{PARENT}-01", ""),
        (f"00-{'0' * 32}-{PARENT}-01", ""),
        (f"00-{TRACE}-{'0' * 16}-01", ""),
        (f"00-{TRACE}-{PARENT}", ""),
        ("", ""),
        (None, ""),
    ],
)
def test_the_trace_id_is_logged_without_opentelemetry(traceparent: str | None, trace: str) -> None:
    assert NoopTracer().call("GetJob", traceparent).trace_id == trace


async def test_without_a_collector_the_trace_passes_through(
    gateway: Gateway, upstream: ScriptedUpstream, logged: list[dict[str, Any]]
) -> None:
    upstream.on(*POST, answer(201, {"uid": 42}))
    upstream.script.append(DONE)
    async with stub(gateway) as jobs:
        await read_all(jobs.RunJob(pb.RunJobRequest(request=SEND), metadata=(*BEARER, ("traceparent", SAMPLED))))
        await gateway.wait_idle()
    assert [request.headers["traceparent"] for request in upstream.seen] == [SAMPLED] * 2
    assert {line["trace_id"] for line in logged} == {TRACE}
