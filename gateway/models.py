"""The data model of jobs: frozen values, independent of protobuf and HTTP.

They are msgspec structs, because one is created for each response, and a frozen dataclass takes five times as long.
"""

from __future__ import annotations

import enum
from dataclasses import dataclass
from typing import TYPE_CHECKING

import msgspec

if TYPE_CHECKING:
    from datetime import datetime

MAX_INT64 = 2**63 - 1
# The largest text and JSON value that are kept next to the result, in bytes; one byte more shows that it was cut.
MAX_TEXT_BYTES = 64 << 10
MAX_VALUE_BYTES = 256 << 10
# A part of an address is useless, so a longer one is left out instead of cut. In characters.
MAX_URL = 8 << 10


class JobStatus(enum.Enum):
    """The status of a job. `Job.done` tells whether the job has ended."""

    UNSPECIFIED = enum.auto()
    RUNNING = enum.auto()
    SUCCESS = enum.auto()
    ERROR = enum.auto()
    ERROR_USER = enum.auto()
    STOPPED = enum.auto()
    CANCELLED = enum.auto()
    TIMEOUT = enum.auto()
    EXPIRED = enum.auto()


class Progress(msgspec.Struct, frozen=True):
    """The progress that a job reported. `percentage` is usually 0 to 100, and may decrease."""

    message: str = ""
    message_type: str = ""
    percentage: float | None = None
    report_time: datetime | None = None


class JobError(msgspec.Struct, frozen=True):
    """The error of a job. `stack_trace` and `invalid_fields` are JSON as the upstream sent it."""

    type: str = ""
    message: str = ""
    stack_trace: bytes | None = None
    invalid_fields: bytes | None = None


@dataclass(frozen=True, slots=True, weakref_slot=True)
class Result:
    """The result of a job: JSON with the exact bytes of the upstream, and their SHA-256 in hexadecimal."""

    json: memoryview
    sha256: str

    def __len__(self) -> int:
        return len(self.json)


class ForgottenResult(msgspec.Struct, frozen=True):
    """A result that the gateway no longer has: its `size` in bytes, and its SHA-256 in hexadecimal."""

    size: int
    sha256: str


class Job(msgspec.Struct, frozen=True):
    """A job as the upstream described it at `observe_time` (seconds since the epoch).

    `dropped` has the names of the upstream's fields that were left out because they are malformed.
    `uid` is 0 if the job had already ended when it was sent and the upstream gave it no uid. The result is in `result`,
    or its size and hash are in `forgotten_result`.
    """

    uid: int
    status: JobStatus
    status_text: str
    done: bool
    observe_time: float
    kind: str = ""
    progress: Progress | None = None
    error: JobError | None = None
    result: Result | None = None
    complete_time: datetime | None = None
    log_download_url: str = ""
    forgotten_result: ForgottenResult | None = None
    dropped: tuple[str, ...] = ()

    def identity(self) -> tuple[object, ...]:
        """Return a value that is equal for states that a watcher cannot tell apart: no content, URLs or times."""
        progress = self.progress
        return (
            self.status_text,
            self.done,
            None if progress is None else (progress.message, progress.message_type, progress.percentage),
            self.error,
        )


class SendJob(msgspec.Struct, frozen=True):
    """A job to send, without the fields that are None. `params` and `arguments` are JSON, `timeout` is in seconds."""

    workspace_id: str
    entity_id: int
    poll_result: bool | None = None
    method_name: str | None = None
    method_type: str | None = None
    editor_session: str | None = None
    params: bytes | None = None
    events: tuple[str, ...] = ()
    timeout: int | None = None
    arguments: bytes | None = None
    method: str | None = None
