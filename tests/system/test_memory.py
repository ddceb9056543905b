"""Ended calls are freed immediately, because garbage collection runs too rarely to rely on it."""

from __future__ import annotations

import asyncio
import contextlib
import gc
import sys
from typing import TYPE_CHECKING, Any

import grpc
import pytest
from grpc import StatusCode
from jobgateway.v1 import job_service_pb2 as pb

from gateway.errors import UpstreamError
from gateway.rpc.call import Call
from gateway.rpc.codec.events import JobState
from gateway.rpc.multi_stream import MultiStream
from gateway.rpc.stream import EventStream
from gateway.rpc.stream_watch import StreamWatch
from gateway.watch import presence, recent
from gateway.watch.loop import PollLoop
from gateway.watch.watcher import Subscription, Watcher
from tests.support.gateways import BEARER, SEND, read_all, running, stub
from tests.support.upstream import RUNNING, ScriptedUpstream, answer, hang

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from jobgateway.v1.job_service_pb2_grpc import JobServiceAsyncStub

pytestmark = pytest.mark.slow

TRACKED = (
    *(Call, EventStream, JobState, MultiStream, PollLoop, StreamWatch, Subscription),
    *(UpstreamError, Watcher),
)
GONE, UNAVAILABLE = answer(404, {"detail": "gone"}), answer(503, {"detail": "no"})
DONE = answer(200, {"uid": 42, "status": "success", "result": "x" * 100_000})


@pytest.fixture
def left(monkeypatch: pytest.MonkeyPatch) -> Iterator[Callable[[], list[str]]]:
    """Return a function that lists the tracked objects since its creation. No results are kept for late watchers."""
    monkeypatch.setattr(recent, "KEEP_RESULT_SECONDS", 0.0)
    monkeypatch.setattr(recent, "UNWATCHED_SECONDS", 0.0)
    monkeypatch.setattr(presence, "UNWATCHED_SECONDS", 0.0)
    gc.collect()
    gc.disable()
    # Fixtures and results of other tests may hold some.
    before = set(map(id, tracked_objects()))
    yield lambda: sorted(type(each).__name__ for each in tracked_objects() if id(each) not in before)
    gc.enable()


def tracked_objects() -> list[object]:
    return [each for each in gc.get_objects() if isinstance(each, TRACKED)]


def watch(jobs: JobServiceAsyncStub, **options: Any) -> Any:
    return jobs.WatchJob(pb.WatchJobRequest(uid=42), metadata=BEARER, **options)


async def read_to_the_end(call: Any) -> StatusCode:
    with contextlib.suppress(grpc.aio.AioRpcError):
        await read_all(call)
    return await code_of(call)


async def watch_many(jobs: JobServiceAsyncStub, *requests: pb.WatchJobsRequest, **options: Any) -> Any:
    call: Any = jobs.WatchJobs(metadata=BEARER, **options)
    for request in requests or [pb.WatchJobsRequest(watch=pb.WatchJobRequest(uid=42))]:
        await call.write(request)
    return call


async def all_ends_come(jobs: JobServiceAsyncStub) -> StatusCode:
    call = await watch_many(jobs)
    await call.done_writing()
    return await read_to_the_end(call)


async def a_watch_is_left(jobs: JobServiceAsyncStub) -> StatusCode:
    call = await watch_many(jobs)
    await call.read()
    await call.write(pb.WatchJobsRequest(unwatch=42))
    await call.done_writing()
    return await read_to_the_end(call)


async def a_stream_of_many_is_left(jobs: JobServiceAsyncStub) -> StatusCode:
    call = await watch_many(jobs)
    await call.read()
    call.cancel()
    return StatusCode.CANCELLED


async def the_deadline_of_many_comes(jobs: JobServiceAsyncStub) -> StatusCode:
    return await read_to_the_end(await watch_many(jobs, timeout=0.2))


async def the_end_comes(jobs: JobServiceAsyncStub) -> StatusCode:
    return await read_to_the_end(watch(jobs))


async def a_run_ends(jobs: JobServiceAsyncStub) -> StatusCode:
    return await read_to_the_end(jobs.RunJob(pb.RunJobRequest(request=SEND), metadata=BEARER))


async def code_of(call: Any) -> StatusCode:
    code: StatusCode = await call.code()
    return code


async def a_get_ends(jobs: JobServiceAsyncStub) -> StatusCode:
    return await code_of(jobs.GetJob(pb.GetJobRequest(uid=42), metadata=BEARER))


async def a_cancellation_ends(jobs: JobServiceAsyncStub) -> StatusCode:
    return await code_of(jobs.CancelJob(pb.CancelJobRequest(uid=42), metadata=BEARER))


async def a_get_of_a_new_job_ends(jobs: JobServiceAsyncStub) -> StatusCode:
    await jobs.SendJob(SEND, metadata=BEARER)
    return await a_get_ends(jobs)


async def a_call_is_rejected(jobs: JobServiceAsyncStub) -> StatusCode:
    return await code_of(jobs.GetJob(pb.GetJobRequest(uid=42)))


async def a_wait_ends(jobs: JobServiceAsyncStub) -> StatusCode:
    return await code_of(jobs.WaitJob(pb.WaitJobRequest(uid=42), metadata=BEARER))


async def the_caller_leaves(jobs: JobServiceAsyncStub) -> StatusCode:
    call = watch(jobs)
    await call.read()
    call.cancel()
    return StatusCode.CANCELLED


async def the_deadline_comes(jobs: JobServiceAsyncStub) -> StatusCode:
    return await read_to_the_end(watch(jobs, timeout=0.2))


async def several_watch(jobs: JobServiceAsyncStub) -> StatusCode:
    codes = set(await asyncio.gather(*(read_to_the_end(watch(jobs)) for _ in range(3))))
    return codes.pop() if len(codes) == 1 else StatusCode.UNKNOWN


@pytest.mark.parametrize(
    ("script", "ending", "code"),
    [
        ([RUNNING, DONE], the_end_comes, StatusCode.OK),
        ([answer(201, {"uid": 42}), RUNNING, DONE], a_run_ends, StatusCode.OK),
        ([RUNNING, DONE], a_wait_ends, StatusCode.OK),
        ([DONE], a_get_ends, StatusCode.OK),
        ([GONE], a_get_ends, StatusCode.NOT_FOUND),
        ([GONE], a_cancellation_ends, StatusCode.NOT_FOUND),
        ([answer(400, {"detail": "no"}), RUNNING], a_cancellation_ends, StatusCode.INVALID_ARGUMENT),
        ([answer(201, {"uid": 42}), GONE], a_get_of_a_new_job_ends, StatusCode.UNAVAILABLE),
        ([], a_call_is_rejected, StatusCode.UNAUTHENTICATED),
        ([RUNNING] * 200, the_caller_leaves, StatusCode.CANCELLED),
        ([RUNNING] * 200, the_deadline_comes, StatusCode.DEADLINE_EXCEEDED),
        ([RUNNING, GONE], the_end_comes, StatusCode.NOT_FOUND),
        ([RUNNING, GONE], several_watch, StatusCode.NOT_FOUND),
        (
            [RUNNING, UNAVAILABLE, GONE],
            several_watch,
            StatusCode.NOT_FOUND,
        ),
        ([RUNNING, *[UNAVAILABLE] * 50], several_watch, StatusCode.UNAVAILABLE),
        ([answer(400, {"detail": "no"})], a_run_ends, StatusCode.INVALID_ARGUMENT),
        ([RUNNING, DONE], all_ends_come, StatusCode.OK),
        ([RUNNING, GONE], all_ends_come, StatusCode.OK),
        ([RUNNING] * 200, a_watch_is_left, StatusCode.OK),
        ([RUNNING] * 200, a_stream_of_many_is_left, StatusCode.CANCELLED),
        ([RUNNING] * 200, the_deadline_of_many_comes, StatusCode.DEADLINE_EXCEEDED),
    ],
)
async def test_ended_calls_are_freed_without_garbage_collection(
    upstream: ScriptedUpstream, left: Callable[[], list[str]], script: list[Any], ending: Any, code: StatusCode
) -> None:
    upstream.script.extend(script)
    async with running(upstream.url, poll_outage_seconds=3) as gateway, stub(gateway) as jobs:
        assert await ending(jobs) is code
        await gateway.wait_idle()
        # Cancelled tasks need some turns of the event loop to end.
        for _ in range(100):
            await asyncio.sleep(0)
        assert left() == []


async def test_a_drain_frees_the_watches_that_it_ends(
    upstream: ScriptedUpstream, left: Callable[[], list[str]]
) -> None:
    upstream.script.extend([RUNNING, hang])
    async with running(upstream.url) as gateway, stub(gateway) as jobs:
        calls = [watch(jobs) for _ in range(3)]
        for call in calls:
            await call.read()
        await gateway.stop(grace=0.3)
        for call in calls:
            assert await read_to_the_end(call) is StatusCode.UNAVAILABLE
    for _ in range(100):
        await asyncio.sleep(0)
    assert left() == []


@pytest.mark.parametrize("method", ["GetJob", "WatchJob", "WatchJobs"])
async def test_failed_calls_leave_no_cycle(
    upstream: ScriptedUpstream, left: Callable[[], list[str]], monkeypatch: pytest.MonkeyPatch, method: str
) -> None:
    monkeypatch.setattr(sys.modules[__name__], "TRACKED", grpc.aio.AbortError)
    request = iter([pb.WatchJobsRequest()]) if method == "WatchJobs" else getattr(pb, f"{method}Request")()
    async with running(upstream.url) as gateway, stub(gateway) as jobs:
        for _ in range(10):
            call = getattr(jobs, method)(request)
            assert await call.code() is StatusCode.UNAUTHENTICATED
        await gateway.wait_idle()
        for _ in range(100):
            await asyncio.sleep(0)
        # The server of grpc holds its last calls.
        assert len(left()) <= 3
