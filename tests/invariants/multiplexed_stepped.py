"""A run of streams of many jobs on a stepped clock, with the failures of `SteppedRun`."""

from __future__ import annotations

import asyncio
from functools import partial
from typing import TYPE_CHECKING, NamedTuple

from jobgateway.v1 import job_service_pb2 as pb

from gateway.auth.credential import Credential
from gateway.clock import sleep_until
from gateway.errors import GatewayError
from gateway.rpc.multi_stream import MultiStream
from gateway.rpc.status import mapping_for
from gateway.rpc.stream import StreamResources
from gateway.watch import WatchKey
from tests.invariants.multiplexed import Inbox, Stream
from tests.invariants.stepped import OUTGOING, WORKERS, SteppedRun
from tests.support.tasks import has_ended

if TYPE_CHECKING:
    from collections.abc import Iterable

    from gateway.errors import InternalError
    from gateway.rpc.call import Call
    from gateway.rpc.codec.events import JobState
    from gateway.rpc.many_messages import Requests
    from gateway.rpc.stream_watch import StreamWatch
    from gateway.watch import Group, Subscription
    from tests.invariants.history import Watch
    from tests.support.clock import SteppedClock

NO_JOB = 1_000_000


class StreamPipe:
    """The client side of a stream, and its call. Like flow control, it holds at most one event that is not read.

    `pace` is the time that the client takes for each event, in seconds.
    """

    def __init__(self, clock: SteppedClock, inbox: Inbox, pace: float) -> None:
        self.credential = Credential(inbox.stream.credential)
        self.ticket = self
        self.ids: dict[str, str] = {}
        self.facts: dict[str, object] = {}
        self.skipped = 0
        self.defects: list[InternalError] = []
        self.slots = 0
        self._clock = clock
        self._inbox = inbox
        self._pace = pace
        self._awake = asyncio.Event()
        self._awake.set()
        self._requests: asyncio.Queue[pb.WatchJobsRequest | None] = asyncio.Queue()

    async def pace_watch(self) -> None:
        pass

    def start_watch(self) -> None:
        self.slots += 1

    def end_watch(self) -> None:
        self.slots -= 1

    def log_defect(self, error: InternalError, uid: int) -> None:
        del uid
        self.defects.append(error)

    def request(self, request: pb.WatchJobsRequest | None) -> None:
        self._requests.put_nowait(request)

    async def next(self) -> pb.WatchJobsRequest | None:
        return await self._requests.get()

    async def write(self, event: bytes, *, last: bool = False) -> None:
        del last
        began = self._clock.stamp()
        await self._awake.wait()
        self._inbox.receive(pb.JobEvent.FromString(event), began)
        if self._pace:
            await sleep_until(self._clock, self._clock.now + self._pace)

    def sleep(self) -> None:
        if self._awake.is_set():
            self._awake.clear()
            now = self._clock.stamp()
            for spans in (self._inbox.stream.asleep, *(watch.asleep for watch in self._inbox.open.values())):
                spans.append((now, float("inf")))

    def wake(self) -> None:
        if not self._awake.is_set():
            self._awake.set()
            stream = self._inbox.stream
            for spans in (stream.asleep, *(watch.asleep for watch in stream.watches)):
                if spans and spans[-1][1] == float("inf"):
                    spans[-1] = (spans[-1][0], self._clock.stamp())

    @property
    def is_awake(self) -> bool:
        return self._awake.is_set()


class Entry(NamedTuple):
    """A stream that has not ended."""

    inbox: Inbox
    pipe: StreamPipe
    task: asyncio.Task[None]


class MultiplexedRun(SteppedRun):
    """One run from a seed. `streams` and `history` have its records."""

    def __init__(self, seed: int, *, paced: bool = False) -> None:
        super().__init__(seed)
        self.streams: list[Stream] = []
        self._paced = paced
        self._entries: list[Entry] = []

    def _open(self, number: int, watch: Watch, token: str, content: bytes) -> None:
        del number
        # Its stream has the heartbeats.
        heartbeat, watch.heartbeat = watch.heartbeat, float("inf")
        entry = self._entry_for(watch, heartbeat)
        entry.inbox.start(watch, content)
        if not entry.pipe.is_awake:
            watch.asleep.append((self.clock.stamp(), float("inf")))
        request = pb.WatchJobRequest(
            uid=watch.uid,
            content_format=self.dice.choice([pb.CONTENT_FORMAT_JSON, pb.CONTENT_FORMAT_JSON_CHUNKS]),
            resume_token=token,
        )
        request.heartbeat_interval.seconds = int(heartbeat)
        entry.pipe.request(pb.WatchJobsRequest(watch=request))
        self._maybe_refused(entry, request, token)
        if self.dice.random() < 0.05:
            entry.inbox.stream.half_closed = True
            entry.pipe.request(None)

    def _entry_for(self, watch: Watch, heartbeat: float) -> Entry:
        self._entries = [entry for entry in self._entries if not has_ended(entry.task)]
        fitting = [
            entry
            for entry in self._entries
            if entry.inbox.stream.credential == watch.credential
            and not entry.inbox.stream.half_closed
            and watch.uid not in entry.inbox.used
        ]
        if fitting and self.dice.random() < 0.9:
            return self.dice.choice(fitting)
        name = f"stream {len(self.streams)} of {watch.credential}"
        stream = Stream(name, watch.credential, self.clock.stamp(), heartbeat, self._paced)
        self.streams.append(stream)
        inbox = Inbox(stream)
        pipe = StreamPipe(self.clock, inbox, self.dice.choice([0.3, 2.0]) if self._paced else 0.0)
        entry = Entry(inbox, pipe, asyncio.create_task(self._serve(inbox, pipe)))
        self._entries.append(entry)
        return entry

    def _maybe_refused(self, entry: Entry, request: pb.WatchJobRequest, token: str) -> None:
        stream = entry.inbox.stream
        if self.dice.random() < 0.1:
            # Another request for the same job. Its watch may have ended before only if the job has a recent result.
            again = pb.WatchJobRequest(uid=NO_JOB + len(stream.expected), resume_token=token or "nonsense")
            stream.expected[again.uid, "REQUEST_INVALID"] += 1
            stream.requests += 1
            entry.pipe.request(pb.WatchJobsRequest(watch=again))

    async def _serve(self, inbox: Inbox, pipe: StreamPipe) -> None:
        call: Call = pipe  # type: ignore[assignment] # a stream uses nothing else of it
        requests: Requests[pb.WatchJobsRequest] = pipe  # type: ignore[assignment] # likewise
        resources = StreamResources(self.clock, OUTGOING, WORKERS, self.metrics)
        hub, watched = self._hub, inbox.open

        def subscribe(watch: StreamWatch, group: Group) -> Subscription[JobState]:
            record = watched[watch.uid]
            record.joined = self.clock.stamp()
            key = WatchKey(record.credential.encode(), watch.uid)
            seen = watch.has_seen if watch.has_begun else None
            fetch = partial(self._fetch, record)
            joined = hub.subscribe(key, fetch, seen, watch.wake, group=group, exists=watch.has_begun)
            record.loop = self._loops.setdefault(joined.loop, record.name)
            records[joined] = record
            return joined

        def leave(subscriptions: Iterable[Subscription[JobState]]) -> None:
            for subscription in subscriptions:
                record = records.pop(subscription)
                record.ended = min(record.ended, self.clock.stamp())
                hub.leave(subscription)

        records: dict[Subscription[JobState], Watch] = {}
        status = ""
        try:
            await MultiStream(call, requests, resources, subscribe, leave).run()
            status = "OK"
        except GatewayError as error:
            status = mapping_for(error).reason
        except asyncio.CancelledError:
            status = inbox.stream.status or "LEFT"
            raise
        finally:
            inbox.end(status or "DEFECT", self.clock.stamp())
            assert not records, "a loop was not left"

    def _leave(self) -> None:
        if entries := [entry for entry in self._entries if not entry.task.done() and entry.inbox.open]:
            entry = self.dice.choice(entries)
            if self.dice.random() < 0.2:
                entry.task.cancel()
                return
            uid = self.dice.choice(sorted(entry.inbox.open))
            if not entry.inbox.stream.half_closed:
                entry.inbox.leave(uid)
                entry.pipe.request(pb.WatchJobsRequest(unwatch=uid))

    def _sleep(self) -> None:
        if self._entries:
            self.dice.choice(self._entries).pipe.sleep()

    def _wake(self) -> None:
        if self._entries:
            self.dice.choice(self._entries).pipe.wake()

    def _wake_all(self) -> None:
        for entry in self._entries:
            entry.pipe.wake()

    def _kill(self) -> None:
        for entry in self._entries:
            if not entry.task.done():
                entry.inbox.stream.status = "KILLED"
                entry.task.cancel()

    async def finish(self) -> None:
        for entry in self._entries:
            if not entry.inbox.stream.half_closed:
                entry.inbox.stream.half_closed = True
                entry.pipe.request(None)
        await super().finish()

    def _check_all_ended(self) -> None:
        for entry in self._entries:
            assert has_ended(entry.task), f"{entry.inbox.stream.name} never ended"
            assert not entry.pipe.defects
