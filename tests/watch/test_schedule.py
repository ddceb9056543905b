"""The intervals between polls."""

from __future__ import annotations

import random

from hypothesis import given
from hypothesis import strategies as st

from gateway.watch import PollSchedule

seconds = st.floats(0, 1e6)


@given(st.tuples(st.floats(0.01, 3600), st.floats(0.01, 3600)).map(sorted), seconds, st.integers())
def test_intervals_stay_between_the_two_settings(bounds: list[float], age: float, seed: int) -> None:
    schedule = PollSchedule(bounds[0], bounds[1], random.Random(seed))
    assert bounds[0] <= schedule.interval(age) <= bounds[1]


@given(st.integers(0, 10_000), st.integers())
def test_backoff_stays_below_the_longest_interval(failures: int, seed: int) -> None:
    assert 0 <= PollSchedule(0.25, 5.0, random.Random(seed)).backoff(failures) <= 5.0


def test_backoff_grows_with_the_failures_in_a_row() -> None:
    schedule = PollSchedule(0.25, 60.0, random.Random(1))
    means = [sum(schedule.backoff(failures) for _ in range(500)) / 500 for failures in range(7)]
    assert means == sorted(means)
    assert means[6] > 10 * means[2]


def test_intervals_grow_with_age() -> None:
    schedule = PollSchedule(0.25, 5.0, random.Random(1))
    means = [sum(schedule.interval(age) for _ in range(500)) / 500 for age in (0, 5, 15, 60)]
    assert means == sorted(means)
    assert 0.25 < means[0] < 0.3
    assert means[3] > 4


def test_loops_that_start_together_drift_apart() -> None:
    schedule = PollSchedule(0.25, 5.0, random.Random(1))
    assert len({schedule.interval(30) for _ in range(100)}) == 100
