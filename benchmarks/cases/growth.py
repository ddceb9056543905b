"""CPU per poll and per event with 10 to 10,000 jobs, at a constant number of polls per second.

With a plain upstream; polls that find nothing new also with a TLS one.
"""

from __future__ import annotations

import json
import time
import urllib.request
from contextlib import ExitStack
from functools import partial

from benchmarks.processes import SERVE, gateway, upstream, watches
from benchmarks.table import Row, interleaved
from benchmarks.tls import is_missing, with_tls

JOBS = (10, 100, 1_000, 10_000)
POLLS_PER_SECOND = 1_000
PLAIN, TLS = "plain", "TLS"
POLL_LIMIT = 150.0


def run(*, quick: bool) -> list[Row]:
    """Measure the CPU time per poll of jobs that change and of jobs that do not; the difference is an event."""
    sizes, rounds = (JOBS[:2], 1) if quick else (JOBS, 2)
    seconds = 1.0 if quick else 4.0
    # Jobs with even uids never change, those with odd uids change with each poll.
    kinds = [(PLAIN, 2), (PLAIN, 1), *([] if is_missing() else [(TLS, 2)])]
    measures = {
        (jobs, kind, uid): partial(_per_poll, jobs, kind, uid, seconds) for kind, uid in kinds for jobs in sizes
    }
    seen = interleaved(rounds, measures)
    polls = {jobs: seen[jobs, PLAIN, 2] for jobs in sizes}
    changes = {jobs: seen[jobs, PLAIN, 1] for jobs in sizes}
    events = {jobs: changes[jobs] - polls[jobs] for jobs in sizes}
    over_tls = {jobs: seen[jobs, TLS, 2] for jobs in sizes if (jobs, TLS, 2) in seen}
    return (
        [
            Row(
                f"a poll that finds nothing new, {kind} upstream",
                costs[sizes[1]],
                "µs",
                POLL_LIMIT,
                figures={f"{jobs:,} jobs µs": value for jobs, value in costs.items()},
            )
            for kind, costs in ((PLAIN, polls), (TLS, over_tls))
            if costs
        ]
        + [
            Row(
                f"growth from {sizes[0]} to {sizes[-1]:,} jobs: CPU per {what}",
                max(costs.values()) / min(costs.values()),
                "x",
                1.2,
                figures={f"{jobs:,} jobs µs": value for jobs, value in costs.items()},
            )
            for what, costs in (("poll", polls), ("poll and event", changes))
        ]
        + [
            Row(
                "of these, an event",
                events[sizes[0]],
                "µs",
                figures={f"{jobs:,} jobs µs": value for jobs, value in events.items()},
            )
        ]
    )


def _per_poll(jobs: int, kind: str, first_uid: int, seconds: float) -> float:
    interval = jobs / POLLS_PER_SECOND
    settings = {"poll_interval_min_seconds": interval, "poll_interval_max_seconds": max(interval, 0.01)}
    with ExitStack() as stack:
        _, counted = stack.enter_context(upstream())
        url, environment = counted, {}
        if kind == TLS:
            tls = stack.enter_context(with_tls(counted))
            url, environment = tls.url, tls.environment
        gateway_process, address = stack.enter_context(gateway(url, SERVE, environment, **settings))
        stack.enter_context(watches(address, first_uid, 2, jobs, 1))
        time.sleep(0.5)
        before, polled = gateway_process.cpu(), _polls(counted)
        # At least one interval, because the polls are not spread evenly over it.
        time.sleep(max(seconds, interval))
        return (gateway_process.cpu() - before) / (_polls(counted) - polled) * 1e6


def _polls(url: str) -> int:
    with urllib.request.urlopen(f"{url.removesuffix('/api')}/stats") as response:  # noqa: S310 - our own upstream
        return int(json.load(response))
