"""The upstream requests of the last minutes."""

from __future__ import annotations

import pytest

from gateway.telemetry.recent_requests import RecentRequests
from tests.support.clock import SteppedClock


class Passed:
    def __init__(self) -> None:
        self.exchanges: list[tuple[str, int | None, float, int]] = []

    def exchanged(self, method: str, status: int | None, seconds: float, size: int) -> None:
        self.exchanges.append((method, status, seconds, size))


@pytest.fixture
def clock() -> SteppedClock:
    return SteppedClock()


@pytest.fixture
def recent(clock: SteppedClock) -> RecentRequests:
    return RecentRequests(clock, Passed())


def test_requests_are_counted_by_outcome(recent: RecentRequests) -> None:
    for status in (200, 201, 204, 429, 404, 401, 500, 302, 999, None):
        recent.exchanged("GET", status, 0.1, 5)
    figures = recent.reads(60)
    assert figures.requests == 10
    assert (figures.succeeded, figures.rate_limited, figures.rejected) == (3, 1, 2)
    assert (figures.failed, figures.no_response) == (3, 1)


def test_submissions_count_apart_from_reads(recent: RecentRequests) -> None:
    for method in ("POST", "GET", "DELETE", "GET"):
        recent.exchanged(method, 200, 0.1, 5)
    assert (recent.submissions(60).requests, recent.reads(60).requests) == (1, 3)


def test_each_window_counts_its_own_time(clock: SteppedClock, recent: RecentRequests) -> None:
    for _ in range(20):
        recent.exchanged("GET", 200, 0.1, 5)
        clock.now += 60
    assert [recent.reads(seconds).requests for seconds in (60, 300, 900)] == [1, 5, 15]
    clock.now += 900
    assert recent.reads(900).requests == 0


def test_the_memory_is_bounded(clock: SteppedClock, recent: RecentRequests) -> None:
    for _ in range(1_000):
        recent.exchanged("GET", 200, 0.1, 5)
        clock.now += 10
    assert recent.reads(1e9).requests == 91


def test_latencies_are_within_a_seventh(recent: RecentRequests) -> None:
    for number in range(1, 101):
        recent.exchanged("GET", 200, number / 100, 5)
    figures = recent.reads(60)
    assert figures.median_seconds == pytest.approx(0.5, rel=0.15)
    assert figures.p90_seconds == pytest.approx(0.9, rel=0.15)


def test_without_requests_there_is_no_latency(recent: RecentRequests) -> None:
    assert recent.reads(60).median_seconds is None
    recent.exchanged("GET", None, 1e9, 0)
    assert recent.reads(60).median_seconds == pytest.approx(150, rel=0.15)


def test_each_exchange_is_passed_on(clock: SteppedClock) -> None:
    passed = Passed()
    RecentRequests(clock, passed).exchanged("GET", 200, 0.1, 5)
    assert passed.exchanges == [("GET", 200, 0.1, 5)]
