"""Memory per watch of 10,000 idle watches on 1,000 jobs, next to a bare idle stream."""

from __future__ import annotations

from benchmarks.processes import WITH_PAUSES, Process, gateway, server, upstream, watches
from benchmarks.table import Row

JOBS, WATCHERS = 1_000, 10


def run(*, quick: bool) -> list[Row]:
    """Measure the memory per watch."""
    jobs = 50 if quick else JOBS
    # Only the first poll of each job happens during the measurement.
    interval = {"poll_interval_min_seconds": 60, "poll_interval_max_seconds": 60}
    with (
        upstream() as (_, url),
        gateway(url, WITH_PAUSES, **interval) as (gateway_process, gateway_address),
        server("bare") as (bare, bare_address),
    ):
        seen = {
            "gateway": _per_watch(gateway_process, gateway_address, jobs),
            "bare": _per_watch(bare, bare_address, jobs),
        }
    figures = {f"{name} kB": value for name, value in seen.items()}
    return [
        Row(
            f"memory of an idle watch, {jobs:,} jobs of {WATCHERS}",
            seen["gateway"] / seen["bare"],
            "x",
            1.4,
            figures=figures,
        )
    ]


def _per_watch(measured: Process, address: str, jobs: int) -> float:
    # The first watches allocate memory that all watches share.
    with watches(address, 2, 2, 10, WATCHERS):
        before = measured.memory()
        with watches(address, 1_000, 2, jobs, WATCHERS):
            return (measured.memory() - before) / (jobs * WATCHERS) / 1000
