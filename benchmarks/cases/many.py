"""`WatchJobs`: memory per watched job, CPU per event next to `WatchJob`, pauses, and events beside a 50 MB result."""

from __future__ import annotations

import json
import time
from statistics import median, quantiles

from benchmarks.processes import WITH_PAUSES, Process, gateway, streams, upstream, watches
from benchmarks.table import Row, interleaved

SIZE = 50_000_000
STREAMS, JOBS = 10, 1_000
FANOUT = 100
PERIOD_SECONDS = 2.0
TICK_SECONDS = 10.0
# The first stream watches so many jobs that change beside the large result.
SMALL_JOBS = 20


def run(*, quick: bool) -> list[Row]:
    """Measure all four."""
    return [*_memory(50 if quick else JOBS), _cpu(quick=quick), *_pauses(50 if quick else JOBS), _beside(quick=quick)]


def _memory(jobs: int) -> list[Row]:
    interval = {"poll_interval_min_seconds": 60, "poll_interval_max_seconds": 60}
    rows = []
    for what, limit, own in (("the same jobs", 8.0, ()), ("jobs of its own each", None, ("own",))):
        with (
            upstream() as (_, url),
            gateway(url, WITH_PAUSES, **interval) as (measured, address),
            # The first watches allocate memory that all watches share.
            streams(address, 2, 2, 10, STREAMS),
        ):
            before = measured.memory()
            with streams(address, 1_000, 2, jobs, STREAMS, *own):
                value = (measured.memory() - before) / (jobs * STREAMS) / 1000
        name = f"memory per job on {STREAMS} streams of {jobs:,}, {what}"
        rows.append(Row(name, value, "kB", limit))
    return rows


def _cpu(*, quick: bool) -> Row:
    count, seconds, rounds = (10, 2.0, 1) if quick else (FANOUT, 6.0, 3)
    interval = {"poll_interval_min_seconds": PERIOD_SECONDS, "poll_interval_max_seconds": PERIOD_SECONDS}
    with (
        upstream() as (_, url),
        gateway(url, WITH_PAUSES, **interval) as (many, many_address),
        gateway(url, WITH_PAUSES, **interval) as (single, single_address),
        streams(many_address, 1, 2, count, count) as many_clients,
        watches(single_address, 1, 2, count, count) as single_clients,
    ):

        def measure(measured: Process, clients: Process) -> float:
            clients.ask("count")
            before = measured.cpu()
            time.sleep(seconds)
            cpu = measured.cpu() - before
            return cpu / int(clients.ask("count")) * 1e6

        seen = interleaved(
            rounds,
            {
                "WatchJobs": lambda: measure(many, many_clients),
                "WatchJob": lambda: measure(single, single_clients),
            },
        )
    figures = {f"{name} µs": value for name, value in seen.items()}
    ratio = seen["WatchJobs"] / seen["WatchJob"]
    return Row(
        f"an event on one of {count} streams of {count} jobs, next to `WatchJob`", ratio, "x", 1.0, figures=figures
    )


def _pauses(jobs: int) -> list[Row]:
    """Measure the longest pause (CPU time) while all jobs change together, a period after they were read together."""
    interval = {"poll_interval_min_seconds": TICK_SECONDS, "poll_interval_max_seconds": TICK_SECONDS}
    rows = []
    for what, own in ((f"{jobs:,} jobs on {STREAMS} streams", ()), (f"{jobs * STREAMS:,} jobs", ("own",))):
        with (
            upstream() as (_, url),
            gateway(url, WITH_PAUSES, **interval) as (measured, address),
            streams(address, 1, 2, jobs, STREAMS, *own) as clients,
        ):
            clients.ask("count")
            measured.longest_pause()
            events = 0
            while events < 2 * jobs * STREAMS:
                time.sleep(0.5)
                events += int(clients.ask("count"))
            rows.append(Row(f"the longest pause when {what} change", measured.longest_pause().cpu_ms, "ms", 50))
    return rows


def _beside(*, quick: bool) -> Row:
    """Measure the delay of small events beside a large result, in chunks."""
    interval = {"poll_interval_min_seconds": 0.02, "poll_interval_max_seconds": 0.02}
    alone, beside, chunk = [], [], []
    for _ in range(1 if quick else 5):
        with (
            upstream(SIZE) as (_, url),
            gateway(url, WITH_PAUSES, **interval) as (_, address),
            streams(address, 1_001, 2, SMALL_JOBS, 1) as clients,
        ):
            alone += json.loads(clients.ask("delays 1"))
            told = json.loads(clients.ask("beside 42"))
            beside += told["delays"]
            chunk.append(told["seconds"] / told["chunks"])
    chunk_ms = median(chunk) * 1000
    figures = {
        "alone ms": median(alone) * 1000,
        "alone p99 ms": quantiles(alone, n=100)[98] * 1000,
        "beside ms": median(beside) * 1000,
        "beside p99 ms": quantiles(beside, n=100)[98] * 1000,
        "chunk ms": chunk_ms,
        "events": len(beside),
    }
    waited = (figures["beside ms"] - figures["alone ms"]) / chunk_ms
    return Row("a small event beside a 50 MB result waits for", waited, "chunks", 1.0, figures=figures)
