"""The records of watchers and of the upstream. All times are in seconds of one clock."""

from __future__ import annotations

import enum
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from jobgateway.v1 import job_service_pb2 as pb


class Kind(enum.Enum):
    """The outcome of an upstream request."""

    STATE = enum.auto()
    PASSING = enum.auto()
    # Rejected by the API. The requests before it decide whether this counts.
    REFUSED = enum.auto()
    # Cancelled by the gateway: the loop stopped, or a timeout expired.
    CUT = enum.auto()


@dataclass(frozen=True)
class Poll:
    """One upstream request for a job. `failure` is the reason of an error.

    `state` is the part of the response that counts for equality. `loop` is the name of the watch that started the loop.
    """

    credential: str
    uid: int
    began: float
    ended: float
    kind: Kind
    state: str = ""
    done: bool = False
    failure: str = ""
    retry_after: float = 0.0
    throttled: bool = False
    process: int = 0
    loop: str = ""


@dataclass(frozen=True)
class Event:
    """An event that a watcher received: a state, a heartbeat, or a chunk of the result (neither).

    `time` is the time at which the gateway wrote it. `held` is the part of the result that the client then has.
    """

    time: float
    state: str | None = None
    done: bool = False
    skipped: int = 0
    token: str = ""
    heartbeat: bool = False
    failures: int = 0
    last_failure: str = ""
    held: bytes = b""


def read_event(event: pb.JobEvent, content: bytearray, now: float) -> Event:
    """Convert an event. `content` is the part of the result that the client has."""
    match event.WhichOneof("payload"):
        case "heartbeat":
            beat = event.heartbeat
            return Event(
                now,
                token=event.resume_token,
                heartbeat=True,
                failures=beat.consecutive_failures,
                last_failure=beat.last_failure,
                held=bytes(content),
            )
        case "content_chunk":
            del content[event.content_chunk.offset :]
            content += event.content_chunk.data
            return Event(now, token=event.resume_token, held=bytes(content))
        case _:
            job = event.job
            text = job.progress.message if not job.done else job.status_text
            if job.done and not job.content_omitted:
                content[:] = job.content_json
            return Event(now, text, job.done, event.skipped, event.resume_token, held=bytes(content))


@dataclass
class Watch:
    """One watch from its call to its end, in one `loop` of the hub.

    `status` is OK, LEFT (the watcher left), DRAINING, KILLED (its process was killed), or the reason of an error.
    `resumed_from` is the state of its resume token. `asleep` has the spans of time in which it did not read.
    """

    name: str
    credential: str
    uid: int
    joined: float
    heartbeat: float
    resumed_from: str | None = None
    resumed_done: bool = False
    events: list[Event] = field(default_factory=list)
    asleep: list[tuple[float, float]] = field(default_factory=list)
    ended: float = float("inf")
    status: str = ""
    last_failure: str = ""
    process: int = 0
    loop: str = ""


@dataclass
class History:
    """The records of a run, and its settings in seconds.

    Something may be seen late by `tolerance`: almost nothing on a stepped clock, and scheduling delays over sockets.
    `stepped` means that the gateway learns of a response at the recorded time; over sockets, it learns of it later.
    """

    polls: list[Poll]
    watches: list[Watch]
    results: dict[int, bytes]
    shortest: float
    longest: float
    outage: float
    tolerance: float
    stepped: bool = True
    # Whether a later loop of a job may have the name of an earlier one, because both began with one stream.
    loops_share_names: bool = False
    # The times at which each process was closed, and each job was sent.
    closed: dict[int, float] = field(default_factory=dict)
    sent: dict[int, float] = field(default_factory=dict)
    # The spans in which polls of a credential waited for its rate, which count as no outage.
    waits: dict[str, list[tuple[float, float]]] = field(default_factory=dict)
