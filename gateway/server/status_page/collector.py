"""Collects snapshots of all parts of a gateway, and makes the status page of them."""

from __future__ import annotations

import asyncio
import heapq
import platform
import socket
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Protocol, TypeVar

import msgspec

from gateway import __version__
from gateway.auth.credential import fingerprint_of
from gateway.server.status_page.jobs import WatchedJobs
from gateway.server.status_page.model import (
    Certificate,
    Client,
    Limit,
    Outage,
    Process,
    Recent,
    SlowStream,
    Status,
    Store,
    Tls,
    Upstream,
)
from gateway.server.status_page.problems import find_problems

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable, Iterable, Mapping, Sequence

    from gateway.clock import Clock
    from gateway.config import Settings
    from gateway.limits.fair_budget import Usage
    from gateway.rpc.call import SlowReader
    from gateway.rpc.codec.events import JobState
    from gateway.rpc.handler import HandlerFactory
    from gateway.server.status_page.query import Query
    from gateway.submit.health import StoreHealth
    from gateway.telemetry.recent_requests import RecentRequests
    from gateway.watch import Hub, LoopSnapshot

T = TypeVar("T")

MINUTES = (1, 5, 15)
MAX_CLIENTS = 20
MAX_SLOW_STREAMS = 20
# A shorter write is no sign of a slow client.
SLOW_SECONDS = 1.0
# Single failures happen, and the next poll repairs them.
FAILS_REPEATEDLY = 3
# The loops and calls that are read in one step, which takes about a millisecond.
LOOPS_PER_STEP = 250
CALLS_PER_STEP = 2_500
# Owners of polls and memory are poll keys. One may belong to several clients, or to a client that has left.
SHARED, GONE = "shared", "gone"
# The names of the limits of memory begin with this.
LARGE = "large_"


class RequestHealth(Protocol):
    """The health of one kind of requests to the upstream, such as `RequestHealthSnapshot`."""

    @property
    def requests(self) -> str:
        """`reads` or `submissions`."""

    @property
    def failing_since(self) -> float | None:
        """Since when they fail, in seconds since the epoch; None without outage."""

    @property
    def recovering_since(self) -> float | None:
        """Since when they succeed again, although the outage is still open; otherwise None."""

    @property
    def reason(self) -> str:
        """The reason of the last failure."""

    @property
    def cause(self) -> str:
        """The cause of the last failure."""


@dataclass(frozen=True)
class Sources:
    """The parts of a gateway that the status page shows.

    `usage` has the limits by their names, and the two others have the parts of each `caller_key` and `poll_key`.
    """

    settings: Settings
    clock: Clock
    hub: Hub[JobState]
    calls: HandlerFactory
    store_health: StoreHealth
    recent_requests: RecentRequests
    upstream_health: Callable[[], Iterable[RequestHealth]]
    usage: Callable[[], Mapping[str, Usage]]
    usage_by_caller: Callable[[], Mapping[str, Mapping[bytes, int]]]
    usage_by_poll_key: Callable[[], Mapping[str, Mapping[bytes, int]]]
    certificate: Callable[[], Certificate | None]
    addresses: Callable[[], tuple[str, str]]
    is_ready: Callable[[], bool]
    is_draining: Callable[[], bool]


class Snapshot(msgspec.Struct, frozen=True):
    """Everything that the page shows, at one moment: `now` of the clock, `time` since the epoch.

    `callers` has the `caller_key`s of the calls in flight, for each owner in `usage_by_poll_key`.
    """

    now: float
    time: float
    process: Process
    tls: Tls
    store: Store
    upstream: Upstream
    outage_seconds: float
    usage: Mapping[str, Usage]
    usage_by_caller: Mapping[str, Mapping[bytes, int]]
    usage_by_poll_key: Mapping[str, Mapping[bytes, int]]
    callers: Mapping[bytes, set[bytes]]
    slow_readers: Sequence[SlowReader]
    loops: Sequence[LoopSnapshot[JobState]]

    def status(self, query: Query) -> Status:
        """Return the page for a query. It takes some time, so call it in a thread."""
        watched = WatchedJobs(self.loops, self.now, self.time).page(query)
        clients = self._clients()
        streams = [each for each in self.slow_readers if self.now - each.since >= SLOW_SECONDS]
        status = Status(
            time=datetime.fromtimestamp(self.time, UTC),
            problems=(),
            process=self.process,
            tls=self.tls,
            store=self.store,
            upstream=self.upstream,
            submissions_in_flight=self.usage["submissions"].used,
            watched=watched,
            limits=self._limits(),
            clients=tuple(heapq.nlargest(MAX_CLIENTS, clients, _weight)),
            more_clients=max(0, len(clients) - MAX_CLIENTS),
            slow_streams=tuple(
                SlowStream(each.uid, fingerprint_of(each.client), self.now - each.since, each.size, each.skipped)
                for each in heapq.nsmallest(MAX_SLOW_STREAMS, streams, lambda each: each.since)
            ),
            more_slow_streams=max(0, len(streams) - MAX_SLOW_STREAMS),
        )
        repeatedly = sum(each.failures >= FAILS_REPEATEDLY for each in self.loops)
        problems = find_problems(status, repeatedly, self.outage_seconds)
        return msgspec.structs.replace(status, problems=problems)

    def _limits(self) -> tuple[Limit, ...]:
        return tuple(
            Limit(name, "bytes" if name.startswith(LARGE) else "", usage.used, usage.limit)
            for name, usage in self.usage.items()
        )

    def _clients(self) -> list[Client]:
        parts: dict[str, dict[str, int]] = {}
        for limit, usage in self.usage_by_caller.items():
            for owner, units in usage.items():
                _add(parts, fingerprint_of(owner), limit, units)
        for limit, usage in self.usage_by_poll_key.items():
            for owner, units in usage.items():
                callers = self.callers[owner]
                name = fingerprint_of(next(iter(callers))) if len(callers) == 1 else SHARED if callers else GONE
                _add(parts, name, limit, units)
        return [
            Client(
                client=name,
                watches=part.get("watches", 0),
                calls=part.get("calls", 0),
                submissions=part.get("submissions", 0),
                polls=part.get("polls", 0),
                large_bytes=sum(units for limit, units in part.items() if limit.startswith(LARGE)),
            )
            for name, part in parts.items()
        ]


class Collector:
    """Takes snapshots of the `sources`."""

    def __init__(self, sources: Sources) -> None:
        self._sources = sources
        self._began = sources.clock.monotonic()
        self._host = socket.gethostname()

    async def collect(self) -> Snapshot:
        """Return a snapshot. It takes about 2 µs per watched job, in steps of a millisecond."""
        parts = self._sources
        loops: list[LoopSnapshot[JobState]] = []
        async for some_loops in _in_steps(parts.hub.loops, LOOPS_PER_STEP):
            loops += [each.snapshot() for each in some_loops]
        usage, usage_by_caller, usage_by_poll_key = parts.usage(), parts.usage_by_caller(), parts.usage_by_poll_key()
        callers: dict[bytes, set[bytes]] = {owner: set() for owners in usage_by_poll_key.values() for owner in owners}
        slow_readers: list[SlowReader] = []
        async for some_calls in _in_steps(list(parts.calls.calls), CALLS_PER_STEP):
            for call in some_calls:
                if (owner := call.credential.poll_key) in callers:
                    callers[owner].add(call.credential.caller_key)
                if (reader := call.slow_reader()) is not None:
                    slow_readers.append(reader)
        now, time = parts.clock.monotonic(), parts.clock.time()
        return Snapshot(
            now=now,
            time=time,
            process=self._process(now),
            tls=self._tls(),
            store=Store(parts.settings.state_url.partition(":")[0].lower(), parts.store_health.available),
            upstream=self._upstream(time),
            outage_seconds=parts.settings.poll_outage_seconds,
            usage=usage,
            usage_by_caller=usage_by_caller,
            usage_by_poll_key=usage_by_poll_key,
            callers=callers,
            slow_readers=slow_readers,
            loops=loops,
        )

    def _process(self, now: float) -> Process:
        parts = self._sources
        address, admin_address = parts.addresses()
        return Process(
            version=__version__,
            python=platform.python_version(),
            host=self._host,
            uptime_seconds=now - self._began,
            ready=parts.is_ready(),
            draining=parts.is_draining(),
            address=address,
            admin_address=admin_address,
        )

    def _tls(self) -> Tls:
        settings = self._sources.settings
        mode = "mtls" if settings.tls_client_ca_file else "tls" if settings.tls_cert_file else "plaintext"
        return Tls(mode, self._sources.certificate())

    def _upstream(self, time: float) -> Upstream:
        parts = self._sources
        outages = (
            shown_outage(each, each.failing_since, time)
            for each in parts.upstream_health()
            if each.failing_since is not None
        )
        kinds = (("reads", parts.recent_requests.reads), ("submissions", parts.recent_requests.submissions))
        recent = (Recent(name, minutes, figures(60 * minutes)) for name, figures in kinds for minutes in MINUTES)
        return Upstream(parts.settings.upstream_url, tuple(outages), tuple(recent))


async def _in_steps(items: Sequence[T], count: int) -> AsyncIterator[Sequence[T]]:
    """Yield parts with `count` of the items, and let the event loop run between them."""
    for start in range(0, len(items), count):
        if start:
            await asyncio.sleep(0)
        yield items[start : start + count]


def shown_outage(health: RequestHealth, since: float, time: float) -> Outage:
    """Return an outage as the page shows it, at `time`. Both times are in seconds since the epoch."""
    recovering = health.recovering_since
    return Outage(
        requests=health.requests,
        since=datetime.fromtimestamp(since, UTC),
        recovering_since=None if recovering is None else datetime.fromtimestamp(recovering, UTC),
        seconds=max(0.0, (time if recovering is None else recovering) - since),
        reason=health.reason,
        cause=health.cause,
    )


def _add(parts: dict[str, dict[str, int]], client: str, limit: str, units: int) -> None:
    part = parts.setdefault(client, {})
    part[limit] = part.get(limit, 0) + units


def _weight(client: Client) -> tuple[int, int, str]:
    slots = client.watches + client.calls + client.submissions + client.polls
    return slots, client.large_bytes, client.client
