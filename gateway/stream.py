"""One caller's stream: writes what the hub tells as events, each with its resume token."""

from __future__ import annotations

from typing import TYPE_CHECKING, Protocol

from gateway.clock import Signal, TimeLimit
from gateway.errors import RequestInvalid, SlowReader
from gateway.events import chunk_events, heartbeat_event, in_one_piece, job_event, resumes_at
from gateway.status import row_of
from gateway.watch import Quiet, ResumePoint, read_token, write_token

if TYPE_CHECKING:
    import asyncio
    from collections.abc import Callable

    from jobgateway.v1 import job_service_pb2 as pb

    from gateway.call import Call
    from gateway.clock import Clock
    from gateway.events import JobState
    from gateway.watch import Watcher

# A heartbeat is due a little before its interval is over, so that it arrives within it.
HEARTBEAT_PART = 0.9
# What stands in a token for the last state seen where none was.
NO_DIGEST = bytes(16)
# How long a chunk may wait to be taken while others wait for memory.
PATIENCE_SECONDS = 10.0


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


class Observer(Protocol):
    """Is told of each state that has gone out; must be quick, and must not raise."""

    def delivered(self, seconds: float, skipped: int) -> None:
        """A state has gone out `seconds` after it was observed; `skipped` before it have not."""


class EventStream:
    """The events of one caller. `heartbeat` is the longest silence between two of them, in seconds.

    `contended` says whether others wait for the memory that a large result holds.
    """

    def __init__(
        self,
        call: Call,
        uid: int,
        content_format: pb.ContentFormat.ValueType,
        heartbeat: float,
        clock: Clock,
        contended: Callable[[], bool],
        observer: Observer,
    ) -> None:
        self._contended = contended
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

    def has_seen(self, state: JobState) -> bool:
        """Whether the caller's last state was this one."""
        return state.digest == self._digest

    async def beat_until(self, task: asyncio.Task[object]) -> None:
        """Sends heartbeats until a task has ended that gives the first state."""
        ended = Signal(self._clock)
        task.add_done_callback(lambda _: ended.set())
        while not task.done():
            due = self._last_write + self._silence
            await ended.wait(due)
            if not task.done() and self._clock.monotonic() >= due:
                await self._write(heartbeat_event(self.uid, Quiet(None, 0, None), None, "", ""))

    async def begin(self, state: JobState) -> None:
        """Sends the state that a submission gave."""
        await self._send(state, 0, last=state.job.done)

    async def follow(self, watcher: Watcher[JobState]) -> None:
        """Sends what the watcher is given, until the last state is out. Raises what ended the watch."""
        while not self.ended:
            update = await watcher.next(self._last_write + self._silence)
            if isinstance(update, Quiet):
                failure = "" if update.last_failure is None else row_of(update.last_failure).reason
                await self._write(heartbeat_event(self.uid, update, watcher.loop.state, self._token, failure))
            else:
                since = watcher.since
                await self._send(update.state, update.skipped, last=update.last)
                self._observer.delivered(self._clock.monotonic() - since, update.skipped)

    async def _send(self, state: JobState, skipped: int, *, last: bool) -> None:
        encoded = await state.encode(self._format, streaming=True)
        token = state.token
        if encoded.chunked and state.job.result is not None:
            result = state.job.result
            for event in chunk_events(self.uid, result, self._digest, resumes_at(self._point, result)):
                await self._write_chunk(event)
            end = ResumePoint(self.uid, state.digest, len(result), bytes.fromhex(result.sha256))
            token = write_token(end)
        self._token = token
        self._digest = state.digest
        await self._write(await in_one_piece(job_event(self.uid, encoded, token, skipped)))
        self.ended = last

    async def _write_chunk(self, event: bytes) -> None:
        try:
            async with TimeLimit(self._clock, self._clock.monotonic() + PATIENCE_SECONDS, self._contended):
                await self._write(event)
        except TimeoutError as error:
            raise SlowReader(
                f"the stream was not read for {PATIENCE_SECONDS:.0f} s while others waited for the memory of its "
                "result; call again with the last resume_token"
            ) from error

    async def _write(self, event: bytes) -> None:
        await self._call.write(event)
        self._last_write = self._clock.monotonic()
