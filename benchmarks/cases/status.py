"""The cost of the status page for the event loop, with 5,000 and 20,000 watched jobs."""

from __future__ import annotations

import json
import time
from http.client import HTTPConnection
from statistics import median

from benchmarks.processes import WITH_PAUSES, Process, gateway, streams, upstream
from benchmarks.table import Row

JOBS_PER_STREAM = 5_000
# Requests within a second share the expensive part.
BETWEEN_SECONDS = 1.1
TARGET_MS = 50.0


def run(*, quick: bool) -> list[Row]:
    """Measure one request to the page, with idle jobs around it."""
    return [_row(jobs, requests=2 if quick else 5) for jobs in ((200,) if quick else (5_000, 20_000))]


def _row(jobs: int, requests: int) -> Row:
    # Only the first poll of each job happens before the measurement, and none during it.
    interval = {"poll_interval_min_seconds": 3_600, "poll_interval_max_seconds": 3_600}
    each, count = min(jobs, JOBS_PER_STREAM), -(-jobs // JOBS_PER_STREAM)
    with (
        upstream() as (_, url),
        gateway(url, WITH_PAUSES, **interval) as (process, address),
        streams(address, 1, 2, each, count, "own"),
    ):
        admin = json.loads(process.log_line_with('"serving"'))["admin_address"]
        idle = [_cost(process, None) for _ in range(requests)]
        html = [_cost(process, admin, "/") for _ in range(requests)]
        text = [_cost(process, admin, "/statusz?sort=-age&page=2") for _ in range(requests)]
        pauses = []
        for _ in range(requests):
            process.longest_pause()
            _cost(process, admin, "/")
            pauses.append(process.longest_pause().ms)
    idle_ms = median(idle)
    value = median(html) - idle_ms
    return Row(
        f"CPU of the event loop per status page, {jobs:,} watched jobs",
        value,
        "ms",
        TARGET_MS if jobs <= JOBS_PER_STREAM else None,
        figures={"JSON ms": median(text) - idle_ms, "longest pause ms": median(pauses), "idle ms": idle_ms},
    )


def _cost(process: Process, admin: str | None, path: str = "") -> float:
    """Return the CPU time of the event loop in a second with one request, in milliseconds."""
    before = process.event_loop_cpu()
    until = time.monotonic() + BETWEEN_SECONDS
    if admin is not None:
        connection = HTTPConnection(admin)
        connection.request("GET", path)
        response = connection.getresponse()
        response.read()
        assert response.status == 200
        connection.close()
    time.sleep(max(0.0, until - time.monotonic()))
    return 1_000 * (process.event_loop_cpu() - before)
