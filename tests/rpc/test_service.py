"""The unary RPCs over real sockets."""

from __future__ import annotations

import asyncio
import hashlib
import json
from typing import TYPE_CHECKING, Any

import grpc
import pytest
from google.protobuf.duration_pb2 import Duration
from google.protobuf.json_format import MessageToDict
from google.protobuf.struct_pb2 import Struct
from grpc import StatusCode
from jobgateway.v1 import job_service_pb2 as pb

from gateway.rpc.service import DEADLINE_MARGIN_SECONDS, wait_seconds
from tests.support.clock import SteppedClock
from tests.support.gateways import BEARER, SEND, TOKEN, expect_error, running, stub
from tests.support.upstream import JOBS, Connection, answer, delivered_reply, hang

if TYPE_CHECKING:
    from jobgateway.v1 import job_service_pb2_grpc as rpc

    from gateway.server.gateway import Gateway
    from tests.support.upstream import ScriptedUpstream

RUNNING = {"uid": 42, "status": "running", "message": {"message_type": "progress", "message": "half", "percentage": 50}}
SUCCESS = {"uid": 42, "status": "success", "result": {"a": 1}, "completed_at": "2026-11-24T10:00:00Z"}


@pytest.mark.parametrize(
    ("timeout", "remaining", "wait"),
    [
        pytest.param(None, None, 40.0, id="nothing is set"),
        pytest.param(None, 3600.0, 40.0, id="a distant deadline"),
        pytest.param(None, 21.0, 20.0, id="a near deadline"),
        pytest.param(120.0, None, 120.0, id="a timeout"),
        pytest.param(120.0, 21.0, 20.0, id="a timeout beyond the deadline"),
        pytest.param(5.0, 21.0, 5.0, id="a timeout within the deadline"),
        pytest.param(None, 0.0, 0.0, id="no time left"),
    ],
)
def test_a_wait_lasts_40_seconds_at_most_by_default(
    timeout: float | None, remaining: float | None, wait: float
) -> None:
    assert wait_seconds(timeout, remaining) == wait


async def test_unset_fields_are_not_sent(upstream: ScriptedUpstream, jobs: rpc.JobServiceAsyncStub) -> None:
    upstream.on("POST", JOBS, answer(201, {"uid": 42}))
    await jobs.SendJob(SEND, metadata=BEARER)
    assert upstream.seen[0].body == b"{}"


async def test_set_fields_arrive_exactly(upstream: ScriptedUpstream, jobs: rpc.JobServiceAsyncStub) -> None:
    upstream.on("POST", JOBS, answer(201, {"uid": 42}))
    raw = b'{ "id": 9007199254740993, "f": 0.10, "e": 1E2,\n "s": "\\ud800 \\u00e9 \xc3\xa9", "n": null }'
    arguments = Struct()
    arguments.update({"whole": 3, "half": 0.5})
    request = pb.SendJobRequest(
        workspace_id="1",
        entity_id=7,
        poll_result=False,
        method_name="é",
        method_type="t",
        editor_session="0F8FAD5B-d9cb-469f-a165-70867728950e",
        params_json=raw,
        events=["one", "two"],
        timeout=Duration(seconds=86400),
        arguments=arguments,
        method="m",
    )
    job = await jobs.SendJob(request, metadata=BEARER)
    assert job.uid == 42
    body = upstream.seen[0].body
    assert b'"params":' + raw in body
    sent = json.loads(body)
    assert (type(sent["arguments"]["whole"]), sent["arguments"]) == (int, {"whole": 3, "half": 0.5})
    assert {name: value for name, value in sent.items() if name not in ("params", "arguments")} == {
        "poll_result": False,
        "method_name": "é",
        "method_type": "t",
        "editor_session": "0F8FAD5B-d9cb-469f-a165-70867728950e",
        "events": ["one", "two"],
        "timeout": 86400,
        "method": "m",
    }


async def test_a_large_request_arrives_whole(upstream: ScriptedUpstream, jobs: rpc.JobServiceAsyncStub) -> None:
    upstream.on("POST", JOBS, answer(201, {"uid": 42}))
    raw = b'{"blob":"%b"}' % (b"x" * (7 << 20))
    await jobs.SendJob(
        pb.SendJobRequest(workspace_id="1", entity_id=7, params_json=raw, request_id="big"), metadata=BEARER
    )
    assert upstream.seen[0].body == b'{"params":%b}' % raw


async def test_the_upstream_gets_the_credential_and_passed_on_headers(
    upstream: ScriptedUpstream, jobs: rpc.JobServiceAsyncStub
) -> None:
    trace = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01"
    metadata = (*BEARER, ("traceparent", trace), ("x-request-id", "r 1/2"), ("x-other", "no"), ("cookie", "no=1"))
    upstream.script.append(answer(200, SUCCESS))
    await jobs.GetJob(pb.GetJobRequest(uid=42), metadata=metadata)
    async for _ in jobs.WatchJob(pb.WatchJobRequest(uid=42), metadata=metadata):
        pass
    await jobs.CancelJob(pb.CancelJobRequest(uid=42), metadata=metadata)
    await jobs.SendJob(SEND, metadata=metadata)
    assert len(upstream.seen) == 5
    for seen in upstream.seen:
        assert seen.headers["authorization"] == f"Bearer {TOKEN}"
        assert (seen.headers["traceparent"], seen.headers["x-request-id"]) == (trace, "r 1/2")
        assert not {"x-other", "cookie"} & seen.headers.keys()


@pytest.mark.parametrize("method", ["SendJob", "GetJob", "WatchJob", "WaitJob", "RunJob", "CancelJob"])
async def test_without_a_credential_nothing_reaches_the_upstream(
    upstream: ScriptedUpstream, jobs: rpc.JobServiceAsyncStub, method: str
) -> None:
    request: Any = {"SendJob": SEND, "RunJob": pb.RunJobRequest(request=SEND)}.get(method)
    request = request or getattr(pb, f"{method}Request")(uid=42)
    call = getattr(jobs, method)(request)
    failed = await expect_error(call.read() if method in ("WatchJob", "RunJob") else call)
    assert (failed.code, failed.reason) == (StatusCode.UNAUTHENTICATED, "CREDENTIAL_INVALID")
    assert upstream.seen == []


@pytest.mark.parametrize(
    ("status", "body", "uid", "done"),
    [
        (201, {"uid": 42}, 42, False),
        (201, {"uid": 42, "status": "success", "result": {}}, 42, False),
        (201, {"url": "/api/jobs/43/"}, 43, False),
        (201, {"url": "https://elsewhere.example/api/jobs/44/?x=1"}, 44, False),
        (201, {"url": "jobs/45"}, 45, False),
        (201, {"uid": None, "url": "/jobs/46/"}, 46, False),
        (201, {"uid": "forty-seven", "url": "/jobs/47/"}, 47, False),
        (202, {"uid": 48}, 48, False),
        (200, SUCCESS, 42, True),
        (200, {"uid": 42, "status": "message", "message": "on it"}, 42, False),
    ],
)
async def test_both_responses_of_a_submission(
    upstream: ScriptedUpstream, jobs: rpc.JobServiceAsyncStub, status: int, body: Any, uid: int, done: bool
) -> None:
    upstream.on("POST", JOBS, answer(status, body))
    job = await jobs.SendJob(SEND, metadata=BEARER)
    assert (job.uid, job.done) == (uid, done)
    assert (job.status == pb.JOB_STATUS_RUNNING) is not done
    assert (job.WhichOneof("result") == "content") is done


async def test_both_shapes_of_a_job_say_the_same(upstream: ScriptedUpstream, jobs: rpc.JobServiceAsyncStub) -> None:
    fields = {"width": ["too small"]}
    upstream.on(
        "GET",
        "/jobs/42/",
        answer(
            200,
            {
                "uid": 42,
                "kind": "result",
                "status": "error_user",
                "error_message": "mend it",
                "error_stack_trace": {"line": 3},
                "invalid_fields": fields,
            },
        ),
        answer(
            200,
            {
                "uid": 42,
                "kind": "result",
                "status": "failed",
                "error": {"type": "error_user", "message": "mend it", "invalid_fields": [fields]},
            },
        ),
    )
    first = await jobs.GetJob(pb.GetJobRequest(uid=42), metadata=BEARER)
    second = await jobs.GetJob(pb.GetJobRequest(uid=42), metadata=BEARER)
    assert first.status == second.status == pb.JOB_STATUS_ERROR_USER
    assert first.done
    assert second.done
    assert first.error.message == second.error.message == "mend it"
    assert MessageToDict(first.error.invalid_fields) == fields
    assert [MessageToDict(each) for each in second.error.invalid_fields.list_value.values] == [fields]
    assert MessageToDict(first.error.stack_trace) == {"line": 3}
    assert (first.status_text, second.status_text) == ("error_user", "failed")


async def test_size_and_hash_are_of_the_upstreams_bytes(
    upstream: ScriptedUpstream, jobs: rpc.JobServiceAsyncStub
) -> None:
    raw = b'{ "a" : 1.50,\t"b":[1e2] }'
    upstream.on("GET", "/jobs/42/", answer(200, raw=b'{"uid":42,"status":"success","result":%b}' % raw))
    sha256 = hashlib.sha256(raw).hexdigest()
    expected = {
        pb.CONTENT_FORMAT_UNSPECIFIED: "content",
        pb.CONTENT_FORMAT_STRUCT: "content",
        pb.CONTENT_FORMAT_JSON: "content_json",
        pb.CONTENT_FORMAT_NONE: None,
    }
    for content_format, result in expected.items():
        job = await jobs.GetJob(pb.GetJobRequest(uid=42, content_format=content_format), metadata=BEARER)
        assert job.WhichOneof("result") == result
        assert (job.content_size, job.content_sha256) == (len(raw), sha256)
        assert job.content_omitted is (result is None)
        if result == "content_json":
            assert job.content_json == raw


@pytest.mark.parametrize("method", ["GetJob", "WaitJob", "SendJob"])
async def test_chunks_are_refused_for_unary_calls(
    upstream: ScriptedUpstream, jobs: rpc.JobServiceAsyncStub, method: str
) -> None:
    chunks = pb.CONTENT_FORMAT_JSON_CHUNKS
    request = {
        "GetJob": pb.GetJobRequest(uid=42, content_format=chunks),
        "WaitJob": pb.WaitJobRequest(uid=42, content_format=chunks),
        "SendJob": pb.SendJobRequest(workspace_id="1", entity_id=7, content_format=chunks),
    }[method]
    failed = await expect_error(getattr(jobs, method)(request, metadata=BEARER))
    assert (failed.code, failed.reason) == (StatusCode.INVALID_ARGUMENT, "REQUEST_INVALID")
    assert "content_format" in failed.violations
    assert upstream.seen == []


@pytest.mark.parametrize(
    ("request_", "field"),
    [
        (pb.SendJobRequest(workspace_id="..", entity_id=7), "workspace_id"),
        (pb.SendJobRequest(workspace_id="1", entity_id=0), "entity_id"),
        (pb.SendJobRequest(workspace_id="1", entity_id=-7), "entity_id"),
        (pb.SendJobRequest(workspace_id="1", entity_id=7, method_name=""), "method_name"),
        (pb.SendJobRequest(workspace_id="1", entity_id=7, method_name="m" * 10_240), "method_name"),
        (pb.SendJobRequest(workspace_id="1", entity_id=7, editor_session="none"), "editor_session"),
        (pb.SendJobRequest(workspace_id="1", entity_id=7, params_json=b"{"), "params_json"),
        (pb.SendJobRequest(workspace_id="1", entity_id=7, params_json=b'{"a":1,"a":2}'), "params_json"),
        (pb.SendJobRequest(workspace_id="1", entity_id=7, timeout=Duration(seconds=86401)), "timeout"),
        (pb.SendJobRequest(workspace_id="1", entity_id=7, request_id="é"), "request_id"),
    ],
)
@pytest.mark.parametrize("method", ["SendJob", "RunJob"])
async def test_a_bad_request_names_its_field_and_is_not_sent(
    upstream: ScriptedUpstream, jobs: rpc.JobServiceAsyncStub, request_: pb.SendJobRequest, field: str, method: str
) -> None:
    call: Any = (
        jobs.SendJob(request_, metadata=BEARER)
        if method == "SendJob"
        else jobs.RunJob(pb.RunJobRequest(request=request_), metadata=BEARER).read()
    )
    failed = await expect_error(call)
    assert (failed.code, failed.reason) == (StatusCode.INVALID_ARGUMENT, "REQUEST_INVALID")
    assert list(failed.violations) == [field if method == "SendJob" else f"request.{field}"]
    assert upstream.seen == []


async def test_params_of_10_mb_are_too_large(upstream: ScriptedUpstream, jobs: rpc.JobServiceAsyncStub) -> None:
    raw = b'"%b"' % (b"x" * (10 << 20))
    failed = await expect_error(
        jobs.SendJob(pb.SendJobRequest(workspace_id="1", entity_id=7, params_json=raw), metadata=BEARER)
    )
    assert (failed.code, failed.reason) == (StatusCode.RESOURCE_EXHAUSTED, "REQUEST_TOO_LARGE")
    assert failed.retry is None
    assert upstream.seen == []


async def test_wait_returns_the_end(upstream: ScriptedUpstream, jobs: rpc.JobServiceAsyncStub) -> None:
    upstream.on("GET", "/jobs/42/", answer(200, RUNNING), answer(200, RUNNING), answer(200, SUCCESS))
    job = await jobs.WaitJob(pb.WaitJobRequest(uid=42), metadata=BEARER)
    assert job.done
    assert MessageToDict(job.content) == {"a": 1}
    assert len(upstream.seen) == 3


async def test_wait_returns_the_latest_state_when_its_time_is_over(upstream: ScriptedUpstream) -> None:
    clock = SteppedClock()
    first, first_read = delivered_reply(answer(200, {"uid": 42, "status": "running"}))
    second, second_read = delivered_reply(answer(200, RUNNING))
    upstream.on("GET", "/jobs/42/", first, second, hang)
    async with running(upstream.url, None, clock) as gateway, stub(gateway) as jobs:
        call = asyncio.ensure_future(
            jobs.WaitJob(pb.WaitJobRequest(uid=42, timeout=Duration(seconds=10)), metadata=BEARER)
        )
        await first_read.wait()
        await clock.advance(1)
        await second_read.wait()
        await clock.advance(9)
        job = await call
    assert (job.done, job.progress.message) == (False, "half")


async def test_wait_with_timeout_zero_reads_once(upstream: ScriptedUpstream, jobs: rpc.JobServiceAsyncStub) -> None:
    upstream.on("GET", "/jobs/42/", answer(200, RUNNING))
    job = await jobs.WaitJob(pb.WaitJobRequest(uid=42, timeout=Duration()), metadata=BEARER)
    assert (job.done, len(upstream.seen)) == (False, 1)


async def test_wait_responds_before_the_deadline(upstream: ScriptedUpstream) -> None:
    clock = SteppedClock()
    first, first_read = delivered_reply(answer(200, RUNNING))
    upstream.on("GET", "/jobs/42/", first)
    # One poll only.
    rarely = {"poll_interval_min_seconds": 3_600, "poll_interval_max_seconds": 3_600}
    async with running(upstream.url, None, clock, **rarely) as gateway, stub(gateway) as jobs:
        # The client's own clock is not stepped, so it never reaches this deadline.
        request = pb.WaitJobRequest(uid=42, timeout=Duration(seconds=7_200))
        # gRPC rounds it up to ten seconds: 3,600 would sometimes become 3,610.
        call = asyncio.ensure_future(jobs.WaitJob(request, metadata=BEARER, timeout=3_595))
        await first_read.wait()
        await clock.advance(3_000)
        assert not call.done()
        await clock.advance(600 - DEADLINE_MARGIN_SECONDS[1])
        assert not (await call).done


async def test_wait_without_any_state_is_unavailable(upstream: ScriptedUpstream, jobs: rpc.JobServiceAsyncStub) -> None:
    async def hang(connection: Connection) -> None:
        await connection.gone()

    upstream.on("GET", "/jobs/42/", hang)
    failed = await expect_error(
        jobs.WaitJob(pb.WaitJobRequest(uid=42, timeout=Duration(nanos=100_000_000)), metadata=BEARER)
    )
    assert (failed.code, failed.reason) == (StatusCode.UNAVAILABLE, "NO_STATE_YET")


async def test_cancel_returns_the_new_state_without_content(
    upstream: ScriptedUpstream, jobs: rpc.JobServiceAsyncStub
) -> None:
    upstream.on("DELETE", "/jobs/42/", answer(204))
    upstream.on("GET", "/jobs/42/", answer(200, SUCCESS))
    job = await jobs.CancelJob(pb.CancelJobRequest(uid=42), metadata=BEARER)
    assert [seen.method for seen in upstream.seen] == ["DELETE", "GET"]
    assert (job.done, job.content_omitted, job.WhichOneof("result")) == (True, True, None)


async def test_cancel_returns_only_the_uid_of_an_unreadable_job(
    upstream: ScriptedUpstream, jobs: rpc.JobServiceAsyncStub
) -> None:
    upstream.on("DELETE", "/jobs/42/", answer(204))
    upstream.on("GET", "/jobs/42/", answer(500))
    job = await jobs.CancelJob(pb.CancelJobRequest(uid=42), metadata=BEARER)
    assert job == pb.Job(uid=42)


@pytest.mark.parametrize(
    "status", [302, 400, 401, 403, 404, 405, 408, 409, 410, 412, 422, 423, 425, 429, 499, 500, 502, 503, 504]
)
@pytest.mark.parametrize("body", [b'{"detail": "it has ended"}', b"<html>", b""], ids=["json", "page", "empty"])
async def test_cancelling_an_ended_job_is_no_error(
    upstream: ScriptedUpstream, jobs: rpc.JobServiceAsyncStub, status: int, body: bytes
) -> None:
    upstream.on("DELETE", "/jobs/42/", answer(status, raw=body))
    upstream.on("GET", "/jobs/42/", answer(200, SUCCESS))
    job = await jobs.CancelJob(pb.CancelJobRequest(uid=42), metadata=BEARER)
    assert job.done


async def test_cancelling_an_ended_job_succeeds_without_a_response(
    upstream: ScriptedUpstream, jobs: rpc.JobServiceAsyncStub
) -> None:
    async def reset(connection: Connection) -> None:
        connection.reset()

    upstream.on("DELETE", "/jobs/42/", reset)
    upstream.on("GET", "/jobs/42/", answer(200, SUCCESS))
    assert (await jobs.CancelJob(pb.CancelJobRequest(uid=42), metadata=BEARER)).done


@pytest.mark.parametrize(
    ("status", "code"),
    [
        (400, StatusCode.INVALID_ARGUMENT),
        (403, StatusCode.PERMISSION_DENIED),
        (404, StatusCode.NOT_FOUND),
        (405, StatusCode.FAILED_PRECONDITION),
        (409, StatusCode.ABORTED),
        (503, StatusCode.UNAVAILABLE),
    ],
)
@pytest.mark.parametrize(
    "read", [answer(200, RUNNING), answer(404, {}), answer(500)], ids=["running", "unknown", "failing"]
)
async def test_a_refused_cancellation_of_a_running_job_is_an_error(
    upstream: ScriptedUpstream, jobs: rpc.JobServiceAsyncStub, status: int, code: StatusCode, read: bytes
) -> None:
    upstream.on("DELETE", "/jobs/42/", answer(status, {"detail": "no"}))
    upstream.on("GET", "/jobs/42/", read)
    failed = await expect_error(jobs.CancelJob(pb.CancelJobRequest(uid=42), metadata=BEARER))
    assert failed.code is code


def with_id(request_id: str, **more: Any) -> pb.SendJobRequest:
    return pb.SendJobRequest(workspace_id="1", entity_id=7, request_id=request_id, **more)


async def test_concurrent_calls_with_one_request_id_are_one_post(gateway: Gateway, upstream: ScriptedUpstream) -> None:
    release = asyncio.Event()

    async def slow(connection: Connection) -> None:
        await release.wait()
        await connection.send(answer(201, {"uid": 42}))

    upstream.on("POST", JOBS, slow)
    upstream.on("GET", "/jobs/42/", answer(200, RUNNING))
    async with stub(gateway) as jobs:
        calls = [jobs.SendJob(with_id("a"), metadata=BEARER) for _ in range(20)]
        await upstream.wait_for(1)
        # The call was not sent to the upstream, so its response shows that it has joined.
        other = await expect_error(jobs.SendJob(with_id("a", method_name="other"), metadata=BEARER))
        release.set()
        answers = await asyncio.gather(*calls)
    assert {job.uid for job in answers} == {42}
    assert len(upstream.requests("POST")) == 1
    assert (other.code, other.reason) == (StatusCode.INVALID_ARGUMENT, "REQUEST_ID_REUSED")


async def test_one_request_id_later_gives_the_job_of_the_first(
    upstream: ScriptedUpstream, jobs: rpc.JobServiceAsyncStub
) -> None:
    upstream.on("POST", JOBS, answer(201, {"uid": 42}))
    upstream.on("GET", "/jobs/42/", answer(200, RUNNING), answer(500), answer(200, SUCCESS))
    first = with_id("a", params_json=b'{"x": 1, "y": 2}')
    same = with_id("a", params_json=b'{"y": 2.0, "x": 1e0}', poll_result=True)
    await jobs.SendJob(first, metadata=BEARER)
    assert (await jobs.SendJob(same, metadata=BEARER)).progress.message == "half"
    assert (await jobs.SendJob(same, metadata=BEARER)) == pb.Job(uid=42), "the uid alone where it cannot be read"
    events = [event async for event in jobs.RunJob(pb.RunJobRequest(request=same), metadata=BEARER)]
    assert [event.job.done for event in events] == [True]
    assert len(upstream.requests("POST")) == 1
    failed = await expect_error(jobs.SendJob(with_id("a", params_json=b'{"x": 2}'), metadata=BEARER))
    assert failed.reason == "REQUEST_ID_REUSED"


async def test_a_request_id_belongs_to_one_caller(upstream: ScriptedUpstream, jobs: rpc.JobServiceAsyncStub) -> None:
    upstream.on("POST", JOBS, answer(201, {"uid": 42}), answer(201, {"uid": 43}))
    first = await jobs.SendJob(with_id("a"), metadata=BEARER)
    second = await jobs.SendJob(with_id("a"), metadata=(("authorization", "Bearer another-token"),))
    assert (first.uid, second.uid) == (42, 43)


async def test_an_unknown_outcome_is_remembered(upstream: ScriptedUpstream, jobs: rpc.JobServiceAsyncStub) -> None:
    upstream.on("POST", JOBS, answer(502, raw=b"<html>"), answer(201, {"uid": 42}))
    first = await expect_error(jobs.SendJob(with_id("a"), metadata=BEARER))
    again = await expect_error(jobs.SendJob(with_id("a"), metadata=BEARER))
    assert (first.code, first.reason) == (again.code, again.reason) == (StatusCode.UNKNOWN, "SUBMIT_OUTCOME_UNKNOWN")
    for each in (first, again):
        assert "look in the VIKTOR app before you send another" in each.message
        assert "HTTP 502" in each.message
    assert len(upstream.requests("POST")) == 1


@pytest.mark.parametrize("status", [307, 308, 400, 401, 403, 404, 409, 413, 422, 429])
async def test_a_refused_request_frees_its_id(
    upstream: ScriptedUpstream, jobs: rpc.JobServiceAsyncStub, status: int
) -> None:
    upstream.on("POST", JOBS, answer(status, {"detail": "no"}), answer(201, {"uid": 42}))
    await expect_error(jobs.SendJob(with_id("a"), metadata=BEARER))
    assert (await jobs.SendJob(with_id("a"), metadata=BEARER)).uid == 42


async def test_a_caller_that_left_during_the_submission_finds_its_job(
    upstream: ScriptedUpstream, jobs: rpc.JobServiceAsyncStub
) -> None:
    release = asyncio.Event()

    async def slow(connection: Connection) -> None:
        await release.wait()
        await connection.send(answer(201, {"uid": 42}))

    upstream.on("POST", JOBS, slow)
    upstream.on("GET", "/jobs/42/", answer(200, RUNNING))
    call = jobs.SendJob(with_id("a"), metadata=BEARER)
    await upstream.wait_for(1)
    call.cancel()
    with pytest.raises(asyncio.CancelledError):
        await call
    second = asyncio.ensure_future(jobs.SendJob(with_id("a"), metadata=BEARER))
    release.set()
    assert (await second).uid == 42
    assert len(upstream.requests("POST")) == 1


async def test_a_submission_is_repeated_only_if_certainly_not_seen(upstream: ScriptedUpstream) -> None:
    """The upstream starts while the gateway tries to connect."""
    await upstream.stop()
    port = upstream.port
    async with running(upstream.url) as gateway, stub(gateway) as jobs:
        sending = asyncio.ensure_future(jobs.SendJob(SEND, metadata=BEARER))
        upstream.on("POST", JOBS, answer(201, {"uid": 42}))
        await upstream.start(port)
        assert (await sending).uid == 42
    assert len(upstream.requests("POST")) == 1


async def test_nothing_is_sent_for_a_client_that_has_left(upstream: ScriptedUpstream) -> None:
    """The upstream starts after the client's deadline, while the gateway would try again."""
    await upstream.stop()
    async with running(upstream.url) as gateway, stub(gateway) as jobs:
        with pytest.raises(grpc.aio.AioRpcError) as caught:
            await jobs.SendJob(with_id("a"), metadata=BEARER, timeout=0.05)
        assert caught.value.code() is StatusCode.DEADLINE_EXCEEDED
        upstream.on("POST", JOBS, answer(201, {"uid": 42}))
        await upstream.start(upstream.port)
        # Returns when the submission has ended.
        await gateway.stop(grace=5)
    assert upstream.seen == []


@pytest.mark.parametrize(
    ("reply", "status"),
    [
        (b"HTTP/1.1 200 OK\r\nContent-Length: 1000\r\nConnection: close\r\n\r\n{", "200"),
        (b"HTTP/1.1 200 OK\r\nContent-Encoding: gzip\r\nContent-Length: 3\r\n\r\nno!", "200"),
        (b"HTTP/1.1 999 Odd\r\nContent-Length: 0\r\n\r\n", "999"),
        (b"HTTP/1.1 403 No\r\nContent-Length: 1000\r\nConnection: close\r\n\r\n{", "403"),
    ],
    ids=["half", "gzip", "odd", "half a refusal"],
)
async def test_an_error_has_the_http_status_of_a_broken_response(
    upstream: ScriptedUpstream, jobs: rpc.JobServiceAsyncStub, reply: bytes, status: str
) -> None:
    async def send_and_close(connection: Connection) -> None:
        await connection.send(reply)

    upstream.on("GET", "/jobs/42/", send_and_close)
    failed = await expect_error(jobs.GetJob(pb.GetJobRequest(uid=42), metadata=BEARER))
    assert failed.metadata["http_status"] == status
    assert (failed.code is StatusCode.PERMISSION_DENIED) is (status == "403")


async def test_cancelling_an_ended_job_reads_it_once(upstream: ScriptedUpstream, jobs: rpc.JobServiceAsyncStub) -> None:
    upstream.on("DELETE", "/jobs/42/", answer(409))
    upstream.on("GET", "/jobs/42/", answer(200, SUCCESS), answer(500))
    assert (await jobs.CancelJob(pb.CancelJobRequest(uid=42), metadata=BEARER)).done
    assert [seen.method for seen in upstream.seen] == ["DELETE", "GET"]
