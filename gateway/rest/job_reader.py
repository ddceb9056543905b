"""Reads the job in an upstream answer, in both of its shapes (docs/upstream.md), at every endpoint."""

from __future__ import annotations

import math
from datetime import UTC, datetime
from hashlib import sha256
from typing import Any

import msgspec
from msgspec import UNSET, Raw, UnsetType

from gateway.domain import MAX_INT64, Job, JobError, JobStatus, Progress, Result
from gateway.errors import UpstreamMalformed
from gateway.rest.json_reader import read_members, read_text, read_value

STATUSES = {
    "message": JobStatus.RUNNING,
    "running": JobStatus.RUNNING,
    "success": JobStatus.SUCCESS,
    "error": JobStatus.ERROR,
    "failed": JobStatus.ERROR,
    "error_app_reloading": JobStatus.ERROR,
    "error_user": JobStatus.ERROR_USER,
    "stopped": JobStatus.STOPPED,
    "cancelled": JobStatus.CANCELLED,
    "error_timeout": JobStatus.TIMEOUT,
    "expired": JobStatus.EXPIRED,
}
FAILED_BY_ERROR_TYPE = {"error_user": JobStatus.ERROR_USER, "error_timeout": JobStatus.TIMEOUT}

NULL = b"null"
NO_PROGRESS = Progress()
NO_ERROR = JobError()
# A longer text is something, whatever it is.
MAX_EMPTY_BYTES = 64


class _Members(msgspec.Struct):
    """What an answer may hold of a job: values, and as their own bytes what is passed on or read by itself."""

    uid: Any = UNSET
    url: Raw | UnsetType = UNSET
    status: Any = UNSET
    message: Any = UNSET
    kind: Any = UNSET
    completed_at: Any = UNSET
    log_download_url: Any = UNSET
    error_message: Any = UNSET
    error: Raw | UnsetType = UNSET
    error_stack_trace: Raw | UnsetType = UNSET
    invalid_fields: Raw | UnsetType = UNSET
    result: Raw | UnsetType = UNSET
    content: Raw | UnsetType = UNSET


# One of these makes an object a job; an object with none of them is some other answer.
JOB_FIELDS = frozenset(_Members.__struct_fields__)
NO_MEMBERS = _Members()
PIECES = frozenset({"url", "error", "error_stack_trace", "invalid_fields", "result", "content"})
# The value of a member that cannot be read: there, and of no use to anybody.
UNREADABLE = ()

_decode = msgspec.json.Decoder(_Members).decode


def read_job(body: bytes, *, uid: int, observe_time: float) -> Job:
    """The job in a polled body; one without a `uid` is the job that was asked for.

    `observe_time` is in seconds since the epoch. Hashing takes about 0.6 ms a MiB of result. Raises
    `UpstreamMalformed` where the body is no job, or another one.
    """
    members = _job_members(body)
    if _is_there(members.status) and not isinstance(members.status, str):
        raise UpstreamMalformed("the upstream answered with a status that is not a string")
    named = _uid_of(members)
    if named is not None and named != uid:
        raise UpstreamMalformed(f"the upstream answered with job {named} where job {uid} was asked for")
    return _job(members, uid, observe_time)


def read_sent_job(body: bytes, *, observe_time: float) -> Job:
    """The job in the answer to a POST: `uid`, or the last segment of `url`, is due.

    A job that was taken must not be lost for a status that cannot be read, so that one counts as none. Raises
    `UpstreamMalformed` where neither a uid nor a url can be used.
    """
    members = _job_members(body)
    uid = _uid_of_url(members)
    try:
        uid = _uid_of(members) or uid
    except UpstreamMalformed:
        # Either alone is enough (docs/upstream.md): a usable url makes up for an unusable uid.
        if uid is None:
            raise
    if uid is None:
        raise UpstreamMalformed("the upstream took the job and named neither its uid nor its url")
    return _job(members, uid, observe_time)


def _job_members(body: bytes) -> _Members:
    try:
        members = _decode(body)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
        members = _leniently(read_members(body))
    if members == NO_MEMBERS:
        raise UpstreamMalformed("the upstream answered with a JSON object that is not a job")
    return members


def _leniently(raw: dict[str, memoryview]) -> _Members:
    # What msgspec refuses is JSON all the same, or one member alone cannot be read.
    return _Members(
        **{name: Raw(raw[name]) if name in PIECES else _value(raw[name]) for name in JOB_FIELDS & raw.keys()}
    )


def _value(raw: memoryview) -> Any:
    value = read_value(raw)
    return UNREADABLE if value is None and raw != NULL else value


def _is_there(value: Any) -> bool:
    return value is not UNSET and value is not None


def _uid_of(members: _Members) -> int | None:
    uid = members.uid
    if not _is_there(uid):
        return None
    if type(uid) is not int or not 1 <= uid <= MAX_INT64:
        raise UpstreamMalformed("the upstream answered with a uid that is not an integer from 1 to 2^63 - 1")
    return uid


def _uid_of_url(members: _Members) -> int | None:
    url = read_text(read_value(_given(members.url)))
    segment = url.partition("?")[0].rstrip("/").rpartition("/")[2]
    # No int64 has more than 19 digits.
    if not (segment.isascii() and segment.isdecimal() and len(segment) <= 19):
        return None
    return int(segment) if 1 <= int(segment) <= MAX_INT64 else None


def _job(members: _Members, uid: int, observe_time: float) -> Job:
    word = read_text(members.status)
    error = _error(members)
    result = _result(members)
    status = STATUSES.get(word)
    if word == "failed" and error is not None:
        status = FAILED_BY_ERROR_TYPE.get(error.type, status)
    if status is None:
        # An unknown word ends a job only beside a sign of an end; an empty default is none.
        ended = members.completed_at or error is not None or not _is_empty(result)
        status = JobStatus.UNSPECIFIED if ended else JobStatus.RUNNING
    done = status is not JobStatus.RUNNING
    return Job(
        uid=uid,
        status=status,
        status_text=word,
        done=done,
        observe_time=observe_time,
        kind=read_text(members.kind),
        progress=_progress(members.message),
        error=error,
        # A job that goes on has no result yet, whatever default stands in its place.
        result=Result(result, sha256(result).hexdigest()) if done and result is not None else None,
        complete_time=_iso_time(members.completed_at),
        log_download_url=read_text(members.log_download_url),
    )


def _given(raw: Raw | UnsetType) -> memoryview | None:
    if raw is UNSET:
        return None
    piece = memoryview(raw)
    return None if piece == NULL else piece


def _result(members: _Members) -> memoryview | None:
    # Each shape has its own name for it, and the empty default of the one must not hide what the other holds.
    given = [piece for raw in (members.result, members.content) if (piece := _given(raw)) is not None]
    return next((piece for piece in given if not _is_empty(piece)), given[0] if given else None)


def _is_empty(raw: memoryview | None) -> bool:
    return raw is None or (len(raw) <= MAX_EMPTY_BYTES and read_value(raw) in ({}, [], "", None))


def _progress(message: Any) -> Progress | None:
    if isinstance(message, str):
        message = {"message": message}
    if not isinstance(message, dict):
        return None
    progress = Progress(
        message=read_text(message.get("message")),
        message_type=read_text(message.get("message_type")),
        percentage=_number(message.get("percentage")),
        report_time=_epoch_time(message.get("timestamp_epoch")),
    )
    return None if progress == NO_PROGRESS else progress


def _error(members: _Members) -> JobError | None:
    if members.error is members.error_message is members.error_stack_trace is members.invalid_fields is UNSET:
        return None
    raw = _given(members.error)
    # Read member by member, so that what cannot be read of one does not take the others along.
    inner = read_members(bytes(raw)) if raw is not None and raw[0] == ord("{") else {}
    message = read_text(read_value(inner.get("message") if inner else raw))
    error = JobError(
        type=read_text(read_value(inner.get("type"))),
        message=message or read_text(members.error_message),
        stack_trace=_json(inner.get("stack_trace")) or _json(_given(members.error_stack_trace)),
        invalid_fields=_json(inner.get("invalid_fields")) or _json(_given(members.invalid_fields)),
    )
    if error != NO_ERROR:
        return error
    # An error of a form that nobody foresaw is told as it came.
    known = _is_empty(raw) or read_value(raw) is False
    return None if known or raw is None else JobError(message=bytes(raw).decode(errors="replace"))


def _json(raw: memoryview | None) -> bytes | None:
    return None if raw is None or raw == NULL or _is_empty(raw) else bytes(raw)


def _number(value: Any) -> float | None:
    if isinstance(value, bool) or not isinstance(value, int | float):
        return None
    try:
        number = float(value)
    except OverflowError:
        return None
    return number if math.isfinite(number) else None


def _epoch_time(value: Any) -> datetime | None:
    seconds = _number(value)
    try:
        return None if seconds is None else datetime.fromtimestamp(seconds, UTC)
    except (OverflowError, ValueError, OSError):
        return None


def _iso_time(value: Any) -> datetime | None:
    try:
        moment = datetime.fromisoformat(value) if isinstance(value, str) else None
        if moment is None:
            return None
        return moment.astimezone(UTC) if moment.tzinfo else moment.replace(tzinfo=UTC)
    except (ValueError, OverflowError):
        return None
