"""The contents of the status page. `/statusz` is these structs as JSON, so their names are its format.

They hold no token, parameter, result or text of a job: readers of the page may be anyone who may read the metrics.
"""

from __future__ import annotations

from datetime import datetime

import msgspec

from gateway.telemetry.recent_requests import RecentFigures


class Problem(msgspec.Struct, frozen=True):
    """Something that an operator should know.

    Attributes:
        severity: `critical`, `warning` or `info`.
        summary: One sentence.
        action: The next steps, in one or two sentences.
        section: The section of the runbook, or "".
    """

    severity: str
    summary: str
    action: str
    section: str


class Process(msgspec.Struct, frozen=True):
    """The process: its build, its state and its addresses."""

    version: str
    python: str
    host: str
    uptime_seconds: float
    ready: bool
    draining: bool
    address: str
    admin_address: str


class Certificate(msgspec.Struct, frozen=True):
    """The certificate of the listener. `doubt` says why clients may reject it; `expires` is None if it is not known."""

    expires: datetime | None
    doubt: str


class Tls(msgspec.Struct, frozen=True):
    """The protection of the listener: `mode` is `plaintext`, `tls` or `mtls`."""

    mode: str
    certificate: Certificate | None


class Store(msgspec.Struct, frozen=True):
    """The store of the request ids: `kind` is `memory`, `sqlite`, `redis` or `rediss`."""

    kind: str
    available: bool


class Outage(msgspec.Struct, frozen=True):
    """An outage of one kind of requests to the upstream.

    Attributes:
        requests: `reads` or `submissions`.
        since: When the first of them failed.
        recovering_since: Since when they succeed again; None while they fail.
        seconds: How long they have failed, or failed until they succeeded again.
        reason: The reason of the last failure.
        cause: Its cause.
    """

    requests: str
    since: datetime
    recovering_since: datetime | None
    seconds: float
    reason: str
    cause: str


class Recent(msgspec.Struct, frozen=True):
    """The requests of one kind in the last `minutes`."""

    requests: str
    minutes: int
    figures: RecentFigures


class Upstream(msgspec.Struct, frozen=True):
    """The upstream, as this gateway sees it."""

    url: str
    outages: tuple[Outage, ...]
    recent: tuple[Recent, ...]


class WatchedJob(msgspec.Struct, frozen=True):
    """A job that is watched.

    Attributes:
        uid: The job.
        status: The name of the status, "" before the first read. Unknown words are `UNSPECIFIED`.
        progress: Its percentage, as the upstream reports it, or None.
        watchers: The number of watchers.
        age_seconds: The time since the first of them came.
        last_read_seconds: The time since the last successful read, or None.
        next_read_seconds: The time until the next read, or None during a read.
        failures: The number of failed reads since the last successful one.
        reason: The reason of the last of them, as in docs/reference/errors.md, or "".
        clients: The fingerprints of the clients, at most five.
        more_clients: The number of further clients.
    """

    uid: int
    status: str
    progress: float | None
    watchers: int
    age_seconds: float
    last_read_seconds: float | None
    next_read_seconds: float | None
    failures: int
    reason: str
    clients: tuple[str, ...]
    more_clients: int


class Watched(msgspec.Struct, frozen=True):
    """The watched jobs: `rows` is one page of those that match the query."""

    jobs: int
    watchers: int
    failing: int
    matching: int
    page: int
    pages: int
    rows: tuple[WatchedJob, ...]


class Limit(msgspec.Struct, frozen=True):
    """A limit of the process, in `unit` `""` (a number) or `bytes`."""

    name: str
    unit: str
    in_use: int
    limit: int


class Client(msgspec.Struct, frozen=True):
    """The share of one client. `client` is a fingerprint, `shared` for several clients, or `gone`."""

    client: str
    watches: int
    calls: int
    submissions: int
    polls: int
    large_bytes: int


class SlowStream(msgspec.Struct, frozen=True):
    """A stream whose client has not accepted an event for `seconds`. `uid` is None for a stream of many jobs."""

    uid: int | None
    client: str
    seconds: float
    waiting_bytes: int
    skipped_states: int


class Status(msgspec.Struct, frozen=True):
    """The whole page."""

    time: datetime
    problems: tuple[Problem, ...]
    process: Process
    tls: Tls
    store: Store
    upstream: Upstream
    submissions_in_flight: int
    watched: Watched
    limits: tuple[Limit, ...]
    clients: tuple[Client, ...]
    more_clients: int
    slow_streams: tuple[SlowStream, ...]
    more_slow_streams: int
