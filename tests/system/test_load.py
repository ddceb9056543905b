"""Many watches over real sockets: pacing, slow readers, drain, and memory after their end."""

from __future__ import annotations

import asyncio
import gc
import itertools
from collections import Counter
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING, Any

import grpc
import pytest
from grpc import StatusCode
from jobgateway.v1 import job_service_pb2 as pb
from jobgateway.v1 import job_service_pb2_grpc as rpc

from gateway.rpc import reader_guard, stream
from gateway.server import defaults
from gateway.upstream import http_request
from gateway.watch import presence, recent
from tests.support.gateways import BEARER, Failure, running
from tests.support.upstream import Connection, ReceivedRequest, ScriptedUpstream, answer

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

    from gateway.server.gateway import Gateway

pytestmark = pytest.mark.slow

# Small flow-control windows, so that a client that does not read soon blocks its stream.
NARROW = (("grpc.http2.lookahead_bytes", 16_384), ("grpc.http2.bdp_probe", 0))


def stub_of(channel: grpc.aio.Channel) -> rpc.JobServiceAsyncStub:
    return rpc.JobServiceStub(channel)


def watch(service: rpc.JobServiceAsyncStub, uid: int, **options: Any) -> Any:
    return service.WatchJob(pb.WatchJobRequest(uid=uid), metadata=BEARER, **options)


@asynccontextmanager
async def connections(gateway: Gateway, count: int) -> AsyncIterator[list[rpc.JobServiceAsyncStub]]:
    """Open `count` connections, because one carries only a hundred streams by default."""
    channels = [grpc.aio.insecure_channel(gateway.address, (("connection", number),)) for number in range(count)]
    yield [stub_of(channel) for channel in channels]
    for channel in channels:
        await channel.close()


class CountingUpstream(ScriptedUpstream):
    """Number the polls of each job in its messages, wait `delay` seconds, and end a job after `ends_after` polls."""

    def __init__(self) -> None:
        super().__init__()
        self.delay = 0.0
        self.ends_after = 10**9
        self.polls: dict[str, int] = {}
        self.times: list[float] = []
        self.in_flight = self.max_in_flight = 0

    async def respond(self, seen: ReceivedRequest, connection: Connection) -> bool:
        self.seen.clear()
        self.times.append(asyncio.get_running_loop().time())
        self.in_flight += 1
        self.max_in_flight = max(self.max_in_flight, self.in_flight)
        await asyncio.sleep(self.delay)
        self.in_flight -= 1
        number = self.polls[seen.path] = self.polls.get(seen.path, 0) + 1
        uid = int(seen.path.split("/")[-2])
        state = "success" if number >= self.ends_after else "running"
        await connection.send(answer(200, {"uid": uid, "status": state, "message": {"message": f"{number}"}}))
        return True


@pytest.fixture
async def upstream() -> AsyncIterator[CountingUpstream]:
    async with CountingUpstream() as server:
        yield server


async def test_a_slow_consumer_gets_skipped_counts_and_the_end(gateway: Gateway, upstream: CountingUpstream) -> None:
    upstream.ends_after = 600
    async with (
        grpc.aio.insecure_channel(gateway.address, NARROW) as channel,
        grpc.aio.insecure_channel(gateway.address, (("another", 1),)) as other,
    ):
        slow, quick = watch(stub_of(channel), 1), watch(stub_of(other), 1)
        first = await slow.read()
        given = [event async for event in quick]
        events = [first]
        while (event := await slow.read()) is not grpc.aio.EOF:
            events.append(event)
    assert sum(1 + event.skipped for event in given) == 600, "the slow one delayed no one"
    numbers = [int(event.job.progress.message) for event in events]
    assert [event.skipped for event in events[1:]] == [
        after - before - 1 for before, after in itertools.pairwise(numbers)
    ]
    assert sum(event.skipped for event in events) > 0
    assert events[-1].job.done


async def test_a_thousand_open_watches_are_drained(upstream: CountingUpstream) -> None:
    slowly = {"poll_interval_min_seconds": 1.0, "poll_interval_max_seconds": 5.0}
    async with running(upstream.url, **slowly) as gateway, connections(gateway, 10) as services:
        calls = [watch(services[number % 10], number % 50 + 1) for number in range(1_000)]
        for call in calls:
            await call.read()
        stopping = asyncio.create_task(gateway.stop(grace=3))
        ends = await asyncio.gather(*(end_of(call) for call in calls))
        await stopping
    assert Counter((failed.code, failed.reason) for failed, _ in ends) == {(StatusCode.UNAVAILABLE, "DRAINING"): 1_000}
    assert all(1_000 <= failed.retry.retry_delay.ToMilliseconds() <= 5_000 for failed, _ in ends)
    assert sum(bool(token) for _, token in ends) > 900, "all later events have a token"


async def end_of(call: Any) -> tuple[Failure, str]:
    """Return the error at the end of a stream, and the token of its last event."""
    token = ""
    try:
        while (event := await call.read()) is not grpc.aio.EOF:
            token = event.resume_token
    except grpc.aio.AioRpcError as error:
        return Failure(error), token
    raise AssertionError("it ended with OK")


async def test_two_thousand_jobs_resume_together_without_a_failure(upstream: CountingUpstream) -> None:
    upstream.delay = 0.5
    upstream.ends_after = 3
    settings = {"poll_interval_min_seconds": 0.25, "poll_interval_max_seconds": 5.0}
    async with running(upstream.url, **settings) as gateway, connections(gateway, 20) as services:
        calls = [watch(services[number % 20], number + 1) for number in range(2_000)]

        async def follow(call: Any) -> list[str]:
            kinds = []
            while (event := await call.read()) is not grpc.aio.EOF:
                assert not event.heartbeat.consecutive_failures, event
                kinds.append(event.WhichOneof("payload"))
            return kinds

        kinds = await asyncio.gather(*(follow(call) for call in calls))
    assert all(each.count("job") == 3 for each in kinds)
    assert len(upstream.times) == 6_000, "no poll was unnecessary"
    assert upstream.max_in_flight == 192, "one credential gets three quarters of the slots"


async def test_ten_thousand_ended_watches_leave_nothing(
    gateway: Gateway, upstream: CountingUpstream, logged: list[object], monkeypatch: pytest.MonkeyPatch
) -> None:
    # The gateway keeps these for some time, because clients may come back.
    for module, name in (
        (recent, "KEEP_RESULT_SECONDS"),
        (recent, "KEEP_READ_SECONDS"),
        (presence, "UNWATCHED_SECONDS"),
    ):
        monkeypatch.setattr(module, name, 0.0)
    monkeypatch.setattr(recent, "UNWATCHED_SECONDS", 0.0)
    upstream.ends_after = 3

    async def settled() -> tuple[int, int]:
        await gateway.wait_idle()
        upstream.times.clear()
        upstream.polls.clear()
        logged.clear()
        http_request._target.cache_clear()  # noqa: SLF001 - limited in size, and filled by this test
        gc.collect()
        return len(asyncio.all_tasks()), len(gc.get_objects())

    async with connections(gateway, 10) as services:
        for number in range(10):
            await watch_and_leave(services[number % 10], number * 10)
        tasks, objects = await settled()
        for number in range(10, 110):
            await watch_and_leave(services[number % 10], number * 10)
        tasks_after, objects_after = await settled()
    assert tasks_after <= tasks + 20, "only idle connections of the upstream"
    assert objects_after - objects < 1_000, "a tenth of an object per watch"


async def watch_and_leave(service: rpc.JobServiceAsyncStub, first: int) -> None:
    """Watch ten jobs a hundred times: forty read to the end, thirty reach a deadline, thirty are cancelled."""
    uids = range(first + 1, first + 11)
    ended = [watch(service, uid) for uid in uids for _ in range(4)]
    cut = [watch(service, uid, timeout=0.02) for uid in uids for _ in range(3)]
    left = [watch(service, uid) for uid in uids for _ in range(3)]
    await left[0].read()
    for call in left:
        call.cancel()
    for call in [*ended, *cut]:
        try:
            while await call.read() is not grpc.aio.EOF:
                pass
        except grpc.aio.AioRpcError as error:
            if error.code() is not StatusCode.DEADLINE_EXCEEDED:
                raise


RESULT = b'"%b"' % (b"0123456789" * 500_000)


class LargeUpstream(ScriptedUpstream):
    """Return the end of the job with a result of 5 MB for every poll."""

    async def respond(self, seen: ReceivedRequest, connection: Connection) -> bool:
        uid = int(seen.path.split("/")[-2])
        await connection.send(answer(200, raw=b'{"uid":%d,"status":"success","result":%b}' % (uid, RESULT)))
        return True


@pytest.fixture
async def large_upstream() -> AsyncIterator[LargeUpstream]:
    async with LargeUpstream() as server:
        yield server


def bearer(name: str) -> tuple[tuple[str, str]]:
    return (("authorization", f"Bearer token-of-{name}"),)


def as_caller(service: rpc.JobServiceAsyncStub, name: str, token: str = "") -> Any:
    return service.WatchJob(pb.WatchJobRequest(uid=42, resume_token=token), metadata=bearer(name))


async def content_of(call: Any, content: bytearray) -> pb.JobEvent:
    """Return the last event of a stream, and assemble its chunks in `content` by the rule for clients."""
    last = pb.JobEvent()
    while (event := await call.read()) is not grpc.aio.EOF:
        last = event
        if event.WhichOneof("payload") == "content_chunk":
            del content[event.content_chunk.offset :]
            content += event.content_chunk.data
    return last


async def test_twenty_credentials_take_turns_with_large_results(
    large_upstream: LargeUpstream, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Memory suffices for two at a time. A second round shows that all of it was released."""
    monkeypatch.setattr(defaults, "LARGE_RESPONSES_BYTES", 11_000_000)
    monkeypatch.setattr(recent, "KEEP_RESULT_SECONDS", 0.0)
    async with running(large_upstream.url) as gateway, connections(gateway, 2) as services:
        for _ in range(2):
            contents = [bytearray() for _ in range(20)]
            calls = [as_caller(services[number % 2], f"caller-{number}") for number in range(20)]
            lasts = await asyncio.gather(*map(content_of, calls, contents))
            assert all(last.job.done for last in lasts)
            assert all(content == RESULT for content in contents)


async def test_a_stalled_reader_makes_room_and_resumes_later(
    large_upstream: LargeUpstream, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(defaults, "LARGE_RESPONSES_BYTES", 6_000_000)
    monkeypatch.setattr(recent, "KEEP_RESULT_SECONDS", 0.0)
    monkeypatch.setattr(stream, "SLOW_CONSUMER_GRACE_SECONDS", 0.1)
    monkeypatch.setattr(stream, "MIN_SLOW_CONSUMER_GRACE_SECONDS", 0.1)
    async with (
        running(large_upstream.url) as gateway,
        grpc.aio.insecure_channel(gateway.address, NARROW) as channel,
        connections(gateway, 1) as services,
    ):
        slow, content = as_caller(stub_of(channel), "ann"), bytearray()
        event = await slow.read()
        content += event.content_chunk.data
        other = bytearray()
        assert (await content_of(as_caller(services[0], "bob"), other)).job.done
        assert other == RESULT
        token = ""
        with pytest.raises(grpc.aio.AioRpcError) as caught:  # noqa: PT012 - it fails after some chunks
            while (event := await slow.read()) is not grpc.aio.EOF:
                del content[event.content_chunk.offset :]
                content += event.content_chunk.data
                token = event.resume_token
        failed = Failure(caught.value)
        assert (failed.code, failed.reason) == (StatusCode.UNAVAILABLE, "SLOW_READER")
        assert 0 < len(content) < len(RESULT)
        assert (await content_of(as_caller(services[0], "ann", token), content)).job.done
        assert content == RESULT


async def test_a_stalled_stream_of_many_makes_room_and_resumes(
    large_upstream: LargeUpstream, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(defaults, "LARGE_RESPONSES_BYTES", 6_000_000)
    monkeypatch.setattr(recent, "KEEP_RESULT_SECONDS", 0.0)
    monkeypatch.setattr(reader_guard, "GRACE_SECONDS", 0.1)
    monkeypatch.setattr(reader_guard, "MIN_GRACE_SECONDS", 0.1)

    async def watch_42(channel: grpc.aio.Channel, caller: str, token: str = "") -> Any:
        call: Any = stub_of(channel).WatchJobs(metadata=bearer(caller))
        await call.write(pb.WatchJobsRequest(watch=pb.WatchJobRequest(uid=42, resume_token=token)))
        await call.done_writing()
        return call

    async with (
        running(large_upstream.url) as gateway,
        grpc.aio.insecure_channel(gateway.address, NARROW) as channel,
        grpc.aio.insecure_channel(gateway.address) as fast,
    ):
        slow, content = await watch_42(channel, "ann"), bytearray()
        event = await slow.read()
        content += event.content_chunk.data
        other = bytearray()
        await content_of(await watch_42(fast, "bob"), other)
        assert other == RESULT
        token = event.resume_token
        with pytest.raises(grpc.aio.AioRpcError) as caught:  # noqa: PT012 - it fails after some chunks
            while (event := await slow.read()) is not grpc.aio.EOF:
                del content[event.content_chunk.offset :]
                content += event.content_chunk.data
                token = event.resume_token
        failed = Failure(caught.value)
        assert (failed.code, failed.reason) == (StatusCode.UNAVAILABLE, "SLOW_READER")
        assert 0 < len(content) < len(RESULT)
        await content_of(await watch_42(fast, "ann", token), content)
        assert content == RESULT


async def test_a_large_message_that_is_not_read_makes_room(
    large_upstream: LargeUpstream, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(defaults, "LARGE_MESSAGES_BYTES", 11_000_000)
    monkeypatch.setattr(stream, "SLOW_CONSUMER_GRACE_SECONDS", 0.1)
    monkeypatch.setattr(stream, "MIN_MESSAGE_BYTES_PER_SECOND", 1 << 30)
    monkeypatch.setattr(stream, "MIN_SLOW_CONSUMER_GRACE_SECONDS", 0.1)
    unlimited = ("grpc.max_receive_message_length", -1)
    async with (
        running(large_upstream.url) as gateway,
        grpc.aio.insecure_channel(gateway.address, (*NARROW, unlimited)) as channel,
        grpc.aio.insecure_channel(gateway.address, (unlimited,)) as other,
    ):
        request = pb.WatchJobRequest(uid=42, content_format=pb.CONTENT_FORMAT_JSON)
        # More than one, because sent bytes of the first no longer count.
        stalled = [stub_of(channel).WatchJob(request, metadata=bearer(f"caller-{number}")) for number in range(3)]
        for each in stalled:
            await each.initial_metadata()
        event = await stub_of(other).WatchJob(request, metadata=bearer("bob")).read()
        assert isinstance(event, pb.JobEvent)
        assert event.job.content_json == RESULT
        unary = pb.GetJobRequest(uid=42, content_format=pb.CONTENT_FORMAT_JSON)
        for _ in range(3):
            got = await stub_of(other).GetJob(unary, metadata=bearer("bob"))
            assert got.content_json == RESULT
        for each in stalled:
            each.cancel()


async def test_a_stalled_reader_keeps_its_memory_if_no_one_waits(
    large_upstream: LargeUpstream, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(stream, "SLOW_CONSUMER_GRACE_SECONDS", 0.1)
    async with running(large_upstream.url) as gateway, grpc.aio.insecure_channel(gateway.address, NARROW) as channel:
        slow, content = as_caller(stub_of(channel), "ann"), bytearray()
        first = await slow.read()
        content += first.content_chunk.data
        other = bytearray()
        async with connections(gateway, 1) as services:
            for _ in range(3):
                await content_of(as_caller(services[0], "bob"), other)
        assert (await content_of(slow, content)).job.done
        assert content == RESULT
