"""The delay from the upstream's response to the last of 100 watchers, next to the bare stream."""

from __future__ import annotations

import json
import time
from statistics import quantiles

from benchmarks.processes import WITH_PAUSES, Process, gateway, server, upstream, watches
from benchmarks.table import Row

WATCHERS = 100
JOBS = 3
PERIOD_SECONDS = 0.1


def run(*, quick: bool) -> list[Row]:
    """Measure the median and the p99 of the delay."""
    seconds, rounds = (2.0, 1) if quick else (5.0, 3)
    interval = {"poll_interval_min_seconds": PERIOD_SECONDS, "poll_interval_max_seconds": PERIOD_SECONDS}
    with (
        upstream() as (_, url),
        gateway(url, WITH_PAUSES, **interval) as (_, gateway_address),
        server("bare", PERIOD_SECONDS) as (_, bare_address),
    ):
        delays: dict[str, list[float]] = {"gateway": [], "bare": []}
        for _ in range(rounds):
            for name, address in (("gateway", gateway_address), ("bare", bare_address)):
                with watches(address, 1, 2, JOBS, WATCHERS, "timed") as clients:
                    delays[name] += _delays(clients, seconds)
    rows = []
    for what, percent in (("median", 50), ("p99", 99)):
        seen = {name: quantiles(each, n=100)[percent - 1] * 1000 for name, each in delays.items()}
        figures = {f"{name} ms": value for name, value in seen.items()}
        rows.append(
            Row(
                f"from the response to the last of {WATCHERS} watchers, {what}",
                seen["gateway"] / seen["bare"],
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
