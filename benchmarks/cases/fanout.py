"""CPU per event with 100 jobs of 100 watchers, while every job changes, next to the bare stream."""

from __future__ import annotations

import time

from benchmarks.processes import WITH_PAUSES, Process, gateway, server, upstream, watches
from benchmarks.table import Row, interleaved

JOBS = WATCHERS = 100
PERIOD_SECONDS = 2.0


def run(*, quick: bool) -> list[Row]:
    """Measure the CPU time per event."""
    jobs, watchers, seconds, rounds = (10, 10, 2.0, 1) if quick else (JOBS, WATCHERS, 6.0, 3)
    interval = {"poll_interval_min_seconds": PERIOD_SECONDS, "poll_interval_max_seconds": PERIOD_SECONDS}
    with (
        upstream() as (_, url),
        gateway(url, WITH_PAUSES, **interval) as (gateway_process, gateway_address),
        server("bare", PERIOD_SECONDS) as (bare, bare_address),
        watches(gateway_address, 1, 2, jobs, watchers) as gateway_clients,
        watches(bare_address, 1, 2, jobs, watchers) as bare_clients,
    ):

        def measure(measured: Process, clients: Process) -> float:
            clients.ask("count")
            before = measured.cpu()
            time.sleep(seconds)
            cpu = measured.cpu() - before
            return cpu / int(clients.ask("count")) * 1e6

        seen = interleaved(
            rounds,
            {"gateway": lambda: measure(gateway_process, gateway_clients), "bare": lambda: measure(bare, bare_clients)},
        )
    figures = {f"{name} µs": value for name, value in seen.items()}
    return [
        Row(
            f"an event to a watcher, {jobs} jobs of {watchers} watchers",
            seen["gateway"] / seen["bare"],
            "x",
            1.3,
            figures=figures,
        )
    ]
