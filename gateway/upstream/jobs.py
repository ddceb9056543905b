"""Read the job in a response, in both of its shapes (docs/internals/upstream-api.md), at every endpoint."""

from __future__ import annotations

import math
import re
from datetime import UTC, datetime
from hashlib import sha256
from typing import TYPE_CHECKING, Any, TypeGuard
from urllib.parse import unquote

import msgspec
from msgspec import UNSET, Raw, UnsetType
from msgspec.structs import replace

from gateway.errors import UpstreamMalformed
from gateway.models import (
    MAX_INT64,
    MAX_TEXT_BYTES,
    MAX_URL,
    MAX_VALUE_BYTES,
    Job,
    JobError,
    JobStatus,
    Progress,
    Result,
)
from gateway.strict_json import without_mark
from gateway.upstream.json import MemberReader, read_text, read_value

if TYPE_CHECKING:
    from collections.abc import Iterator

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
# Words that other APIs use for a job that has not ended. An error beside them belongs to an earlier attempt.
UNFINISHED = frozenset(
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

NULL, FALSE = b"null", b"false"
QUOTE, BRACE = b'"{'
NO_PROGRESS = Progress()
NO_ERROR = JobError()
# A uid as text. A sign or a leading zero is excluded, because readers disagree about them.
_UID = re.compile(r"[1-9][0-9]{0,18}")
# Above it, a double may be the rounded value of several integers.
MAX_EXACT_INTEGER = 2**53 - 1
_AUTHORITY = re.compile(r"(?:[A-Za-z][A-Za-z0-9+.-]*+:)?//[^/]*+")
# A longer value is not an empty default, whatever it is.
MAX_EMPTY_BYTES = 64


class _Members(msgspec.Struct):
    """The members that describe a job, as bytes, because only small values are built."""

    uid: Raw | UnsetType = UNSET
    url: Raw | UnsetType = UNSET
    status: Raw | UnsetType = UNSET
    message: Raw | UnsetType = UNSET
    kind: Raw | UnsetType = UNSET
    completed_at: Raw | UnsetType = UNSET
    log_download_url: Raw | UnsetType = UNSET
    error_message: Raw | UnsetType = UNSET
    error: Raw | UnsetType = UNSET
    error_stack_trace: Raw | UnsetType = UNSET
    invalid_fields: Raw | UnsetType = UNSET
    result: Raw | UnsetType = UNSET
    content: Raw | UnsetType = UNSET


class _MessageMembers(msgspec.Struct):
    message: Raw | UnsetType = UNSET
    message_type: Raw | UnsetType = UNSET
    percentage: Raw | UnsetType = UNSET
    timestamp_epoch: Raw | UnsetType = UNSET


class _ErrorMembers(msgspec.Struct):
    type: Raw | UnsetType = UNSET
    message: Raw | UnsetType = UNSET
    stack_trace: Raw | UnsetType = UNSET
    invalid_fields: Raw | UnsetType = UNSET


# The fields that are left out of a job if they are malformed, as the upstream names them; see `Job.dropped`.
DROPPABLE = (
    *("completed_at", "error_message", "kind", "log_download_url"),
    *("message", "message_type", "percentage", "timestamp_epoch"),
)

# An object with none of these members is not a job.
JOB_FIELDS = frozenset(_Members.__struct_fields__)
NO_MEMBERS = _Members()
# The value of a member that is present, but unreadable or too large.
UNREADABLE = ()

_JOB = MemberReader(_Members)
_MESSAGE = MemberReader(_MessageMembers)
_ERROR = MemberReader(_ErrorMembers)


def read_job(body: bytes, *, uid: int, observe_time: float) -> Job:
    """Return the job in the response to a poll. Hashing takes about 0.6 ms per MiB of result.

    Args:
        body: the response.
        uid: the job that was asked for; a body without a `uid` counts as that job.
        observe_time: in seconds since the epoch.

    Raises:
        UpstreamMalformed: the body is not a job, or it is another job.
    """
    members = _job_members(body)
    status = _value(members.status)
    if _is_there(status) and not isinstance(status, str):
        raise UpstreamMalformed("the upstream responded with a status that is not a string")
    named = _uid_of(members)
    if named is not None and named != uid:
        raise UpstreamMalformed(f"the upstream responded with job {named} instead of job {uid}")
    return _job(members, uid, observe_time)


def read_sent_job(body: bytes, *, observe_time: float, location: str | None, may_have_ended: bool) -> Job:
    """Return the job in the response to a POST, identified by `uid`, `url` or the `Location` header.

    The first usable one of the three counts. An accepted job must not be lost because the others, its status or the
    body are unreadable.

    Args:
        body: the response.
        observe_time: in seconds since the epoch.
        location: the `Location` header.
        may_have_ended: a job without a usable uid may have ended already. If its status says so, it gets the uid 0.

    Raises:
        UpstreamMalformed: the response identifies no job, and shows no end.
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
        raise unusable or UpstreamMalformed("the upstream accepted the job without a uid or url")
    return _job(members, uid, observe_time)


def is_known_status(status_text: str) -> bool:
    """Return whether the API is known to use this status, or the status is empty."""
    if status_text in STATUSES:
        return True
    word = _plain_word(status_text)
    return not word or word in STATUSES


def _word(members: _Members) -> str:
    return _plain_word(_text(members.status))


def _plain_word(status: str) -> str:
    return status.strip().lower().replace("-", "_").replace(" ", "_")


def _job_members(body: bytes) -> _Members:
    members = _JOB.read(without_mark(body))
    if members == NO_MEMBERS:
        raise UpstreamMalformed("the upstream responded with a JSON object that is not a job")
    return members


def _value(raw: Raw | UnsetType) -> Any:
    if raw is UNSET:
        return UNSET
    piece = memoryview(raw)
    if piece == NULL:
        return None
    # A string of any size is cheap to build; a list or object may take fifty times its bytes.
    value = read_value(piece) if len(piece) <= MAX_TEXT_BYTES or piece[0] == QUOTE else None
    return UNREADABLE if value is None else value


def _text(raw: Raw | UnsetType) -> str:
    return read_text(_value(raw))


def _is_object(raw: Raw | UnsetType) -> TypeGuard[Raw]:
    return raw is not UNSET and memoryview(raw)[0] == BRACE


def _is_there(value: Any) -> bool:
    return value is not UNSET and value is not None


def _uid_of(members: _Members) -> int | None:
    uid = _value(members.uid)
    if not _is_there(uid):
        return None
    if _is_text_of_uid(uid) or (isinstance(uid, float) and uid.is_integer() and abs(uid) <= MAX_EXACT_INTEGER):
        uid = int(uid)
    if type(uid) is not int or not 1 <= uid <= MAX_INT64:
        raise UpstreamMalformed("the upstream responded with a uid that is not an integer from 1 to 2^63 - 1")
    return uid


def _is_text_of_uid(value: Any) -> bool:
    return isinstance(value, str) and _UID.fullmatch(value) is not None


def _uid_of_url(members: _Members) -> int | None:
    segments = _segments(_text(members.url))
    return _uid_in(segments[-1])


def uid_in_location(location: str | None) -> int | None:
    """Return the uid in a `Location` header that ends in `jobs/{uid}`, or None."""
    if location is None:
        return None
    segments = _segments(location)
    return _uid_in(segments[-1]) if segments[-2:-1] == ["jobs"] else None


def _segments(url: str) -> list[str]:
    # Without host, query and fragment, which may be numbers too.
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
    # An unknown word ends a job only beside a sign of an end. An empty default is not a sign.
    completed_at = _value(members.completed_at)
    ended = bool(completed_at) and not _is_nan(completed_at)
    if word not in UNFINISHED:
        ended = ended or error is not None or not _is_empty(result)
    return JobStatus.UNSPECIFIED if ended else JobStatus.RUNNING


def _job(members: _Members, uid: int, observe_time: float) -> Job:
    text = _text(members.status)
    error = _error(members)
    result = _result(members)
    status = _status(_plain_word(text), members, error, result)
    done = status is not JobStatus.RUNNING
    message = _message_members(members.message)
    job = Job(
        uid=uid,
        status=status,
        status_text=_kept(text),
        done=done,
        observe_time=observe_time,
        kind=_kept(_text(members.kind)),
        progress=_progress(message),
        error=error,
        # A running job has no result yet, only a default in its place.
        result=Result(result, sha256(result).hexdigest()) if done and result is not None else None,
        complete_time=_iso_time(_value(members.completed_at)),
        log_download_url=_kept(_text(members.log_download_url)),
    )
    dropped = tuple(_dropped(job, members, message))
    return replace(job, dropped=dropped) if dropped else job


def _dropped(job: Job, members: _Members, message: _MessageMembers) -> Iterator[str]:
    progress = job.progress or NO_PROGRESS
    if len(job.log_download_url) > MAX_URL:
        yield "log_download_url"
    for name, raw, kept in (
        ("completed_at", members.completed_at, job.complete_time),
        ("error_message", members.error_message, job.error and job.error.message),
        ("kind", members.kind, job.kind),
        ("log_download_url", members.log_download_url, job.log_download_url),
        ("message", message.message, progress.message),
        ("message_type", message.message_type, progress.message_type),
        ("percentage", message.percentage, progress.percentage),
        ("timestamp_epoch", message.timestamp_epoch, progress.report_time),
    ):
        if raw is not UNSET and not kept:
            value = _value(raw)
            # Writers have several defaults for an absent value, and none of them is a loss.
            if value not in ({}, [], "", None, False) and not _is_nan(value):
                yield name


def _kept(text: str) -> str:
    # Clients get no more than this. One character beyond the limit shows that there was more.
    return text[: MAX_TEXT_BYTES + 1]


def _is_nan(value: Any) -> bool:
    return isinstance(value, float) and math.isnan(value)


def _given(raw: Raw | UnsetType) -> memoryview | None:
    if raw is UNSET:
        return None
    piece = memoryview(raw)
    return None if piece == NULL else piece


def _result(members: _Members) -> memoryview | None:
    # Each shape has its own name for the result. The empty default of one must not hide the other.
    given = [piece for raw in (members.result, members.content) if (piece := _given(raw)) is not None]
    return next((piece for piece in given if not _is_empty(piece)), given[0] if given else None)


def _is_empty(raw: memoryview | None) -> bool:
    if raw is None:
        return True
    if len(raw) > MAX_EMPTY_BYTES:
        return False
    value = read_value(raw)
    # Some writers use NaN for null.
    return value in ({}, [], "", None) or _is_nan(value)


def _message_members(message: Raw | UnsetType) -> _MessageMembers:
    return _MESSAGE.read(memoryview(message)) if _is_object(message) else _MessageMembers(message=message)


def _progress(members: _MessageMembers) -> Progress | None:
    progress = Progress(
        message=_kept(_text(members.message)),
        message_type=_kept(_text(members.message_type)),
        percentage=_number(_value(members.percentage)),
        report_time=_epoch_time(_value(members.timestamp_epoch)),
    )
    return None if progress == NO_PROGRESS else progress


def _error(members: _Members) -> JobError | None:
    if members.error is members.error_message is members.error_stack_trace is members.invalid_fields is UNSET:
        return None
    # Read member by member, so that an unreadable one does not hide the others.
    inner = (
        _ERROR.read(memoryview(members.error)) if _is_object(members.error) else _ErrorMembers(message=members.error)
    )
    error = JobError(
        type=_kept(_text(inner.type)),
        message=_kept(_text(inner.message) or _text(members.error_message)),
        stack_trace=_json(_given(inner.stack_trace)) or _json(_given(members.error_stack_trace)),
        invalid_fields=_json(_given(inner.invalid_fields)) or _json(_given(members.invalid_fields)),
    )
    if error != NO_ERROR:
        return error
    # An error of an unknown form becomes the message, unchanged.
    raw = _given(members.error)
    known = raw is None or raw == FALSE or _is_empty(raw)
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
