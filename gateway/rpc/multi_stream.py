"""The stream of many jobs: one task writes the news of all its watches in turn."""

from __future__ import annotations

import asyncio
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING

from gateway.clock import RearmableTimer
from gateway.errors import (
    AlreadyWatched,
    GatewayError,
    InternalError,
    LimitReached,
    RequestInvalid,
    SlowConsumer,
)
from gateway.limits.rate_limiter import limit_reached
from gateway.rpc.codec.content import read_format
from gateway.rpc.codec.events import STREAM_HEARTBEAT, failure_event, synced_event
from gateway.rpc.codec.requests import DEFAULT_HEARTBEAT_SECONDS, read_heartbeat_interval, read_uid
from gateway.rpc.large_states import LargeStates, Part
from gateway.rpc.reader_guard import ReaderGuard
from gateway.rpc.status import to_watch_failure
from gateway.rpc.stream import HEARTBEAT_FRACTION, read_resume_point
from gateway.rpc.stream_watch import StreamWatch, Turn
from gateway.rpc.turns import Turns
from gateway.rpc.watch_record import UNWATCHED, WatchRecord, log_rejected, log_stream_end
from gateway.watch import StateChange

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable

    from jobgateway.v1 import job_service_pb2 as pb

    from gateway.rpc.call import Call
    from gateway.rpc.codec.events import JobState
    from gateway.rpc.many_messages import Requests
    from gateway.rpc.stream import StreamResources
    from gateway.watch import Group, Subscription

MAX_WATCHES = 10_000
# Requests are not read while so many of their failures wait to be written, so that these take bounded memory.
MAX_REFUSALS = 100
# Turns without an event, after which other tasks run.
MAX_EMPTY_TURNS = 100


# What `MultiStream._next` returns so that other tasks run.
EMPTY = Turn(b"")


@dataclass(frozen=True, eq=False, slots=True)
class _Refusal:
    """A `WatchFailure` that waits for its turn.

    Attributes:
        uid: The job.
        failure: The failure.
        token: The resume token of the client.
        of_watch: Whether a request for a watch has caught up with it.
        goes_on: The watch of this job that goes on. By the turn, it may have a later token.
    """

    uid: int
    failure: pb.WatchFailure
    token: str
    of_watch: bool
    goes_on: StreamWatch | None

    def event(self) -> bytes:
        """Encode it."""
        return failure_event(self.uid, self.failure, self.token if self.goes_on is None else self.goes_on.token)


class MultiStream:
    """The watches of one client on one stream.

    A watch that has news is in `Turns`, at most once, and its event is made when its turn comes. There is no task or
    timer per watch: one task reads requests, and the task of the call writes.

    Args:
        call: The call to write to.
        requests: The requests of the client.
        resources: Shared with other streams.
        subscribe: Joins the poll loop of a job, for the given group.
        leave: Leaves poll loops.
    """

    def __init__(
        self,
        call: Call,
        requests: Requests[pb.WatchJobsRequest],
        resources: StreamResources,
        subscribe: Callable[[StreamWatch, Group], Subscription[JobState]],
        leave: Callable[[Iterable[Subscription[JobState]]], None],
    ) -> None:
        self._call = call
        self._requests = requests
        self._clock, memory, workers, self._observer = resources
        self._subscribe = subscribe
        self._leave = leave
        owner = call.credential.poll_key
        self._watches: dict[int, StreamWatch] = {}
        self._turns: Turns[StreamWatch | _Refusal, Part] = Turns()
        self._large = LargeStates(memory, owner, workers, self._offer, self._fail)
        self._holding: set[StreamWatch] = set()
        self._guard = ReaderGuard(self._clock, partial(memory.contended, owner), self._interrupt)
        self._slow = False
        self._task: asyncio.Task[None] | None = None
        self._error: BaseException | None = None
        self._half_closed = False
        # Requests for watches: all, those that `synced` has told of, and those whose watches have not caught up.
        self._requested = self._told = self._behind = 0
        self._refusals = 0
        self._room = asyncio.Event()
        self._room.set()
        self._silence = DEFAULT_HEARTBEAT_SECONDS * HEARTBEAT_FRACTION
        self._last_write = self._clock.monotonic()
        self._waiting: asyncio.Future[None] | None = None
        self._timer = RearmableTimer(self._clock, self._wake)

    async def run(self) -> None:
        """Serve the watches until the client has half-closed and all have ended.

        Raises:
            Draining: The process drains.
            SlowConsumer: The client does not read, and others wait for the memory of its results.
        """
        self._call.facts["watches"] = 0
        self._task = asyncio.current_task()
        reading = asyncio.get_running_loop().create_task(self._read_requests())
        reading.add_done_callback(self._reading_ended)
        try:
            await self._write_turns()
        except asyncio.CancelledError:
            if self._slow and self._task is not None and not self._task.uncancel():
                raise SlowConsumer(
                    "the stream was read at less than 1 MiB per second, while others waited for the memory of its "
                    "results; watch the jobs again with their last resume_tokens, and read on"
                ) from None
            raise
        finally:
            reading.cancel()
            self._task = self._error = None
            self._close()

    def end(self, error: BaseException) -> None:
        """Let `run` raise `error` before it writes another event."""
        # After the end of the stream, the traceback of an error would keep the stream in memory.
        if self._task is not None:
            self._error = error
            self._wake()

    def _interrupt(self) -> None:
        self._slow = True
        if self._task is not None:
            self._task.cancel()

    def _close(self) -> None:
        self._guard.close()
        self._timer.close()
        self._large.close()
        self._turns = Turns()
        self._holding.clear()
        left = [(watch.record, watch.subscription) for watch in self._watches.values()]
        if left:
            self._call.facts["watches_open"] = len(left)
        for watch in self._watches.values():
            # It would otherwise get a turn if its job changes before its loop is left.
            watch.subscription = None
        self._watches.clear()
        log_stream_end([record for record, _ in left])
        self._leave(subscription for _, subscription in left if subscription is not None)

    # Requests: read by a task of its own.

    async def _read_requests(self) -> None:
        while True:
            try:
                request = await self._requests.next()
            except RequestInvalid as error:
                self._refuse(0, error)
            else:
                if request is None:
                    break
                if request.HasField("watch"):
                    await self._call.ticket.pace_watch()
                self._follow(request)
            await self._room.wait()
        self._half_closed = True
        self._wake()

    def _reading_ended(self, task: asyncio.Task[None]) -> None:
        if not task.cancelled() and (error := task.exception()) is not None:
            self.end(error)

    def _follow(self, request: pb.WatchJobsRequest) -> None:
        match request.WhichOneof("action"):
            case "watch":
                self._requested += 1
                self._behind += 1
                self._start_or_refuse(request.watch)
            case "unwatch":
                watch = self._watches.get(request.unwatch)
                if watch is not None:
                    watch.record.end(UNWATCHED)
                    self._end(watch)
                    self._wake()
            case _:
                self._refuse(0, RequestInvalid("action", "must be set to watch or unwatch"))

    def _start_or_refuse(self, request: pb.WatchJobRequest) -> None:
        try:
            self._start(request)
        except AlreadyWatched as error:
            self._reject(request, error, goes_on=self._watches[request.uid])
        except LimitReached as error:
            self._reject(request, error, request.resume_token)
        except RequestInvalid as error:
            self._reject(request, error)

    def _reject(
        self, request: pb.WatchJobRequest, error: GatewayError, token: str = "", goes_on: StreamWatch | None = None
    ) -> None:
        self._count("watches_rejected")
        log_rejected(request.uid, error, self._call)
        self._refuse(request.uid, error, token, of_watch=True, goes_on=goes_on)

    def _count(self, fact: str) -> None:
        self._call.facts[fact] = self._call.facts.get(fact, 0) + 1

    def _start(self, request: pb.WatchJobRequest) -> None:
        if self._requested == 1:
            self._silence = read_heartbeat_interval(request) * HEARTBEAT_FRACTION
        content_format = read_format(request.content_format, streaming=True)
        uid = read_uid(request.uid)
        if uid in self._watches:
            raise AlreadyWatched("uid", f"job {uid} is being watched on this stream; read the events of that watch")
        point = read_resume_point(request.resume_token, uid)
        if len(self._watches) >= MAX_WATCHES:
            raise limit_reached(f"this stream has {MAX_WATCHES} watches, and may have no more; use another stream")
        self._call.ticket.start_watch()
        self._count("watches")
        record = WatchRecord(uid, self._call, self._clock)
        watch = self._watches[uid] = StreamWatch(uid, content_format, point, request.resume_token, self._ready, record)
        watch.subscription = self._subscribe(watch, self)
        # A loop that runs already may have a state.
        watch.wake()

    def _refuse(
        self,
        uid: int,
        error: GatewayError,
        token: str = "",
        *,
        of_watch: bool = False,
        goes_on: StreamWatch | None = None,
    ) -> None:
        self._refusals += 1
        if self._refusals >= MAX_REFUSALS:
            self._room.clear()
        self._turns.add(_Refusal(uid, to_watch_failure(error, uid), token, of_watch, goes_on))
        self._wake()

    # Turns: written by the task of the call.

    def _ready(self, watch: StreamWatch) -> None:
        """Give a watch a turn, because its job may have an event."""
        if watch.awaits_large_state:
            self._holding.add(watch)
            self._guard.hold(holds=True)
        elif watch in self._holding and not watch.large:
            self._release(watch)
        # A large state comes to its end first.
        if not watch.large:
            self._turns.add(watch)
            self._wake()

    def _offer(self, part: Part) -> None:
        self._turns.offer(part)
        self._wake()

    def _wake(self) -> None:
        if self._waiting is not None and not self._waiting.done():
            self._waiting.set_result(None)

    async def _write_turns(self) -> None:
        while True:
            if self._error is not None:
                raise self._error
            turn = self._next()
            if turn is EMPTY:
                await asyncio.sleep(0)
            elif turn is not None:
                await self._write(turn)
            elif self._half_closed and not self._watches:
                return
            else:
                await self._wait()

    async def _wait(self) -> None:
        """Wait until something may be ready, or send a heartbeat if nothing is in time."""
        due = self._last_write + self._silence
        if self._clock.monotonic() >= due:
            await self._write(Turn(STREAM_HEARTBEAT))
            return
        self._timer.set(due)
        self._waiting = asyncio.get_running_loop().create_future()
        await self._waiting

    async def _write(self, turn: Turn) -> None:
        last = self._half_closed and not self._watches and not self._turns and self._told == self._requested
        if turn.change is not None:
            self._call.skipped += turn.change.skipped
        self._guard.begin_write(self._clock.monotonic())
        try:
            await self._call.write(turn.event, last=last)
        finally:
            now = self._last_write = self._clock.monotonic()
            self._guard.end_write(now, len(turn.event))
            if turn.memory is not None:
                turn.memory.release()
        if turn.change is not None:
            self._observer.delivered(now - turn.since, turn.change.skipped)

    def _next(self) -> Turn | None:
        """Return the next event, None if there is none, or `EMPTY` after many turns without an event."""
        for _ in range(MAX_EMPTY_TURNS):
            if not self._behind and self._told < self._requested:
                self._told = self._requested
                return Turn(synced_event(self._requested))
            item = self._turns.next()
            if item is not None:
                turn = self._take_refusal(item) if isinstance(item, _Refusal) else self._take(item)
            else:
                part = self._turns.take_part()
                if part is None:
                    return None
                turn = self._take_part(part)
            if turn is not None:
                return turn
        return EMPTY

    def _take_refusal(self, refusal: _Refusal) -> Turn:
        self._refusals -= 1
        self._behind -= refusal.of_watch
        self._room.set()
        return Turn(refusal.event())

    def _take(self, watch: StreamWatch) -> Turn | None:
        try:
            taken = watch.take()
        except GatewayError as error:
            self._fail(watch, error)
            return None
        except Exception as error:  # noqa: BLE001 - the other jobs of the stream go on
            defect = InternalError("an exception that the gateway does not expect")
            defect.__cause__ = error
            self._fail(watch, defect)
            return None
        if isinstance(taken, StateChange):
            watch.large = True
            self._large.add(watch, taken)
            return None
        # If there is no event, the client knew the large state.
        self._release(watch)
        if watch.subscription is not None and watch.subscription.has_begun:
            self._catch_up(watch)
        if taken is not None and taken.change is not None and taken.change.last:
            self._end_with(watch, taken.change)
        return taken

    def _take_part(self, part: Part) -> Turn | None:
        part.take()
        watch, turn = part.watch, part.turn
        if watch.subscription is None:
            # Ended by the client after the part was made.
            if part.memory is not None:
                part.memory.release()
            return None
        watch.written(turn)
        if turn.change is not None:
            watch.large = False
            self._catch_up(watch)
            if turn.change.last:
                self._end_with(watch, turn.change)
            else:
                self._release(watch)
                self._ready(watch)
        return turn._replace(memory=part.memory)

    def _end_with(self, watch: StreamWatch, change: StateChange[JobState]) -> None:
        """End a watch whose job has ended."""
        watch.record.end(change.state.job.status.name)
        self._end(watch)

    def _catch_up(self, watch: StreamWatch) -> None:
        if not watch.caught_up:
            watch.caught_up = True
            self._behind -= 1

    def _fail(self, watch: StreamWatch, error: GatewayError) -> None:
        """End a watch with an error."""
        if watch.subscription is None:
            return
        if isinstance(error, InternalError):
            self._call.log_defect(error, watch.uid)
        watch.record.fail(error)
        # The traceback holds the loop or this stream.
        error.__traceback__ = None
        first = not watch.caught_up
        watch.caught_up = True
        self._end(watch)
        self._refuse(watch.uid, error, watch.token, of_watch=first)

    def _end(self, watch: StreamWatch) -> None:
        """End a watch: leave its poll loop, and give up its slot."""
        subscription, watch.subscription = watch.subscription, None
        del self._watches[watch.uid]
        self._turns.remove(watch)
        self._large.remove(watch)
        self._release(watch)
        self._catch_up(watch)
        self._call.ticket.end_watch()
        if subscription is not None:
            self._leave((subscription,))

    def _release(self, watch: StreamWatch) -> None:
        self._holding.discard(watch)
        if not self._holding:
            self._guard.hold(holds=False)
