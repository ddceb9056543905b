"""The delay until the gateway notices the end of a job, and the number of polls, next to the official client.

Simulated time, on the hub itself. Jobs last from 10 ms to a day, log-uniformly distributed. The times of the polls do
not depend on the end of the job, so the polls of one loop are used for jobs of every duration.
"""

from __future__ import annotations

import asyncio
import bisect
import itertools
import math
import random

from benchmarks.table import Row
from gateway.config import Settings
from gateway.watch import WatchKey
from tests.support.clock import SteppedClock
from tests.support.polling import FakePoller, State, make_hub

DAY = 86_400.0
RANGES = ((0.01, 120.0), (120.0, 3_600.0), (3_600.0, DAY))
JOBS = 50_000
LOOPS = 20
# The official client's first intervals between polls, in seconds, and the interval that it uses after those.
OFFICIAL = (*(1.0,) * 15, *(2.0,) * 5, *(3.0,) * 5, *(4.0,) * 5)
OFFICIAL_LONGEST = 5.0
# The statistical error of the ratio with this number of jobs.
CHANCE = 1.02


def run(*, quick: bool) -> list[Row]:
    """Compare the polls of a watch and of `RunJob` with the official client, by the duration of the job."""
    horizon = 200.0 if quick else DAY
    ranges = [each for each in RANGES if each[1] <= horizon]
    official = [official_times(horizon)]
    rows = []
    for how, fresh in (("watched", False), ("run", True)):
        loops = [asyncio.run(loop_times(seed, horizon, fresh=fresh)) for seed in range(LOOPS)]
        for shortest, longest in ranges:
            what = f"jobs of {shortest:g} to {longest:,g} s, {how}"
            rows += _rows(what, shortest, longest, {"gateway": loops, "official": official})
    return rows


def _rows(what: str, shortest: float, longest: float, polls: dict[str, list[list[float]]]) -> list[Row]:
    dice = random.Random(1)  # noqa: S311 - no cryptography
    lengths = [math.exp(dice.uniform(math.log(shortest), math.log(longest))) for _ in range(JOBS)]
    relative, delay, spent = {}, {}, {}
    for name, loops in polls.items():
        seen = [_noticed(times, length) for times, length in zip(itertools.cycle(loops), lengths, strict=False)]
        relative[name] = sum(late / length for (late, _), length in zip(seen, lengths, strict=True)) / JOBS
        delay[f"{name} s"] = sum(late for late, _ in seen) / JOBS
        spent[name] = sum(count for _, count in seen) / JOBS
    short = longest <= RANGES[0][1]
    ratio = relative["gateway"] / relative["official"]
    return [
        Row(f"{what}: delay over length", ratio, "x", 0.5 if short else CHANCE, figures=delay),
        Row(f"{what}: polls", spent["gateway"] / spent["official"], "x", 1.0 if short else CHANCE, figures=spent),
    ]


def _noticed(times: list[float], length: float) -> tuple[float, int]:
    """Return the delay of the first poll after the end of a job, and the number of polls up to it."""
    number = bisect.bisect_left(times, length)
    return times[number] - length, number + 1


def official_times(horizon: float) -> list[float]:
    """Return the times at which the official client polls, in seconds from its start."""
    times = [0.0, *itertools.accumulate(OFFICIAL)]
    while times[-1] < horizon:
        times.append(times[-1] + OFFICIAL_LONGEST)
    return times


async def loop_times(seed: int, horizon: float, *, fresh: bool) -> list[float]:
    """Return the times at which a poll loop of the gateway polls, in seconds from its start."""
    settings = Settings(upstream_url="http://127.0.0.1/api")
    shortest, longest = settings.poll_interval_min_seconds, settings.poll_interval_max_seconds
    clock = SteppedClock()
    hub = make_hub(clock, shortest=shortest, longest=longest, seed=seed)
    fetch = FakePoller(clock, State(0))
    start = clock.now
    with hub.watch(WatchKey(b"", seed), fetch, just_submitted=fresh):
        await clock.advance(horizon + longest)
    return [moment - start for moment in fetch.times]
