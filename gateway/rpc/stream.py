"""One caller's stream: writes what the hub tells as events, each with its resume token."""

from __future__ import annotations

import asyncio
from functools import partial
from typing import TYPE_CHECKING, Protocol, TypeVar

from gateway.clock import AutoResetEvent, Timeout
from gateway.errors import RequestInvalid, SlowConsumer
from gateway.rpc.codec.events import (
    CHUNK_BYTES,
    chunk_events,
    heartbeat_event,
    job_event,
    join_buffers,
    resume_offset,
    size_of,
)
from gateway.rpc.codec.resume_token import ResumePoint, read_token, write_token
from gateway.rpc.status import mapping_for
from gateway.watch import NoChange

if TYPE_CHECKING:
    from collections.abc import Coroutine

    from jobgateway.v1 import job_service_pb2 as pb

    from gateway.clock import Clock
    from gateway.limits.fair_budget import Reservation
    from gateway.limits.response_memory import ResponseMemory
    from gateway.models import Result
    from gateway.rpc.call import Call
    from gateway.rpc.codec.events import Buffers, JobState
    from gateway.watch import Watcher

T = TypeVar("T")

# A heartbeat is due a little before its interval is over, so that it arrives within it.
HEARTBEAT_PART = 0.9
# What stands in a token for the last state seen where none was.
NO_DIGEST = bytes(16)
# How long a result may wait to be taken while others wait for the memory that it holds: so long at first, and then for
# as long as its bytes take at this rate; and nothing is cut off sooner than this after it was offered.
SLOW_CONSUMER_GRACE_SECONDS = 10.0
MIN_BYTES_PER_SECOND = 1 << 20
# Of one message nobody sees how much has gone, and it cannot be taken up in its middle: who is slow asks for chunks.
MIN_MESSAGE_BYTES_PER_SECOND = 32 << 20
MIN_SLOW_CONSUMER_GRACE_SECONDS = 1.0


def read_resume_point(token: str, uid: int) -> ResumePoint | None:
    """Where a watch of job `uid` is taken up: None without a token, or with one of another version.

    Raises `RequestInvalid` for what is no token, or another job's.
    """
    if not token:
        return None
    try:
        point = read_token(token)
    except ValueError as error:
        raise RequestInvalid("resume_token", f"{error}; take the token of the last event as it came") from error
    if point is not None and point.uid != uid:
        raise RequestInvalid("resume_token", f"it belongs to job {point.uid}, not to job {uid}")
    return point


class DeliveryObserver(Protocol):
    """Is told of each state that has gone out; must be quick, and must not raise."""

    def delivered(self, seconds: float, skipped: int) -> None:
        """A state has gone out `seconds` after it was observed; `skipped` before it have not."""


class EventStream:
    """The events of one caller. `heartbeat` is the longest silence between two of them, in seconds.

    Large results and messages are `owner`'s in `response_memory`.
    """

    def __init__(
        self,
        call: Call,
        uid: int,
        content_format: pb.ContentFormat.ValueType,
        heartbeat: float,
        clock: Clock,
        response_memory: ResponseMemory,
        owner: bytes,
        observer: DeliveryObserver,
    ) -> None:
        self._response_memory = response_memory
        self._owner = owner
        self._observer = observer
        self.ended = False
        # 0 until a submission has given it.
        self.uid = uid
        self._call = call
        self._format = content_format
        self._silence = heartbeat * HEARTBEAT_PART
        self._clock = clock
        self._token = ""
        self._digest = NO_DIGEST
        self._point: ResumePoint | None = None
        self._last_write = clock.monotonic()

    def resume(self, point: ResumePoint | None, token: str) -> None:
        """Takes up an earlier stream at `point`, which `token` holds."""
        if point is not None:
            self._point = point
            self._digest = point.digest
            self._token = token

    @property
    def has_begun(self) -> bool:
        """Whether the caller has seen a state, here or before it resumed."""
        return self._digest != NO_DIGEST

    def has_seen(self, state: JobState) -> bool:
        """Whether the caller's last state was this one."""
        return state.digest == self._digest

    async def run_with_heartbeats(self, task: asyncio.Task[T], state: JobState | None = None) -> T:
        """What a task gives, with heartbeats until then; `state` is the last one that was read."""
        ended = AutoResetEvent(self._clock)
        task.add_done_callback(lambda _: ended.set())
        while not task.done():
            due = self._last_write + self._silence
            await ended.wait(due)
            if not task.done() and self._clock.monotonic() >= due:
                await self._write(heartbeat_event(self.uid, NoChange(None, 0, None), state, self._token, ""))
        return task.result()

    async def _run_or_cancel(self, task: asyncio.Task[T], state: JobState) -> T:
        try:
            return await self.run_with_heartbeats(task, state)
        finally:
            task.cancel()

    async def begin(self, state: JobState) -> None:
        """Sends the state that a submission gave."""
        await self._send(state, 0, last=state.job.done)

    async def follow(self, watcher: Watcher[JobState]) -> None:
        """Sends what the watcher is given, until the last state is out. Raises what ended the watch."""
        while not self.ended:
            update = await watcher.next(self._last_write + self._silence)
            if isinstance(update, NoChange):
                failure = "" if update.last_failure is None else mapping_for(update.last_failure).reason
                await self._write(heartbeat_event(self.uid, update, watcher.latest, self._token, failure))
            else:
                since = watcher.since
                await self._send(update.state, update.skipped, last=update.last)
                self._observer.delivered(self._clock.monotonic() - since, update.skipped)

    async def _send(self, state: JobState, skipped: int, *, last: bool) -> None:
        encoding = state.encode(self._format, streaming=True)
        encoded = await (self._run_or_cancel(_task(encoding), state) if state.is_large else encoding)
        token = state.token
        if encoded.chunked and state.job.result is not None:
            token = await self._send_chunks(state, state.job.result)
        self._token = token
        self._digest = state.digest
        if state.is_large:
            await self._send_large(job_event(self.uid, encoded, token, skipped), state, last=last)
        elif encoded.chunked:
            await self._write(b"".join(job_event(self.uid, encoded, token, skipped)), last=last)
        else:
            await self._write(state.event(self._format, encoded, skipped), last=last)
        self.ended = last

    async def _send_chunks(self, state: JobState, result: Result) -> str:
        start = resume_offset(self._point, result)
        began = self._clock.monotonic()
        for number, event in enumerate(chunk_events(self.uid, result, self._digest, start)):
            await self._write_unless_slow(event, began, number * CHUNK_BYTES / MIN_BYTES_PER_SECOND)
        if not self.uid:
            return ""
        return write_token(ResumePoint(self.uid, state.digest, len(result), bytes.fromhex(result.sha256)))

    async def _send_large(self, event: Buffers, state: JobState, *, last: bool) -> None:
        size = size_of(event)
        turn = _task(self._response_memory.acquire(self._owner, size))
        try:
            await self._run_or_cancel(turn, state)
            more = size / MIN_MESSAGE_BYTES_PER_SECOND
            await self._write_unless_slow(await join_buffers(event), self._clock.monotonic(), more, last=last)
        finally:
            # Also where this stream is left in the very moment in which its turn comes.
            turn.add_done_callback(_release)

    async def _write_unless_slow(self, event: bytes, began: float, more: float, *, last: bool = False) -> None:
        until = max(
            began + SLOW_CONSUMER_GRACE_SECONDS + more, self._clock.monotonic() + MIN_SLOW_CONSUMER_GRACE_SECONDS
        )
        try:
            async with Timeout(self._clock, until, partial(self._response_memory.contended, self._owner)):
                await self._write(event, last=last)
        except TimeoutError as error:
            raise SlowConsumer(
                "the stream was not read, or too slowly, while others waited for the memory of its result; call again "
                "with the last resume_token, or ask for chunks where one message was asked for"
            ) from error

    async def _write(self, event: bytes, *, last: bool = False) -> None:
        await self._call.write(event, last=last)
        self._last_write = self._clock.monotonic()


def _task(work: Coroutine[None, None, T]) -> asyncio.Task[T]:
    return asyncio.get_running_loop().create_task(work)


def _release(turn: asyncio.Task[Reservation | None]) -> None:
    if not turn.cancelled() and (room := turn.result()) is not None:
        room.release()
