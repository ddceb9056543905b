"""Admission of calls: slots, rates, and memory of large requests."""

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
from tests.support.admission import limits
from tests.support.clock import SteppedClock, settle
from tests.support.gateways import BEARER, GET_JOB, Failure, expect_error, next_event, running, stub
from tests.support.upstream import RUNNING, Connection, ScriptedUpstream, answer, hang

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

    from jobgateway.v1 import job_service_pb2_grpc as rpc


def admission(max_calls: int = 1, max_watches: int = 1) -> Admission:
    return Admission(SteppedClock(), limits(max_calls=max_calls, max_watches=max_watches))


# Without a gateway


@pytest.mark.parametrize("watch", [False, True])
def test_slots_up_to_the_limit_are_given_and_reused(*, watch: bool) -> None:
    gate = admission(max_calls=2, max_watches=2)
    with gate.admit(watch=watch):
        with gate.admit(watch=watch), pytest.raises(LimitReached) as raised, gate.admit(watch=watch):
            pass
        with gate.admit(watch=watch):
            assert gate.in_flight == 2
    assert 1.0 <= (raised.value.retry_after or 0) <= 3.0
    assert gate.in_flight == 0


def admit_as(gate: Admission, in_flight: ExitStack, caller: bytes, *, watch: bool = False, size: int = 10) -> None:
    with ExitStack() as admitted:
        admitted.enter_context(gate.admit(watch=watch)).charge(caller, size)
        in_flight.enter_context(admitted.pop_all())


def test_a_stream_takes_a_slot_for_each_watch_and_one_without() -> None:
    gate = admission(max_watches=100)
    with gate.admit(watch=True) as ticket:
        ticket.charge(b"ann", 0)
        held = [gate.in_flight]
        for _ in range(3):
            ticket.start_watch()
            held.append(gate.in_flight)
        for _ in range(3):
            ticket.end_watch()
            held.append(gate.in_flight)
        ticket.start_watch()
        ticket.start_watch()
        held.append(gate.in_flight)
    assert held == [1, 1, 2, 3, 2, 1, 1, 2]
    assert gate.in_flight == 0


def test_a_watch_of_a_stream_over_a_limit_takes_no_slot() -> None:
    gate = Admission(SteppedClock(), limits(max_watches=8, max_watches_per_credential=3))
    with gate.admit(watch=True) as ann, gate.admit(watch=True) as bob:
        ann.charge(b"ann", 0)
        bob.charge(b"bob", 0)
        for _ in range(3):
            ann.start_watch()
        with pytest.raises(LimitReached, match="this credential has 3 of the 8 watches"):
            ann.start_watch()
        assert gate.in_flight == 4
        with ExitStack() as others:
            for caller in (b"carl", b"dora", b"eve", b"fred"):
                others.enter_context(gate.admit(watch=True)).charge(caller, 0)
            bob.start_watch()
            with pytest.raises(LimitReached, match="all slots are in use"):
                bob.start_watch()
        bob.start_watch()
    assert gate.in_flight == 0


def test_a_drain_rejects_the_first_watch_of_a_stream_too() -> None:
    gate = admission(max_watches=2)
    with gate.admit(watch=True) as ticket:
        ticket.charge(b"ann", 0)
        gate.draining = True
        with pytest.raises(Draining):
            ticket.start_watch()


def fill(gate: Admission, in_flight: ExitStack, caller: bytes, *, watch: bool = False, size: int = 10) -> int:
    """Admit calls of `caller` until one is rejected, and return their number."""
    for count in range(10_000):
        try:
            admit_as(gate, in_flight, caller, watch=watch, size=size)
        except LimitReached:
            return count
    raise AssertionError("there is no limit")


@pytest.mark.parametrize("watch", [False, True])
def test_each_caller_gets_at_most_its_fair_share(*, watch: bool) -> None:
    gate = admission(max_calls=1_000, max_watches=1_000)
    with ExitStack() as in_flight:
        taken = [fill(gate, in_flight, caller, watch=watch) for caller in (b"ann", b"bob", b"eve", b"zoe")]
        assert taken == [750, 187, 47, 12]
        admit_as(gate, in_flight, b"another", watch=watch)
        assert gate.in_flight == sum(taken) + 1, "rejected calls are not counted"
    assert gate.in_flight == 0
    with ExitStack() as in_flight:
        assert fill(gate, in_flight, b"zoe", watch=watch) == 750, "all slots are free again"


def test_a_setting_limits_one_caller() -> None:
    gate = Admission(
        SteppedClock(),
        limits(max_calls=100, max_watches=100, max_calls_per_credential=3, max_watches_per_credential=5),
    )
    with ExitStack() as in_flight:
        for caller in (b"ann", b"bob"):
            assert fill(gate, in_flight, caller) == 3
            assert fill(gate, in_flight, caller, watch=True) == 5


def test_a_rejection_names_its_limit() -> None:
    gate = admission(max_calls=4)
    with ExitStack() as in_flight:
        fill(gate, in_flight, b"ann")
        with pytest.raises(LimitReached, match=r"^this credential has 3 of the 4 calls") as raised:
            admit_as(gate, in_flight, b"ann")
        assert 1.0 <= (raised.value.retry_after or 0) <= 3.0
        admit_as(gate, in_flight, b"bob")
        with pytest.raises(LimitReached, match=r"^the gateway serves 4 calls at a time"):
            admit_as(gate, in_flight, b"eve")


async def test_calls_over_the_rate_are_rejected_with_a_wait() -> None:
    clock = SteppedClock()
    gate = Admission(clock, limits(max_calls=1_000, max_watches=1_000, calls_per_second=10.0))
    waits = []
    with ExitStack() as in_flight:
        admit_as(gate, in_flight, b"bob")
        assert fill(gate, in_flight, b"ann") == 10
        assert fill(gate, in_flight, b"ann", watch=True) == 0, "watches are calls too"
        for _ in range(50):
            with pytest.raises(LimitReached, match=r"^this credential calls more often") as raised:
                admit_as(gate, in_flight, b"ann")
            waits.append(raised.value.retry_after or 0.0)
        assert all(1.1 <= wait <= 3.1 for wait in waits)
        assert len(set(waits)) > 25, "clients do not retry in lockstep"
        await clock.advance(0.5)
        assert fill(gate, in_flight, b"ann") == 5
    assert gate.in_flight == 0


async def test_a_sole_caller_has_no_rate() -> None:
    clock = SteppedClock()
    gate = Admission(clock, limits(max_calls=1_000, max_watches=1_000, calls_per_second=10.0))
    with ExitStack() as in_flight:
        assert fill(gate, in_flight, b"ann") == 750
    with ExitStack() as in_flight:
        admit_as(gate, in_flight, b"bob")
    await clock.advance(59)
    with ExitStack() as in_flight:
        assert fill(gate, in_flight, b"ann") == 10, "another caller was active in the last minute"
    await clock.advance(1)
    with ExitStack() as in_flight:
        assert fill(gate, in_flight, b"ann") == 750
    await clock.advance(600)
    with ExitStack() as in_flight:
        admit_as(gate, in_flight, b"bob", watch=True)
        await clock.advance(600)
        assert fill(gate, in_flight, b"ann") == 10, "another caller has a watch open"


async def test_watches_of_streams_over_the_rate_wait() -> None:
    clock = SteppedClock()
    gate = Admission(clock, limits(max_calls=1_000, max_watches=1_000, calls_per_second=10.0))
    with ExitStack() as in_flight:
        ticket = in_flight.enter_context(gate.admit(watch=True))
        ticket.charge(b"ann", 10)
        for _ in range(100):
            await ticket.pace_watch()
        assert clock.pending == 0, "a sole caller has no rate"
        with ExitStack() as others:
            admit_as(gate, others, b"bob")
        await clock.advance(1)
        paced = [asyncio.create_task(ticket.pace_watch()) for _ in range(30)]
        await settle()
        assert [task.done() for task in paced] == [True] * 10 + [False] * 20
        assert fill(gate, in_flight, b"ann") == 10, "they do not use up the rate of calls"
        await clock.advance(1)
        assert [task.done() for task in paced] == [True] * 20 + [False] * 10
        await clock.advance(60)
        assert all(task.done() for task in paced)
        paced = [asyncio.create_task(ticket.pace_watch()) for _ in range(30)]
        await settle()
        assert all(task.done() for task in paced), "it is the sole caller again"


async def test_rejections_of_impatient_callers_are_delayed() -> None:
    clock = SteppedClock()
    gate = Admission(clock, limits(max_calls=1_000, max_watches=1_000, calls_per_second=10.0))
    refusals = [asyncio.create_task(gate.delay_rejection(b"ann", 10)) for _ in range(30)]
    large = asyncio.create_task(gate.delay_rejection(b"ann", 2 << 20))
    other = asyncio.create_task(gate.delay_rejection(b"bob", 10))
    await settle()
    assert [task.done() for task in refusals] == [True] * 10 + [False] * 20
    assert large.done(), "a large request is not kept longer than necessary"
    assert other.done()
    assert gate.in_flight == 20
    refusals[-1].cancel()
    idle = asyncio.create_task(gate.wait_idle(clock.now + 10))
    await clock.advance(1.9)
    assert not idle.done()
    await clock.advance(0.1)
    assert idle.done()
    assert all(task.done() for task in refusals)
    await clock.advance(2)
    await asyncio.gather(*(gate.delay_rejection(b"ann", 10) for _ in range(10)))
    gate.draining = True
    await gate.delay_rejection(b"ann", 10)
    assert gate.in_flight == clock.pending == 0


async def test_only_some_rejections_are_delayed_at_a_time(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(admission_module, "MAX_DELAYED_REJECTIONS", 5)
    clock = SteppedClock()
    gate = Admission(clock, limits(max_calls=1_000, max_watches=1_000, calls_per_second=10.0))
    refusals = [asyncio.create_task(gate.delay_rejection(b"ann", 10)) for _ in range(30)]
    await settle()
    assert sum(not task.done() for task in refusals) == 5
    await clock.advance(2)


def test_only_large_requests_share_memory() -> None:
    gate = Admission(SteppedClock(), limits(max_calls=1_000, max_watches=1_000, large_requests_bytes=16 << 20))
    with ExitStack() as in_flight:
        assert fill(gate, in_flight, b"ann", size=3 << 20, watch=True) == 4, "three quarters of it"
        with pytest.raises(LimitReached, match="no memory for 2097152 bytes"):
            admit_as(gate, in_flight, b"ann", size=2 << 20)
        assert gate.in_flight == 4
        admit_as(gate, in_flight, b"ann", size=1 << 20)
        admit_as(gate, in_flight, b"bob", size=2 << 20)
    with ExitStack() as in_flight:
        assert fill(gate, in_flight, b"ann", size=3 << 20) == 4, "all memory is free again"


def test_calls_and_watches_have_separate_slots() -> None:
    gate = admission()
    with gate.admit(watch=False), gate.admit(watch=True):
        assert gate.in_flight == 2


@pytest.mark.parametrize("error", [ValueError, asyncio.CancelledError])
def test_an_error_frees_the_slot(error: type[BaseException]) -> None:
    gate = admission()
    with pytest.raises(error), gate.admit(watch=False):
        raise error
    assert gate.in_flight == 0


def test_a_drain_rejects_each_call_with_its_own_wait() -> None:
    gate = admission(max_calls=100)
    gate.draining = True
    waits = []
    for _ in range(50):
        with pytest.raises(Draining) as raised, gate.admit(watch=False):
            pass
        assert raised.value.retry_after is not None
        waits.append(raised.value.retry_after)
    assert all(1 <= wait <= 5 for wait in waits)
    assert len(set(waits)) > 25


async def test_wait_idle_returns_when_the_last_call_ends() -> None:
    clock = SteppedClock()
    gate = Admission(clock, limits(max_calls=2, max_watches=2))
    with gate.admit(watch=True):
        with gate.admit(watch=False):
            idle = asyncio.create_task(gate.wait_idle(clock.now + 10))
            await clock.advance(9)
        await clock.advance(0.5)
        assert not idle.done()
    await clock.advance(0)
    assert idle.result() is True


async def test_wait_idle_returns_at_its_limit() -> None:
    clock = SteppedClock()
    gate = Admission(clock, limits(max_calls=1, max_watches=1))
    with gate.admit(watch=True):
        idle = asyncio.create_task(gate.wait_idle(clock.now + 10))
        await clock.advance(9.9)
        assert not idle.done()
        await clock.advance(0.1)
        assert idle.result() is False


# End to end


class Held:
    """A response that is sent when `go` is set."""

    def __init__(self, reply: bytes) -> None:
        self.reply = reply
        self.go = asyncio.Event()

    async def __call__(self, connection: Connection) -> None:
        await self.go.wait()
        await connection.send(self.reply)


@asynccontextmanager
async def full(upstream: ScriptedUpstream) -> AsyncIterator[rpc.JobServiceAsyncStub]:
    """Run a gateway that serves one call and one watch at a time."""
    async with running(upstream.url, max_calls=1, max_watches=1) as gateway, stub(gateway) as jobs:
        yield jobs


def check_limit(failure: Failure) -> None:
    assert (failure.code, failure.reason) == (grpc.StatusCode.RESOURCE_EXHAUSTED, "LIMIT_REACHED")
    wait = failure.retry.retry_delay.ToMilliseconds()
    assert 1_000 <= wait <= 3_000
    assert failure.trailers["grpc-retry-pushback-ms"] == str(wait)


async def test_a_call_over_the_limit_is_rejected_immediately(upstream: ScriptedUpstream) -> None:
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
async def test_a_watch_over_the_limit_sends_nothing(upstream: ScriptedUpstream, first: Any, second: Any) -> None:
    upstream.on("POST", "/workspaces/1/entities/7/jobs/", answer(201, {"uid": 42}))
    upstream.script.append(RUNNING)
    async with full(upstream) as jobs:
        stream = await first(jobs)
        await next_event(stream)
        posts = len(upstream.requests("POST"))
        check_limit(await expect_error(next_event(await second(jobs))))
        assert len(upstream.requests("POST")) == posts
        # There is still a slot for a call.
        assert (await jobs.GetJob(GET_JOB, metadata=BEARER)).uid == 42
        stream.cancel()


BOB = (("authorization", "Bearer token-of-bob"),)


async def test_one_caller_at_its_limit_does_not_affect_another(upstream: ScriptedUpstream) -> None:
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


async def test_a_delayed_rejection_has_its_reason(upstream: ScriptedUpstream, monkeypatch: pytest.MonkeyPatch) -> None:
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


async def test_a_large_request_without_memory_is_not_sent(
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


async def test_a_submission_over_the_rate_keeps_its_request_id_free(upstream: ScriptedUpstream) -> None:
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
            # The server may not know yet that the previous call has ended.
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
async def test_every_end_of_a_call_frees_its_slot(upstream: ScriptedUpstream, end: Any) -> None:
    upstream.script.append(hang)
    async with full(upstream) as jobs:
        for _ in range(2):
            await end(jobs, upstream)
            upstream.script[0] = RUNNING
            await comes_in(jobs)
            upstream.script[0] = hang


async def test_a_call_during_a_drain_is_rejected(upstream: ScriptedUpstream) -> None:
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
