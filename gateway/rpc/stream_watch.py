"""One watch on a stream of many jobs: its position, and the events that are made of it."""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

from jobgateway.v1 import job_service_pb2 as pb

from gateway.rpc.codec.events import (
    CHUNK_BYTES,
    chunk_events,
    heartbeat_event,
    job_event,
    join_buffers,
    resume_offset,
    size_of,
)
from gateway.rpc.codec.resume_token import ResumePoint, write_token
from gateway.rpc.status import mapping_for
from gateway.rpc.stream import NO_DIGEST

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from gateway.limits.fair_budget import Reservation
    from gateway.rpc.codec.events import EncodedJob, JobState
    from gateway.rpc.watch_record import WatchRecord
    from gateway.threads import WorkerPool
    from gateway.watch import StateChange, Subscription

# No event with a result is larger: the result comes in chunks instead.
MAX_EVENT_BYTES = CHUNK_BYTES


class Turn(NamedTuple):
    """An event to write.

    Attributes:
        event: The encoded event.
        token: The resume token in it.
        change: The state that the client has after it, None if it is the same as before.
        since: The time at which this state became available, in seconds of the clock.
        memory: The memory of the event, None if it is small.
    """

    event: bytes
    token: str = ""
    change: StateChange[JobState] | None = None
    since: float = 0.0
    memory: Reservation | None = None


class StreamWatch:
    """One job on a stream. It has no queue: an event is made when it is the turn of the job.

    Args:
        uid: The job.
        content_format: The format of its result.
        point: The position at which an earlier watch is continued, None for a new one.
        token: The token of that position.
        on_ready: Called when the job may have an event.
        record: Reports the watch to the log.

    Attributes:
        uid: The job.
        token: The resume token of the last event that was written.
        subscription: The position in the poll loop; None once the watch has ended.
        caught_up: Whether the first state was written, or was known to the client.
        large: Whether a large state is being written, so that it is not the turn of the job.
        record: As it was given.
    """

    __slots__ = (
        "_digest",
        "_failing",
        "_format",
        "_on_ready",
        "_point",
        "_since",
        "caught_up",
        "large",
        "record",
        "subscription",
        "token",
        "uid",
    )

    def __init__(
        self,
        uid: int,
        content_format: pb.ContentFormat.ValueType,
        point: ResumePoint | None,
        token: str,
        on_ready: Callable[[StreamWatch], None],
        record: WatchRecord,
    ) -> None:
        self.uid = uid
        self.record = record
        # A token of a version that this process does not know is not kept.
        self.token = "" if point is None else token
        self.subscription: Subscription[JobState] | None = None
        self._since = 0.0
        self.caught_up = self.large = False
        self._format = content_format
        self._point = point
        self._digest = NO_DIGEST if point is None else point.digest
        self._failing = False
        self._on_ready = on_ready

    @property
    def has_begun(self) -> bool:
        """True if the client has seen a state, on this stream or on the one that it resumes."""
        return self._digest != NO_DIGEST

    def has_seen(self, state: JobState) -> bool:
        """Return whether the last state that the client has seen equals this one."""
        return state.digest == self._digest

    def wake(self) -> None:
        """Tell the stream that the job may have an event, unless the watch has ended."""
        if self.subscription is not None:
            self._on_ready(self)

    @property
    def awaits_large_state(self) -> bool:
        """True if the next state takes so much memory that a slow client may have to give it back."""
        subscription = self.subscription
        if subscription is None or not subscription.is_behind:
            return False
        return subscription.latest is not None and subscription.latest.is_large

    def take(self) -> Turn | StateChange[JobState] | None:
        """Return the next event, a state to write in parts, or None if there is no news.

        Raises:
            GatewayError: The watch has failed, or is ended by the process.
        """
        subscription = self.subscription
        if subscription is None:
            return None
        change = subscription.take()
        if change is None:
            return self._heartbeat(subscription)
        self._failing = False
        state, self._since = change.state, subscription.since
        chunked = self._format == pb.CONTENT_FORMAT_JSON_CHUNKS and state.job.result is not None
        if state.is_large or chunked:
            return change
        event = state.event(self._format, state.encode_small(self._format), change.skipped)
        if len(event) > MAX_EVENT_BYTES and state.job.result is not None:
            return change
        if subscription.loop.failures:
            # The state is older than these failures, which the client is told of in another turn. A large state gives
            # its job that turn later: two states of a job at a time would change their order.
            self._on_ready(self)
        turn = Turn(event, state.token, change, self._since)
        self.written(turn)
        return turn

    def _heartbeat(self, subscription: Subscription[JobState]) -> Turn | None:
        """Return the heartbeat which says that reading the job has begun or stopped to fail, or None."""
        failing = subscription.loop.failures > 0
        if failing == self._failing:
            return None
        self._failing = failing
        no_change = subscription.no_change()
        reason = "" if no_change.last_failure is None else mapping_for(no_change.last_failure).reason
        self.record.events += 1
        return Turn(heartbeat_event(self.uid, no_change, subscription.latest, self.token, reason), self.token)

    def written(self, turn: Turn) -> None:
        """Continue after an event of this watch."""
        self.record.events += 1
        self.token = turn.token
        if turn.change is not None:
            self._digest = turn.change.state.digest

    async def parts(self, change: StateChange[JobState], workers: WorkerPool) -> Iterator[Turn]:
        """Encode a large state; return its events, of which the last one has the `change`."""
        state, result = change.state, change.state.job.result
        content_format = self._format
        if result is not None and len(result) > MAX_EVENT_BYTES and content_format != pb.CONTENT_FORMAT_NONE:
            content_format = pb.CONTENT_FORMAT_JSON_CHUNKS
        encoded = await state.encode(content_format, workers, streaming=True)
        if result is not None and not encoded.chunked and size_of(encoded.buffers) > MAX_EVENT_BYTES:
            # A Struct may take several times as much as its JSON.
            encoded = await state.encode(pb.CONTENT_FORMAT_JSON_CHUNKS, workers, streaming=True)
        if encoded.chunked:
            return self._chunks(change, encoded)
        message = await join_buffers(job_event(self.uid, encoded, state.token, change.skipped), workers)
        return self._whole(change, message)

    def _whole(self, change: StateChange[JobState], message: bytes) -> Iterator[Turn]:
        yield Turn(message, change.state.token, change, self._since)

    def _chunks(self, change: StateChange[JobState], encoded: EncodedJob) -> Iterator[Turn]:
        state, result = change.state, change.state.job.result
        assert result is not None, "only a result is chunked"  # noqa: S101 - otherwise a defect
        for event, token in chunk_events(self.uid, result, self._digest, resume_offset(self._point, result)):
            yield Turn(event, token)
        token = write_token(ResumePoint(self.uid, state.digest, len(result), bytes.fromhex(result.sha256)))
        yield Turn(b"".join(job_event(self.uid, encoded, token, change.skipped)), token, change, self._since)
