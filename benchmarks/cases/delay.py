"""From the upstream's answer to the last of 100 watchers: median and p99, beside the bare stream."""

from __future__ import annotations

import json
import time
from statistics import quantiles

from benchmarks.processes import Process, gateway, server, upstream, watches
from benchmarks.table import Row

WATCHERS = 100
JOBS = 3
PERIOD_SECONDS = 0.1


def run(*, quick: bool) -> list[Row]:
    """See the package."""
    seconds, rounds = (2.0, 1) if quick else (5.0, 3)
    interval = {"poll_interval_min_seconds": PERIOD_SECONDS, "poll_interval_max_seconds": PERIOD_SECONDS}
    with (
        upstream() as (_, url),
        gateway(url, **interval) as (_, our_address),
        server("bare", PERIOD_SECONDS) as (_, bare_address),
    ):
        told: dict[str, list[float]] = {"ours": [], "bare": []}
        for _ in range(rounds):
            for name, address in (("ours", our_address), ("bare", bare_address)):
                with watches(address, 1, 2, JOBS, WATCHERS, "timed") as clients:
                    told[name] += _delays(clients, seconds)
    rows = []
    for what, of in (("median", 50), ("p99", 99)):
        seen = {name: quantiles(delays, n=100)[of - 1] * 1000 for name, delays in told.items()}
        figures = {f"{name} ms": value for name, value in seen.items()}
        rows.append(
            Row(
                f"from the response to the last of {WATCHERS} watchers, {what}",
                seen["ours"] / seen["bare"],
                "x",
                1.5,
                figures=figures,
            )
        )
    return rows


def _delays(clients: Process, seconds: float) -> list[float]:
    clients.ask("delays")
    time.sleep(seconds)
    delays: list[float] = json.loads(clients.ask("delays"))
    return delays
