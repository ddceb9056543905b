"""The delay until the end of a job is noticed, and the polls spent, beside the official client's cadence.

In simulated time, on the hub itself: jobs from 10 ms to a day, spread evenly over the orders of magnitude.
"""

from __future__ import annotations

import asyncio
import math
import random
from typing import TYPE_CHECKING

from benchmarks.table import Row
from gateway.config import Settings
from gateway.watch import Key
from tests.support.clock import SteppedClock
from tests.support.fetching import State, make_hub

if TYPE_CHECKING:
    from collections.abc import Iterator

# From, to, how many jobs.
RANGES = ((0.01, 120.0, 600), (120.0, 3_600.0, 120), (3_600.0, 86_400.0, 12))
# The official client's waits between polls, in seconds, the last for ever (rest-api.md).
OFFICIAL = (*(1.0,) * 15, *(2.0,) * 5, *(3.0,) * 5, *(4.0,) * 5, 5.0)


def run(*, quick: bool) -> list[Row]:
    """See the package."""
    rows = []
    for shortest, longest, count in RANGES:
        lengths = [
            math.exp(random.Random(number).uniform(math.log(shortest), math.log(longest)))  # noqa: S311 - spread
            for number in range(count // (10 if quick else 1))
        ]
        official = [_official(length) for length in lengths]
        for name, grace in (("watched", 0.0), ("run", None)):
            ours = asyncio.run(_ours(lengths, sent=grace is None))
            rows += _rows(
                f"{name}: jobs of {shortest:g} to {longest:,g} s", lengths, ours, official, short=longest <= 120
            )
    return rows


def _rows(
    what: str, lengths: list[float], ours: list[tuple[float, int]], official: list[tuple[float, int]], *, short: bool
) -> list[Row]:
    seen = {"ours": ours, "official": official}
    relative = {
        name: sum(delay / length for (delay, _), length in zip(each, lengths, strict=True)) / len(lengths)
        for name, each in seen.items()
    }
    delay = {f"{name} s": sum(one for one, _ in each) / len(each) for name, each in seen.items()}
    polls = {name: sum(other for _, other in each) / len(each) for name, each in seen.items()}
    # Equal cadences differ by chance where the end falls between two polls.
    chance = 1.0 if short else 1.02
    return [
        Row(
            f"{what}: delay relative to length",
            relative["ours"] / relative["official"],
            "x",
            0.5 if short else chance,
            figures=delay,
        ),
        Row(f"{what}: polls", polls["ours"] / polls["official"], "x", chance, figures=polls),
    ]


def _official(length: float) -> tuple[float, int]:
    now, polls = 0.0, 1
    waits = _waits()
    while now < length:
        now += next(waits)
        polls += 1
    return now - length, polls


def _waits() -> Iterator[float]:
    yield from OFFICIAL
    while True:
        yield OFFICIAL[-1]


async def _ours(lengths: list[float], *, sent: bool) -> list[tuple[float, int]]:
    settings = Settings(upstream_url="http://127.0.0.1/api")
    seen = []
    for seed, length in enumerate(lengths):
        clock = SteppedClock()
        hub = make_hub(
            clock,
            shortest=settings.poll_interval_min_seconds,
            longest=settings.poll_interval_max_seconds,
            seed=seed,
        )
        began, polls = clock.now, 0

        async def fetch() -> State:
            nonlocal polls
            polls += 1
            return State(0, last=clock.now - began >= length)  # noqa: B023 - used within the turn

        with hub.watch(Key(b"", seed), fetch, sent=sent) as watcher:
            while not (watcher.loop.last):
                await clock.advance(settings.poll_interval_max_seconds)
            # The last poll told the time by the moment of its timer.
            noticed = watcher.loop.ended_at
        seen.append((noticed - began - length, polls))
    return seen
