"""A running job is never reported as lost, although the upstream refuses some reads."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Any

import grpc
import pytest
from google.protobuf.duration_pb2 import Duration
from grpc import StatusCode
from jobgateway.v1 import job_service_pb2 as pb

from gateway.watch import refusals, sent_jobs
from tests.support.gateways import BEARER, SEND, Failure, expect_error, reach_deadline, read_all, running, stub
from tests.support.upstream import JOBS, RUNNING, Connection, answer

if TYPE_CHECKING:
    from jobgateway.v1 import job_service_pb2_grpc as rpc

    from tests.support.upstream import ScriptedUpstream

JOB = "/jobs/42/"
CREATED = answer(201, {"uid": 42})
HALF = answer(200, {"uid": 42, "status": "running", "message": {"message": "half"}})
DONE = answer(200, {"uid": 42, "status": "success", "result": {"a": 1}})
PAGE = b"<html><h1>404 Not Found</h1></html>"
REFUSALS = [400, 401, 403, 404, 405, 409, 410]


def refusal(status: int) -> bytes:
    return answer(status, {"detail": "no"})


def watch(jobs: rpc.JobServiceAsyncStub, **fields: Any) -> Any:
    return jobs.WatchJob(pb.WatchJobRequest(uid=42, **fields), metadata=BEARER)


def wait(jobs: rpc.JobServiceAsyncStub, seconds: float) -> Any:
    timeout = Duration()
    timeout.FromNanoseconds(round(seconds * 1e9))
    return jobs.WaitJob(pb.WaitJobRequest(uid=42, timeout=timeout), metadata=BEARER)


async def ends_well(call: Any) -> bool:
    return bool((await read_all(call))[-1].job.done)


@pytest.mark.parametrize("status", REFUSALS)
@pytest.mark.parametrize("method", ["RunJob", "WatchJob", "WaitJob"])
async def test_refusals_of_a_job_just_sent_are_no_proof(
    upstream: ScriptedUpstream, jobs: rpc.JobServiceAsyncStub, method: str, status: int
) -> None:
    upstream.on("POST", JOBS, CREATED)
    upstream.on("GET", JOB, *[refusal(status)] * 4, RUNNING, DONE)
    if method == "RunJob":
        assert await ends_well(jobs.RunJob(pb.RunJobRequest(request=SEND), metadata=BEARER))
        return
    await jobs.SendJob(SEND, metadata=BEARER)
    assert (await wait(jobs, 60)).done if method == "WaitJob" else await ends_well(watch(jobs))


@pytest.mark.parametrize("method", ["WatchJob", "WaitJob", "GetJob"])
async def test_the_grace_of_a_sent_job_covers_other_credentials(
    upstream: ScriptedUpstream, jobs: rpc.JobServiceAsyncStub, method: str
) -> None:
    upstream.on("POST", JOBS, CREATED)
    upstream.on("GET", JOB, *[refusal(404)] * 3, DONE)
    await jobs.SendJob(SEND, metadata=BEARER)
    other = [("authorization", "Bearer another-token")]
    if method == "WatchJob":
        assert await ends_well(jobs.WatchJob(pb.WatchJobRequest(uid=42), metadata=other))
    elif method == "WaitJob":
        assert (await jobs.WaitJob(pb.WaitJobRequest(uid=42), metadata=other)).done
    else:
        failed = await expect_error(jobs.GetJob(pb.GetJobRequest(uid=42), metadata=other))
        assert failed.reason == "NO_STATE_YET"


async def test_a_job_refused_for_its_whole_grace_is_reported(
    upstream: ScriptedUpstream, jobs: rpc.JobServiceAsyncStub, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(refusals, "GRACE_SECONDS", 0.2)
    upstream.on("POST", JOBS, CREATED)
    upstream.on("GET", JOB, refusal(404))
    await jobs.SendJob(SEND, metadata=BEARER)
    failed = await expect_error(watch(jobs))
    assert (failed.code, failed.reason) == (StatusCode.NOT_FOUND, "UPSTREAM_NOT_FOUND")
    assert len(upstream.requests("GET")) > 1


async def test_a_repeated_request_id_has_the_grace_too(
    upstream: ScriptedUpstream, jobs: rpc.JobServiceAsyncStub
) -> None:
    request = pb.SendJobRequest(workspace_id="1", entity_id=7, request_id="a")
    upstream.on("POST", JOBS, CREATED)
    upstream.on("GET", JOB, *[refusal(404)] * 4, DONE)
    await jobs.SendJob(request, metadata=BEARER)
    assert (await jobs.SendJob(request, metadata=BEARER)).uid == 42
    assert await ends_well(jobs.RunJob(pb.RunJobRequest(request=request), metadata=BEARER))
    assert len(upstream.requests("POST")) == 1


@pytest.mark.parametrize("method", ["GetJob", "WaitJob", "CancelJob", "short WaitJob"])
async def test_a_single_request_reports_no_state_yet(
    upstream: ScriptedUpstream, jobs: rpc.JobServiceAsyncStub, method: str
) -> None:
    upstream.on("POST", JOBS, CREATED)
    upstream.on("GET", JOB, refusal(404))
    upstream.on("DELETE", JOB, refusal(404))
    await jobs.SendJob(SEND, metadata=BEARER)
    calls: dict[str, Any] = {
        "GetJob": lambda: jobs.GetJob(pb.GetJobRequest(uid=42), metadata=BEARER),
        "WaitJob": lambda: wait(jobs, 0),
        "short WaitJob": lambda: wait(jobs, 0.3),
        "CancelJob": lambda: jobs.CancelJob(pb.CancelJobRequest(uid=42), metadata=BEARER),
    }
    failed = await expect_error(calls[method]())
    for _ in range(20):
        # On a busy machine, a short wait may end before its first read.
        if method != "short WaitJob" or "404" in failed.message:
            break
        failed = await expect_error(calls[method]())
    assert (failed.code, failed.reason) == (StatusCode.UNAVAILABLE, "NO_STATE_YET")
    assert "404" in failed.message


async def test_a_refusal_of_a_job_sent_elsewhere_counts_immediately(
    upstream: ScriptedUpstream, jobs: rpc.JobServiceAsyncStub
) -> None:
    upstream.on("GET", JOB, refusal(404))
    failed = await expect_error(jobs.GetJob(pb.GetJobRequest(uid=42), metadata=BEARER))
    assert failed.code is StatusCode.NOT_FOUND


@pytest.mark.slow
@pytest.mark.parametrize("status", [404, 403, 409, 410])
async def test_a_job_not_shown_yet_is_cancelled_on_disconnect(
    upstream: ScriptedUpstream, jobs: rpc.JobServiceAsyncStub, status: int
) -> None:
    upstream.on("POST", JOBS, CREATED)
    upstream.on("GET", JOB, refusal(status))
    upstream.on("DELETE", JOB, refusal(status), answer(503), answer(404, raw=PAGE), refusal(status), answer(204))
    call = jobs.RunJob(pb.RunJobRequest(request=SEND, cancel_on_disconnect=True), metadata=BEARER)
    await call.read()
    call.cancel()
    await upstream.wait_for(5, "DELETE")


async def test_a_job_that_has_ended_needs_no_cancellation(upstream: ScriptedUpstream) -> None:
    upstream.on("POST", JOBS, CREATED)
    upstream.on("GET", JOB, RUNNING)
    async with running(upstream.url) as gateway, stub(gateway) as jobs:
        call = jobs.RunJob(pb.RunJobRequest(request=SEND, cancel_on_disconnect=True), metadata=BEARER)
        await call.read()
        upstream.on("DELETE", JOB, refusal(405))
        upstream.on("GET", JOB, DONE)
        call.cancel()
        await upstream.wait_for(1, "DELETE")
        await gateway.stop(grace=30)
    assert len(upstream.requests("DELETE")) == 1


async def test_a_stop_gives_up_cancellations_after_its_grace(upstream: ScriptedUpstream) -> None:
    upstream.on("POST", JOBS, CREATED)
    upstream.on("GET", JOB, RUNNING)
    upstream.on("DELETE", JOB, answer(503, headers={"Retry-After": "3600"}))
    async with running(upstream.url) as gateway, stub(gateway) as jobs:
        call = jobs.RunJob(pb.RunJobRequest(request=SEND, cancel_on_disconnect=True), metadata=BEARER)
        await call.read()
        call.cancel()
        await upstream.wait_for(1, "DELETE")
        await gateway.stop(grace=0)
    assert not [task for task in asyncio.all_tasks() if "_cancel_after_submission" in repr(task)]


@pytest.mark.parametrize("status", [401, 403, 404, 410, 460, 499])
async def test_one_refusal_between_good_reads_ends_no_watch(
    upstream: ScriptedUpstream, jobs: rpc.JobServiceAsyncStub, status: int
) -> None:
    upstream.on("GET", JOB, RUNNING, refusal(status), HALF, refusal(status), DONE)
    watches = await asyncio.gather(*(ends_well(watch(jobs)) for _ in range(50)))
    assert all(watches)
    assert len(upstream.seen) == 5


async def test_two_refusals_end_a_watch(upstream: ScriptedUpstream, jobs: rpc.JobServiceAsyncStub) -> None:
    upstream.on("GET", JOB, RUNNING, refusal(403), refusal(403), DONE)
    failed = await expect_error(watch(jobs))
    assert failed.code is StatusCode.PERMISSION_DENIED
    assert len(upstream.seen) == 3


async def test_a_resumed_watch_has_seen_a_state(upstream: ScriptedUpstream, jobs: rpc.JobServiceAsyncStub) -> None:
    upstream.on("GET", JOB, HALF)
    first = watch(jobs)
    token = (await first.read()).resume_token
    async with running(upstream.url) as other, stub(other) as replica:
        upstream.on("GET", JOB, refusal(404), DONE)
        first.cancel()
        assert await ends_well(watch(replica, resume_token=token))


@pytest.mark.parametrize("body", [PAGE, b"", b"no such page", b'["no"]', b'"no"'], ids=repr)
@pytest.mark.parametrize("status", [401, 403, 404, 413])
async def test_the_page_of_a_proxy_ends_no_watch(
    upstream: ScriptedUpstream, jobs: rpc.JobServiceAsyncStub, status: int, body: bytes
) -> None:
    page = answer(status, raw=body)
    upstream.on("GET", JOB, page, page, page, RUNNING, page, page, DONE)
    assert await ends_well(watch(jobs))


async def test_an_outage_says_that_a_proxy_answered(upstream: ScriptedUpstream) -> None:
    upstream.on("GET", JOB, answer(403, raw=PAGE))
    async with running(upstream.url, poll_outage_seconds=1.5) as gateway, stub(gateway) as jobs:
        call = watch(jobs, heartbeat_interval=Duration(seconds=1))
        beat = (await call.read()).heartbeat
        assert beat.last_failure == "UPSTREAM_MALFORMED"
        failed = await expect_error(call)
    assert (failed.code, failed.reason) == (StatusCode.UNAVAILABLE, "UPSTREAM_OUTAGE")
    assert (failed.metadata["last_failure"], failed.metadata["http_status"]) == ("UPSTREAM_MALFORMED", "403")
    assert "HTTP 403" in failed.message
    assert "proxy" in failed.message


@pytest.mark.parametrize("status", [503, 429])
async def test_a_watch_polls_again_before_it_gives_up(upstream: ScriptedUpstream, status: int) -> None:
    upstream.on("GET", JOB, answer(status, {}, headers={"Retry-After": "3600"}), DONE)
    async with running(upstream.url, poll_outage_seconds=1) as gateway, stub(gateway) as jobs:
        assert await ends_well(watch(jobs))
    assert len(upstream.seen) == 2


@pytest.mark.parametrize(
    "headers",
    [
        b"Retry-After: 30.0\r\n",
        b"Retry-After: 30, 30\r\n",
        b"Retry-After: 30\r\nRetry-After: 30\r\n",
        b"Retry-After: 7\r\nretry-after: 30.0\r\n",
    ],
)
async def test_any_form_of_retry_after_is_passed_on(
    upstream: ScriptedUpstream, jobs: rpc.JobServiceAsyncStub, headers: bytes
) -> None:
    upstream.on("GET", JOB, b"HTTP/1.1 503 No\r\nContent-Length: 0\r\n%b\r\n" % headers)
    failed = await expect_error(jobs.GetJob(pb.GetJobRequest(uid=42), metadata=BEARER))
    assert failed.trailers["grpc-retry-pushback-ms"] == "30000"


@pytest.mark.parametrize("value", ["0", "0.01", "Thu, 01 Jan 1970 00:00:00 GMT"])
async def test_a_wait_of_zero_is_never_passed_on(
    upstream: ScriptedUpstream, jobs: rpc.JobServiceAsyncStub, value: str
) -> None:
    upstream.on("GET", JOB, answer(503, {}, headers={"Retry-After": value}))
    failed = await expect_error(jobs.GetJob(pb.GetJobRequest(uid=42), metadata=BEARER))
    assert failed.trailers["grpc-retry-pushback-ms"] == "100"
    assert failed.retry.retry_delay.ToMilliseconds() == 100


async def test_waits_shorter_than_a_read_still_get_the_end(
    upstream: ScriptedUpstream, jobs: rpc.JobServiceAsyncStub
) -> None:
    release = asyncio.Event()

    async def slow(connection: Connection) -> None:
        await release.wait()
        await connection.send(DONE)

    upstream.on("GET", JOB, slow)
    for _ in range(3):
        failed = await expect_error(wait(jobs, 0.1))
        assert (failed.code, failed.reason) == (StatusCode.UNAVAILABLE, "NO_STATE_YET")
    release.set()
    # The response reaches this wait, or none.
    assert (await wait(jobs, 60)).done
    assert len(upstream.seen) == 1


async def test_a_deadline_shorter_than_a_read_ends_get_job(
    upstream: ScriptedUpstream, jobs: rpc.JobServiceAsyncStub
) -> None:
    closed = asyncio.Event()

    async def hang(connection: Connection) -> None:
        await connection.gone()
        closed.set()

    upstream.on("GET", JOB, hang)
    await reach_deadline(
        lambda seconds: jobs.GetJob(pb.GetJobRequest(uid=42), metadata=BEARER, timeout=seconds),
        lambda: bool(upstream.seen),
    )
    await closed.wait()


async def test_one_refusal_between_two_waits_ends_nothing(
    upstream: ScriptedUpstream, jobs: rpc.JobServiceAsyncStub
) -> None:
    asked_again = asyncio.Event()

    async def refuse(connection: Connection) -> None:
        await asked_again.wait()
        await connection.send(refusal(404))

    upstream.on("GET", JOB, RUNNING, refuse, DONE)
    call = watch(jobs)
    assert (await call.read()).job.status == pb.JOB_STATUS_RUNNING
    call.cancel()
    asked_again.set()
    assert (await wait(jobs, 60)).done


async def test_a_job_beyond_its_timeout_is_reported(
    upstream: ScriptedUpstream, jobs: rpc.JobServiceAsyncStub, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("gateway.watch.overdue.OVERDUE_MARGIN_SECONDS", 0.1)
    upstream.on("POST", JOBS, CREATED)
    upstream.on("GET", JOB, answer(200, {"uid": 42, "status": "aborted"}))
    request = pb.SendJobRequest(workspace_id="1", entity_id=7, timeout=Duration(seconds=1))
    failed = await expect_error(jobs.RunJob(pb.RunJobRequest(request=request), metadata=BEARER))
    assert (failed.code, failed.reason) == (StatusCode.FAILED_PRECONDITION, "JOB_OVERDUE")
    assert failed.metadata["uid"] == "42"
    assert "timeout of 1 s" in failed.message
    assert sent_jobs.LONGEST_JOB_SECONDS == 86_400


@pytest.mark.parametrize(("status", "code"), [(403, StatusCode.PERMISSION_DENIED), (409, StatusCode.ABORTED)])
async def test_a_refused_cancellation_of_a_shown_job_is_reported(
    upstream: ScriptedUpstream, jobs: rpc.JobServiceAsyncStub, status: int, code: StatusCode
) -> None:
    upstream.on("POST", JOBS, CREATED)
    upstream.on("GET", JOB, RUNNING)
    upstream.on("DELETE", JOB, refusal(status))
    await jobs.SendJob(SEND, metadata=BEARER)
    failed = await expect_error(jobs.CancelJob(pb.CancelJobRequest(uid=42), metadata=BEARER))
    assert failed.code is code


async def test_a_refusal_is_confirmed_once_if_the_job_is_shown(upstream: ScriptedUpstream) -> None:
    upstream.on("POST", JOBS, CREATED)
    upstream.on("GET", JOB, RUNNING)
    upstream.on("DELETE", JOB, refusal(409))
    async with running(upstream.url) as gateway, stub(gateway) as jobs:
        call = jobs.RunJob(pb.RunJobRequest(request=SEND, cancel_on_disconnect=True), metadata=BEARER)
        await call.read()
        call.cancel()
        await upstream.wait_for(2, "DELETE")
        # Returns when the cancellation has ended.
        await gateway.stop(grace=30)
    assert len(upstream.requests("DELETE")) == 2


@pytest.mark.parametrize("method", ["WatchJob", "WaitJob"])
async def test_an_overdue_job_ends_short_calls(
    upstream: ScriptedUpstream, jobs: rpc.JobServiceAsyncStub, monkeypatch: pytest.MonkeyPatch, method: str
) -> None:
    monkeypatch.setattr("gateway.watch.overdue.OVERDUE_MARGIN_SECONDS", 0.1)
    upstream.on("POST", JOBS, CREATED)
    upstream.on("GET", JOB, RUNNING)
    request = pb.SendJobRequest(workspace_id="1", entity_id=7, timeout=Duration(seconds=1))
    await jobs.SendJob(request, metadata=BEARER)

    async def wait_briefly() -> None:
        try:
            await wait(jobs, 0.3)
        except grpc.aio.AioRpcError as error:
            # On a busy machine, it may end before its first read.
            if Failure(error).reason != "NO_STATE_YET":
                raise

    async def again_and_again() -> None:
        for attempt in range(1_000):
            if method == "WaitJob":
                await wait_briefly()
            else:
                call = watch(jobs)
                assert (await call.read()).job.status == pb.JOB_STATUS_RUNNING
                await read_all(call) if attempt else call.cancel()

    assert (await expect_error(again_and_again())).reason == "JOB_OVERDUE"
