"""Metrics of known traffic over real sockets, and their page in docs/reference/metrics.md."""

from __future__ import annotations

import asyncio
import math
import re
from contextlib import suppress
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING

import grpc
import pytest
from jobgateway.v1 import job_service_pb2 as pb

from gateway import __version__
from gateway.rpc.status import BY_ERROR, BY_HTTP_STATUS, OTHER_4XX, OTHER_5XX
from gateway.telemetry.metrics import (
    CODE_NAMES,
    END_STATUSES,
    POLL_OUTCOMES,
    STATUS_CLASSES,
    SUBMISSION_OUTCOMES,
    UPSTREAM_METHODS,
    Metrics,
)
from gateway.upstream import DROPPABLE
from tests.support.certificates import Authority
from tests.support.gateways import BEARER, SEND, expect_error, read_all, running, stub
from tests.support.paths import ROOT
from tests.support.raw import free_port, raw_call
from tests.support.scraping import scrape
from tests.support.upstream import RUNNING, Connection, answer

if TYPE_CHECKING:
    from pathlib import Path

    from gateway.server.gateway import Gateway
    from tests.support.upstream import ScriptedUpstream

DOCS = ROOT / "docs" / "reference" / "metrics.md"
JOB_SERVICE_NAME = "jobgateway.v1.JobService"
DONE = answer(200, {"uid": 42, "status": "success", "result": {"a": 1}, "completed_at": 1})
POST = ("POST", "/workspaces/1/entities/7/jobs/")


class Gate:
    """Respond with `reply` when it is open."""

    def __init__(self, reply: bytes) -> None:
        self.reply = reply
        self.open = asyncio.Event()

    async def __call__(self, connection: Connection) -> None:
        await self.open.wait()
        await connection.send(self.reply)


async def test_a_call_is_counted_by_method_and_code(gateway: Gateway, upstream: ScriptedUpstream) -> None:
    gate = Gate(RUNNING)
    upstream.script.extend([RUNNING, answer(404, {}), gate])
    get = {"grpc_type": "unary", "grpc_service": JOB_SERVICE_NAME, "grpc_method": "GetJob"}
    async with stub(gateway) as jobs:
        job = await jobs.GetJob(pb.GetJobRequest(uid=42), metadata=BEARER)
        await expect_error(jobs.GetJob(pb.GetJobRequest(uid=42), metadata=BEARER))
        await expect_error(jobs.GetJob(pb.GetJobRequest(uid=42)))
        call = jobs.GetJob(pb.GetJobRequest(uid=42), metadata=BEARER)
        await upstream.wait_for(3)
        got = await scrape(gateway)
        assert got("jobgateway_calls_in_flight", **get) == 1
        assert got("grpc_server_started_total", **get) == 4
        assert got("grpc_server_handled_total", **get) == 3
        for code in ("OK", "NotFound", "Unauthenticated"):
            assert got("grpc_server_handled_total", grpc_code=code, **get) == 1
        assert got("grpc_server_handling_seconds_count", **get) == 3
        assert 0 < got("grpc_server_handling_seconds_sum", **get) < 60
        assert got("grpc_server_msg_sent_total", **get) == 1
        assert got("jobgateway_sent_bytes_total", **get) == job.ByteSize()
        call.cancel()
        await gateway.wait_idle()
    got = await scrape(gateway)
    assert got("grpc_server_handled_total", grpc_code="Canceled", **get) == 1
    assert got("jobgateway_calls_in_flight") == 0
    # An abandoned request is no information about the upstream.
    assert got("jobgateway_upstream_request_seconds_count") == 2


async def test_three_watchers_of_a_job_share_one_loop_and_its_polls(
    gateway: Gateway, upstream: ScriptedUpstream
) -> None:
    first, last = Gate(RUNNING), Gate(DONE)
    upstream.script.extend([first, last])
    async with stub(gateway) as jobs:
        streams = [jobs.WatchJob(pb.WatchJobRequest(uid=42), metadata=BEARER) for _ in range(3)]
        for stream in streams:
            await stream.initial_metadata()
        await upstream.wait_for(1)
        got = await scrape(gateway)
        assert got("jobgateway_loops") == 1
        assert got("jobgateway_watchers") == 3
        assert got("jobgateway_calls_in_flight", grpc_method="WatchJob") == 3
        assert got("jobgateway_polls_total") == 0
        first.open.set()
        last.open.set()
        events = await asyncio.gather(*(read_all(stream) for stream in streams))
        await gateway.wait_idle()
    assert [len(each) for each in events] == [2, 2, 2]
    got = await scrape(gateway)
    assert got("jobgateway_loops_started_total") == 1
    assert got("jobgateway_watchers_joined_total") == 3
    assert got("jobgateway_polls_total", outcome="OK") == got("jobgateway_polls_total") == 2
    assert got("jobgateway_polled_watchers_total") == 6
    assert got("jobgateway_delivery_seconds_count") == 6
    assert 0 <= got("jobgateway_delivery_seconds_sum") < 60
    assert got("jobgateway_skipped_states_total") == 0
    assert got("grpc_server_msg_sent_total", grpc_method="WatchJob") == 6
    assert got("jobgateway_sent_bytes_total") == sum(event.ByteSize() for each in events for event in each)
    assert got("jobgateway_loops") == got("jobgateway_watchers") == 0
    assert got("jobgateway_upstream_request_seconds_count", method="GET", status_class="2xx") == 2


async def test_failed_polls_are_counted_by_reason(gateway: Gateway, upstream: ScriptedUpstream) -> None:
    async def reset(connection: Connection) -> None:
        connection.reset()

    upstream.script.extend([answer(503, {}), answer(200, raw=b"no json"), reset, reset, answer(403, {})])
    async with stub(gateway) as jobs:
        await expect_error(read_all(jobs.WatchJob(pb.WatchJobRequest(uid=42), metadata=BEARER)))
    got = await scrape(gateway)
    reasons = ("UPSTREAM_UNAVAILABLE", "UPSTREAM_MALFORMED", "UPSTREAM_CONNECTION_LOST", "UPSTREAM_PERMISSION_DENIED")
    assert {reason: got("jobgateway_polls_total", outcome=reason) for reason in reasons} == dict.fromkeys(reasons, 1)
    assert got("jobgateway_polls_total") == 4
    for status_class, count in {"2xx": 1, "3xx": 0, "4xx": 1, "5xx": 1, "none": 2}.items():
        assert got("jobgateway_upstream_request_seconds_count", method="GET", status_class=status_class) == count
    assert got("jobgateway_upstream_read_bytes_total") == len(b"{}no json{}")


async def test_submissions_are_counted_by_their_outcome(gateway: Gateway, upstream: ScriptedUpstream) -> None:
    gate = Gate(answer(201, {"uid": 42}))
    upstream.on(*POST, answer(201, {"uid": 42}), answer(500, {}), answer(400, {}), gate)
    async with stub(gateway) as jobs:
        await jobs.SendJob(SEND, metadata=BEARER)
        await expect_error(jobs.SendJob(SEND, metadata=BEARER))
        await expect_error(jobs.SendJob(SEND, metadata=BEARER))
        once = pb.SendJobRequest(workspace_id="1", entity_id=7, request_id="once")
        call = jobs.SendJob(once, metadata=BEARER)
        await upstream.wait_for(4)
        other = pb.SendJobRequest(workspace_id="2", entity_id=7, request_id="once")
        await expect_error(jobs.SendJob(other, metadata=BEARER))
        assert (await scrape(gateway))("jobgateway_submissions_in_flight") == 1
        gate.open.set()
        await call
    got = await scrape(gateway)
    outcomes = {"OK": 2, "SUBMIT_OUTCOME_UNKNOWN": 1, "UPSTREAM_BAD_REQUEST": 1, "REQUEST_ID_REUSED": 1}
    assert {each: got("jobgateway_submissions_total", outcome=each) for each in outcomes} == outcomes
    assert got("jobgateway_submissions_total") == 5
    assert got("jobgateway_submissions_in_flight") == 0
    assert got("jobgateway_upstream_request_seconds_count", method="POST") == 4


async def test_a_submission_over_the_limit_is_counted(upstream: ScriptedUpstream) -> None:
    upstream.on(*POST, answer(201, {"uid": 42}))
    async with running(upstream.url, submissions_per_second=0.1) as gateway, stub(gateway) as jobs:
        await jobs.SendJob(SEND, metadata=BEARER)
        await expect_error(jobs.SendJob(SEND, metadata=BEARER))
        got = await scrape(gateway)
    assert got("jobgateway_submissions_total", outcome="LIMIT_REACHED") == 1
    assert got("grpc_server_handled_total", grpc_code="ResourceExhausted") == 1


async def test_an_upstream_outage_is_counted() -> None:
    async with running(f"http://127.0.0.1:{free_port()}") as gateway, stub(gateway) as jobs:
        await expect_error(jobs.CancelJob(pb.CancelJobRequest(uid=42), metadata=BEARER))
        got = await scrape(gateway)
    assert got("jobgateway_upstream_request_seconds_count", method="DELETE", status_class="none") == 1


async def test_large_responses_are_in_the_budget_metrics(gateway: Gateway, upstream: ScriptedUpstream) -> None:
    result = {"text": "x" * (3 << 20)}
    upstream.script.append(answer(200, {"uid": 42, "status": "success", "result": result, "completed_at": 1}))
    async with stub(gateway) as jobs:
        stream = jobs.WatchJob(pb.WatchJobRequest(uid=42), metadata=BEARER)
        await stream.read()
        got = await scrape(gateway)
        stream.cancel()
    # The end is kept for some seconds for late watchers.
    assert got("jobgateway_limit_used", limit="large_responses") > 3 << 20
    assert got("jobgateway_large_answers_waiting") == 0
    assert got("jobgateway_upstream_read_bytes_total") > 3 << 20


async def test_an_ended_job_is_counted_once_with_its_duration(gateway: Gateway, upstream: ScriptedUpstream) -> None:
    failed = answer(200, {"uid": 42, "status": "failed", "error": {"type": "error_timeout", "message": "late"}})
    upstream.script.extend(
        [RUNNING, RUNNING, failed, failed, answer(200, {"uid": 43, "status": "archived", "error": "x"})]
    )
    async with stub(gateway) as jobs:
        await read_all(jobs.WatchJob(pb.WatchJobRequest(uid=42), metadata=BEARER))
        await jobs.GetJob(pb.GetJobRequest(uid=42), metadata=BEARER)
        await jobs.GetJob(pb.GetJobRequest(uid=43), metadata=BEARER)
        got = await scrape(gateway)
    assert got("jobgateway_jobs_ended_total", status="TIMEOUT") == 1
    assert got("jobgateway_jobs_ended_total", status="other") == 1
    assert got("jobgateway_jobs_ended_total") == 2
    # Job 43 was never seen running.
    assert got("jobgateway_job_seconds_count") == got("jobgateway_job_seconds_count", status="TIMEOUT") == 1
    assert 0 < got("jobgateway_job_seconds_sum") < 60


async def test_malformed_fields_are_counted(gateway: Gateway, upstream: ScriptedUpstream) -> None:
    upstream.script.append(answer(200, {"uid": 42, "status": "success", "completed_at": 1, "kind": 5}))
    async with stub(gateway) as jobs:
        await jobs.GetJob(pb.GetJobRequest(uid=42), metadata=BEARER)
    got = await scrape(gateway)
    assert got("jobgateway_dropped_fields_total", field="completed_at") == 1
    assert got("jobgateway_dropped_fields_total") == 2


async def test_limits_are_reported_with_their_use(upstream: ScriptedUpstream) -> None:
    gate = Gate(RUNNING)
    upstream.script.append(gate)
    async with running(upstream.url, max_watches=7, max_calls=5) as gateway, stub(gateway) as jobs:
        stream = jobs.WatchJob(pb.WatchJobRequest(uid=42), metadata=BEARER)
        await upstream.wait_for(1)
        got = await scrape(gateway)
        stream.cancel()
    used = {limit: got("jobgateway_limit_used", limit=limit) for limit in got.values_of("limit")}
    assert {limit for limit, value in used.items() if value} == {"watches", "polls"}
    assert used["watches"] == used["polls"] == 1
    limits = {limit: got("jobgateway_limit_max", limit=limit) for limit in used}
    assert limits == {
        "calls": 5,
        "watches": 7,
        "submissions": 1_024,
        "polls": 256,
        "large_requests": 512 << 20,
        "large_responses": 1 << 30,
        "large_messages": 512 << 20,
        "request_ids": 100_000,
    }


@pytest.mark.parametrize("days", [30, -7])
async def test_the_expiry_of_the_certificate_is_reported(upstream: ScriptedUpstream, tmp_path: Path, days: int) -> None:
    end = datetime.now(UTC).replace(microsecond=0) + timedelta(days=days)
    certificate = Authority().server(not_before=end - timedelta(days=90), not_after=end)
    cert, key = tmp_path / "cert", tmp_path / "key"
    cert.write_bytes(certificate.chain)
    key.write_bytes(certificate.key)
    async with running(upstream.url, tls_cert_file=cert, tls_key_file=key) as gateway:
        got = await scrape(gateway)
    assert got("jobgateway_certificate_expiry_timestamp_seconds") == end.timestamp()


async def test_without_tls_no_certificate_expires(gateway: Gateway) -> None:
    assert math.isnan((await scrape(gateway))("jobgateway_certificate_expiry_timestamp_seconds"))


async def test_the_build_and_the_process_are_described(gateway: Gateway) -> None:
    got = await scrape(gateway)
    assert got("jobgateway_build_info", version=__version__) == 1
    assert got("process_open_fds") > 0
    assert got("process_resident_memory_bytes") > 1 << 20


async def test_clients_cannot_create_labels(gateway: Gateway, upstream: ScriptedUpstream) -> None:
    upstream.script.append(answer(299, {}))
    names = ("/jobgateway.v1.JobService/Evil", "/Evil/GetJob", f"/{JOB_SERVICE_NAME}/GetJob?x=Evil", "/Evil", "Evil")
    before = (await scrape(gateway)).samples.keys()
    for path in names:
        async with raw_call(
            gateway.address, path, b"", [(b"authorization", b"Bearer Evil"), (b"evil", b"Evil")]
        ) as call:
            await asyncio.wait_for(call.end(), 10)
    for status in (200, 299, 302, 418, 499, 520, 599, 600, 999):
        upstream.script = type(upstream.script)([answer(status, {"detail": "Evil", "code": "Evil", "status": "Evil"})])
        async with stub(gateway) as jobs:
            with suppress(grpc.aio.AioRpcError):
                await jobs.GetJob(pb.GetJobRequest(uid=42), metadata=(*BEARER, ("x-request-id", "Evil")))
    after = await scrape(gateway)
    assert after.samples.keys() == before
    assert "Evil" not in after.text
    assert after.values_of("grpc_method") == set(pb.DESCRIPTOR.services_by_name["JobService"].methods_by_name)
    assert after.values_of("grpc_code") == set(CODE_NAMES.values())
    assert after.values_of("outcome") == {*POLL_OUTCOMES, *SUBMISSION_OUTCOMES}
    assert after.values_of("status_class") == set(STATUS_CLASSES)
    assert after.values_of("method") == set(UPSTREAM_METHODS)
    assert after.values_of("status") == set(END_STATUSES.values())
    assert after.values_of("field") == set(DROPPABLE)


def test_no_name_is_taken_twice() -> None:
    with pytest.raises(ValueError, match="jobgateway_loops_started"):
        Metrics().level("jobgateway_loops_started", "Taken.", lambda: 1)


def test_outcomes_are_reasons_of_the_table() -> None:
    reasons = {row.reason for row in (*BY_HTTP_STATUS.values(), *BY_ERROR.values(), OTHER_4XX, OTHER_5XX)}
    assert {*POLL_OUTCOMES, *SUBMISSION_OUTCOMES} - {"OK"} <= reasons
    assert CODE_NAMES[grpc.StatusCode.DEADLINE_EXCEEDED] == "DeadlineExceeded"
    assert CODE_NAMES[grpc.StatusCode.OK] == "OK"
    assert CODE_NAMES[grpc.StatusCode.CANCELLED] == "Canceled"


def families(text: str) -> dict[str, tuple[str, str]]:
    """Return the type and help of each metric of a scrape, by name."""
    kinds = dict(re.findall(r"^# TYPE (\S+) (\S+)$", text, re.MULTILINE))
    return {name: (kinds[name], help_) for name, help_ in re.findall(r"^# HELP (\S+) (.*)$", text, re.MULTILINE)}


async def test_the_metrics_page_is_up_to_date(gateway: Gateway) -> None:
    got = await scrape(gateway)
    found = families(got.text)
    labels: dict[str, set[str]] = {name: set() for name in found}
    for name, pairs in got.samples:
        family = name if name in found else re.sub("_(bucket|count|sum)$", "", name)
        labels[family] |= {label for label, _ in pairs} - {"le"}
    rows = [
        f"| `{name}` | {kind} | {', '.join(f'`{each}`' for each in sorted(labels[name]))} | {help_} |"
        for name, (kind, help_) in found.items()
    ]
    documented = [line for line in DOCS.read_text().splitlines() if line.startswith("| `")]
    assert sorted(documented) == sorted(rows)
