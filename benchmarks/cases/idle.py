"""10,000 idle watches on 1,000 jobs: memory per watch, beside a bare idle stream."""

from __future__ import annotations

from benchmarks.processes import Process, gateway, server, upstream, watches
from benchmarks.table import Row

JOBS, WATCHERS = 1_000, 10


def run(*, quick: bool) -> list[Row]:
    """See the package."""
    jobs = 50 if quick else JOBS
    # So long that no poll but the first falls within the measurement.
    interval = {"poll_interval_min_seconds": 60, "poll_interval_max_seconds": 60}
    with (
        upstream() as (_, url),
        gateway(url, **interval) as (ours, our_address),
        server("bare") as (bare, bare_address),
    ):
        seen = {"ours": _per_watch(ours, our_address, jobs), "bare": _per_watch(bare, bare_address, jobs)}
    figures = {f"{name} kB": value for name, value in seen.items()}
    return [
        Row(
            f"memory of an idle watch, {jobs:,} jobs of {WATCHERS}",
            seen["ours"] / seen["bare"],
            "x",
            1.4,
            figures=figures,
        )
    ]


def _per_watch(measured: Process, address: str, jobs: int) -> float:
    # What a process takes once and for all is no watch's.
    with watches(address, 2, 2, 10, WATCHERS):
        before = measured.memory()
        with watches(address, 1_000, 2, jobs, WATCHERS):
            return (measured.memory() - before) / (jobs * WATCHERS) / 1000
