"""Unusual responses of other upstreams over real sockets: their readable parts count."""

from __future__ import annotations

from hashlib import sha256
from typing import TYPE_CHECKING, Any

import grpc
import pytest
from google.protobuf import json_format
from jobgateway.v1 import job_service_pb2 as pb

from tests.support.gateways import BEARER, SEND, expect_error
from tests.support.scraping import scrape
from tests.support.upstream import answer

if TYPE_CHECKING:
    from jobgateway.v1 import job_service_pb2_grpc as rpc

    from gateway.server.gateway import Gateway
    from tests.support.upstream import ScriptedUpstream

MARK = b"\xef\xbb\xbf"
RESULT = b'{ "a": [NaN, -Infinity, {"b":Infinity}] }'
HALF = b'{"status":"running","message":{"message":"half","percentage":NaN,"timestamp_epoch":Infinity},"x":-Infinity}'
END = b'{"status":"success","result":%b}' % RESULT


async def watch(jobs: rpc.JobServiceAsyncStub, content_format: Any = 0) -> list[pb.JobEvent]:
    request = pb.WatchJobRequest(uid=42, content_format=content_format)
    return [event async for event in jobs.WatchJob(request, metadata=BEARER, timeout=30)]


def posts(upstream: ScriptedUpstream) -> int:
    return sum(each.method == "POST" for each in upstream.seen)


@pytest.mark.parametrize("mark", [b"", MARK], ids=["plain", "byte order mark"])
@pytest.mark.parametrize(
    "content_format",
    [
        pb.CONTENT_FORMAT_UNSPECIFIED,
        pb.CONTENT_FORMAT_STRUCT,
        pb.CONTENT_FORMAT_JSON,
        pb.CONTENT_FORMAT_JSON_CHUNKS,
    ],
    ids=pb.ContentFormat.Name,
)
async def test_a_watch_reads_nan_and_delivers_its_bytes(
    upstream: ScriptedUpstream, jobs: rpc.JobServiceAsyncStub, content_format: Any, mark: bytes
) -> None:
    upstream.script.extend([answer(200, raw=mark + HALF), answer(200, raw=mark + END)])
    events = [event for event in await watch(jobs, content_format) if not event.HasField("heartbeat")]
    assert (events[0].job.progress.message, events[0].job.progress.HasField("percentage")) == ("half", False)
    last = events[-1].job
    assert (last.done, last.status) == (True, pb.JOB_STATUS_SUCCESS)
    chunks = b"".join(event.content_chunk.data for event in events)
    assert (chunks or last.content_json) == RESULT
    assert bool(chunks) == (content_format == pb.CONTENT_FORMAT_JSON_CHUNKS)
    assert (last.content_size, last.content_sha256) == (len(RESULT), sha256(RESULT).hexdigest())


async def test_nan_in_an_error_becomes_text(upstream: ScriptedUpstream, jobs: rpc.JobServiceAsyncStub) -> None:
    body = b'{"status":"failed","error":{"message":"no","stack_trace":NaN,"invalid_fields":{"a":[NaN,1]}}}'
    upstream.script.append(answer(200, raw=body))
    job = await jobs.GetJob(pb.GetJobRequest(uid=42), metadata=BEARER)
    assert job.error.message == "no"
    assert json_format.MessageToDict(job.error.invalid_fields) == {"a": ["NaN", 1]}
    assert not job.error.HasField("stack_trace")


@pytest.mark.parametrize(
    "post",
    [
        answer(201, raw=b'{"uid":42,"progress":NaN}'),
        answer(201, raw=MARK + b'{"uid":42}'),
        answer(201, raw=b'{"uid":"42"}'),
        answer(201, raw=b'{"uid":42.0}'),
        answer(201, raw=b'{"url":"https://cloud.viktor.ai/api/jobs/42/?a=1#b"}'),
        answer(201, headers={"Location": "/api/jobs/42/"}),
        answer(201, raw=b"Created", headers={"Location": "https://cloud.viktor.ai/api/jobs/42/#x"}),
        answer(201, raw=b'{"status":"queued"}', headers={"location": "jobs/42"}),
        answer(202, headers={"Location": "/api/jobs/42/"}),
    ],
    ids=range(9),
)
async def test_a_post_names_its_job_in_any_way(
    upstream: ScriptedUpstream, jobs: rpc.JobServiceAsyncStub, post: bytes
) -> None:
    upstream.script.append(post)
    job = await jobs.SendJob(SEND, metadata=BEARER)
    assert (job.uid, job.done) == (42, False)


@pytest.mark.parametrize("post", [answer(201, headers={"Location": "/login/42/"}), answer(200, raw=b'{"status":"ok"}')])
async def test_a_post_that_names_no_job_has_an_unknown_outcome(
    upstream: ScriptedUpstream, jobs: rpc.JobServiceAsyncStub, post: bytes
) -> None:
    upstream.script.append(post)
    assert (await expect_error(jobs.SendJob(SEND, metadata=BEARER))).reason == "SUBMIT_OUTCOME_UNKNOWN"
    assert posts(upstream) == 1


async def test_a_job_that_ended_in_the_post_needs_no_uid(
    upstream: ScriptedUpstream, jobs: rpc.JobServiceAsyncStub
) -> None:
    upstream.script.append(answer(200, raw=END))
    request = pb.SendJobRequest(workspace_id="1", entity_id=7, request_id="r")
    job = await jobs.SendJob(request, metadata=BEARER)
    assert (job.uid, job.done, job.status, job.content_json) == (0, True, pb.JOB_STATUS_SUCCESS, RESULT)
    again = await jobs.SendJob(request, metadata=BEARER)
    assert (again.uid, again.done, again.status) == (0, True, pb.JOB_STATUS_SUCCESS)
    assert (again.content_omitted, again.content_json) == (True, b"")
    assert (again.content_size, again.content_sha256) == (job.content_size, job.content_sha256)
    assert again.content_size == len(RESULT)
    events = [event async for event in jobs.RunJob(pb.RunJobRequest(request=request), metadata=BEARER)]
    assert [(event.job.done, event.job.content_omitted) for event in events] == [(True, True)]
    assert [each.method for each in upstream.seen] == ["POST"]


@pytest.mark.parametrize("content_format", [pb.CONTENT_FORMAT_UNSPECIFIED, pb.CONTENT_FORMAT_JSON_CHUNKS])
async def test_a_run_ends_with_a_job_without_a_uid(
    upstream: ScriptedUpstream, jobs: rpc.JobServiceAsyncStub, content_format: Any
) -> None:
    upstream.script.append(answer(200, raw=END))
    request = pb.SendJobRequest(workspace_id="1", entity_id=7, content_format=content_format)
    run = pb.RunJobRequest(request=request, cancel_on_disconnect=True)
    events = [event async for event in jobs.RunJob(run, metadata=BEARER)]
    assert [event.uid for event in events] == [0] * len(events)
    assert {event.resume_token for event in events} == {""}
    assert events[-1].job.done
    chunks = b"".join(event.content_chunk.data for event in events)
    assert (chunks or events[-1].job.content_json) == RESULT
    assert [each.method for each in upstream.seen] == ["POST"]


async def test_words_ignore_case_and_unknown_ones_are_reported(
    upstream: ScriptedUpstream,
    gateway: Gateway,
    jobs: rpc.JobServiceAsyncStub,
    logged: list[dict[str, Any]],
) -> None:
    words = ["aborted", "Aborted", "secret-0123", "queued\n" + "x" * 500, "Running", "Success"]
    upstream.script.extend(answer(200, {"status": word, "message": str(n)}) for n, word in enumerate(words))
    events = await watch(jobs)
    states = [event.job for event in events if event.HasField("job")]
    assert [job.status_text for job in states][-1] == "Success"
    assert [job.done for job in states] == [False] * (len(states) - 1) + [True]
    told = [each["word"] for each in logged if each["event"] == "upstream.status_unknown"]
    assert told == ["aborted", "(not a word)"]
    assert (await scrape(gateway))("jobgateway_unknown_statuses_total") == 4


async def test_an_error_beside_a_queued_job_is_no_end(
    upstream: ScriptedUpstream, jobs: rpc.JobServiceAsyncStub
) -> None:
    retried = {"status": "queued", "error": {"message": "the first attempt failed"}}
    upstream.script.extend([answer(200, retried), answer(200, {"status": "success", "result": {"a": 1}})])
    states = [event.job for event in await watch(jobs) if event.HasField("job")]
    assert [(job.status, job.done) for job in states] == [(pb.JOB_STATUS_RUNNING, False), (pb.JOB_STATUS_SUCCESS, True)]


@pytest.mark.parametrize(
    "body",
    [
        b'{"params":{"width":["too small"]},"limit":NaN}',
        MARK + b'{"params":{"width":["too small"]}}',
        '{"params":{"width":["too small"]}}'.encode("utf-16"),
        b'{"params":{"width":["too small"]},"x":' + b"[" * 200_000,
    ],
    ids=["NaN", "byte order mark", "UTF-16", "nested"],
)
async def test_field_errors_are_read_from_any_body(
    upstream: ScriptedUpstream, jobs: rpc.JobServiceAsyncStub, body: bytes
) -> None:
    upstream.script.append(answer(400, raw=body))
    with pytest.raises(grpc.aio.AioRpcError) as raised:
        await jobs.SendJob(SEND, metadata=BEARER)
    assert "params.width: too small" in (raised.value.details() or "")
