"""Reads the job in an upstream answer, in both of its shapes (docs/internals/upstream-api.md), at every endpoint."""

from __future__ import annotations

import math
import re
from datetime import UTC, datetime
from hashlib import sha256
from typing import Any
from urllib.parse import unquote

import msgspec
from msgspec import UNSET, Raw, UnsetType

from gateway.errors import UpstreamMalformed
from gateway.models import MAX_INT64, MAX_TEXT_BYTES, MAX_VALUE_BYTES, Job, JobError, JobStatus, Progress, Result
from gateway.upstream.json import read_members, read_text, read_value, without_mark

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
    "canceled": JobStatus.CANCELLED,
    "error_timeout": JobStatus.TIMEOUT,
    "expired": JobStatus.EXPIRED,
}
# Other APIs use these for a job that has not ended. An error beside them is that of an attempt which another follows.
GOES_ON = frozenset(
    {
        *(
            "accepted",
            "created",
            "enqueued",
            "new",
            "pending",
            "queued",
            "received",
            "scheduled",
            "submitted",
            "waiting",
        ),
        *("active", "in_progress", "initializing", "preparing", "processing", "started", "starting"),
        *("restarting", "retrying"),
    }
)
FAILED_BY_ERROR_TYPE = {"error_user": JobStatus.ERROR_USER, "error_timeout": JobStatus.TIMEOUT}

NULL = b"null"
NO_PROGRESS = Progress()
NO_ERROR = JobError()
# A uid that is text, with neither sign nor leading zero: nothing else is the same number to every reader.
_UID = re.compile(r"[1-9][0-9]{0,18}")
# Above it a double is not the only integer that is written so.
MAX_EXACT_INTEGER = 2**53
_AUTHORITY = re.compile(r"(?:[A-Za-z][A-Za-z0-9+.-]*+:)?//[^/]*+")
# A longer address is not one of a job.
MAX_URL = 8 << 10
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


def read_sent_job(body: bytes, *, observe_time: float, location: str | None = None, may_have_ended: bool = True) -> Job:
    """Read the job in the answer to a POST: `uid`, `url`, or the `Location` header has to name it.

    The first of them that can be used counts; a job that was taken must not be lost because of the others, nor because
    of a status or body that cannot be read. If none names the job and it `may_have_ended`, one whose status is an end
    has uid 0. Raises `UpstreamMalformed` if the answer names no job and shows no end.
    """
    located = uid_in_location(location)
    try:
        members = _job_members(body)
    except UpstreamMalformed:
        if located is None:
            raise
        members = NO_MEMBERS
    uid = _uid_of_url(members) or located
    unusable: UpstreamMalformed | None = None
    try:
        uid = _uid_of(members) or uid
    except UpstreamMalformed as error:
        unusable = error
    if uid is None and may_have_ended and STATUSES.get(_word(members), JobStatus.RUNNING) is not JobStatus.RUNNING:
        uid = 0
    if uid is None:
        raise unusable or UpstreamMalformed("the upstream took the job and named neither its uid nor its url")
    return _job(members, uid, observe_time)


def is_known_word(status_text: str) -> bool:
    """Return whether a status is one that the API is known to use, or none at all."""
    word = _plain_word(status_text)
    return not word or word in STATUSES


def _word(members: _Members) -> str:
    return _plain_word(read_text(members.status))


def _plain_word(status: str) -> str:
    return status.strip().lower().replace("-", "_").replace(" ", "_")


def _job_members(body: bytes) -> _Members:
    body = without_mark(body)
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
    if _is_text_of_uid(uid) or (isinstance(uid, float) and uid.is_integer() and abs(uid) <= MAX_EXACT_INTEGER):
        uid = int(uid)
    if type(uid) is not int or not 1 <= uid <= MAX_INT64:
        raise UpstreamMalformed("the upstream answered with a uid that is not an integer from 1 to 2^63 - 1")
    return uid


def _is_text_of_uid(value: Any) -> bool:
    return isinstance(value, str) and _UID.fullmatch(value) is not None


def _uid_of_url(members: _Members) -> int | None:
    segments = _segments(read_text(read_value(_given(members.url))))
    return _uid_in(segments[-1])


def uid_in_location(location: str | None) -> int | None:
    """Return the uid in a `Location` header that ends in `jobs/{uid}`, or None: any answer may have that header."""
    segments = _segments(location or "")
    return _uid_in(segments[-1]) if segments[-2:-1] == ["jobs"] else None


def _segments(url: str) -> list[str]:
    # The host, the query and the fragment may be numbers too, and name no job.
    path = url[: MAX_URL + 1].strip().partition("#")[0].partition("?")[0]
    if len(url) > MAX_URL:
        return [""]
    authority = _AUTHORITY.match(path)
    return unquote(path[authority.end() :] if authority else path).rstrip("/").split("/")


def _uid_in(segment: str) -> int | None:
    return int(segment) if _UID.fullmatch(segment) and int(segment) <= MAX_INT64 else None


def _status(word: str, members: _Members, error: JobError | None, result: memoryview | None) -> JobStatus:
    status = STATUSES.get(word)
    if word == "failed" and error is not None:
        status = FAILED_BY_ERROR_TYPE.get(_plain_word(error.type), status)
    if status is not None:
        return status
    # An unknown word ends a job only beside a sign of an end; an empty default is none.
    ended = bool(members.completed_at) and not _is_nan(members.completed_at)
    if word not in GOES_ON:
        ended = ended or error is not None or not _is_empty(result)
    return JobStatus.UNSPECIFIED if ended else JobStatus.RUNNING


def _job(members: _Members, uid: int, observe_time: float) -> Job:
    text = read_text(members.status)
    error = _error(members)
    result = _result(members)
    status = _status(_plain_word(text), members, error, result)
    done = status is not JobStatus.RUNNING
    return Job(
        uid=uid,
        status=status,
        status_text=_kept(text),
        done=done,
        observe_time=observe_time,
        kind=_kept(read_text(members.kind)),
        progress=_progress(members.message),
        error=error,
        # A job that goes on has no result yet, whatever default stands in its place.
        result=Result(result, sha256(result).hexdigest()) if done and result is not None else None,
        complete_time=_iso_time(members.completed_at),
        log_download_url=_kept(read_text(members.log_download_url)),
    )


def _kept(text: str) -> str:
    # No caller gets more, and all of it would be compared and encoded again and again. One character beyond the limit
    # shows that there was more.
    return text[: MAX_TEXT_BYTES + 1]


def _is_nan(value: Any) -> bool:
    return isinstance(value, float) and math.isnan(value)


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
    if raw is None:
        return True
    if len(raw) > MAX_EMPTY_BYTES:
        return False
    value = read_value(raw)
    # Some writers have NaN for null.
    return value in ({}, [], "", None) or _is_nan(value)


def _progress(message: Any) -> Progress | None:
    if isinstance(message, str):
        message = {"message": message}
    if not isinstance(message, dict):
        return None
    progress = Progress(
        message=_kept(read_text(message.get("message"))),
        message_type=_kept(read_text(message.get("message_type"))),
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
        type=_kept(read_text(read_value(inner.get("type")))),
        message=_kept(message or read_text(members.error_message)),
        stack_trace=_json(inner.get("stack_trace")) or _json(_given(members.error_stack_trace)),
        invalid_fields=_json(inner.get("invalid_fields")) or _json(_given(members.invalid_fields)),
    )
    if error != NO_ERROR:
        return error
    # An error of a form that nobody foresaw is told as it came.
    known = _is_empty(raw) or read_value(raw) is False
    return (
        None
        if known or raw is None
        else JobError(message=_kept(bytes(raw[: MAX_TEXT_BYTES + 1]).decode(errors="replace")))
    )


def _json(raw: memoryview | None) -> bytes | None:
    return None if raw is None or raw == NULL or _is_empty(raw) else bytes(raw[: MAX_VALUE_BYTES + 1])


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
