"""The stream of one client: writes the states of the hub as events, each with its resume token."""

from __future__ import annotations

import asyncio
from functools import partial
from typing import TYPE_CHECKING, NamedTuple, Protocol, TypeVar

from gateway.clock import AutoResetEvent
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
from gateway.time_limits import limited_until
from gateway.watch import NoChange

if TYPE_CHECKING:
    from collections.abc import Coroutine

    from jobgateway.v1 import job_service_pb2 as pb

    from gateway.auth.credential import Credential
    from gateway.clock import Clock
    from gateway.limits.fair_budget import Reservation
    from gateway.limits.response_memory import ResponseMemory
    from gateway.models import Result
    from gateway.rpc.codec.events import Buffers, JobState
    from gateway.threads import WorkerPool
    from gateway.watch import Watcher

T = TypeVar("T")

# A heartbeat is sent a little before its interval is over, so that it arrives in time.
HEARTBEAT_FRACTION = 0.9
# The digest in a token if no state was seen.
NO_DIGEST = bytes(16)
# While others wait for memory, a client must read a result within the grace and at the minimum rate. No write is
# interrupted before the minimum grace.
SLOW_CONSUMER_GRACE_SECONDS = 10.0
MIN_BYTES_PER_SECOND = 1 << 20
# gRPC reports no partial progress of a message, and a message cannot be resumed. Slow clients should use chunks.
MIN_MESSAGE_BYTES_PER_SECOND = 32 << 20
MIN_SLOW_CONSUMER_GRACE_SECONDS = 1.0


def read_resume_point(token: str, uid: int) -> ResumePoint | None:
    """Return the position from which a watch of job `uid` continues.

    It is None without a token, or if the token has a version that this process does not know.

    Raises:
        RequestInvalid: The text is not a token, or belongs to another job.
    """
    if not token:
        return None
    try:
        point = read_token(token)
    except ValueError as error:
        raise RequestInvalid("resume_token", f"{error}; use the token of the last event unchanged") from error
    if point is not None and point.uid != uid:
        raise RequestInvalid("resume_token", f"belongs to job {point.uid}; use a token of job {uid}")
    return point


class DeliveryObserver(Protocol):
    """Observes the states that are sent; its methods must be quick and must not raise."""

    def delivered(self, seconds: float, skipped: int) -> None:
        """Count a state that was sent `seconds` after it was observed, and the `skipped` states before it."""


class StreamCall(Protocol):
    """The call that a stream writes to.

    Attributes:
        skipped: The number of states that the stream has skipped.
    """

    skipped: int

    @property
    def uid(self) -> int | None:
        """The job, or None until a submission has returned it."""

    @property
    def credential(self) -> Credential:
        """The credential that reads the results."""

    async def write(self, event: bytes, *, last: bool = False) -> None:
        """Send an encoded event, and return when flow control accepts it; `last`: no other event follows."""


class StreamResources(NamedTuple):
    """The parts of a gateway that its streams share.

    Attributes:
        clock: Times heartbeats and writes.
        response_memory: The memory of large results and messages.
        workers: Encode large states.
        observer: Counts the states that are sent.
    """

    clock: Clock
    response_memory: ResponseMemory
    workers: WorkerPool
    observer: DeliveryObserver


class EventStream:
    """The events of one client.

    Args:
        call: The call to write to; the stream is of the job `call.uid`.
        content_format: The format of results.
        heartbeat: The longest time between two events, in seconds.
        resources: Shared with other streams.

    Attributes:
        ended: Whether the last state was sent.
    """

    def __init__(
        self, call: StreamCall, content_format: pb.ContentFormat.ValueType, heartbeat: float, resources: StreamResources
    ) -> None:
        self.ended = False
        self._call = call
        self._format = content_format
        self._silence = heartbeat * HEARTBEAT_FRACTION
        self._clock, self._response_memory, self._workers, self._observer = resources
        # Large results and messages belong to the poll key of the credential that reads them.
        self._owner = call.credential.poll_key
        self._token = ""
        self._digest = NO_DIGEST
        self._point: ResumePoint | None = None
        self._last_write = self._clock.monotonic()

    def resume(self, point: ResumePoint | None, token: str) -> None:
        """Continue an earlier stream at `point`, which is the one of `token`."""
        if point is not None:
            self._point = point
            self._digest = point.digest
            self._token = token

    @property
    def _uid(self) -> int:
        # 0 while a submission has not returned it, and for a job without one.
        return self._call.uid or 0

    @property
    def has_begun(self) -> bool:
        """True if the client has seen a state, on this stream or on the one that it resumes."""
        return self._digest != NO_DIGEST

    def has_seen(self, state: JobState) -> bool:
        """Return whether the last state that the client has seen equals this one."""
        return state.digest == self._digest

    async def run_with_heartbeats(self, task: asyncio.Task[T], state: JobState | None = None) -> T:
        """Return the result of a task, and send heartbeats until then; `state` is the last one that was read."""
        ended = AutoResetEvent(self._clock)
        task.add_done_callback(lambda _: ended.set())
        while not task.done():
            due = self._last_write + self._silence
            await ended.wait(due)
            if not task.done() and self._clock.monotonic() >= due:
                await self._write(heartbeat_event(self._uid, NoChange(None, 0, None), state, self._token, ""))
        return task.result()

    async def _run_or_cancel(self, task: asyncio.Task[T], state: JobState) -> T:
        try:
            return await self.run_with_heartbeats(task, state)
        finally:
            task.cancel()

    async def begin(self, state: JobState) -> None:
        """Send the state that a submission returned."""
        await self._send(state, 0, last=state.job.done)

    async def follow(self, watcher: Watcher[JobState]) -> None:
        """Send the states of a watcher until the last one is sent. Raises the error that ended the watch."""
        while not self.ended:
            update = await watcher.next(self._last_write + self._silence)
            if isinstance(update, NoChange):
                failure = "" if update.last_failure is None else mapping_for(update.last_failure).reason
                await self._write(heartbeat_event(self._uid, update, watcher.latest, self._token, failure))
            else:
                since = watcher.since
                self._call.skipped += update.skipped
                await self._send(update.state, update.skipped, last=update.last)
                self._observer.delivered(self._clock.monotonic() - since, update.skipped)

    async def _send(self, state: JobState, skipped: int, *, last: bool) -> None:
        encoding = state.encode(self._format, self._workers, streaming=True)
        encoded = await (self._run_or_cancel(_task(encoding), state) if state.is_large else encoding)
        token = state.token
        if encoded.chunked and state.job.result is not None:
            token = await self._send_chunks(state, state.job.result)
        if state.is_large:
            await self._send_large(job_event(self._uid, encoded, token, skipped), state, last=last)
        elif encoded.chunked:
            await self._write(b"".join(job_event(self._uid, encoded, token, skipped)), last=last)
        else:
            await self._write(state.event(self._format, encoded, skipped), last=last)
        self._token = token
        self._digest = state.digest
        self.ended = last

    async def _send_chunks(self, state: JobState, result: Result) -> str:
        start = resume_offset(self._point, result)
        began = self._clock.monotonic()
        for number, (event, token) in enumerate(chunk_events(self._uid, result, self._digest, start)):
            await self._write_unless_slow(event, began, number * CHUNK_BYTES / MIN_BYTES_PER_SECOND)
            self._token = token
        if not self._uid:
            return ""
        return write_token(ResumePoint(self._uid, state.digest, len(result), bytes.fromhex(result.sha256)))

    async def _send_large(self, event: Buffers, state: JobState, *, last: bool) -> None:
        size = size_of(event)
        reserving = _task(self._response_memory.acquire(self._owner, size))
        try:
            await self._run_or_cancel(reserving, state)
            extra_seconds = size / MIN_MESSAGE_BYTES_PER_SECOND
            message = await join_buffers(event, self._workers)
            await self._write_unless_slow(message, self._clock.monotonic(), extra_seconds, last=last)
        finally:
            # Releases the memory, even if the task got it in the moment in which this stream was cancelled.
            reserving.add_done_callback(_release)

    async def _write_unless_slow(self, event: bytes, began: float, extra_seconds: float, *, last: bool = False) -> None:
        until = max(
            began + SLOW_CONSUMER_GRACE_SECONDS + extra_seconds,
            self._clock.monotonic() + MIN_SLOW_CONSUMER_GRACE_SECONDS,
        )
        try:
            with limited_until(self._clock, until, partial(self._response_memory.contended, self._owner)):
                await self._write(event, last=last)
        except TimeoutError as error:
            raise SlowConsumer(
                "the stream was not read, or too slowly, while others waited for the memory of its result; call again "
                "with the last resume_token, and use CONTENT_FORMAT_JSON_CHUNKS for large results"
            ) from error

    async def _write(self, event: bytes, *, last: bool = False) -> None:
        await self._call.write(event, last=last)
        self._last_write = self._clock.monotonic()


def _task(work: Coroutine[None, None, T]) -> asyncio.Task[T]:
    return asyncio.get_running_loop().create_task(work)


def _release(reserving: asyncio.Task[Reservation | None]) -> None:
    if not reserving.cancelled() and (reservation := reserving.result()) is not None:
        reservation.release()
