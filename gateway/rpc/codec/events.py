"""States of a job as bytes on the wire, each encoded once per format however many get it."""

from __future__ import annotations

import asyncio
from functools import cached_property, partial
from hashlib import blake2b
from typing import TYPE_CHECKING, NamedTuple

from jobgateway.v1 import job_service_pb2 as pb

from gateway.rpc.codec.content import MAX_STOCK_BYTES, Placement, place_result
from gateway.rpc.codec.responses import job_message, timestamp
from gateway.rpc.codec.resume_token import ResumePoint, write_token
from gateway.rpc.codec.wire import join, tag, varint
from gateway.threads import RESPONSE_WORKERS

if TYPE_CHECKING:
    from collections.abc import Iterator

    from gateway.models import Job, Result
    from gateway.watch import NoChange

CHUNK_BYTES = 256 << 10
# Larger results are encoded in a thread, so that the event loop goes on.
ENCODE_IN_THREAD_BYTES = 64 << 10
# Of a value in an error, which becomes a tree of messages: that takes some 2 µs a byte.
ENCODE_ERROR_IN_THREAD_BYTES = 4 << 10
# How often a Struct is made of a result at most: of exact and of rounded numbers, for streams and for answers.
STRUCTS = 4

Buffers = tuple[bytes | memoryview, ...]

_JOB = tag(pb.JobEvent.DESCRIPTOR, "job")


class EncodedJob(NamedTuple):
    """A `Job` message in pieces, and whether its result goes out in chunks before it.

    A large result is a view of the upstream's bytes among them, so that it takes no memory of its own.
    """

    buffers: Buffers
    chunked: bool


class JobState:
    """A job as it was read, and what it was encoded to: the opaque state of the hub."""

    def __init__(self, job: Job) -> None:
        self.job = job
        self._encoded: dict[tuple[pb.ContentFormat.ValueType, bool], asyncio.Task[EncodedJob] | EncodedJob] = {}
        self._events: dict[pb.ContentFormat.ValueType, bytes] = {}

    # Both are made when they are asked for, which an answer of one message never does.
    @cached_property
    def digest(self) -> bytes:
        """16 bytes that are equal where the states are, to a watcher."""
        return blake2b(repr(self.job.identity()).encode(), digest_size=16).digest()

    @cached_property
    def token(self) -> str:
        """The resume token of a caller that has seen this state; "" if the job has no uid and cannot be watched."""
        return write_token(ResumePoint(self.job.uid, self.digest)) if self.job.uid else ""

    @property
    def is_last(self) -> bool:
        """Whether the job has ended, so that no other state follows."""
        return self.job.done

    def equals(self, other: JobState) -> bool:
        """Return whether a watcher could not tell the two states apart."""
        return self.digest == other.digest

    @property
    def size(self) -> int:
        """About what it may come to hold, in bytes: the result, and what it is encoded to for the formats."""
        result = 0 if self.job.result is None else len(self.job.result)
        return 1_000 + result + STRUCTS * min(result, MAX_STOCK_BYTES)

    @property
    def is_large(self) -> bool:
        """Whether encoding it takes long enough for others to notice."""
        error = self.job.error
        if error is not None:
            for value in (error.stack_trace, error.invalid_fields):
                if value is not None and len(value) > ENCODE_ERROR_IN_THREAD_BYTES:
                    return True
        return self.job.result is not None and len(self.job.result) > ENCODE_IN_THREAD_BYTES

    async def encode(self, content_format: pb.ContentFormat.ValueType, *, streaming: bool) -> EncodedJob:
        """The message of the job in a format. Raises `ResultTooLarge`."""
        key = (content_format, streaming)
        known = self._encoded.get(key)
        if known is None:
            known = self._encoded[key] = self._start(content_format, streaming=streaming)
        if isinstance(known, EncodedJob):
            return known
        # Whoever waits first may leave: the others wait for the same.
        await asyncio.wait([known])
        error = known.exception()
        if error is not None:
            if self._encoded.get(key) is known:
                del self._encoded[key]
            raise error
        encoded = self._encoded[key] = known.result()
        return encoded

    def event(self, content_format: pb.ContentFormat.ValueType, encoded: EncodedJob, skipped: int) -> bytes:
        """The event with an `encoded` message, of a state that is not large: the same one for all who skip nothing."""
        known = None if skipped else self._events.get(content_format)
        if known is None:
            known = b"".join(job_event(self.job.uid, encoded, self.token, skipped))
            if not skipped:
                self._events[content_format] = known
        return known

    def _start(
        self, content_format: pb.ContentFormat.ValueType, *, streaming: bool
    ) -> asyncio.Task[EncodedJob] | EncodedJob:
        if not self.is_large:
            return encode_job(self.job, content_format, streaming=streaming)
        work = RESPONSE_WORKERS.run(partial(encode_job, self.job, content_format, streaming=streaming))
        task = asyncio.get_running_loop().create_task(work)
        # Its error is nobody's to read where all who waited have left.
        task.add_done_callback(lambda done: done.cancelled() or done.exception())
        return task


def encode_job(job: Job, content_format: pb.ContentFormat.ValueType, *, streaming: bool) -> EncodedJob:
    """The message of a job with its result in a format. Raises `ResultTooLarge`."""
    message = job_message(job)
    if job.result is None:
        message.content_omitted = job.forgotten_result is not None
        return EncodedJob((message.SerializeToString(),), chunked=False)
    placement, field = place_result(job.result, content_format, streaming=streaming)
    message.content_omitted = placement is not Placement.IN_MESSAGE
    return EncodedJob((message.SerializeToString(), *field), chunked=placement is Placement.IN_CHUNKS)


def job_event(uid: int, job: EncodedJob, token: str, skipped: int) -> Buffers:
    """A `JobEvent` with an encoded `Job`, in pieces; fields in any order are one message to a protobuf parser."""
    rest = pb.JobEvent(uid=uid, resume_token=token, skipped=skipped).SerializeToString()
    return (_JOB + varint(size_of(job.buffers)), *job.buffers, rest)


def size_of(buffers: Buffers) -> int:
    """The bytes of a message that is in pieces."""
    return sum(map(len, buffers))


async def join_buffers(buffers: Buffers) -> bytes:
    """A message that is in pieces, as gRPC takes it."""
    if size_of(buffers) <= ENCODE_IN_THREAD_BYTES:
        return b"".join(buffers)
    return await RESPONSE_WORKERS.run(partial(join, buffers))


def heartbeat_event(uid: int, no_change: NoChange, state: JobState | None, token: str, last_failure: str) -> bytes:
    """A `JobEvent` with a `Heartbeat`; `last_failure` is the reason of the last failed poll, or ""."""
    heartbeat = pb.Heartbeat(consecutive_failures=no_change.failures, last_failure=last_failure)
    if state is not None:
        heartbeat.observe_time.CopyFrom(timestamp(state.job.observe_time))
    if no_change.next_poll_time is not None:
        heartbeat.next_poll_time.CopyFrom(timestamp(no_change.next_poll_time))
    return pb.JobEvent(uid=uid, heartbeat=heartbeat, resume_token=token).SerializeToString()


def chunk_events(uid: int, result: Result, last_seen: bytes, offset: int) -> Iterator[bytes]:
    """The `JobEvent`s with the chunks of a result from `offset` (bytes), each cut when it is asked for.

    `last_seen` is the digest of the last state that the watcher got.
    """
    sha256 = bytes.fromhex(result.sha256)
    for start in range(offset, len(result), CHUNK_BYTES):
        data = bytes(result.json[start : start + CHUNK_BYTES])
        chunk = pb.ContentChunk(offset=start, data=data, content_size=len(result), content_sha256=result.sha256)
        token = write_token(ResumePoint(uid, last_seen, start + len(data), sha256)) if uid else ""
        yield pb.JobEvent(uid=uid, content_chunk=chunk, resume_token=token).SerializeToString()


def resume_offset(point: ResumePoint | None, result: Result) -> int:
    """Where a resumed watch goes on in a chunked result, in bytes: 0 unless it stood in this very content."""
    if point is None or point.content_sha256 != bytes.fromhex(result.sha256):
        return 0
    return min(point.offset, len(result))
