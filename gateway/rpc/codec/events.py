"""States of a job as encoded messages, each encoded once per format for all its watchers."""

from __future__ import annotations

import asyncio
from functools import cached_property, partial
from hashlib import blake2b
from typing import TYPE_CHECKING, NamedTuple

from jobgateway.v1 import job_service_pb2 as pb

from gateway.rpc.codec.content import MAX_DEFAULT_CLIENT_BYTES, Placement, place_result
from gateway.rpc.codec.responses import job_message, timestamp
from gateway.rpc.codec.resume_token import ResumePoint, write_token
from gateway.rpc.codec.wire import join, tag, varint

if TYPE_CHECKING:
    from collections.abc import Iterator

    from gateway.models import Job, Result
    from gateway.threads import WorkerPool
    from gateway.watch import NoChange

CHUNK_BYTES = 256 << 10
# Larger results are encoded in a thread, so that the event loop continues.
ENCODE_IN_THREAD_BYTES = 64 << 10
# The same for a value in an error, which becomes a tree of messages: it takes about 2 µs per byte.
ENCODE_ERROR_IN_THREAD_BYTES = 4 << 10
# The most Structs that a result can have: with exact and with rounded numbers, on streams and in unary calls.
STRUCTS = 4

# A sign of life of a stream of many jobs.
STREAM_HEARTBEAT = pb.JobEvent(heartbeat=pb.Heartbeat()).SerializeToString()

Buffers = tuple[bytes | memoryview, ...]

_JOB = tag(pb.JobEvent.DESCRIPTOR, "job")


class EncodedJob(NamedTuple):
    """A `Job` message in pieces.

    Attributes:
        buffers: The pieces. A large result among them is a view of the upstream's bytes, not a copy.
        chunked: Whether the result is sent in chunks before the message.
    """

    buffers: Buffers
    chunked: bool


class JobState:
    """A job as it was read, with its encodings; the hub does not look into it."""

    def __init__(self, job: Job) -> None:
        self.job = job
        self._encoded: dict[tuple[pb.ContentFormat.ValueType, bool], asyncio.Task[EncodedJob] | EncodedJob] = {}
        self._events: dict[pb.ContentFormat.ValueType, bytes] = {}

    # Both are computed on demand, because unary calls never need them.
    @cached_property
    def digest(self) -> bytes:
        """16 bytes, equal for states that a watcher could not tell apart."""
        return blake2b(repr(self.job.identity()).encode(), digest_size=16).digest()

    @cached_property
    def token(self) -> str:
        """The resume token after this state; "" if the job has no uid, so that it cannot be watched."""
        return write_token(ResumePoint(self.job.uid, self.digest)) if self.job.uid else ""

    @property
    def is_last(self) -> bool:
        """True if the job has ended, so that no other state follows."""
        return self.job.done

    def equals(self, other: JobState) -> bool:
        """Return whether a watcher could not tell the two states apart."""
        # Most states are equal, and a digest takes longer than the comparison.
        return self.job.identity() == other.job.identity() or self.digest == other.digest

    @property
    def size(self) -> int:
        """The bytes that the state may come to hold, about: the result, and its encodings."""
        result = 0 if self.job.result is None else len(self.job.result)
        return 1_000 + result + STRUCTS * min(result, MAX_DEFAULT_CLIENT_BYTES)

    @property
    def is_large(self) -> bool:
        """True if encoding the state takes so long that it is done in a thread."""
        error = self.job.error
        if error is not None:
            for value in (error.stack_trace, error.invalid_fields):
                if value is not None and len(value) > ENCODE_ERROR_IN_THREAD_BYTES:
                    return True
        return self.job.result is not None and len(self.job.result) > ENCODE_IN_THREAD_BYTES

    async def encode(
        self, content_format: pb.ContentFormat.ValueType, workers: WorkerPool, *, streaming: bool
    ) -> EncodedJob:
        """Return the message of the job in a format. Raises `ResultTooLarge`."""
        key = (content_format, streaming)
        known = self._encoded.get(key)
        if known is None:
            known = self._encoded[key] = self._start(content_format, workers, streaming=streaming)
        if isinstance(known, EncodedJob):
            return known
        # The first caller may be cancelled, and the others still wait for the task.
        await asyncio.wait([known])
        error = known.exception()
        if error is not None:
            if self._encoded.get(key) is known:
                del self._encoded[key]
            raise error
        encoded = self._encoded[key] = known.result()
        return encoded

    def encode_small(self, content_format: pb.ContentFormat.ValueType) -> EncodedJob:
        """Return the message on a stream of a job whose state is not large. Raises `ResultTooLarge`."""
        known = self._encoded.get((content_format, True))
        if not isinstance(known, EncodedJob):
            known = self._encoded[content_format, True] = encode_job(self.job, content_format, streaming=True)
        return known

    def event(self, content_format: pb.ContentFormat.ValueType, encoded: EncodedJob, skipped: int) -> bytes:
        """Return the event of a state that is not large, which all watchers share that skip nothing."""
        known = None if skipped else self._events.get(content_format)
        if known is None:
            known = b"".join(job_event(self.job.uid, encoded, self.token, skipped))
            if not skipped:
                self._events[content_format] = known
        return known

    def _start(
        self, content_format: pb.ContentFormat.ValueType, workers: WorkerPool, *, streaming: bool
    ) -> asyncio.Task[EncodedJob] | EncodedJob:
        if not self.is_large:
            return encode_job(self.job, content_format, streaming=streaming)
        work = workers.run(partial(encode_job, self.job, content_format, streaming=streaming))
        task = asyncio.get_running_loop().create_task(work)
        # If all callers have left, no one else retrieves its error.
        task.add_done_callback(lambda done: done.cancelled() or done.exception())
        return task


def encode_job(job: Job, content_format: pb.ContentFormat.ValueType, *, streaming: bool) -> EncodedJob:
    """Return the message of a job with its result in a format. Raises `ResultTooLarge`."""
    message = job_message(job)
    if job.result is None:
        message.content_omitted = job.forgotten_result is not None
        return EncodedJob((message.SerializeToString(),), chunked=False)
    placement, field = place_result(job.result, content_format, streaming=streaming)
    message.content_omitted = placement is not Placement.IN_MESSAGE
    return EncodedJob((message.SerializeToString(), *field), chunked=placement is Placement.IN_CHUNKS)


def job_event(uid: int, job: EncodedJob, token: str, skipped: int) -> Buffers:
    """Return a `JobEvent` with an encoded `Job`, in pieces; protobuf accepts its fields in any order."""
    rest = pb.JobEvent(uid=uid, resume_token=token, skipped=skipped).SerializeToString()
    return (_JOB + varint(size_of(job.buffers)), *job.buffers, rest)


def size_of(buffers: Buffers) -> int:
    """Return the size of a message in pieces, in bytes."""
    return sum(map(len, buffers))


async def join_buffers(buffers: Buffers, workers: WorkerPool) -> bytes:
    """Join the pieces of a message, in a thread if it is large."""
    if size_of(buffers) <= ENCODE_IN_THREAD_BYTES:
        return b"".join(buffers)
    return await workers.run(partial(join, buffers))


def heartbeat_event(uid: int, no_change: NoChange, state: JobState | None, token: str, last_failure: str) -> bytes:
    """Return a `JobEvent` with a `Heartbeat`; `last_failure` is the reason of the last failed poll, or ""."""
    heartbeat = pb.Heartbeat(consecutive_failures=no_change.failures, last_failure=last_failure)
    if state is not None:
        heartbeat.observe_time.CopyFrom(timestamp(state.job.observe_time))
    if no_change.next_poll_time is not None:
        heartbeat.next_poll_time.CopyFrom(timestamp(no_change.next_poll_time))
    return pb.JobEvent(uid=uid, heartbeat=heartbeat, resume_token=token).SerializeToString()


def failure_event(uid: int, failure: pb.WatchFailure, token: str) -> bytes:
    """Return a `JobEvent` with a `WatchFailure`."""
    return pb.JobEvent(uid=uid, failure=failure, resume_token=token).SerializeToString()


def synced_event(watch_requests: int) -> bytes:
    """Return the `JobEvent` which says that all watches that were requested so far have caught up."""
    return pb.JobEvent(synced=pb.Synced(watch_requests=watch_requests)).SerializeToString()


def chunk_events(uid: int, result: Result, last_seen: bytes, offset: int) -> Iterator[bytes]:
    """Yield the `JobEvent`s with the chunks of a result from `offset` (bytes).

    `last_seen` is the digest of the last state that was sent to the client.
    """
    sha256 = bytes.fromhex(result.sha256)
    for start in range(offset, len(result), CHUNK_BYTES):
        data = bytes(result.json[start : start + CHUNK_BYTES])
        chunk = pb.ContentChunk(offset=start, data=data, content_size=len(result), content_sha256=result.sha256)
        token = write_token(ResumePoint(uid, last_seen, start + len(data), sha256)) if uid else ""
        yield pb.JobEvent(uid=uid, content_chunk=chunk, resume_token=token).SerializeToString()


def resume_offset(point: ResumePoint | None, result: Result) -> int:
    """Return the offset in bytes at which a watch continues a chunked result: 0 if its token is for other content."""
    if point is None or point.content_sha256 != bytes.fromhex(result.sha256):
        return 0
    return min(point.offset, len(result))
