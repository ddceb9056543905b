"""Models to messages: pure functions."""

from __future__ import annotations

import math
from datetime import UTC, datetime
from typing import TYPE_CHECKING

from google.protobuf import struct_pb2
from google.protobuf.timestamp_pb2 import Timestamp
from jobgateway.v1 import job_service_pb2 as pb

from gateway.models import MAX_TEXT_BYTES, MAX_URL, MAX_VALUE_BYTES, JobStatus
from gateway.rpc.codec.struct_json import NotExactError, encode_struct
from gateway.text import cut

if TYPE_CHECKING:
    from gateway.models import Job, JobError, Progress


MAX_VALUE_DEPTH = 30

EPOCH = datetime(1970, 1, 1, tzinfo=UTC)

STATUSES = {status: pb.JobStatus.Value(f"JOB_STATUS_{status.name}") for status in JobStatus}


def job_message(job: Job) -> pb.Job:
    """Return the message of a job, with the size and hash of its result instead of the result."""
    message = pb.Job(
        uid=job.uid,
        status=STATUSES[job.status],
        status_text=cut(job.status_text, MAX_TEXT_BYTES),
        done=job.done,
        kind=cut(job.kind, MAX_TEXT_BYTES),
        log_download_url=job.log_download_url if len(job.log_download_url) <= MAX_URL else "",
    )
    # Messages within it are filled in place, which takes half as long as building and copying them.
    _set_seconds(message.observe_time, job.observe_time)
    if job.progress is not None:
        _set_progress(message.progress, job.progress)
    if job.error is not None:
        message.error.CopyFrom(_error_message(job.error))
    if job.complete_time is not None:
        _set_moment(message.complete_time, job.complete_time)
    if job.result is not None:
        message.content_size = len(job.result)
        message.content_sha256 = job.result.sha256
    elif job.forgotten_result is not None:
        message.content_size = job.forgotten_result.size
        message.content_sha256 = job.forgotten_result.sha256
    return message


def _set_progress(message: pb.Progress, progress: Progress) -> None:
    message.message = cut(progress.message, MAX_TEXT_BYTES)
    message.message_type = cut(progress.message_type, MAX_TEXT_BYTES)
    if progress.percentage is not None:
        message.percentage = progress.percentage
    if progress.report_time is not None:
        _set_moment(message.report_time, progress.report_time)


def _error_message(error: JobError) -> pb.JobError:
    message = pb.JobError(type=cut(error.type, MAX_TEXT_BYTES), message=cut(error.message, MAX_TEXT_BYTES))
    if error.stack_trace is not None:
        message.stack_trace.CopyFrom(json_value(error.stack_trace))
    if error.invalid_fields is not None:
        message.invalid_fields.CopyFrom(json_value(error.invalid_fields))
    return message


def json_value(raw: bytes) -> struct_pb2.Value:
    """Return the Value of JSON, or, beyond a depth of 30 or 256 KiB, the JSON as a string, cut to 256 KiB.

    NaN and the infinities become strings, as in protobuf's JSON.
    """
    if len(raw) <= MAX_VALUE_BYTES:
        try:
            # Wrapped in an object, because `encode_struct` takes only objects.
            wrapped = encode_struct(
                b'{"value":%b}' % raw,
                max_depth=MAX_VALUE_DEPTH + 1,
                max_bytes=MAX_VALUE_BYTES,
                rounded=True,
                constants_as_text=True,
            )
        except NotExactError:
            pass
        else:
            return struct_pb2.Struct.FromString(wrapped).fields["value"]
    # With one byte over the limit, `cut` sees that there was more.
    return struct_pb2.Value(string_value=cut(raw[: MAX_VALUE_BYTES + 1].decode(errors="replace"), MAX_VALUE_BYTES))


def timestamp(seconds: float) -> Timestamp:
    """Return the Timestamp of seconds since the epoch, to the microsecond."""
    message = Timestamp()
    _set_seconds(message, seconds)
    return message


def _set_seconds(message: Timestamp, seconds: float) -> None:
    # Only the fraction is multiplied: a double has too few digits for microseconds since the epoch.
    whole = math.floor(seconds)
    more, micros = divmod(round((seconds - whole) * 1e6), 10**6)
    message.seconds = whole + more
    message.nanos = micros * 1_000


def _set_moment(message: Timestamp, moment: datetime) -> None:
    # Called once per event, and five times as fast as Timestamp.FromDatetime.
    passed = moment - EPOCH
    message.seconds = passed.days * 86_400 + passed.seconds
    message.nanos = passed.microseconds * 1_000
