"""CPU per poll and per event with 10 to 10,000 jobs, at a constant number of polls per second."""

from __future__ import annotations

import json
import time
import urllib.request
from functools import partial

from benchmarks.processes import WITH_PAUSES, gateway, upstream, watches
from benchmarks.table import Row, interleaved

JOBS = (10, 100, 1_000, 10_000)
POLLS_PER_SECOND = 1_000


def run(*, quick: bool) -> list[Row]:
    """Measure the CPU time per poll of jobs that change and of jobs that do not; the difference is an event."""
    sizes, rounds = (JOBS[:2], 1) if quick else (JOBS, 2)
    seconds = 1.0 if quick else 4.0
    # Jobs with even uids never change, those with odd uids change with each poll.
    measures = {(jobs, uid): partial(_per_poll, jobs, uid, seconds) for uid in (2, 1) for jobs in sizes}
    seen = interleaved(rounds, measures)
    polls = {jobs: seen[jobs, 2] for jobs in sizes}
    changes = {jobs: seen[jobs, 1] for jobs in sizes}
    events = {jobs: changes[jobs] - polls[jobs] for jobs in sizes}
    return [
        Row(
            f"growth from {sizes[0]} to {sizes[-1]:,} jobs: CPU per {what}",
            max(costs.values()) / min(costs.values()),
            "x",
            1.2,
            figures={f"{jobs:,} jobs µs": value for jobs, value in costs.items()},
        )
        for what, costs in (("poll", polls), ("poll and event", changes))
    ] + [
        Row(
            "of these, an event",
            events[sizes[0]],
            "µs",
            figures={f"{jobs:,} jobs µs": value for jobs, value in events.items()},
        )
    ]


def _per_poll(jobs: int, first_uid: int, seconds: float) -> float:
    interval = jobs / POLLS_PER_SECOND
    settings = {"poll_interval_min_seconds": interval, "poll_interval_max_seconds": max(interval, 0.01)}
    with (
        upstream() as (_, url),
        gateway(url, WITH_PAUSES, **settings) as (gateway_process, address),
        watches(address, first_uid, 2, jobs, 1),
    ):
        time.sleep(0.5)
        before, polled = gateway_process.cpu(), _polls(url)
        # At least one interval, because the polls are not spread evenly over it.
        time.sleep(max(seconds, interval))
        return (gateway_process.cpu() - before) / (_polls(url) - polled) * 1e6


def _polls(url: str) -> int:
    with urllib.request.urlopen(f"{url.removesuffix('/api')}/stats") as response:  # noqa: S310 - our own upstream
        return int(json.load(response))
