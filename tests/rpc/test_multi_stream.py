"""WatchJobs over real sockets: the numbered promises of the contract."""

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

from gateway.rpc import multi_stream
from tests.support.gateways import BEARER, Failure, expect_error, next_event, running, stub
from tests.support.upstream import Connection, answer, hang

if TYPE_CHECKING:
    from jobgateway.v1 import job_service_pb2_grpc as rpc

    from gateway.server.gateway import Gateway
    from tests.support.upstream import ScriptedUpstream

METHOD = "/jobgateway.v1.JobService/WatchJobs"
BOB = (("authorization", "Bearer the-token-of-bob"),)
LARGEST_EVENT = (256 << 10) + 1_000


def at(uid: int, percentage: float) -> bytes:
    return answer(200, {"uid": uid, "status": "running", "message": {"message": "on it", "percentage": percentage}})


def success(uid: int, raw: bytes = b'{"a": 1}') -> bytes:
    return answer(200, raw=b'{"uid":%d,"status":"success","result":%b}' % (uid, raw))


def path(uid: int) -> str:
    return f"/jobs/{uid}/"


class Stream:
    """A stream of many jobs, and all events that it has received."""

    def __init__(self, jobs: rpc.JobServiceAsyncStub, metadata: Any = BEARER, timeout: float | None = None) -> None:
        self.call: Any = jobs.WatchJobs(metadata=metadata, timeout=timeout)
        self.events: list[pb.JobEvent] = []

    async def watch(self, *uids: int, **fields: Any) -> None:
        for uid in uids:
            await self.call.write(pb.WatchJobsRequest(watch=pb.WatchJobRequest(uid=uid, **fields)))

    async def unwatch(self, uid: int) -> None:
        await self.call.write(pb.WatchJobsRequest(unwatch=uid))

    async def next(self) -> pb.JobEvent:
        event = await next_event(self.call)
        self.events.append(event)
        return event

    async def until(self, payload: str, uid: int = 0) -> pb.JobEvent:
        """Return the next event with this payload, of this job."""
        while True:
            event = await self.next()
            if (event.WhichOneof("payload"), event.uid) == (payload, uid):
                return event

    async def until_each(self, payload: str, *uids: int) -> dict[int, pb.JobEvent]:
        """Return the next events with this payload, one of each job. They come in any order."""
        found: dict[int, pb.JobEvent] = {}
        while set(found) != set(uids):
            event = await self.next()
            if event.WhichOneof("payload") == payload:
                found.setdefault(event.uid, event)
        return found

    async def rest(self) -> list[pb.JobEvent]:
        """Half-close, and return all events once the stream has ended with OK."""
        await self.call.done_writing()
        while (event := await self.call.read()) is not grpc.aio.EOF:
            self.events.append(event)
        assert await self.call.code() is StatusCode.OK
        return self.events

    def of(self, uid: int) -> list[pb.JobEvent]:
        return [event for event in self.events if event.uid == uid]


def percentages(events: list[pb.JobEvent]) -> list[float]:
    return [event.job.progress.percentage for event in events if event.WhichOneof("payload") == "job"]


def content(events: list[pb.JobEvent]) -> bytes:
    """Return the result in the chunks, by the rule for clients."""
    whole = bytearray()
    for event in events:
        if event.WhichOneof("payload") == "content_chunk":
            del whole[event.content_chunk.offset :]
            whole += event.content_chunk.data
    return bytes(whole)


def failures(events: list[pb.JobEvent]) -> list[tuple[int, int, str]]:
    return [(each.uid, each.failure.code, each.failure.reason) for each in events if each.HasField("failure")]


# 1 and 2.


async def test_each_job_has_its_changes_in_order_and_one_end(
    upstream: ScriptedUpstream, jobs: rpc.JobServiceAsyncStub
) -> None:
    for uid in (1, 2, 3):
        upstream.on("GET", path(uid), at(uid, 10), at(uid, 10), at(uid, 50 + uid), at(uid, 20), success(uid))
    stream = Stream(jobs)
    await stream.watch(1, 2, 3)
    await stream.rest()
    for uid in (1, 2, 3):
        events = stream.of(uid)
        assert percentages(events) == [10, 50 + uid, 20, 0]
        assert [event.job.done for event in events] == [False, False, False, True]
        assert MessageToDict(events[-1].job.content) == {"a": 1}
        assert all(event.resume_token and event.skipped == 0 and event.job.uid == uid for event in events)
    assert len(upstream.seen) == 15, "each end ends the polling of its job"


async def test_half_closing_without_watches_ends_the_stream(jobs: rpc.JobServiceAsyncStub) -> None:
    assert await Stream(jobs).rest() == []


async def test_a_stream_stays_open_until_the_client_half_closes(
    upstream: ScriptedUpstream, jobs: rpc.JobServiceAsyncStub
) -> None:
    upstream.on("GET", path(1), success(1))
    upstream.on("GET", path(2), success(2))
    stream = Stream(jobs)
    await stream.watch(1)
    await stream.until("synced")
    await stream.watch(2)
    assert (await stream.until("job", 2)).job.done
    # The same job again, because its first watch has ended.
    await stream.watch(1)
    assert (await stream.until("job", 1)).job.done
    await stream.rest()


async def test_a_resumed_watch_continues_after_its_token(
    upstream: ScriptedUpstream, gateway: Gateway, jobs: rpc.JobServiceAsyncStub
) -> None:
    upstream.on("GET", path(1), at(1, 10))
    upstream.on("GET", path(2), at(2, 10))
    stream = Stream(jobs)
    await stream.watch(1, 2)
    tokens = {uid: event.resume_token for uid, event in (await stream.until_each("job", 1, 2)).items()}
    stream.call.cancel()
    await gateway.wait_idle()
    upstream.on("GET", path(1), at(1, 10), at(1, 30), success(1))
    upstream.on("GET", path(2), at(2, 20), success(2))
    async with running(upstream.url) as other, stub(other) as elsewhere:
        again = Stream(elsewhere, BOB)
        for uid, token in tokens.items():
            await again.watch(uid, resume_token=token)
        await again.rest()
    assert percentages(again.of(1)) == [30, 0]
    assert percentages(again.of(2)) == [20, 0]


async def test_a_cut_result_continues_at_its_chunk(upstream: ScriptedUpstream, jobs: rpc.JobServiceAsyncStub) -> None:
    raw = b'"%b"' % (b"0123456789" * 200_000)
    upstream.on("GET", path(1), success(1, raw))
    stream = Stream(jobs)
    await stream.watch(1)
    await stream.until("content_chunk", 1)
    last = await stream.until("content_chunk", 1)
    stream.call.cancel()
    again = Stream(jobs)
    await again.watch(1, resume_token=last.resume_token)
    await again.rest()
    assert again.of(1)[0].content_chunk.offset == len(content(stream.events))
    assert content([*stream.events, *again.events]) == raw


# 3.


async def test_a_failed_watch_ends_alone(upstream: ScriptedUpstream, jobs: rpc.JobServiceAsyncStub) -> None:
    upstream.on("GET", path(1), at(1, 10), at(1, 20), at(1, 30), success(1))
    upstream.on("GET", path(2), answer(404, {"detail": "no"}))
    stream = Stream(jobs)
    await stream.watch(1, 2)
    await stream.rest()
    assert failures(stream.events) == [(2, StatusCode.NOT_FOUND.value[0], "UPSTREAM_NOT_FOUND")]
    assert percentages(stream.of(1)) == [10, 20, 30, 0]


@pytest.mark.parametrize("status", [401, 403, 404, 409, 410, 422])
async def test_a_failure_says_what_the_status_would_say(
    upstream: ScriptedUpstream, jobs: rpc.JobServiceAsyncStub, status: int
) -> None:
    upstream.on("GET", path(1), answer(status, {"detail": "because"}, headers={"Retry-After": "7"}))
    expected = await expect_error(jobs.WatchJob(pb.WatchJobRequest(uid=1), metadata=BEARER))
    stream = Stream(jobs)
    await stream.watch(1)
    failure = (await stream.rest())[0].failure
    assert (failure.code, failure.reason, failure.message) == (
        expected.code.value[0],
        expected.reason,
        expected.message,
    )
    assert dict(failure.metadata) == expected.metadata
    assert failure.HasField("retry_delay") is (expected.retry is not None)


async def test_a_failure_has_the_last_token(upstream: ScriptedUpstream, jobs: rpc.JobServiceAsyncStub) -> None:
    upstream.on("GET", path(1), at(1, 10), answer(401, {"detail": "expired"}))
    stream = Stream(jobs)
    await stream.watch(1)
    await stream.rest()
    state, *_, failure = stream.of(1)
    assert failure.failure.code == StatusCode.UNAUTHENTICATED.value[0]
    assert failure.resume_token == state.resume_token != ""


async def test_invalid_requests_are_failures_of_their_uid(
    upstream: ScriptedUpstream, jobs: rpc.JobServiceAsyncStub
) -> None:
    upstream.on("GET", path(1), success(1))
    upstream.on("GET", path(7), success(7))
    first = Stream(jobs)
    await first.watch(7)
    token = (await first.rest())[0].resume_token
    stream = Stream(jobs)
    await stream.watch(2, heartbeat_interval=Duration(seconds=4_000))
    await stream.watch(3, resume_token="nonsense")
    await stream.watch(4, content_format=99)
    await stream.watch(5, resume_token=token)
    await stream.watch(0)
    await stream.watch(-6)
    await stream.call.write(pb.WatchJobsRequest())
    await stream.watch(1)
    await stream.rest()
    invalid = StatusCode.INVALID_ARGUMENT.value[0]
    assert sorted(failures(stream.events)) == [(uid, invalid, "REQUEST_INVALID") for uid in (-6, 0, 0, 2, 3, 4, 5)]
    assert stream.of(1)[-1].job.done
    assert "heartbeat_interval" in stream.of(2)[0].failure.message
    assert len(upstream.seen) == 2


async def test_bytes_that_are_no_request_end_no_stream(upstream: ScriptedUpstream, gateway: Gateway) -> None:
    upstream.on("GET", path(1), success(1))
    async with grpc.aio.insecure_channel(gateway.address) as channel:
        call: Any = channel.stream_stream(METHOD)(metadata=BEARER)
        await call.write(b"\xff\xff\xff")
        await call.write(pb.WatchJobsRequest(watch=pb.WatchJobRequest(uid=1)).SerializeToString())
        await call.done_writing()
        events = [pb.JobEvent.FromString(event) async for event in call]
    assert failures(events) == [(0, StatusCode.INVALID_ARGUMENT.value[0], "REQUEST_INVALID")]
    assert any(event.uid == 1 and event.job.done for event in events)


async def test_a_job_is_watched_once_at_a_time(upstream: ScriptedUpstream, jobs: rpc.JobServiceAsyncStub) -> None:
    upstream.on("GET", path(1), at(1, 10))
    stream = Stream(jobs)
    await stream.watch(1)
    state = await stream.until("job", 1)
    await stream.watch(1)
    failure = await stream.until("failure", 1)
    assert (failure.failure.code, failure.failure.reason) == (StatusCode.ALREADY_EXISTS.value[0], "ALREADY_WATCHED")
    assert failure.resume_token == state.resume_token
    upstream.on("GET", path(1), at(1, 20), success(1))
    await stream.rest()
    assert percentages(stream.of(1)) == [10, 20, 0]


async def test_a_refused_repetition_has_the_latest_token(
    upstream: ScriptedUpstream, jobs: rpc.JobServiceAsyncStub
) -> None:
    # Its chunks continue between the request and its refusal, and each has a token of its own.
    upstream.on("GET", path(1), success(1, b'"%b"' % (b"x" * 20_000_000)))
    stream = Stream(jobs)
    await stream.watch(1)
    await stream.until("content_chunk", 1)
    await stream.watch(1)
    await stream.until("failure", 1)
    *_, before, failure = stream.of(1)
    assert before.HasField("content_chunk")
    assert failure.resume_token == before.resume_token
    stream.call.cancel()


async def test_many_invalid_requests_take_bounded_memory(
    upstream: ScriptedUpstream, jobs: rpc.JobServiceAsyncStub, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(multi_stream, "MAX_REFUSALS", 2)
    upstream.on("GET", path(1), success(1))
    stream = Stream(jobs)
    await stream.watch(*[-1] * 50, 1)
    await stream.rest()
    assert (len(stream.of(-1)), stream.of(1)[-1].job.done) == (50, True)


# 4 and 5.


async def test_one_heartbeat_serves_all_jobs(upstream: ScriptedUpstream, jobs: rpc.JobServiceAsyncStub) -> None:
    for uid in range(1, 6):
        upstream.on("GET", path(uid), at(uid, 10))
    stream = Stream(jobs)
    await stream.watch(1, heartbeat_interval=Duration(seconds=1))
    await stream.watch(2, 3, 4, 5, heartbeat_interval=Duration(seconds=3_600))
    await stream.until("synced")
    while stream.events[-1].WhichOneof("payload") == "synced":
        await stream.next()
    beat = await stream.until("heartbeat")
    assert beat == pb.JobEvent(heartbeat=pb.Heartbeat())
    assert {event.WhichOneof("payload") for event in stream.events if event.uid} == {"job"}
    stream.call.cancel()


async def test_a_job_says_when_its_reading_starts_and_stops_failing(
    upstream: ScriptedUpstream, jobs: rpc.JobServiceAsyncStub
) -> None:
    lost = answer(503, headers={"Retry-After": "0"})
    upstream.on("GET", path(1), at(1, 10), at(1, 10), lost, lost, at(1, 10), at(1, 10), lost, at(1, 20), success(1))
    stream = Stream(jobs)
    await stream.watch(1)
    await stream.rest()
    told = [
        (event.WhichOneof("payload"), event.heartbeat.consecutive_failures, event.heartbeat.last_failure)
        for event in stream.of(1)
    ]
    failing, working = ("heartbeat", 1, "UPSTREAM_UNAVAILABLE"), ("heartbeat", 0, "")
    assert told == [("job", 0, ""), failing, working, failing, ("job", 0, ""), ("job", 0, "")]
    assert all(event.resume_token for event in stream.of(1))


async def test_synced_is_the_end_of_catching_up(upstream: ScriptedUpstream, jobs: rpc.JobServiceAsyncStub) -> None:
    release = asyncio.Event()

    async def late(connection: Connection) -> None:
        await release.wait()
        await connection.send(at(2, 10))
        connection.close()

    upstream.on("GET", path(1), at(1, 10))
    upstream.on("GET", path(2), late, at(2, 20))
    upstream.on("GET", path(3), answer(404, {"detail": "no"}))
    stream = Stream(jobs)
    await stream.watch(2, 1, 3, 0)
    while not (stream.of(1) and failures(stream.of(3)) and failures(stream.of(0))):
        await stream.next()
    assert not any(event.HasField("synced") for event in stream.events)
    release.set()
    assert (await stream.until("synced")).synced.watch_requests == 4
    assert percentages(stream.of(2)) == [10]
    upstream.on("GET", path(4), at(4, 10))
    await stream.watch(4)
    assert (await stream.until("synced")).synced.watch_requests == 5
    assert percentages(stream.of(4)) == [10]
    stream.call.cancel()


async def test_a_resumed_job_without_news_has_caught_up(
    upstream: ScriptedUpstream, jobs: rpc.JobServiceAsyncStub
) -> None:
    upstream.on("GET", path(1), at(1, 10))
    first = Stream(jobs)
    await first.watch(1)
    token = (await first.until("job", 1)).resume_token
    again = Stream(jobs)
    await again.watch(1, resume_token=token)
    assert (await again.next()).synced.watch_requests == 1
    for stream in (first, again):
        stream.call.cancel()


async def test_a_watch_that_is_left_has_caught_up(upstream: ScriptedUpstream, jobs: rpc.JobServiceAsyncStub) -> None:
    upstream.on("GET", path(1), at(1, 10))
    upstream.on("GET", path(2), hang)
    stream = Stream(jobs)
    # The last request has an event first, so both were read.
    await stream.watch(2, 1, heartbeat_interval=Duration(seconds=3_600))
    await stream.until("job", 1)
    await stream.unwatch(2)
    assert (await stream.next()).synced.watch_requests == 2
    stream.call.cancel()


# 6.


@pytest.mark.parametrize(
    "content_format", [pb.CONTENT_FORMAT_UNSPECIFIED, pb.CONTENT_FORMAT_STRUCT, pb.CONTENT_FORMAT_JSON]
)
@pytest.mark.parametrize("size", [10, 70_000, 200_000, 300_000, 5_000_000])
async def test_every_event_is_small_in_every_format(
    upstream: ScriptedUpstream, jobs: rpc.JobServiceAsyncStub, content_format: Any, size: int
) -> None:
    # As a Struct, digits take six times as much as in JSON.
    raw = b'{"a":[%b1]}' % (b"1," * (size // 2))
    upstream.on("GET", path(1), success(1, raw))
    stream = Stream(jobs)
    await stream.watch(1, content_format=content_format)
    events = await stream.rest()
    assert max(event.ByteSize() for event in events) <= LARGEST_EVENT
    job = stream.of(1)[-1].job
    assert (job.done, job.content_sha256) == (True, hashlib.sha256(raw).hexdigest())
    if job.content_omitted:
        assert content(events) == raw
    elif job.content_json:
        assert job.content_json == raw
    else:
        assert MessageToDict(job.content) == {"a": [1.0] * (size // 2 + 1)}


async def test_changes_follow_a_large_state(upstream: ScriptedUpstream, jobs: rpc.JobServiceAsyncStub) -> None:
    # An error beside `queued` is no end.
    error = {"type": "e", "message": "m", "stack_trace": ["x" * 1_000] * 200}
    upstream.on("GET", path(1), answer(200, {"uid": 1, "status": "queued", "error": error}), at(1, 20), success(1))
    stream = Stream(jobs)
    await stream.watch(1)
    events = [event for event in await stream.rest() if event.uid]
    assert len(events[0].job.error.stack_trace.list_value.values) == 200
    assert not any(event.job.HasField("error") for event in events[1:])
    assert [event.job.done for event in events[1:]] in ([False, True], [True])
    assert len(events) + sum(event.skipped for event in events) == 3, "encoding may take longer than a change"


async def test_a_job_without_its_result_has_no_chunks(
    upstream: ScriptedUpstream, jobs: rpc.JobServiceAsyncStub
) -> None:
    upstream.on("GET", path(1), success(1, b'"%b"' % (b"x" * 1_000_000)))
    stream = Stream(jobs)
    await stream.watch(1, content_format=pb.CONTENT_FORMAT_NONE)
    events = await stream.rest()
    assert [event.WhichOneof("payload") for event in events] == ["job", "synced"]
    assert events[0].job.content_omitted


async def test_results_and_other_jobs_take_turns(upstream: ScriptedUpstream, jobs: rpc.JobServiceAsyncStub) -> None:
    raw = b'"%b"' % (b"x" * 20_000_000)
    for uid in (1, 2):
        upstream.on("GET", path(uid), success(uid, raw))
    for uid in (3, 4):
        upstream.on("GET", path(uid), *(at(uid, number) for number in range(90)), success(uid))
    stream = Stream(jobs)
    await stream.watch(1, 2, 3, 4)
    events = await stream.rest()
    chunks = [number for number, event in enumerate(events) if event.HasField("content_chunk")]
    order = [events[number].uid for number in chunks]
    # While both are written, no one has two chunks in a row.
    begun = max(order.index(1), order.index(2))
    both = order[begun : len(order) - max(order[::-1].index(1), order[::-1].index(2))]
    assert all(before != after for before, after in itertools.pairwise(both))
    assert any(event.uid in (3, 4) for event in events[chunks[0] : chunks[-1]])
    for uid in (1, 2):
        assert content(stream.of(uid)) == raw
    for uid in (3, 4):
        assert stream.of(uid)[-1].job.done


async def test_a_slow_client_gets_the_latest_state_and_each_end(
    upstream: ScriptedUpstream, jobs: rpc.JobServiceAsyncStub
) -> None:
    # Messages of this size fill the flow control window of the client, which then does not read.
    text = "x" * 60_000
    fine = asyncio.Event()

    def long(uid: int, number: int) -> bytes:
        message = {"message": f"{number} {text}", "percentage": number}
        return answer(200, {"uid": uid, "status": "running", "message": message})

    async def last(connection: Connection) -> None:
        fine.set()
        await connection.send(success(1))
        connection.close()

    upstream.on("GET", path(1), *(long(1, number) for number in range(200)), last)
    upstream.on("GET", path(2), *(long(2, number) for number in range(100)), success(2))
    stream = Stream(jobs)
    await stream.watch(1, 2)
    other = Stream(jobs, BOB)
    upstream.on("GET", path(3), *(at(3, number) for number in range(50)), success(3))
    await other.watch(3)
    delivered = [event for event in await other.rest() if event.HasField("job")]
    # All, unless this machine was slow.
    assert len(delivered) + sum(event.skipped for event in delivered) == 51, (
        "another stream of the connection continues"
    )
    await fine.wait()
    await stream.rest()
    for uid, changes in ((1, 200), (2, 100)):
        events = [event for event in stream.of(uid) if event.HasField("job")]
        assert events[-1].job.done
        assert len(events) + sum(event.skipped for event in events) == changes + 1
        assert len(events) < changes


# 7.


async def test_limits_count_watches_and_not_streams(upstream: ScriptedUpstream) -> None:
    for uid in range(1, 6):
        upstream.on("GET", path(uid), at(uid, 10))
    async with running(upstream.url, max_watches=8, max_watches_per_credential=3) as gateway, stub(gateway) as jobs:
        stream = Stream(jobs)
        await stream.watch(1, 2, 3, 4)
        refused = await stream.until("failure", 4)
        assert (refused.failure.code, refused.failure.reason) == (
            StatusCode.RESOURCE_EXHAUSTED.value[0],
            "LIMIT_REACHED",
        )
        assert refused.failure.retry_delay.ToMilliseconds() >= 1_000
        failed = await expect_error(jobs.WatchJob(pb.WatchJobRequest(uid=5), metadata=BEARER))
        assert failed.reason == "LIMIT_REACHED"
        # The slots that are left to others are shared fairly.
        bob = Stream(jobs, BOB)
        await bob.watch(5)
        await bob.until("job", 5)
        # A watch that ends gives its slot back.
        await stream.unwatch(2)
        await stream.watch(4)
        assert (await stream.until("job", 4)).job.progress.percentage == 10
        for each in (stream, bob):
            each.call.cancel()
        await gateway.wait_idle()
        again = Stream(jobs)
        await again.watch(1, 2, 3)
        await again.until_each("job", 1, 2, 3)
        again.call.cancel()


async def test_a_stream_has_a_limit_of_its_own(
    upstream: ScriptedUpstream, jobs: rpc.JobServiceAsyncStub, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(multi_stream, "MAX_WATCHES", 2)
    for uid in (1, 2, 3):
        upstream.on("GET", path(uid), at(uid, 10))
    token_source = Stream(jobs)
    await token_source.watch(3)
    token = (await token_source.until("job", 3)).resume_token
    stream = Stream(jobs)
    await stream.watch(1, 2)
    await stream.watch(3, resume_token=token)
    refused = await stream.until("failure", 3)
    assert (refused.failure.reason, refused.resume_token) == ("LIMIT_REACHED", token)
    assert refused.failure.retry_delay.ToMilliseconds() >= 1_000
    for each in (stream, token_source):
        each.call.cancel()


# 8.


async def test_unwatch_stops_the_polling(upstream: ScriptedUpstream, gateway: Gateway) -> None:
    upstream.on("GET", path(1), at(1, 10))
    upstream.on("GET", path(2), at(2, 10))
    async with stub(gateway) as jobs:
        stream = Stream(jobs)
        await stream.watch(1, 2)
        await stream.until("synced")
        await stream.unwatch(1)
        await stream.unwatch(99)
        upstream.on("GET", path(2), *(at(2, number) for number in range(50)), success(2))
        await stream.rest()
    polled = [seen.path for seen in upstream.seen]
    last = len(polled) - 1 - polled[::-1].index("/api/jobs/1/")
    assert polled[last:].count("/api/jobs/2/") >= 40
    assert not any(event.job.done for event in stream.of(1))


async def test_a_client_that_leaves_stops_all_polling(upstream: ScriptedUpstream, gateway: Gateway) -> None:
    uids = range(1, 301)
    for uid in uids:
        upstream.on("GET", path(uid), at(uid, 10))
    async with stub(gateway) as jobs:
        stream = Stream(jobs)
        await stream.watch(*uids)
        await stream.until("synced")
        stream.call.cancel()
        await gateway.wait_idle()
        upstream.on("GET", path(999), *(at(999, number) for number in range(20)), success(999))
        other = Stream(jobs)
        await other.watch(999)
        await other.until("job", 999)
        before = len(upstream.seen)
        await other.rest()
    later = [seen.path for seen in upstream.seen[before:]]
    assert set(later) == {"/api/jobs/999/"}


async def test_a_deadline_ends_the_stream(upstream: ScriptedUpstream, gateway: Gateway) -> None:
    upstream.on("GET", path(1), hang)
    async with stub(gateway) as jobs:
        stream = Stream(jobs, timeout=0.3)
        await stream.watch(1)
        with pytest.raises(grpc.aio.AioRpcError) as caught:
            await stream.rest()
        assert caught.value.code() is StatusCode.DEADLINE_EXCEEDED
        await gateway.wait_idle()


async def test_a_deadline_is_not_taken_for_a_half_close(gateway: Gateway, logged: list[dict[str, object]]) -> None:
    async with stub(gateway) as jobs:
        # grpc.aio reports both in the same way, and the rest is a race.
        for _ in range(10):
            assert await Stream(jobs, timeout=0.05).call.code() is StatusCode.DEADLINE_EXCEEDED
            await gateway.wait_idle()
    assert {line["code"] for line in logged if line["event"] == "call"} == {"CANCELLED"}


async def test_a_drain_ends_the_stream_with_its_status(upstream: ScriptedUpstream) -> None:
    for uid in (1, 2, 3):
        upstream.on("GET", path(uid), at(uid, 10))
    async with running(upstream.url) as gateway, stub(gateway) as jobs:
        stream = Stream(jobs)
        await stream.watch(1, 2, 3)
        await stream.until("synced")
        stopping = asyncio.create_task(gateway.stop(grace=0.5))
        failed = await expect_error(stream.call)
        assert (failed.code, failed.reason) == (StatusCode.UNAVAILABLE, "DRAINING")
        assert failed.retry is not None
        await stopping


@pytest.mark.parametrize("watching", [True, False])
async def test_a_request_during_a_drain_ends_the_stream(upstream: ScriptedUpstream, watching: bool) -> None:
    upstream.on("GET", path(1), at(1, 10))
    upstream.on("GET", path(2), at(2, 10))
    async with running(upstream.url) as gateway, stub(gateway) as jobs:
        stream = Stream(jobs)
        await stream.call.initial_metadata()
        if watching:
            await stream.watch(1)
            await stream.until("synced")
        # The grace is so long that the stream ends because of the request.
        stopping = asyncio.create_task(gateway.stop(grace=600))
        await asyncio.sleep(0)
        assert not gateway.ready
        await stream.watch(2)
        failed = await expect_error(stream.call)
        assert (failed.code, failed.reason) == (StatusCode.UNAVAILABLE, "DRAINING")
        await stopping


async def test_a_stream_without_watches_is_cut_by_a_drain(upstream: ScriptedUpstream) -> None:
    async with running(upstream.url) as gateway, stub(gateway) as jobs:
        stream = Stream(jobs)
        await stream.call.initial_metadata()
        stopping = asyncio.create_task(gateway.stop(grace=0.2))
        failed = await expect_error(stream.call)
        assert (failed.code, failed.reason) == (StatusCode.UNAVAILABLE, "DRAINING")
        await stopping


async def test_without_a_credential_no_stream_is_admitted(
    upstream: ScriptedUpstream, jobs: rpc.JobServiceAsyncStub
) -> None:
    call: Any = jobs.WatchJobs()
    with pytest.raises(grpc.aio.AioRpcError) as caught:
        await call.read()
    failed = Failure(caught.value)
    assert (failed.code, failed.reason) == (StatusCode.UNAUTHENTICATED, "CREDENTIAL_INVALID")
    assert upstream.seen == []


async def test_one_log_line_counts_the_watches(
    upstream: ScriptedUpstream, gateway: Gateway, jobs: rpc.JobServiceAsyncStub, logged: list[dict[str, object]]
) -> None:
    for uid in (1, 2):
        upstream.on("GET", path(uid), success(uid))
    stream = Stream(jobs)
    await stream.watch(1, 2, -3)
    await stream.rest()
    await gateway.wait_idle()
    calls = [line for line in logged if line["event"] == "call"]
    assert [(line["method"], line["code"], line["watches"], line["uid"]) for line in calls] == [
        ("WatchJobs", "OK", 2, None)
    ]
