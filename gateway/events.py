"""States of a job as bytes on the wire, each encoded once per format however many get it."""

from __future__ import annotations

import asyncio
from hashlib import blake2b
from typing import TYPE_CHECKING, NamedTuple

from jobgateway.v1 import job_service_pb2 as pb

from gateway.content import Delivery, put_result
from gateway.translate import job_message, timestamp
from gateway.watch import ResumePoint, write_token

if TYPE_CHECKING:
    from collections.abc import Iterator

    from gateway.domain import Job, Result
    from gateway.watch import Quiet

CHUNK_BYTES = 256 << 10
# A larger message is made anew for each who asks for it, instead of being held beside the result.
MEMOISED_BYTES = 4 << 20
# How many copies of a small result its formats come to, streams and answers apart, if all are asked for.
ENCODINGS = 6
# Larger results are encoded in a thread, so that the event loop goes on.
ENCODE_IN_THREAD_BYTES = 64 << 10

_JOB_TAG = bytes([pb.JobEvent.DESCRIPTOR.fields_by_name["job"].number << 3 | 2])


class Encoded(NamedTuple):
    """A `Job` message as bytes, and whether its result goes out in chunks before it."""

    job: bytes
    chunked: bool


class JobState:
    """A job as it was read, and what it was encoded to: the opaque state of the hub."""

    def __init__(self, job: Job) -> None:
        self.job = job
        self.digest = blake2b(repr(job.identity()).encode(), digest_size=16).digest()
        self.token = write_token(ResumePoint(job.uid, self.digest))
        self._encoded: dict[tuple[pb.ContentFormat.ValueType, bool], asyncio.Task[Encoded] | Encoded] = {}

    @property
    def size(self) -> int:
        """About what it holds, in bytes: the result, and what smaller results are encoded to for the formats."""
        result = 0 if self.job.result is None else len(self.job.result)
        return 1_000 + (result if result > MEMOISED_BYTES else result * (1 + ENCODINGS))

    async def encode(self, content_format: pb.ContentFormat.ValueType, *, streaming: bool) -> Encoded:
        """The message of the job in a format. Raises `ResultTooLarge`."""
        key = (content_format, streaming)
        known = self._encoded.get(key)
        if known is None:
            known = self._encoded[key] = self._start(content_format, streaming=streaming)
        if isinstance(known, Encoded):
            return known
        # Whoever waits first may leave: the others wait for the same.
        await asyncio.wait([known])
        error = known.exception()
        if error is not None:
            self._encoded.pop(key, None)
            raise error
        encoded = known.result()
        if len(encoded.job) <= MEMOISED_BYTES:
            self._encoded[key] = encoded
        else:
            self._encoded.pop(key, None)
        return encoded

    def _start(self, content_format: pb.ContentFormat.ValueType, *, streaming: bool) -> asyncio.Task[Encoded] | Encoded:
        if self.job.result is None or len(self.job.result) <= ENCODE_IN_THREAD_BYTES:
            return encode_job(self.job, content_format, streaming=streaming)
        work = asyncio.to_thread(encode_job, self.job, content_format, streaming=streaming)
        task = asyncio.get_running_loop().create_task(work)
        # Its error is nobody's to read where all who waited have left.
        task.add_done_callback(lambda done: done.cancelled() or done.exception())
        return task


def same_state(one: JobState, other: JobState) -> bool:
    """Whether two states are equal to a watcher."""
    return one.digest == other.digest


def encode_job(job: Job, content_format: pb.ContentFormat.ValueType, *, streaming: bool) -> Encoded:
    """The message of a job with its result in a format. Raises `ResultTooLarge`."""
    message = job_message(job)
    delivery = Delivery.IN_MESSAGE
    if job.result is not None:
        delivery = put_result(message, job.result, content_format, streaming=streaming)
    return Encoded(message.SerializeToString(), chunked=delivery is Delivery.IN_CHUNKS)


def job_event(uid: int, job: bytes, token: str, skipped: int) -> bytes:
    """A `JobEvent` with an encoded `Job`; fields in any order are one message to a protobuf parser."""
    rest = pb.JobEvent(uid=uid, resume_token=token, skipped=skipped).SerializeToString()
    return b"".join((_JOB_TAG, _varint(len(job)), job, rest))


def heartbeat_event(uid: int, quiet: Quiet, state: JobState | None, token: str, last_failure: str) -> bytes:
    """A `JobEvent` with a `Heartbeat`; `last_failure` is the reason of the last failed poll, or ""."""
    heartbeat = pb.Heartbeat(consecutive_failures=quiet.failures, last_failure=last_failure)
    if state is not None:
        heartbeat.observe_time.CopyFrom(timestamp(state.job.observe_time))
    if quiet.next_poll_time is not None:
        heartbeat.next_poll_time.CopyFrom(timestamp(quiet.next_poll_time))
    return pb.JobEvent(uid=uid, heartbeat=heartbeat, resume_token=token).SerializeToString()


def chunk_events(uid: int, result: Result, last_seen: bytes, offset: int) -> Iterator[bytes]:
    """The `JobEvent`s with the chunks of a result from `offset` (bytes), each cut when it is asked for.

    `last_seen` is the digest of the last state that the watcher got.
    """
    sha256 = bytes.fromhex(result.sha256)
    for start in range(offset, len(result), CHUNK_BYTES):
        data = bytes(result.json[start : start + CHUNK_BYTES])
        chunk = pb.ContentChunk(offset=start, data=data, content_size=len(result), content_sha256=result.sha256)
        token = write_token(ResumePoint(uid, last_seen, start + len(data), sha256))
        yield pb.JobEvent(uid=uid, content_chunk=chunk, resume_token=token).SerializeToString()


def resumes_at(point: ResumePoint | None, result: Result) -> int:
    """Where a resumed watch goes on in a chunked result, in bytes: 0 unless it stood in this very content."""
    if point is None or point.content_sha256 != bytes.fromhex(result.sha256):
        return 0
    return min(point.offset, len(result))


def _varint(number: int) -> bytes:
    out = bytearray()
    while number > 0x7F:
        out.append(number & 0x7F | 0x80)
        number >>= 7
    out.append(number)
    return bytes(out)
