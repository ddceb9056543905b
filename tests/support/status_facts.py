"""The contents of a status page, made of a few facts."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING

from msgspec.structs import replace

from gateway.server.status_page.model import (
    Certificate,
    Limit,
    Outage,
    Process,
    Recent,
    Status,
    Store,
    Tls,
    Upstream,
    Watched,
)
from gateway.server.status_page.problems import find_problems
from gateway.telemetry.recent_requests import RecentFigures

if TYPE_CHECKING:
    from gateway.server.status_page.model import Problem

NOW = datetime(2026, 11, 28, 3, 0, tzinfo=UTC)


@dataclass
class Facts:
    """The facts of a status page; by default, all is well."""

    ready: bool = True
    draining: bool = False
    certificate: Certificate | None = None
    store: bool = True
    outages: tuple[Outage, ...] = ()
    outcomes: tuple[int, int, int, int, int] = (100, 0, 0, 0, 0)
    minutes: int = 5
    watches: int = 0
    failing: int = 0
    failing_repeatedly: int = 0

    def status(self) -> Status:
        """Return the contents of the page, with the problems that it finds."""
        recent = Recent("reads", self.minutes, RecentFigures(sum(self.outcomes), *self.outcomes, 0.1, 0.2))
        status = Status(
            time=NOW,
            problems=(),
            process=Process("1", "3", "host", 1, self.ready, self.draining, "a:1", "b:2"),
            tls=Tls("tls", self.certificate),
            store=Store("redis", self.store),
            upstream=Upstream("https://api.example", self.outages, (recent,)),
            submissions_in_flight=0,
            watched=Watched(10, 10, self.failing, 10, 1, 1, ()),
            limits=(Limit("watches", "", self.watches, 1_000), Limit("polls", "", 256, 256)),
            clients=(),
            more_clients=0,
            slow_streams=(),
            more_slow_streams=0,
        )
        return replace(status, problems=find_problems(status, self.failing_repeatedly, 300))

    def problems(self) -> tuple[Problem, ...]:
        """Return the problems that the page finds."""
        return self.status().problems


def expiring(**delta: float) -> Certificate:
    """Return a certificate that expires at a time from `NOW`."""
    return Certificate(NOW + timedelta(**delta), "")
