"""100 jobs of 100 watchers, every job changing: server CPU per event, beside a bare stream of encoded bytes."""

from __future__ import annotations

import time

from benchmarks.processes import Process, gateway, server, upstream, watches
from benchmarks.table import Row, interleaved

JOBS = WATCHERS = 100
PERIOD_SECONDS = 2.0


def run(*, quick: bool) -> list[Row]:
    """See the package."""
    jobs, watchers, seconds, rounds = (10, 10, 2.0, 1) if quick else (JOBS, WATCHERS, 6.0, 3)
    interval = {"poll_interval_min_seconds": PERIOD_SECONDS, "poll_interval_max_seconds": PERIOD_SECONDS}
    with (
        upstream() as (_, url),
        gateway(url, **interval) as (ours, our_address),
        server("bare", PERIOD_SECONDS) as (bare, bare_address),
        watches(our_address, 1, 2, jobs, watchers) as our_clients,
        watches(bare_address, 1, 2, jobs, watchers) as bare_clients,
    ):

        def measure(measured: Process, clients: Process) -> float:
            clients.ask("count")
            before = measured.cpu()
            time.sleep(seconds)
            cpu = measured.cpu() - before
            return cpu / int(clients.ask("count")) * 1e6

        seen = interleaved(
            rounds, {"ours": lambda: measure(ours, our_clients), "bare": lambda: measure(bare, bare_clients)}
        )
    figures = {f"{name} µs": value for name, value in seen.items()}
    return [
        Row(
            f"an event to a watcher, {jobs} jobs of {watchers} watchers",
            seen["ours"] / seen["bare"],
            "x",
            1.3,
            figures=figures,
        )
    ]
