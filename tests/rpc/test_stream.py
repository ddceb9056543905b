"""The streaming RPCs over real sockets: the promises of a watch, and its end."""

from __future__ import annotations

import asyncio
import hashlib
import itertools
from typing import TYPE_CHECKING, Any

import grpc
import pytest
from google.protobuf.duration_pb2 import Duration
from google.protobuf.json_format import MessageToDict
from grpc import StatusCode
from jobgateway.v1 import job_service_pb2 as pb

from gateway.rpc import cancellations as cancellation_module
from gateway.watch import refusals
from tests.support.gateways import BEARER, SEND, expect_error, reach_deadline, running, stub
from tests.support.upstream import JOBS, Connection, answer

if TYPE_CHECKING:
    from jobgateway.v1 import job_service_pb2_grpc as rpc

    from gateway.server.gateway import Gateway
    from tests.support.upstream import ScriptedUpstream

BOB = (("authorization", "Bearer the-token-of-bob"),)


def at(percentage: float) -> bytes:
    return answer(
        200, {"uid": 42, "status": "running", "message": {"message": f"at {percentage}", "percentage": percentage}}
    )


def success(raw: bytes = b'{"a": 1}') -> bytes:
    return answer(200, raw=b'{"uid":42,"status":"success","result":%b}' % raw)


def watch(jobs: rpc.JobServiceAsyncStub, metadata: Any = BEARER, **fields: Any) -> Any:
    return jobs.WatchJob(pb.WatchJobRequest(uid=42, **fields), metadata=metadata)


def run(jobs: rpc.JobServiceAsyncStub, **fields: Any) -> Any:
    return jobs.RunJob(pb.RunJobRequest(request=SEND, **fields), metadata=BEARER)


async def read(call: Any) -> list[pb.JobEvent]:
    events = []
    while (event := await call.read()) is not grpc.aio.EOF:
        events.append(event)
    assert await call.code() is StatusCode.OK
    return events


def percentages(events: list[pb.JobEvent]) -> list[float]:
    return [event.job.progress.percentage for event in events if event.WhichOneof("payload") == "job"]


def content(events: list[pb.JobEvent]) -> bytes:
    """Return the result in the chunks, by the rule for clients."""
    whole = bytearray()
    for event in events:
        if event.WhichOneof("payload") == "content_chunk":
            chunk = event.content_chunk
            del whole[chunk.offset :]
            whole += chunk.data
            assert len(whole) == chunk.offset + len(chunk.data)
    return bytes(whole)


async def test_a_watch_streams_the_state_every_change_and_one_end(
    upstream: ScriptedUpstream, jobs: rpc.JobServiceAsyncStub
) -> None:
    upstream.on("GET", "/jobs/42/", at(10), at(10), at(50), at(20), success())
    events = await read(watch(jobs))
    assert percentages(events) == [10, 50, 20, 0]
    assert [event.job.done for event in events] == [False, False, False, True]
    assert MessageToDict(events[-1].job.content) == {"a": 1}
    assert all(event.uid == event.job.uid == 42 for event in events)
    assert all(event.resume_token and len(event.resume_token) <= 512 for event in events)
    assert all(event.job.HasField("observe_time") for event in events)
    assert len(upstream.seen) == 5, "the end ends the polling"


async def test_initial_metadata_goes_out_before_the_first_response(
    upstream: ScriptedUpstream, jobs: rpc.JobServiceAsyncStub
) -> None:
    async def hang(connection: Connection) -> None:
        await connection.gone()

    upstream.on("GET", "/jobs/42/", hang)
    call = watch(jobs)
    await call.initial_metadata()
    call.cancel()


async def test_all_watches_of_one_credential_share_one_loop(
    upstream: ScriptedUpstream, jobs: rpc.JobServiceAsyncStub
) -> None:
    """The upstream answers a poll only when a test lets it, so a second loop would show as a second request."""
    gate = asyncio.Semaphore(0)

    async def slow(connection: Connection) -> None:
        await gate.acquire()
        await connection.send(success())

    upstream.on("POST", JOBS, answer(201, {"uid": 42}))
    upstream.on("GET", "/jobs/42/", slow)
    runner = run(jobs)
    assert (await runner.read()).job.status == pb.JOB_STATUS_RUNNING
    await upstream.wait_for(1, "GET")
    watchers = [watch(jobs) for _ in range(10)]
    waiters = [jobs.WaitJob(pb.WaitJobRequest(uid=42), metadata=BEARER) for _ in range(10)]
    for call in watchers:
        await call.initial_metadata()
    bob = watch(jobs, metadata=BOB)
    await upstream.wait_for(2, "GET")
    assert len({seen.headers["authorization"] for seen in upstream.requests("GET")}) == 2
    for _ in range(12):
        gate.release()
    for call in [runner, *watchers, bob]:
        assert (await read(call))[-1].job.done
    assert all(job.done for job in await asyncio.gather(*waiters))
    anns = [seen for seen in upstream.requests("GET") if seen.headers["authorization"] != "Bearer the-token-of-bob"]
    # The unary calls may have arrived after the end of the shared loop; then they shared one more.
    assert len(anns) <= 2


async def test_no_credential_sees_the_jobs_of_another(
    upstream: ScriptedUpstream, jobs: rpc.JobServiceAsyncStub
) -> None:
    async def by_token(connection: Connection) -> None:
        bob = upstream.seen[-1].headers["authorization"] == "Bearer the-token-of-bob"
        await connection.send(answer(404, {"detail": "no"}) if bob else at(50))

    upstream.on("GET", "/jobs/42/", by_token)
    ann = watch(jobs)
    assert percentages([await ann.read()]) == [50]
    failed = await expect_error(watch(jobs, metadata=BOB))
    assert failed.code is StatusCode.NOT_FOUND
    ann.cancel()


async def test_the_polling_stops_with_the_last_watcher(gateway: Gateway, upstream: ScriptedUpstream) -> None:
    release, sent = asyncio.Event(), asyncio.Event()

    async def slow(connection: Connection) -> None:
        await release.wait()
        await connection.send(at(30))
        sent.set()

    upstream.on("GET", "/jobs/42/", at(10), at(20), slow)
    upstream.on("GET", "/jobs/43/", *[answer(200, {"uid": 43, "status": "running"})] * 30, answer(404, {}))
    async with stub(gateway) as jobs:
        first, second = watch(jobs), watch(jobs)
        await first.read()
        await second.read()
        await upstream.wait_for(3)
        first.cancel()
        second.cancel()
        await gateway.wait_idle()
        release.set()
        await sent.wait()
        # Meanwhile another job is polled many times.
        await expect_error(jobs.WatchJob(pb.WatchJobRequest(uid=43), metadata=BEARER))
    assert [seen.path for seen in upstream.seen].count("/api/jobs/42/") == 3


async def test_heartbeats_tell_a_quiet_job_from_a_failing_upstream(
    upstream: ScriptedUpstream, jobs: rpc.JobServiceAsyncStub
) -> None:
    upstream.on("GET", "/jobs/42/", at(10), at(10), answer(503, headers={"Retry-After": "5"}))
    call = watch(jobs, heartbeat_interval=Duration(seconds=1))
    await call.read()
    event = await call.read()
    while event.heartbeat.consecutive_failures == 0:
        event = await call.read()
    assert event.WhichOneof("payload") == "heartbeat"
    assert (event.heartbeat.consecutive_failures, event.heartbeat.last_failure) == (1, "UPSTREAM_UNAVAILABLE")
    assert event.heartbeat.HasField("observe_time")
    assert event.heartbeat.HasField("next_poll_time")
    assert event.resume_token
    call.cancel()


@pytest.mark.parametrize("interval", [Duration(), Duration(nanos=999_999_999), Duration(seconds=3601)])
async def test_heartbeat_intervals_outside_their_range_are_refused(
    upstream: ScriptedUpstream, jobs: rpc.JobServiceAsyncStub, interval: Duration
) -> None:
    for call in (watch(jobs, heartbeat_interval=interval), run(jobs, heartbeat_interval=interval)):
        failed = await expect_error(call)
        assert (failed.code, list(failed.violations)) == (StatusCode.INVALID_ARGUMENT, ["heartbeat_interval"])
    assert upstream.seen == []


@pytest.mark.parametrize("size", [0, 100, 1 << 20, (3 << 20) + 1, 20 << 20])
async def test_a_result_of_any_size_reaches_stock_clients_unchanged(
    upstream: ScriptedUpstream, jobs: rpc.JobServiceAsyncStub, size: int
) -> None:
    raw = b'"%b"' % (b"x" * size)
    upstream.on("GET", "/jobs/42/", success(raw))
    events = await read(watch(jobs))
    job = events[-1].job
    assert (job.content_size, job.content_sha256) == (len(raw), hashlib.sha256(raw).hexdigest())
    assert (job.content_json or content(events)) == raw
    assert job.content_omitted is (len(raw) > 3 << 20)
    assert [event.job.done for event in events].count(True) == 1


async def test_chunks_carry_the_whole_in_order(upstream: ScriptedUpstream, jobs: rpc.JobServiceAsyncStub) -> None:
    raw = b'{"a":"%b"}' % (b"0123456789" * 100_000)
    upstream.on("GET", "/jobs/42/", at(10), success(raw))
    events = await read(watch(jobs, content_format=pb.CONTENT_FORMAT_JSON_CHUNKS))
    chunks = [event.content_chunk for event in events[1:-1]]
    assert [chunk.offset for chunk in chunks] == list(
        itertools.accumulate((len(chunk.data) for chunk in chunks[:-1]), initial=0)
    )
    assert content(events) == raw
    assert {(chunk.content_size, chunk.content_sha256) for chunk in chunks} == {
        (len(raw), hashlib.sha256(raw).hexdigest())
    }
    assert (events[-1].job.content_omitted, events[-1].job.WhichOneof("result")) == (True, None)


async def test_a_watch_resumes_after_the_state_that_was_seen(
    upstream: ScriptedUpstream, gateway: Gateway, jobs: rpc.JobServiceAsyncStub
) -> None:
    upstream.on("GET", "/jobs/42/", at(10), at(20), at(20), at(30), success())
    call = watch(jobs)
    await call.read()
    token = (await call.read()).resume_token
    call.cancel()
    await gateway.wait_idle()
    # The first poll of the second watch gets one of the remaining responses.
    events = await read(watch(jobs, resume_token=token))
    assert percentages(events) == [30, 0]


async def test_a_token_whose_state_has_changed_costs_no_state(
    upstream: ScriptedUpstream, gateway: Gateway, jobs: rpc.JobServiceAsyncStub
) -> None:
    upstream.on("GET", "/jobs/42/", at(10))
    call = watch(jobs)
    token = (await call.read()).resume_token
    call.cancel()
    await gateway.wait_idle()
    upstream.on("GET", "/jobs/42/", at(20), success())
    assert percentages(await read(watch(jobs, resume_token=token))) == [20, 0]


async def test_the_last_token_returns_the_end_on_any_replica(
    upstream: ScriptedUpstream, jobs: rpc.JobServiceAsyncStub
) -> None:
    upstream.on("GET", "/jobs/42/", success())
    end = (await read(watch(jobs)))[-1]
    async with running(upstream.url) as other, stub(other) as elsewhere:
        again = await read(watch(elsewhere, metadata=BOB, resume_token=end.resume_token))
    assert [(event.job.done, MessageToDict(event.job.content)) for event in again] == [(True, {"a": 1})]


async def test_a_broken_chunk_stream_continues_at_its_offset(
    upstream: ScriptedUpstream, jobs: rpc.JobServiceAsyncStub
) -> None:
    raw = b'"%b"' % (b"0123456789" * 500_000)
    upstream.on("GET", "/jobs/42/", success(raw))
    call = watch(jobs)
    first = [await call.read(), await call.read()]
    call.cancel()
    rest = await read(watch(jobs, resume_token=first[-1].resume_token))
    assert rest[0].content_chunk.offset == len(content(first))
    assert content([*first, *rest]) == raw
    only_the_end = await read(watch(jobs, resume_token=rest[-1].resume_token))
    assert [event.WhichOneof("payload") for event in only_the_end] == ["job"]


async def test_chunks_of_another_result_start_again(upstream: ScriptedUpstream, jobs: rpc.JobServiceAsyncStub) -> None:
    upstream.on("GET", "/jobs/42/", success(b'"%b"' % (b"x" * 5_000_000)))
    call = watch(jobs)
    first = [await call.read()]
    call.cancel()
    raw = b'"%b"' % (b"y" * 6_000_000)
    upstream.on("GET", "/jobs/42/", success(raw))
    # With another credential, because the end is kept for some seconds under the first one.
    rest = await read(watch(jobs, metadata=BOB, resume_token=first[-1].resume_token))
    assert rest[0].content_chunk.offset == 0
    assert content([*first, *rest]) == raw


@pytest.mark.parametrize("token", ["nonsense", "A" * 513, "AQAA", "é"])
async def test_an_invalid_resume_token_is_refused(
    upstream: ScriptedUpstream, jobs: rpc.JobServiceAsyncStub, token: str
) -> None:
    failed = await expect_error(watch(jobs, resume_token=token))
    assert (failed.code, list(failed.violations)) == (StatusCode.INVALID_ARGUMENT, ["resume_token"])
    assert upstream.seen == []


async def test_the_token_of_another_job_is_refused(upstream: ScriptedUpstream, jobs: rpc.JobServiceAsyncStub) -> None:
    upstream.on("GET", "/jobs/42/", success())
    token = (await read(watch(jobs)))[-1].resume_token
    failed = await expect_error(jobs.WatchJob(pb.WatchJobRequest(uid=43, resume_token=token), metadata=BEARER))
    assert (failed.code, list(failed.violations)) == (StatusCode.INVALID_ARGUMENT, ["resume_token"])


async def test_a_failure_after_a_state_ends_the_stream_with_a_status(
    upstream: ScriptedUpstream, jobs: rpc.JobServiceAsyncStub
) -> None:
    upstream.on("GET", "/jobs/42/", at(10), answer(401, {"detail": "expired"}))
    call = watch(jobs)
    await call.read()
    failed = await expect_error(call)
    assert (failed.code, failed.metadata["uid"]) == (StatusCode.UNAUTHENTICATED, "42")


async def test_the_first_event_of_a_run_precedes_the_first_poll(
    upstream: ScriptedUpstream, jobs: rpc.JobServiceAsyncStub
) -> None:
    async def hang(connection: Connection) -> None:
        await connection.gone()

    upstream.on("POST", JOBS, answer(201, {"uid": 42}))
    upstream.on("GET", "/jobs/42/", hang)
    call = run(jobs)
    event = await call.read()
    assert (event.uid, event.job.uid, event.job.status, event.job.done) == (42, 42, pb.JOB_STATUS_RUNNING, False)
    assert event.resume_token
    call.cancel()


async def test_a_run_that_is_done_immediately_is_not_polled(
    upstream: ScriptedUpstream, jobs: rpc.JobServiceAsyncStub
) -> None:
    upstream.on("POST", JOBS, success())
    events = await read(run(jobs))
    assert [event.job.done for event in events] == [True]
    assert len(upstream.seen) == 1


async def test_a_large_result_of_the_post_comes_in_chunks(
    upstream: ScriptedUpstream, jobs: rpc.JobServiceAsyncStub
) -> None:
    raw = b'"%b"' % (b"x" * 5_000_000)
    upstream.on("POST", JOBS, success(raw))
    events = await read(run(jobs))
    assert events[0].WhichOneof("payload") == "content_chunk"
    assert content(events) == raw


async def test_a_run_streams_to_the_end_without_repeating_a_state(
    upstream: ScriptedUpstream, jobs: rpc.JobServiceAsyncStub
) -> None:
    upstream.on("POST", JOBS, answer(201, {"uid": 42, "status": "running"}))
    quiet = answer(200, {"uid": 42, "status": "running"})
    upstream.on("GET", "/jobs/42/", quiet, quiet, at(50), success())
    events = await read(run(jobs))
    assert percentages(events) == [0, 50, 0]


async def test_errors_of_a_run_name_the_job_once_there_is_one(
    upstream: ScriptedUpstream, jobs: rpc.JobServiceAsyncStub, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(refusals, "GRACE_SECONDS", 0.1)
    upstream.on("POST", JOBS, answer(201, {"uid": 42}))
    upstream.on("GET", "/jobs/42/", answer(403, {"detail": "no"}))
    call = run(jobs)
    await call.read()
    failed = await expect_error(call)
    assert (failed.code, failed.metadata["uid"]) == (StatusCode.PERMISSION_DENIED, "42")


async def test_a_run_needs_its_request(jobs: rpc.JobServiceAsyncStub) -> None:
    failed = await expect_error(jobs.RunJob(pb.RunJobRequest(), metadata=BEARER))
    assert (failed.code, list(failed.violations)) == (StatusCode.INVALID_ARGUMENT, ["request"])


async def test_a_run_is_cancelled_on_disconnect_if_it_asks_for_it(
    upstream: ScriptedUpstream, jobs: rpc.JobServiceAsyncStub
) -> None:
    upstream.on("POST", JOBS, answer(201, {"uid": 42}))
    upstream.on("GET", "/jobs/42/", at(10))
    upstream.on("DELETE", "/jobs/42/", answer(204))
    call = run(jobs, cancel_on_disconnect=True)
    await call.read()
    call.cancel()
    await upstream.wait_for(1, "DELETE")


async def test_a_deadline_counts_as_leaving(upstream: ScriptedUpstream, jobs: rpc.JobServiceAsyncStub) -> None:
    upstream.on("POST", JOBS, answer(201, {"uid": 42}))
    upstream.on("GET", "/jobs/42/", at(10))
    upstream.on("DELETE", "/jobs/42/", answer(204))
    request = pb.RunJobRequest(request=SEND, cancel_on_disconnect=True)
    await reach_deadline(
        lambda seconds: jobs.RunJob(request, metadata=BEARER, timeout=seconds), lambda: bool(upstream.requests("POST"))
    )
    await upstream.wait_for(1, "DELETE")


async def test_a_client_that_leaves_while_sending_cancels_the_job(
    upstream: ScriptedUpstream, jobs: rpc.JobServiceAsyncStub
) -> None:
    release = asyncio.Event()

    async def slow(connection: Connection) -> None:
        await release.wait()
        await connection.send(answer(201, {"uid": 42}))

    upstream.on("POST", JOBS, slow)
    upstream.on("DELETE", "/jobs/42/", answer(204))
    call = run(jobs, cancel_on_disconnect=True)
    await upstream.wait_for(1, "POST")
    call.cancel()
    release.set()
    await upstream.wait_for(1, "DELETE")


async def leave_while_sending(upstream: ScriptedUpstream, reply: bytes) -> None:
    """Leave a run before its POST has the response `reply`, and return when its cancellation has ended."""
    release = asyncio.Event()

    async def slow(connection: Connection) -> None:
        await release.wait()
        await connection.send(reply)

    upstream.on("POST", JOBS, slow)
    async with running(upstream.url) as gateway, stub(gateway) as jobs:
        call = run(jobs, cancel_on_disconnect=True)
        await upstream.wait_for(1, "POST")
        call.cancel()
        await gateway.wait_idle()
        release.set()


def cancellations(logged: list[dict[str, Any]]) -> list[tuple[str, Any]]:
    return [(each["event"], each["uid"]) for each in logged if str(each["event"]).startswith("job.cancel")]


async def test_a_cancellation_is_logged_with_its_job(upstream: ScriptedUpstream, logged: list[dict[str, Any]]) -> None:
    upstream.on("DELETE", "/jobs/42/", answer(204))
    await leave_while_sending(upstream, answer(201, {"uid": 42}))
    assert cancellations(logged) == [("job.cancelled", 42)]


async def test_a_cancellation_of_an_ended_job_is_not_logged(
    upstream: ScriptedUpstream, logged: list[dict[str, Any]]
) -> None:
    upstream.on("DELETE", "/jobs/42/", answer(409))
    upstream.on("GET", "/jobs/42/", answer(200, {"uid": 42, "status": "success", "result": {}}))
    await leave_while_sending(upstream, answer(201, {"uid": 42}))
    assert [each.method for each in upstream.seen] == ["POST", "DELETE", "GET"]
    assert cancellations(logged) == []


async def test_a_job_without_a_uid_is_not_logged_as_cancelled(
    upstream: ScriptedUpstream, logged: list[dict[str, Any]]
) -> None:
    await leave_while_sending(upstream, answer(200, {"status": "success", "result": {}}))
    assert cancellations(logged) == []


async def test_a_failed_cancellation_is_logged_with_its_job(
    upstream: ScriptedUpstream, logged: list[dict[str, Any]], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(cancellation_module, "RETRY_SECONDS", 0.0)
    upstream.on("DELETE", "/jobs/42/", answer(503))
    upstream.on("GET", "/jobs/42/", at(10))
    await leave_while_sending(upstream, answer(201, {"uid": 42}))
    assert cancellations(logged) == [("job.cancel_failed", 42)]


async def test_leaving_without_it_cancels_nothing(upstream: ScriptedUpstream) -> None:
    """Stopping the gateway waits for all cancellations, so none can come later."""
    upstream.on("POST", JOBS, answer(201, {"uid": 42}))
    upstream.on("GET", "/jobs/42/", at(10))
    async with running(upstream.url) as gateway, stub(gateway) as jobs:
        call = run(jobs)
        await call.read()
        call.cancel()
    assert upstream.requests("DELETE") == []


async def test_an_end_that_the_gateway_makes_cancels_nothing(upstream: ScriptedUpstream) -> None:
    upstream.on("POST", JOBS, answer(201, {"uid": 42}))
    upstream.on("GET", "/jobs/42/", at(10))
    async with running(upstream.url) as gateway, stub(gateway) as jobs:
        call = run(jobs, cancel_on_disconnect=True)
        await call.read()
        await gateway.stop(grace=0)
        failed = await expect_error(call)
    assert (failed.code, failed.reason) == (StatusCode.UNAVAILABLE, "DRAINING")
    assert upstream.requests("DELETE") == []


async def test_an_error_cancels_nothing(upstream: ScriptedUpstream, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(refusals, "GRACE_SECONDS", 0.1)
    upstream.on("POST", JOBS, answer(201, {"uid": 42}))
    upstream.on("GET", "/jobs/42/", at(10), answer(403, {"detail": "no"}))
    async with running(upstream.url) as gateway, stub(gateway) as jobs:
        failed = await expect_error(run(jobs, cancel_on_disconnect=True))
    assert failed.code is StatusCode.PERMISSION_DENIED
    assert upstream.requests("DELETE") == []


async def test_a_drain_ends_remaining_watches_with_a_wait_and_a_token(upstream: ScriptedUpstream) -> None:
    upstream.on("GET", "/jobs/42/", at(10))
    async with running(upstream.url) as gateway, stub(gateway) as jobs:
        calls = [watch(jobs) for _ in range(20)]
        tokens = [(await call.read()).resume_token for call in calls]
        waiter = asyncio.ensure_future(jobs.WaitJob(pb.WaitJobRequest(uid=42), metadata=BEARER))
        stopping = asyncio.ensure_future(gateway.stop(grace=0.6))
        failures = [await expect_error(call) for call in calls]
        failures.append(await expect_error(waiter))
        await stopping
    assert all(tokens)
    assert {(failed.code, failed.reason) for failed in failures} == {(StatusCode.UNAVAILABLE, "DRAINING")}
    waits = [failed.retry.retry_delay.ToMilliseconds() for failed in failures]
    assert all(1000 <= wait <= 5000 for wait in waits)
    assert len(set(waits)) > 10


@pytest.mark.parametrize("depth", [500, 5_000])
async def test_a_result_of_any_depth_arrives_as_it_was_sent(
    upstream: ScriptedUpstream, jobs: rpc.JobServiceAsyncStub, depth: int
) -> None:
    raw = b'{"a":' * depth + b"1" + b"}" * depth
    upstream.on("GET", "/jobs/42/", success(raw))
    events = await read(watch(jobs))
    assert events[-1].job.content_json == raw
    assert (await jobs.GetJob(pb.GetJobRequest(uid=42), metadata=BEARER)).content_json == raw


async def test_a_watch_survives_an_upstream_outage(upstream: ScriptedUpstream) -> None:
    """Nothing listens for a while, which heartbeats report; then the watch continues."""
    upstream.on("GET", "/jobs/42/", at(10))
    async with running(upstream.url, poll_interval_max_seconds=0.1) as gateway, stub(gateway) as jobs:
        call = watch(jobs, heartbeat_interval=Duration(seconds=1))
        assert percentages([await call.read()]) == [10]
        await upstream.stop()
        while (event := await call.read()).heartbeat.last_failure != "UPSTREAM_UNREACHABLE":
            assert event.WhichOneof("payload") == "heartbeat"
        upstream.on("GET", "/jobs/42/", at(20), success())
        await upstream.start(upstream.port)
        events = [event for event in await read(call) if event.WhichOneof("payload") == "job"]
    assert percentages(events) == [20, 0]


async def test_a_run_sends_heartbeats_before_its_first_state(
    upstream: ScriptedUpstream, jobs: rpc.JobServiceAsyncStub
) -> None:
    release = asyncio.Event()

    async def slow(connection: Connection) -> None:
        await release.wait()
        await connection.send(answer(201, {"uid": 42}))

    async def slow_read(connection: Connection) -> None:
        await release.wait()
        await connection.send(success())

    upstream.on("POST", JOBS, slow)
    upstream.on("GET", "/jobs/42/", slow_read)
    request = pb.SendJobRequest(workspace_id="1", entity_id=7, request_id="a")
    for _ in range(2):
        release.clear()
        call: Any = jobs.RunJob(
            pb.RunJobRequest(request=request, heartbeat_interval=Duration(seconds=1)), metadata=BEARER
        )
        event = await call.read()
        assert event.WhichOneof("payload") == "heartbeat"
        assert (event.uid, event.heartbeat.consecutive_failures) in ((0, 0), (42, 0))
        release.set()
        assert (await read(call))[-1].job.done
    assert len(upstream.requests("POST")) == 1


async def test_the_cancellation_for_a_caller_that_left_is_retried(
    upstream: ScriptedUpstream, jobs: rpc.JobServiceAsyncStub
) -> None:
    upstream.on("POST", JOBS, answer(201, {"uid": 42}))
    upstream.on("GET", "/jobs/42/", at(10))
    upstream.on("DELETE", "/jobs/42/", answer(503), answer(204))
    call = run(jobs, cancel_on_disconnect=True)
    await call.read()
    call.cancel()
    await upstream.wait_for(2, "DELETE")
