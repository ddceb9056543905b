"""What watchers and the upstream record. Times are seconds of one clock."""

from __future__ import annotations

import enum
from dataclasses import dataclass, field


class Kind(enum.Enum):
    """What an upstream request came to."""

    STATE = enum.auto()
    PASSING = enum.auto()
    # It was refused by the API; whether that counts depends on the requests before it.
    REFUSED = enum.auto()
    # The gateway gave it up: it was stopped, or a limit cut it off.
    CUT = enum.auto()


@dataclass(frozen=True)
class Poll:
    """One upstream request for a job. `state` is what equality covers of the answer, `failure` the reason.

    `loop` is whose watch began the loop that made it.
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
    """What a watcher got: a state, a chunk of the result, or a heartbeat (neither).

    `time` is when the gateway gave it out. `held` is what the client holds of the result after it.
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


@dataclass
class Watch:
    """One watch from its call to its end, in one `loop` of the hub.

    `status` is OK, LEFT (the watcher left), DRAINING, KILLED (its process was), or the reason of an error.
    `resumed_from` is the state whose token it was given. `asleep` are the spans in which it did not read.
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
    """All that a run recorded, and the rules that it ran under (seconds).

    `tolerance` is how late something may be seen: next to nothing on a stepped clock, some scheduling on sockets.
    `stepped`: the gateway knows of a response at the moment that is recorded. Over sockets it learns of it later.
    """

    polls: list[Poll]
    watches: list[Watch]
    results: dict[int, bytes]
    shortest: float
    longest: float
    outage: float
    tolerance: float
    stepped: bool = True
    # When each process was closed, and when a job was sent here.
    closed: dict[int, float] = field(default_factory=dict)
    sent: dict[int, float] = field(default_factory=dict)
