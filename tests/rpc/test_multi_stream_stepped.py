"""Streams of many jobs on a stepped clock, with each read and each write in the hands of the test."""

from __future__ import annotations

import asyncio
import gc
import threading
import weakref
from contextlib import suppress
from typing import TYPE_CHECKING, Any, cast

import pytest
from jobgateway.v1 import job_service_pb2 as pb

from gateway.auth.credential import Credential
from gateway.errors import UpstreamConnectionLost
from gateway.limits.fair_budget import FairBudget
from gateway.limits.response_memory import ResponseMemory
from gateway.models import Job, JobError, JobStatus, Progress
from gateway.rpc.codec.events import JobState
from gateway.rpc.multi_stream import MultiStream
from gateway.rpc.stream import StreamResources
from gateway.telemetry.metrics import Metrics
from gateway.threads import WorkerPool
from gateway.watch import Hub, WatchKey
from tests.support.clock import SteppedClock, settle
from tests.support.polling import make_hub

if TYPE_CHECKING:
    from collections.abc import Callable

    from gateway.rpc.stream_watch import StreamWatch
    from gateway.watch import Group, Subscription


BUDGET = 1 << 30


def running(uid: int, percentage: float) -> JobState:
    return JobState(Job(uid, JobStatus.RUNNING, "running", False, 1.0, progress=Progress(percentage=percentage)))


def failing(uid: int) -> JobState:
    """Return a state that is encoded in a thread, and that another one follows."""
    error = JobError("e", "m", stack_trace=b'"%b"' % (b"x" * 10_000))
    return JobState(Job(uid, JobStatus.RUNNING, "retrying", False, 1.0, error=error))


def success(uid: int) -> JobState:
    return JobState(Job(uid, JobStatus.SUCCESS, "success", True, 1.0))


class Client:
    """The client of a stream, and the call that it makes. Each event waits until the client reads it."""

    def __init__(self) -> None:
        self.credential = Credential("token")
        self.ticket = self
        self.ids: dict[str, str] = {}
        self.facts: dict[str, Any] = {}
        self.skipped = 0
        self._requests: asyncio.Queue[pb.WatchJobsRequest | None] = asyncio.Queue()
        self._written: asyncio.Queue[bytes] = asyncio.Queue()
        self._room = asyncio.Semaphore(0)
        self.paced = asyncio.Event()
        self.paced.set()

    async def pace_watch(self) -> None:
        await self.paced.wait()

    def start_watch(self) -> None:
        pass

    def end_watch(self) -> None:
        pass

    def watch(self, *uids: int, token: str = "") -> None:
        for uid in uids:
            request = pb.WatchJobRequest(uid=uid, resume_token=token)
            self._requests.put_nowait(pb.WatchJobsRequest(watch=request))

    def unwatch(self, uid: int) -> None:
        self._requests.put_nowait(pb.WatchJobsRequest(unwatch=uid))

    def half_close(self) -> None:
        self._requests.put_nowait(None)

    async def next(self) -> pb.WatchJobsRequest | None:
        return await self._requests.get()

    async def write(self, event: bytes, *, last: bool = False) -> None:
        del last
        self._written.put_nowait(event)
        await self._room.acquire()

    async def read(self) -> pb.JobEvent:
        event = pb.JobEvent.FromString(await self._written.get())
        self._room.release()
        return event


class Bench:
    """A stream of one client, and the reads of its jobs."""

    def __init__(self) -> None:
        self.clock = SteppedClock()
        self.client = Client()
        self.hub = cast("Hub[JobState]", make_hub(self.clock, slots=1_000))
        self.workers = WorkerPool("responses", 1)
        self._reads: dict[int, asyncio.Queue[JobState | Exception]] = {}
        self.budget = FairBudget(BUDGET)
        memory = ResponseMemory(self.budget, BUDGET)
        resources = StreamResources(self.clock, memory, self.workers, Metrics())
        call: Any = self.client
        self.stream = MultiStream(call, call, resources, self._subscribe, self.hub.leave_all)

    def read(self, uid: int, state: JobState | Exception) -> None:
        """Respond to the next read of a job."""
        self._reads.setdefault(uid, asyncio.Queue()).put_nowait(state)

    def _subscribe(self, watch: StreamWatch, group: Group) -> Subscription[JobState]:
        reads = self._reads.setdefault(watch.uid, asyncio.Queue())

        async def fetch(_: object) -> JobState:
            state = await reads.get()
            if isinstance(state, Exception):
                raise state
            return state

        key = WatchKey(b"owner", watch.uid)
        return self.hub.subscribe(key, fetch, None, watch.wake, group=group)


@pytest.fixture
async def bench() -> Bench:
    return Bench()


async def until(client: Client, wanted: Callable[[pb.JobEvent], bool]) -> list[pb.JobEvent]:
    events: list[pb.JobEvent] = []
    while not events or not wanted(events[-1]):
        events.append(await client.read())
    return events


async def assert_patient(bench: Bench, task: asyncio.Task[None]) -> None:
    """Check that a stream goes on whose client does not read, while others wait for memory."""
    await bench.budget.acquire(b"ann", BUDGET)
    others = asyncio.create_task(bench.budget.acquire(b"bob", BUDGET))
    await bench.clock.advance(1_000)
    assert not task.done()
    for each in (task, others):
        each.cancel()
    await asyncio.gather(task, others, return_exceptions=True)


async def test_a_job_has_no_turn_during_its_large_state(bench: Bench) -> None:
    bench.client.watch(1, 2)
    bench.read(1, running(1, 10))
    task = asyncio.create_task(bench.stream.run())
    await settle()
    encoding = threading.Event()
    encoded = asyncio.create_task(bench.workers.run(encoding.wait))
    # They wait for their turns: a large state of job 1 and the failure after it, and then a state of job 2.
    bench.read(1, failing(1))
    await bench.clock.advance(2)
    bench.read(1, UpstreamConnectionLost("lost"))
    await settle()
    bench.read(2, running(2, 10))
    await settle()
    events = [await bench.client.read()]
    await settle()
    # While the large state is encoded, job 1 ends.
    bench.read(1, success(1))
    await bench.clock.advance(5)
    events += [await bench.client.read(), await bench.client.read()]
    await settle()
    encoding.set()
    await encoded
    events += await until(bench.client, lambda event: event.uid == 1 and event.job.done)
    order = [event.job.status_text or event.WhichOneof("payload") for event in events if event.uid == 1]
    assert order == ["running", "retrying", "success"]
    task.cancel()
    await asyncio.gather(task, return_exceptions=True)


async def test_a_small_state_after_a_large_one_waits_for_its_reader(bench: Bench) -> None:
    bench.client.watch(1)
    bench.read(1, failing(1))
    task = asyncio.create_task(bench.stream.run())
    await until(bench.client, lambda event: event.job.status_text == "retrying")
    for percentage in (10, 20):
        bench.read(1, running(1, percentage))
        await bench.clock.advance(2)
    await assert_patient(bench, task)


@pytest.mark.parametrize("known", [False, True], ids=["read", "known by its token"])
async def test_a_large_state_that_was_read_is_not_held(bench: Bench, known: bool) -> None:
    bench.client.watch(1)
    bench.read(1, failing(1))
    task = asyncio.create_task(bench.stream.run())
    events = await until(bench.client, lambda event: event.synced.watch_requests == 1)
    if known:
        bench.client.unwatch(1)
        bench.client.watch(1, token=next(event.resume_token for event in events if event.uid == 1))
        bench.read(1, failing(1))
        await until(bench.client, lambda event: event.synced.watch_requests == 2)
    bench.client.watch(2)
    bench.read(2, running(2, 10))
    await settle()
    await assert_patient(bench, task)


async def test_requests_over_the_rate_delay_only_requests(bench: Bench) -> None:
    bench.client.watch(1)
    bench.read(1, running(1, 10))
    task = asyncio.create_task(bench.stream.run())
    await until(bench.client, lambda event: event.synced.watch_requests == 1)
    bench.client.paced.clear()
    bench.client.watch(2)
    bench.read(2, running(2, 10))
    bench.read(1, running(1, 20))
    await bench.clock.advance(2)
    assert (await bench.client.read()).job.progress.percentage == 20
    assert bench.hub.watcher_count == 1
    bench.client.paced.set()
    assert (await bench.client.read()).uid == 2
    # The stream may also end meanwhile.
    bench.client.paced.clear()
    bench.client.watch(3)
    await settle()
    task.cancel()
    await asyncio.gather(task, return_exceptions=True)
    assert bench.hub.watcher_count == 0


async def test_an_ended_stream_is_freed_immediately(bench: Bench) -> None:
    uids = range(1, 300)
    bench.client.watch(*uids)
    stream = weakref.ref(bench.stream)

    async def handle() -> None:
        # As grpc.aio does.
        with suppress(asyncio.CancelledError):
            await bench.stream.run()
        del bench.stream

    task = asyncio.create_task(handle())
    await settle()
    gc.collect()
    gc.disable()
    try:
        task.cancel()
        # The loops are left in several steps, and meanwhile jobs change.
        for uid in uids:
            bench.read(uid, running(uid, 10))
        await settle()
        assert (task.done(), bench.hub.watcher_count) == (True, 0)
        assert stream() is None
    finally:
        gc.enable()
