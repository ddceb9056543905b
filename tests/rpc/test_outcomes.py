"""Every RPC with every outcome of its upstream request: the gRPC status and the reason."""

from __future__ import annotations

import asyncio
import itertools
from typing import TYPE_CHECKING, Any

import pytest
from google.protobuf.duration_pb2 import Duration
from grpc import StatusCode
from jobgateway.v1 import job_service_pb2 as pb

from tests.support.clock import SteppedClock
from tests.support.gateways import BEARER, SEND, Failure, expect_error, running, stub
from tests.support.upstream import Connection, answer, hang

if TYPE_CHECKING:
    from jobgateway.v1 import job_service_pb2_grpc as rpc

    from tests.support.upstream import ScriptedUpstream

# How long an upstream is silent, in seconds of a stepped clock.
SILENCE = 1.0
HTML = b"<html><body><h1>502 Bad Gateway</h1></body></html>"
JOB = b'{"uid": 42, "status": "success", "result": {"a": 1}}'


async def close(connection: Connection) -> None:
    connection.writer.close()


async def reset(connection: Connection) -> None:
    connection.reset()


async def half_a_body(connection: Connection) -> None:
    await connection.send(b"HTTP/1.1 200 OK\r\nContent-Length: 1000\r\n\r\n" + JOB)
    connection.writer.close()


REPLIES: dict[str, Any] = {
    **{str(status): answer(status, {"detail": "so it is"}) for status in (401, 403, 404, 409, 410, 413, 418, 422)},
    **{
        str(status): answer(status, {"detail": "so it is"})
        for status in (408, 425, 444, 460, 499, 500, 501, 503, 504, 507)
    },
    "404 page": answer(404, raw=HTML, headers={"Content-Type": "text/html"}),
    "403 empty": answer(403),
    "401 text": answer(401, raw=b"no"),
    "410 list": answer(410, ["no"]),
    "400": answer(400, {"params": {"width": ["A valid number is required."]}, "non_field_errors": ["No."]}),
    "429": answer(429, {"detail": "slow down"}, headers={"Retry-After": "7"}),
    "429 bare": answer(429, {"detail": "slow down"}),
    "502 html": answer(502, raw=HTML, headers={"Content-Type": "text/html"}),
    **{
        str(status): answer(status, headers={"Location": "http://localhost:1/elsewhere/"})
        for status in (300, 301, 302, 303, 304, 305, 306, 307, 308)
    },
    "not json": answer(200, raw=HTML),
    "empty": answer(200, raw=b""),
    "truncated": answer(200, raw=JOB[:-5]),
    "utf-16": answer(200, raw=JOB.decode().encode("utf-16")),
    "list": answer(200, [1]),
    "null": answer(200, None, raw=b"null"),
    "no job": answer(200, {"detail": "hello"}),
    "uid text": answer(200, {"uid": "x42", "status": "running"}),
    "uid negative": answer(200, {"uid": -42, "status": "running"}),
    "uid huge": answer(200, raw=b'{"uid": 9223372036854775808, "status": "running"}'),
    "uid true": answer(200, {"uid": True, "status": "running"}),
    "closed": close,
    "reset": reset,
    "half a body": half_a_body,
    "hang": hang,
    "refused": None,
}

# The end of an idempotent request.
READS: dict[str, tuple[StatusCode, str]] = {
    "400": (StatusCode.INVALID_ARGUMENT, "UPSTREAM_BAD_REQUEST"),
    "401": (StatusCode.UNAUTHENTICATED, "UPSTREAM_UNAUTHENTICATED"),
    "403": (StatusCode.PERMISSION_DENIED, "UPSTREAM_PERMISSION_DENIED"),
    "404": (StatusCode.NOT_FOUND, "UPSTREAM_NOT_FOUND"),
    "408": (StatusCode.FAILED_PRECONDITION, "UPSTREAM_NOT_READY"),
    "409": (StatusCode.ABORTED, "UPSTREAM_CONFLICT"),
    "410": (StatusCode.FAILED_PRECONDITION, "UPSTREAM_REFUSED"),
    "413": (StatusCode.RESOURCE_EXHAUSTED, "UPSTREAM_REQUEST_TOO_LARGE"),
    "418": (StatusCode.FAILED_PRECONDITION, "UPSTREAM_REFUSED"),
    "422": (StatusCode.FAILED_PRECONDITION, "UPSTREAM_REFUSED"),
    "425": (StatusCode.FAILED_PRECONDITION, "UPSTREAM_NOT_READY"),
    "444": (StatusCode.CANCELLED, "UPSTREAM_CANCELLED"),
    "429": (StatusCode.RESOURCE_EXHAUSTED, "UPSTREAM_RATE_LIMITED"),
    "429 bare": (StatusCode.RESOURCE_EXHAUSTED, "UPSTREAM_RATE_LIMITED"),
    "460": (StatusCode.CANCELLED, "UPSTREAM_CANCELLED"),
    "499": (StatusCode.CANCELLED, "UPSTREAM_CANCELLED"),
    **dict.fromkeys(("404 page", "403 empty", "401 text", "410 list"), (StatusCode.INTERNAL, "UPSTREAM_MALFORMED")),
    "500": (StatusCode.INTERNAL, "UPSTREAM_ERROR"),
    "501": (StatusCode.INTERNAL, "UPSTREAM_ERROR"),
    "502 html": (StatusCode.UNAVAILABLE, "UPSTREAM_UNAVAILABLE"),
    "503": (StatusCode.UNAVAILABLE, "UPSTREAM_UNAVAILABLE"),
    "504": (StatusCode.DEADLINE_EXCEEDED, "UPSTREAM_TIMEOUT"),
    "507": (StatusCode.INTERNAL, "UPSTREAM_ERROR"),
    **dict.fromkeys(
        ("300", "301", "302", "303", "304", "305", "306", "307", "308"), (StatusCode.INTERNAL, "UPSTREAM_MALFORMED")
    ),
    **dict.fromkeys(
        ("not json", "empty", "truncated", "utf-16", "list", "null", "no job"),
        (StatusCode.INTERNAL, "UPSTREAM_MALFORMED"),
    ),
    **dict.fromkeys(("uid text", "uid negative", "uid huge", "uid true"), (StatusCode.INTERNAL, "UPSTREAM_MALFORMED")),
    **dict.fromkeys(("closed", "reset", "half a body"), (StatusCode.UNAVAILABLE, "UPSTREAM_CONNECTION_LOST")),
    "hang": (StatusCode.DEADLINE_EXCEEDED, "UPSTREAM_TIMEOUT"),
    "refused": (StatusCode.UNAVAILABLE, "UPSTREAM_UNREACHABLE"),
}

# A submission with one of these may have created a job, and with the others certainly none.
UNKNOWN = (StatusCode.UNKNOWN, "SUBMIT_OUTCOME_UNKNOWN")
SUBMITS = READS | dict.fromkeys(
    [name for name in READS if name[0] == "5" or (name[0] == "3" and name not in ("307", "308"))]
    + ["408", "444", "460", "499"]
    + ["not json", "empty", "truncated", "utf-16", "list", "null", "no job"]
    + ["uid text", "uid negative", "uid huge", "uid true", "closed", "reset", "half a body", "hang"],
    UNKNOWN,
)

# A submission that a proxy refused was refused.
SUBMITS |= {
    "404 page": READS["404"],
    "403 empty": READS["403"],
    "401 text": READS["401"],
    "410 list": READS["410"],
}

# A successful DELETE needs no body, so no body is wrong.
CANCELS = {name: row for name, row in READS.items() if row[1] != "UPSTREAM_MALFORMED" or name[:3].isdecimal()}

FINAL = {"400", "401", "403", "404", "409", "410", "413", "418", "422"}


async def call(jobs: rpc.JobServiceAsyncStub, method: str) -> None:
    match method:
        case "GetJob":
            await jobs.GetJob(pb.GetJobRequest(uid=42), metadata=BEARER)
        case "WaitJob once":
            await jobs.WaitJob(pb.WaitJobRequest(uid=42, timeout=Duration()), metadata=BEARER)
        case "CancelJob":
            await jobs.CancelJob(pb.CancelJobRequest(uid=42), metadata=BEARER)
        case "SendJob":
            await jobs.SendJob(SEND, metadata=BEARER)
        case "WatchJob":
            async for _ in jobs.WatchJob(pb.WatchJobRequest(uid=42), metadata=BEARER):
                pass
        case "RunJob":
            async for _ in jobs.RunJob(pb.RunJobRequest(request=SEND), metadata=BEARER):
                pass


async def failure_of(upstream: ScriptedUpstream, method: str, name: str) -> Failure:
    upstream.script.append(REPLIES[name])
    if name == "refused":
        await upstream.stop()
    if name == "hang":
        return await failure_of_silence(upstream, method)
    async with running(upstream.url) as gateway, stub(gateway) as jobs:
        return await expect_error(call(jobs, method))


async def failure_of_silence(upstream: ScriptedUpstream, method: str) -> Failure:
    """Return the failure of a call whose requests get no response. Their time passes after they have arrived."""
    clock = SteppedClock()
    limits = {"upstream_timeout_seconds": SILENCE, "submit_timeout_seconds": SILENCE}
    async with running(upstream.url, None, clock, **limits) as gateway, stub(gateway) as jobs:
        failing = asyncio.ensure_future(expect_error(call(jobs, method)))
        for count in itertools.count(1):
            arriving = asyncio.ensure_future(upstream.wait_for(count))
            await asyncio.wait([arriving, failing], return_when=asyncio.FIRST_COMPLETED)
            arriving.cancel()
            if failing.done():
                break
            await clock.advance(SILENCE)
        return await failing


def assert_is(failure: Failure, expected: tuple[StatusCode, str], name: str) -> None:
    assert (failure.code, failure.reason) == expected, failure.message
    assert "\n" not in failure.message
    assert "Traceback" not in failure.message
    if name[:3].isdecimal():
        assert failure.metadata["http_status"] == name[:3]


@pytest.mark.parametrize("name", READS)
@pytest.mark.parametrize("method", ["GetJob", "WaitJob once"])
async def test_reads(upstream: ScriptedUpstream, method: str, name: str) -> None:
    failure = await failure_of(upstream, method, name)
    assert_is(failure, READS[name], name)
    if name != "refused":
        assert len(upstream.seen) == 1, "one attempt"
    assert failure.metadata["uid"] == "42"


@pytest.mark.parametrize("name", sorted(FINAL))
async def test_watches_end_at_a_final_refusal(upstream: ScriptedUpstream, name: str) -> None:
    failure = await failure_of(upstream, "WatchJob", name)
    assert_is(failure, READS[name], name)
    assert len(upstream.seen) == 1
    assert failure.metadata["uid"] == "42"


def assert_is_outage(failure: Failure, name: str, uid: int) -> None:
    assert_is(failure, (StatusCode.UNAVAILABLE, "UPSTREAM_OUTAGE"), name)
    assert failure.metadata["last_failure"] == READS[name][1], name
    assert failure.metadata["uid"] == str(uid)


async def outages(upstream: ScriptedUpstream, count: int) -> list[Failure]:
    """Watch the jobs from 1 to `count` until an outage ends each watch, on a stepped clock."""
    clock = SteppedClock()
    slowly = {"poll_interval_min_seconds": 0.2, "poll_interval_max_seconds": 1.0}
    limits = {"poll_outage_seconds": 6 * SILENCE, "upstream_timeout_seconds": SILENCE}
    async with running(upstream.url, None, clock, **slowly, **limits) as gateway, stub(gateway) as jobs:
        # A separate credential for each, because a 429 delays all polls of its credential.
        watching = asyncio.gather(
            *(
                expect_error(
                    jobs.WatchJob(
                        pb.WatchJobRequest(uid=uid), metadata=[("authorization", f"Bearer token-of-job-{uid}")]
                    )
                )
                for uid in range(1, count + 1)
            )
        )
        while not watching.done():
            # So little that responses, which come without delay, arrive long before the time limits of their reads.
            await clock.advance(SILENCE / 50)
        return await watching


async def test_watches_end_in_an_outage_after_anything_else(upstream: ScriptedUpstream) -> None:
    names = [name for name in READS if name not in FINAL | {"refused"}]
    for uid, name in enumerate(names, 1):
        upstream.on("GET", f"/jobs/{uid}/", REPLIES[name])
    for uid, (name, failure) in enumerate(zip(names, await outages(upstream, len(names)), strict=True), 1):
        assert_is_outage(failure, name, uid)


async def test_watches_end_in_an_outage_without_a_connection(upstream: ScriptedUpstream) -> None:
    await upstream.stop()
    (failure,) = await outages(upstream, 1)
    assert_is_outage(failure, "refused", 1)


@pytest.mark.parametrize("name", [name for name in READS if name != "hang"])
async def test_waits(upstream: ScriptedUpstream, name: str) -> None:
    """If its timeout is shorter than the outage limit, a wait ends with the status of the last failure."""
    upstream.script.append(REPLIES[name])
    if name == "refused":
        await upstream.stop()
    async with running(upstream.url, poll_outage_seconds=60) as gateway, stub(gateway) as jobs:
        for milliseconds in (300, 3_000, 30_000):
            wait = pb.WaitJobRequest(uid=42)
            wait.timeout.FromMilliseconds(milliseconds)
            failure = await expect_error(jobs.WaitJob(wait, metadata=BEARER))
            # On a busy machine, a wait may end before its first read.
            if failure.reason != "NO_STATE_YET":
                break
    assert_is(failure, READS[name], name)


@pytest.mark.parametrize("name", SUBMITS)
@pytest.mark.parametrize("method", ["SendJob", "RunJob"])
async def test_submissions(upstream: ScriptedUpstream, method: str, name: str) -> None:
    failure = await failure_of(upstream, method, name)
    assert_is(failure, SUBMITS[name], name)
    if name != "refused":
        assert len(upstream.requests("POST")) == len(upstream.seen) == 1, "one POST"
    if failure.code is StatusCode.UNAVAILABLE:
        assert name == "refused", "clients and meshes retry UNAVAILABLE by themselves"


@pytest.mark.parametrize("name", CANCELS)
async def test_cancellations(upstream: ScriptedUpstream, name: str) -> None:
    failure = await failure_of(upstream, "CancelJob", name)
    assert_is(failure, CANCELS[name], name)
    if name != "refused":
        assert len(upstream.requests("DELETE")) == 1


async def test_details_of_a_bad_request(upstream: ScriptedUpstream) -> None:
    failure = await failure_of(upstream, "SendJob", "400")
    assert failure.violations == {"params.width": "A valid number is required.", "non_field_errors": "No."}
    assert "params.width" in failure.message


@pytest.mark.parametrize(("name", "seconds"), [("429", 7), ("429 bare", 1)])
async def test_details_of_a_rate_limit(upstream: ScriptedUpstream, name: str, seconds: int) -> None:
    failure = await failure_of(upstream, "GetJob", name)
    assert failure.retry.retry_delay.seconds == seconds
    assert failure.trailers["grpc-retry-pushback-ms"] == str(seconds * 1000)


async def test_details_of_not_found(upstream: ScriptedUpstream) -> None:
    failure = await failure_of(upstream, "GetJob", "404")
    assert (failure.resource.resource_type, failure.resource.resource_name) == ("job", "42")
