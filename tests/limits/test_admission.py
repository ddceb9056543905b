from __future__ import annotations

import asyncio
from contextlib import ExitStack, asynccontextmanager
from typing import TYPE_CHECKING, Any

import grpc
import pytest
from jobgateway.v1 import job_service_pb2 as pb

from gateway.errors import Draining, LimitReached
from gateway.limits import admission as admission_module
from gateway.limits.admission import Admission
from gateway.server import defaults
from tests.support.clock import SteppedClock, settle
from tests.support.gateways import BEARER, GET_JOB, Failure, expect_error, next_event, running, stub
from tests.support.upstream import RUNNING, Connection, ScriptedUpstream, answer, hang

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

    from jobgateway.v1 import job_service_pb2_grpc as rpc


def admission(max_calls: int = 1, max_watches: int = 1) -> Admission:
    return Admission(SteppedClock(), max_calls=max_calls, max_watches=max_watches)


# By itself


@pytest.mark.parametrize("watch", [False, True])
def test_there_is_room_up_to_the_limit_and_again_after_one_has_left(*, watch: bool) -> None:
    door = admission(max_calls=2, max_watches=2)
    with door.admit(watch=watch):
        with door.admit(watch=watch), pytest.raises(LimitReached) as raised, door.admit(watch=watch):
            pass
        with door.admit(watch=watch):
            assert door.in_flight == 2
    assert 1.0 <= (raised.value.retry_after or 0) <= 3.0
    assert door.in_flight == 0


def enter_as(door: Admission, inside: ExitStack, caller: bytes, *, watch: bool = False, size: int = 10) -> None:
    with ExitStack() as entered:
        entered.enter_context(door.admit(watch=watch)).charge(caller, size)
        inside.enter_context(entered.pop_all())


def fill(door: Admission, inside: ExitStack, caller: bytes, *, watch: bool = False, size: int = 10) -> int:
    """Enters as `caller` until it is refused, and returns how often it came in."""
    for count in range(10_000):
        try:
            enter_as(door, inside, caller, watch=watch, size=size)
        except LimitReached:
            return count
    raise AssertionError("there is no limit")


@pytest.mark.parametrize("watch", [False, True])
def test_one_caller_has_three_quarters_and_whoever_comes_next_finds_room(*, watch: bool) -> None:
    door = admission(max_calls=1_000, max_watches=1_000)
    with ExitStack() as inside:
        taken = [fill(door, inside, caller, watch=watch) for caller in (b"ann", b"bob", b"eve", b"zoe")]
        assert taken == [750, 187, 47, 12]
        enter_as(door, inside, b"another", watch=watch)
        assert door.in_flight == sum(taken) + 1, "who was refused is not counted"
    assert door.in_flight == 0
    with ExitStack() as inside:
        assert fill(door, inside, b"zoe", watch=watch) == 750, "nothing was left behind"


def test_a_caller_is_kept_to_the_setting_where_there_is_one() -> None:
    door = Admission(
        SteppedClock(), max_calls=100, max_watches=100, max_calls_per_credential=3, max_watches_per_credential=5
    )
    with ExitStack() as inside:
        for caller in (b"ann", b"bob"):
            assert fill(door, inside, caller) == 3
            assert fill(door, inside, caller, watch=True) == 5


def test_a_refusal_says_which_limit_it_was() -> None:
    door = admission(max_calls=4)
    with ExitStack() as inside:
        fill(door, inside, b"ann")
        with pytest.raises(LimitReached, match=r"^this credential has 3 of the 4 calls") as raised:
            enter_as(door, inside, b"ann")
        assert 1.0 <= (raised.value.retry_after or 0) <= 3.0
        enter_as(door, inside, b"bob")
        with pytest.raises(LimitReached, match=r"^the gateway serves 4 calls at once"):
            enter_as(door, inside, b"eve")


async def test_who_comes_too_often_is_refused_and_told_when_to_come_back() -> None:
    clock = SteppedClock()
    door = Admission(clock, max_calls=1_000, max_watches=1_000, calls_per_second=10.0)
    waits = []
    with ExitStack() as inside:
        enter_as(door, inside, b"bob")
        assert fill(door, inside, b"ann") == 10
        assert fill(door, inside, b"ann", watch=True) == 0, "watches are calls too"
        for _ in range(50):
            with pytest.raises(LimitReached, match=r"^this credential calls more often") as raised:
                enter_as(door, inside, b"ann")
            waits.append(raised.value.retry_after or 0.0)
        assert all(1.1 <= wait <= 3.1 for wait in waits)
        assert len(set(waits)) > 25, "they do not come back together"
        await clock.advance(0.5)
        assert fill(door, inside, b"ann") == 5
    assert door.in_flight == 0


async def test_who_is_alone_comes_as_often_as_it_likes() -> None:
    clock = SteppedClock()
    door = Admission(clock, max_calls=1_000, max_watches=1_000, calls_per_second=10.0)
    with ExitStack() as inside:
        assert fill(door, inside, b"ann") == 750
    with ExitStack() as inside:
        enter_as(door, inside, b"bob")
    await clock.advance(59)
    with ExitStack() as inside:
        assert fill(door, inside, b"ann") == 10, "another has been there within the last minute"
    await clock.advance(1)
    with ExitStack() as inside:
        assert fill(door, inside, b"ann") == 750
    await clock.advance(600)
    with ExitStack() as inside:
        enter_as(door, inside, b"bob", watch=True)
        await clock.advance(600)
        assert fill(door, inside, b"ann") == 10, "another has a watch open"


async def test_who_does_not_wait_as_it_was_told_hears_late_of_its_refusals() -> None:
    clock = SteppedClock()
    door = Admission(clock, max_calls=1_000, max_watches=1_000, calls_per_second=10.0)
    refusals = [asyncio.create_task(door.delay_rejection(b"ann", 10)) for _ in range(30)]
    large = asyncio.create_task(door.delay_rejection(b"ann", 2 << 20))
    other = asyncio.create_task(door.delay_rejection(b"bob", 10))
    await settle()
    assert [task.done() for task in refusals] == [True] * 10 + [False] * 20
    assert large.done(), "a large request is not kept for longer than it must be"
    assert other.done()
    assert door.in_flight == 20
    refusals[-1].cancel()
    idle = asyncio.create_task(door.wait_idle(clock.now + 10))
    await clock.advance(1.9)
    assert not idle.done()
    await clock.advance(0.1)
    assert idle.done()
    assert all(task.done() for task in refusals)
    await clock.advance(2)
    await asyncio.gather(*(door.delay_rejection(b"ann", 10) for _ in range(10)))
    door.draining = True
    await door.delay_rejection(b"ann", 10)
    assert door.in_flight == clock.pending == 0


async def test_only_so_many_refusals_are_held_back(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(admission_module, "MAX_DELAYED_REJECTIONS", 5)
    clock = SteppedClock()
    door = Admission(clock, max_calls=1_000, max_watches=1_000, calls_per_second=10.0)
    refusals = [asyncio.create_task(door.delay_rejection(b"ann", 10)) for _ in range(30)]
    await settle()
    assert sum(not task.done() for task in refusals) == 5
    await clock.advance(2)


def test_large_requests_share_some_memory_and_small_ones_need_none() -> None:
    door = Admission(SteppedClock(), max_calls=1_000, max_watches=1_000, large_requests_bytes=16 << 20)
    with ExitStack() as inside:
        assert fill(door, inside, b"ann", size=3 << 20, watch=True) == 4, "three quarters of it"
        with pytest.raises(LimitReached, match="no room now for a request of 2097152 bytes"):
            enter_as(door, inside, b"ann", size=2 << 20)
        assert door.in_flight == 4
        enter_as(door, inside, b"ann", size=1 << 20)
        enter_as(door, inside, b"bob", size=2 << 20)
    with ExitStack() as inside:
        assert fill(door, inside, b"ann", size=3 << 20) == 4, "all of it came back"


def test_calls_and_watches_take_no_room_from_each_other() -> None:
    door = admission()
    with door.admit(watch=False), door.admit(watch=True):
        assert door.in_flight == 2


@pytest.mark.parametrize("error", [ValueError, asyncio.CancelledError])
def test_a_place_comes_back_however_it_is_left(error: type[BaseException]) -> None:
    door = admission()
    with pytest.raises(error), door.admit(watch=False):
        raise error
    assert door.in_flight == 0


def test_nobody_comes_in_during_a_drain_and_each_hears_a_wait_of_its_own() -> None:
    door = admission(max_calls=100)
    door.draining = True
    waits = []
    for _ in range(50):
        with pytest.raises(Draining) as raised, door.admit(watch=False):
            pass
        assert raised.value.retry_after is not None
        waits.append(raised.value.retry_after)
    assert all(1 <= wait <= 5 for wait in waits)
    assert len(set(waits)) > 25


async def test_idle_is_told_when_the_last_one_leaves() -> None:
    clock = SteppedClock()
    door = Admission(clock, max_calls=2, max_watches=2)
    with door.admit(watch=True):
        with door.admit(watch=False):
            idle = asyncio.create_task(door.wait_idle(clock.now + 10))
            await clock.advance(9)
        await clock.advance(0.5)
        assert not idle.done()
    await clock.advance(0)
    assert idle.result() is True


async def test_idle_gives_up_at_its_time() -> None:
    clock = SteppedClock()
    door = Admission(clock, max_calls=1, max_watches=1)
    with door.admit(watch=True):
        idle = asyncio.create_task(door.wait_idle(clock.now + 10))
        await clock.advance(9.9)
        assert not idle.done()
        await clock.advance(0.1)
        assert idle.result() is False


# End to end


class Held:
    """A reply that keeps its request waiting until it is told to go on."""

    def __init__(self, reply: bytes) -> None:
        self.reply = reply
        self.go = asyncio.Event()

    async def __call__(self, connection: Connection) -> None:
        await self.go.wait()
        await connection.send(self.reply)


@asynccontextmanager
async def full(upstream: ScriptedUpstream) -> AsyncIterator[rpc.JobServiceAsyncStub]:
    """A gateway with room for one call and one watch."""
    async with running(upstream.url, max_calls=1, max_watches=1) as gateway, stub(gateway) as jobs:
        yield jobs


def check_limit(failure: Failure) -> None:
    assert (failure.code, failure.reason) == (grpc.StatusCode.RESOURCE_EXHAUSTED, "LIMIT_REACHED")
    wait = failure.retry.retry_delay.ToMilliseconds()
    assert 1_000 <= wait <= 3_000
    assert failure.trailers["grpc-retry-pushback-ms"] == str(wait)


async def test_a_call_too_many_is_refused_at_once_and_the_place_comes_back(upstream: ScriptedUpstream) -> None:
    held = Held(RUNNING)
    upstream.script += [held, RUNNING]
    async with full(upstream) as jobs:
        first = jobs.GetJob(GET_JOB, metadata=BEARER)
        await upstream.wait_for(1)
        check_limit(await expect_error(jobs.GetJob(GET_JOB, metadata=BEARER)))
        check_limit(await expect_error(jobs.WaitJob(pb.WaitJobRequest(uid=1), metadata=BEARER)))
        assert len(upstream.seen) == 1
        held.go.set()
        assert (await first).uid == 42
        assert (await jobs.GetJob(GET_JOB, metadata=BEARER)).uid == 42


async def _watch(jobs: rpc.JobServiceAsyncStub) -> Any:
    return jobs.WatchJob(pb.WatchJobRequest(uid=42), metadata=BEARER)


async def _run(jobs: rpc.JobServiceAsyncStub) -> Any:
    request = pb.SendJobRequest(workspace_id="1", entity_id=7)
    return jobs.RunJob(pb.RunJobRequest(request=request), metadata=BEARER)


@pytest.mark.parametrize("second", [_watch, _run])
@pytest.mark.parametrize("first", [_watch, _run])
async def test_a_watch_too_many_is_refused_at_once_and_sends_nothing(
    upstream: ScriptedUpstream, first: Any, second: Any
) -> None:
    upstream.on("POST", "/workspaces/1/entities/7/jobs/", answer(201, {"uid": 42}))
    upstream.script.append(RUNNING)
    async with full(upstream) as jobs:
        stream = await first(jobs)
        await next_event(stream)
        posts = len(upstream.requests("POST"))
        check_limit(await expect_error(next_event(await second(jobs))))
        assert len(upstream.requests("POST")) == posts
        # A call still has its place.
        assert (await jobs.GetJob(GET_JOB, metadata=BEARER)).uid == 42
        stream.cancel()


BOB = (("authorization", "Bearer token-of-bob"),)


async def test_a_caller_with_its_share_is_refused_at_once_and_another_is_served(upstream: ScriptedUpstream) -> None:
    held = Held(RUNNING)
    upstream.script += [held, held, held, RUNNING]
    async with running(upstream.url, max_calls=4, max_watches_per_credential=1) as gateway, stub(gateway) as jobs:
        calls = [asyncio.ensure_future(jobs.GetJob(GET_JOB, metadata=BEARER)) for _ in range(3)]
        await upstream.wait_for(3)
        check_limit(await expect_error(jobs.GetJob(GET_JOB, metadata=BEARER)))
        assert len(upstream.seen) == 3
        assert (await jobs.GetJob(GET_JOB, metadata=BOB)).uid == 42
        stream = await _watch(jobs)
        await next_event(stream)
        check_limit(await expect_error(next_event(await _watch(jobs))))
        other = jobs.WatchJob(pb.WatchJobRequest(uid=42), metadata=BOB)
        await next_event(other)
        held.go.set()
        assert [call.uid for call in await asyncio.gather(*calls)] == [42] * 3
        stream.cancel()
        other.cancel()


async def test_a_refusal_that_is_held_back_comes_with_its_reason(
    upstream: ScriptedUpstream, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(admission_module, "REJECTION_DELAY_SECONDS", 0.05)
    upstream.script.append(RUNNING)
    async with running(upstream.url, calls_per_second=0.5) as gateway, stub(gateway) as jobs:
        assert (await jobs.GetJob(GET_JOB, metadata=BOB)).uid == 42
        assert (await jobs.GetJob(GET_JOB, metadata=BEARER)).uid == 42
        for _ in range(3):
            assert (await expect_error(jobs.GetJob(GET_JOB, metadata=BEARER))).reason == "LIMIT_REACHED"
        assert (await expect_error(next_event(await _watch(jobs)))).reason == "LIMIT_REACHED"
        await gateway.wait_idle()
        assert len(upstream.seen) == 2


async def test_a_large_request_that_finds_no_room_is_refused_and_not_sent(
    upstream: ScriptedUpstream, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(defaults, "LARGE_REQUESTS_BYTES", 7 << 20)
    held = Held(answer(201, {"uid": 42}))
    upstream.script += [held, held, answer(201, {"uid": 43})]
    request = pb.SendJobRequest(workspace_id="1", entity_id=7, params_json=b'{"a":"%b"}' % (b"x" * (2 << 20)))
    async with running(upstream.url) as gateway, stub(gateway) as jobs:
        calls = [asyncio.ensure_future(jobs.SendJob(request, metadata=BEARER)) for _ in range(2)]
        await upstream.wait_for(2)
        check_limit(await expect_error(jobs.SendJob(request, metadata=BEARER)))
        assert len(upstream.seen) == 2
        held.go.set()
        await asyncio.gather(*calls)
        assert (await jobs.SendJob(request, metadata=BEARER)).uid == 43


async def test_a_job_too_many_of_a_second_is_refused_and_its_request_id_is_free(upstream: ScriptedUpstream) -> None:
    upstream.script.append(answer(201, {"uid": 42}))
    request = pb.SendJobRequest(workspace_id="1", entity_id=7)
    async with running(upstream.url, submissions_per_second=0.1) as gateway, stub(gateway) as jobs:
        assert (await jobs.SendJob(request, metadata=BEARER)).uid == 42
        named = pb.SendJobRequest(workspace_id="1", entity_id=7, request_id="a")
        failure = await expect_error(jobs.SendJob(named, metadata=BEARER))
        assert (failure.code, failure.reason) == (grpc.StatusCode.RESOURCE_EXHAUSTED, "LIMIT_REACHED")
        assert 5 <= failure.retry.retry_delay.seconds <= 13
        stream = jobs.RunJob(pb.RunJobRequest(request=request), metadata=BEARER)
        assert (await expect_error(next_event(stream))).reason == "LIMIT_REACHED"
        assert len(upstream.seen) == 1
        assert (await jobs.SendJob(named, metadata=BOB)).uid == 42


async def comes_in(jobs: rpc.JobServiceAsyncStub) -> None:
    while True:
        try:
            await jobs.GetJob(GET_JOB, metadata=BEARER)
        except grpc.aio.AioRpcError as error:
            # What ended the call before may still be on its way to the server.
            check_limit(Failure(error))
        else:
            return


async def _cancelled(jobs: rpc.JobServiceAsyncStub, upstream: ScriptedUpstream) -> None:
    seen = len(upstream.seen)
    call = jobs.GetJob(GET_JOB, metadata=BEARER)
    await upstream.wait_for(seen + 1)
    call.cancel()


async def _over_its_deadline(jobs: rpc.JobServiceAsyncStub, _: ScriptedUpstream) -> None:
    with pytest.raises(grpc.aio.AioRpcError):
        await jobs.GetJob(GET_JOB, metadata=BEARER, timeout=0.1)


async def _without_a_credential(jobs: rpc.JobServiceAsyncStub, _: ScriptedUpstream) -> None:
    assert (await expect_error(jobs.GetJob(GET_JOB))).code is grpc.StatusCode.UNAUTHENTICATED


async def _invalid(jobs: rpc.JobServiceAsyncStub, _: ScriptedUpstream) -> None:
    assert (
        await expect_error(jobs.GetJob(pb.GetJobRequest(), metadata=BEARER))
    ).code is grpc.StatusCode.INVALID_ARGUMENT


@pytest.mark.parametrize("end", [_cancelled, _over_its_deadline, _without_a_credential, _invalid])
async def test_the_place_of_a_call_comes_back_however_it_ended(upstream: ScriptedUpstream, end: Any) -> None:
    upstream.script.append(hang)
    async with full(upstream) as jobs:
        for _ in range(2):
            await end(jobs, upstream)
            upstream.script[0] = RUNNING
            await comes_in(jobs)
            upstream.script[0] = hang


async def test_a_call_that_comes_during_a_drain_is_sent_away(upstream: ScriptedUpstream) -> None:
    held = Held(RUNNING)
    upstream.script.append(held)
    async with running(upstream.url) as gateway, stub(gateway) as jobs:
        first = jobs.GetJob(GET_JOB, metadata=BEARER)
        await upstream.wait_for(1)
        stopping = asyncio.create_task(gateway.stop(grace=20))
        await asyncio.sleep(0)
        failures = [
            await expect_error(jobs.GetJob(GET_JOB, metadata=BEARER)),
            await expect_error(next_event(await _watch(jobs))),
            await expect_error(next_event(await _run(jobs))),
        ]
        for failure in failures:
            assert (failure.code, failure.reason) == (grpc.StatusCode.UNAVAILABLE, "DRAINING")
            wait = failure.retry.retry_delay.ToMilliseconds()
            assert 1_000 <= wait <= 5_000
            assert failure.trailers["grpc-retry-pushback-ms"] == str(wait)
        assert len(upstream.seen) == 1
        held.go.set()
        assert (await first).uid == 42
        await stopping
