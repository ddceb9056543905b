"""The exact number of upstream polls with 50 watchers per job, next to one watcher, in simulated time."""

from __future__ import annotations

import asyncio
from contextlib import ExitStack

from benchmarks.table import Row
from gateway.watch import WatchKey
from tests.support.clock import SteppedClock
from tests.support.polling import State, make_hub

JOBS, WATCHERS, SECONDS = 100, 50, 600.0


def run(*, quick: bool) -> list[Row]:
    """Count the polls."""
    jobs = 10 if quick else JOBS
    seen = {f"{watchers} watchers": asyncio.run(_polls(jobs, watchers)) for watchers in (1, WATCHERS)}
    one, many = seen.values()
    row = Row(
        f"polls of {jobs} jobs in {SECONDS:g} s, {WATCHERS} watchers relative to one",
        many / one,
        "x",
        1.0,
        figures=seen,
    )
    return [row]


async def _polls(jobs: int, watchers: int) -> int:
    clock = SteppedClock()
    hub = make_hub(clock, shortest=0.25, longest=5.0, slots=1_000)
    polls = 0

    async def fetch(_: object) -> State:
        nonlocal polls
        polls += 1
        return State(0)

    with ExitStack() as stack:
        for _ in range(watchers):
            for job in range(jobs):
                stack.enter_context(hub.watch(WatchKey(b"", job), fetch))
        await clock.advance(SECONDS)
    return polls
