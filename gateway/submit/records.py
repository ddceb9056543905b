"""The facts about one request id, as every store keeps them."""

from __future__ import annotations

import datetime as dt
from typing import NamedTuple

import msgspec
from msgspec.structs import replace

from gateway.models import ForgottenResult, Job, JobError, JobStatus
from gateway.text import cut

# The most bytes that are kept of a text, because records live for 25 hours.
MAX_REMEMBERED_TEXT = 1_000


class IdempotencyKey(NamedTuple):
    """A request id of one caller, as two keyed hashes.

    `old` is the same under the key that is being replaced, while the key file has two lines. `seal` is a hash that is
    never stored, under which fingerprints are.
    """

    caller: bytes
    request: bytes
    old: IdempotencyKey | None = None
    seal: bytes = b""


class Claim(NamedTuple):
    """The right to submit under a key.

    `fence` is a random number of 63 bits that only the claimer knows. A store changes a record only for the claim
    whose fence the record has, so an owner that was suspended cannot overwrite a newer fact.
    """

    key: IdempotencyKey
    fence: int


class Outcome(msgspec.Struct, frozen=True):
    """The end of a submission: the `uid` of its job, or the reason why its outcome is `unknown`.

    `ended` is a job that had ended in the response to its POST and has no uid, so that it cannot be read again.
    """

    uid: int | None = None
    unknown: str | None = None
    http_status: int | None = None
    ended: Job | None = None


# The outcome of a claim that its owner neither settled nor released in time.
OWNER_LOST = Outcome(unknown="the gateway that was submitting under this request_id did not report an outcome in time")
UNREADABLE = Outcome(unknown="the store has an outcome of this request_id that cannot be read")


class IdempotencyRecord(msgspec.Struct, frozen=True):
    """The memory of a submission. Without an `outcome`, its owner may still report one."""

    fingerprint: bytes
    outcome: Outcome | None = None


class _StoredJob(msgspec.Struct, omit_defaults=True):
    """The part of an ended job that is stored. The status is stored by name, which no new version changes."""

    status: str
    status_text: str
    observed: float
    error: str | None = None
    completed: dt.datetime | None = None
    size: int | None = None
    sha256: str | None = None


class _StoredOutcome(msgspec.Struct, omit_defaults=True):
    uid: int | None = None
    unknown: str | None = None
    http_status: int | None = None
    ended: _StoredJob | None = None


_encoder = msgspec.json.Encoder()
_decoder = msgspec.json.Decoder(_StoredOutcome)


def encode(outcome: Outcome) -> bytes:
    """Return an outcome as the JSON that is stored."""
    job = outcome.ended
    ended = None
    if job is not None:
        left = job.forgotten_result
        ended = _StoredJob(
            job.status.name,
            job.status_text,
            job.observe_time,
            None if job.error is None else job.error.message,
            job.complete_time,
            None if left is None else left.size,
            None if left is None else left.sha256,
        )
    return _encoder.encode(_StoredOutcome(outcome.uid, outcome.unknown, outcome.http_status, ended))


def decode(data: bytes) -> Outcome:
    """Return the outcome that was stored as JSON. If it cannot be read, it is unknown."""
    try:
        stored = _decoder.decode(data)
    except msgspec.MsgspecError:
        return UNREADABLE
    ended = None
    if stored.ended is not None:
        job = stored.ended
        ended = Job(
            uid=0,
            status=getattr(JobStatus, job.status, JobStatus.UNSPECIFIED),
            status_text=job.status_text,
            done=True,
            observe_time=job.observed,
            error=None if job.error is None else JobError(message=job.error),
            complete_time=job.completed,
            forgotten_result=None if job.size is None else ForgottenResult(job.size, job.sha256 or ""),
        )
    return Outcome(stored.uid, stored.unknown, stored.http_status, ended)


def without_result(job: Job) -> Job:
    """Return a job without everything that can be large."""
    return replace(
        job,
        status_text=cut(job.status_text, MAX_REMEMBERED_TEXT),
        kind="",
        progress=None,
        error=job.error and JobError(message=cut(job.error.message, MAX_REMEMBERED_TEXT)),
        log_download_url="",
        result=None,
        forgotten_result=job.result and ForgottenResult(len(job.result), job.result.sha256),
    )
