"""Requests to domain, domain to messages: pure functions."""

from __future__ import annotations

import math
import re
from datetime import UTC, datetime
from typing import TYPE_CHECKING

from google.protobuf import struct_pb2
from google.protobuf.timestamp_pb2 import Timestamp
from jobgateway.v1 import job_service_pb2 as pb

from gateway.domain import MAX_TEXT_BYTES, MAX_VALUE_BYTES, JobStatus, SendJob
from gateway.errors import RequestInvalid, RequestTooLarge
from gateway.json_text import check_json
from gateway.struct_json import NotExactError, NotJsonError, encode_struct, struct_to_json

if TYPE_CHECKING:
    from google.protobuf.duration_pb2 import Duration

    from gateway.domain import Job, JobError, Progress

MAX_WORKSPACE_ID = 200
MAX_NAME = 1_024
MAX_PARAMS_BYTES = 8 << 20
MAX_TIMEOUT_SECONDS = 86_400
MIN_HEARTBEAT_SECONDS = 1
MAX_HEARTBEAT_SECONDS = 3_600
DEFAULT_HEARTBEAT_SECONDS = 15
# The longest span that a Duration may hold, by its own documentation.
MAX_DURATION_SECONDS = 315_576_000_000

MAX_URL = 8 << 10
MAX_VALUE_DEPTH = 30
CUT_MARK = " …[cut]"

_PATH_CHANGERS = re.compile(r"[/\\?#%;\x00-\x1f\x7f-\x9f]")
_UUID = re.compile(r"[0-9a-fA-F]{8}(?:-[0-9a-fA-F]{4}){3}-[0-9a-fA-F]{12}")
_REQUEST_ID = re.compile(r"[!-~]{0,128}")

EPOCH = datetime(1970, 1, 1, tzinfo=UTC)

STATUSES = {status: pb.JobStatus.Value(f"JOB_STATUS_{status.name}") for status in JobStatus}


def read_uid(uid: int) -> int:
    """The uid of a request. Raises `RequestInvalid` unless it is 1 or greater."""
    if uid < 1:
        raise RequestInvalid("uid", f"a job's uid is 1 or greater, not {uid}")
    return uid


def read_send_job(request: pb.SendJobRequest) -> SendJob:
    """The job to send. Raises `RequestInvalid`, and `RequestTooLarge` for an input over 8 MiB."""
    _check_workspace_id(request.workspace_id)
    if request.entity_id < 1:
        raise RequestInvalid("entity_id", f"it is 1 or greater, not {request.entity_id}")
    return SendJob(
        workspace_id=request.workspace_id,
        entity_id=request.entity_id,
        poll_result=request.poll_result if request.HasField("poll_result") else None,
        method_name=_name("method_name", request.method_name) if request.HasField("method_name") else None,
        method_type=_name("method_type", request.method_type) if request.HasField("method_type") else None,
        editor_session=_uuid(request.editor_session) if request.HasField("editor_session") else None,
        params=_params(request),
        events=tuple(request.events),
        timeout=_job_timeout(request.timeout) if request.HasField("timeout") else None,
        arguments=_struct("arguments", request.arguments) if request.HasField("arguments") else None,
        method=_name("method", request.method) if request.HasField("method") else None,
    )


def _check_workspace_id(workspace_id: str) -> None:
    if not 1 <= len(workspace_id) <= MAX_WORKSPACE_ID:
        raise RequestInvalid("workspace_id", f"it has 1 to {MAX_WORKSPACE_ID} characters, not {len(workspace_id)}")
    if workspace_id in (".", "..") or _PATH_CHANGERS.search(workspace_id):
        raise RequestInvalid(
            "workspace_id",
            "it must not contain / \\ ? # % ; or control characters, nor be . or .., for it is part of a path",
        )


def _name(field: str, value: str) -> str:
    if not 1 <= len(value) <= MAX_NAME:
        raise RequestInvalid(field, f"it has 1 to {MAX_NAME} characters where it is set, not {len(value)}")
    return value


def _uuid(value: str) -> str:
    if not _UUID.fullmatch(value):
        raise RequestInvalid("editor_session", "it is a UUID: 8-4-4-4-12 hexadecimal digits")
    return value


def _params(request: pb.SendJobRequest) -> bytes | None:
    match request.WhichOneof("input"):
        case "params":
            return _struct("params", request.params)
        case "params_json":
            raw = request.params_json
            if len(raw) > MAX_PARAMS_BYTES:
                raise RequestTooLarge(f"params_json has {len(raw)} bytes; the gateway takes {MAX_PARAMS_BYTES} at most")
            try:
                check_json(raw)
            except ValueError as error:
                raise RequestInvalid("params_json", str(error)) from error
            return raw
        case _:
            return None


def _struct(field: str, struct: struct_pb2.Struct) -> bytes:
    try:
        raw = struct_to_json(struct)
    except NotJsonError as error:
        raise RequestInvalid(f"{field}.{error.path}", str(error)) from error
    if len(raw) > MAX_PARAMS_BYTES:
        raise RequestTooLarge(f"{field} has {len(raw)} bytes as JSON; the gateway takes {MAX_PARAMS_BYTES} at most")
    return raw


def _job_timeout(duration: Duration) -> int:
    if duration.nanos or not 1 <= duration.seconds <= MAX_TIMEOUT_SECONDS:
        raise RequestInvalid("timeout", f"it is whole seconds from 1 to {MAX_TIMEOUT_SECONDS}")
    return duration.seconds


def read_request_id(request_id: str) -> str:
    """The request_id, "" for none. Raises `RequestInvalid`."""
    if not _REQUEST_ID.fullmatch(request_id):
        raise RequestInvalid("request_id", "it has at most 128 characters from '!' to '~'")
    return request_id


def read_heartbeat_interval(duration: Duration | None) -> float:
    """The interval in seconds, 15 where it is unset. Raises `RequestInvalid` outside 1 second to 1 hour."""
    if duration is None:
        return DEFAULT_HEARTBEAT_SECONDS
    seconds = _seconds("heartbeat_interval", duration)
    if not MIN_HEARTBEAT_SECONDS <= seconds <= MAX_HEARTBEAT_SECONDS:
        raise RequestInvalid("heartbeat_interval", "it is from 1 second to 1 hour")
    return seconds


def read_wait_timeout(duration: Duration | None) -> float | None:
    """The timeout of a wait in seconds, or None where it is unset. Raises `RequestInvalid` below 0."""
    if duration is None:
        return None
    seconds = _seconds("timeout", duration)
    if seconds < 0:
        raise RequestInvalid("timeout", "it is 0 or more")
    return seconds


def _seconds(field: str, duration: Duration) -> float:
    if (
        abs(duration.seconds) > MAX_DURATION_SECONDS
        or abs(duration.nanos) > 999_999_999
        or duration.seconds * duration.nanos < 0
    ):
        raise RequestInvalid(field, "it is not a valid Duration")
    return duration.seconds + duration.nanos / 1e9


def job_message(job: Job) -> pb.Job:
    """The message of a job, without its result but with the result's size and hash."""
    message = pb.Job(
        uid=job.uid,
        status=STATUSES[job.status],
        status_text=cut(job.status_text, MAX_TEXT_BYTES),
        done=job.done,
        kind=cut(job.kind, MAX_TEXT_BYTES),
        # A piece of an address leads nowhere, so a huge one is left out instead of cut.
        log_download_url=job.log_download_url if len(job.log_download_url) <= MAX_URL else "",
        observe_time=timestamp(job.observe_time),
        progress=None if job.progress is None else _progress_message(job.progress),
    )
    if job.error is not None:
        message.error.CopyFrom(_error_message(job.error))
    if job.complete_time is not None:
        message.complete_time.CopyFrom(_moment(job.complete_time))
    if job.result is not None:
        message.content_size = len(job.result)
        message.content_sha256 = job.result.sha256
    return message


def _progress_message(progress: Progress) -> pb.Progress:
    return pb.Progress(
        message=cut(progress.message, MAX_TEXT_BYTES),
        message_type=cut(progress.message_type, MAX_TEXT_BYTES),
        percentage=progress.percentage,
        report_time=None if progress.report_time is None else _moment(progress.report_time),
    )


def _error_message(error: JobError) -> pb.JobError:
    message = pb.JobError(type=cut(error.type, MAX_TEXT_BYTES), message=cut(error.message, MAX_TEXT_BYTES))
    if error.stack_trace is not None:
        message.stack_trace.CopyFrom(json_value(error.stack_trace))
    if error.invalid_fields is not None:
        message.invalid_fields.CopyFrom(json_value(error.invalid_fields))
    return message


def json_value(raw: bytes) -> struct_pb2.Value:
    """Return the Value of JSON; beyond a depth of 30 or 256 KiB it becomes the string of its JSON, cut with a mark.

    NaN and the infinities become strings: JSON for protobuf writes them so too.
    """
    if len(raw) <= MAX_VALUE_BYTES:
        try:
            # Wrapped in an object, for a Value of any kind is wanted here and Struct is the one way in.
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
    # A byte more than the limit is enough for `cut` to see that there was more.
    return struct_pb2.Value(string_value=cut(raw[: MAX_VALUE_BYTES + 1].decode(errors="replace"), MAX_VALUE_BYTES))


def cut(text: str, limit: int) -> str:
    """`text` in at most `limit` bytes of UTF-8, with a mark where something was cut off."""
    if len(text) * 4 <= limit or len(text.encode()) <= limit:
        return text
    return text.encode()[: limit - len(CUT_MARK.encode())].decode(errors="ignore") + CUT_MARK


def timestamp(seconds: float) -> Timestamp:
    """The Timestamp of seconds since the epoch, to the microsecond."""
    # The fraction alone, for today's seconds times a million are more than a double has digits for.
    whole = math.floor(seconds)
    more, micros = divmod(round((seconds - whole) * 1e6), 10**6)
    return Timestamp(seconds=whole + more, nanos=micros * 1_000)


def _moment(moment: datetime) -> Timestamp:
    # Timestamp.FromDatetime takes five times as long, and is called for each event.
    passed = moment - EPOCH
    return Timestamp(seconds=passed.days * 86_400 + passed.seconds, nanos=passed.microseconds * 1_000)
