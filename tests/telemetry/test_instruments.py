"""Test that a scrape equals that of prometheus_client's own metrics for the same observations."""

from __future__ import annotations

import math

import pytest
from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, generate_latest

from gateway.telemetry.instruments import Counters, Gauges, Histograms

BOUNDS = (0.005, 1, 2.5, 3600)
LABELS = ("kind", "name")
SERIES = (("b", "2"), ("a", 'with "quotes"\\ and \n'))


def scraped(registry: CollectorRegistry) -> list[str]:
    # Only the library reports the creation time of each metric, unless that is switched off for the process.
    return [line for line in generate_latest(registry).decode().splitlines() if "_created" not in line]


@pytest.mark.parametrize(
    "values",
    [
        [],
        BOUNDS,
        [float(each) for each in BOUNDS],
        [math.nextafter(each, math.inf) for each in BOUNDS],
        [math.nextafter(each, 0) for each in BOUNDS],
        [0, 0.1, 0.2, 0.3, 1e9, -1],
    ],
)
def test_histograms_equal_those_of_the_library(values: list[float]) -> None:
    theirs, ours = CollectorRegistry(), CollectorRegistry()
    their_family = Histogram("a_seconds", "How long.", LABELS, registry=theirs, buckets=BOUNDS)
    our_family = Histograms(ours, "a_seconds", "How long.", LABELS, bounds=BOUNDS)
    assert scraped(ours) == scraped(theirs)
    for labels in SERIES:
        one, other = their_family.labels(*labels), our_family.series(*labels)
        for value in values:
            one.observe(value)
            other.observe(value)
    assert scraped(ours) == scraped(theirs)


def test_counters_and_gauges_equal_those_of_the_library() -> None:
    theirs, ours = CollectorRegistry(), CollectorRegistry()
    count, level = Counter("a", "Many.", LABELS, registry=theirs), Gauge("b", "Some.", registry=theirs)
    counters, gauges = Counters(ours, "a", "Many.", LABELS), Gauges(ours, "b", "Some.")
    our_level = gauges.series()
    for labels, amount in zip(SERIES, (0, 1 << 40), strict=True):
        count.labels(*labels).inc(amount)
        counters.series(*labels).value += amount
    assert scraped(ours) == scraped(theirs)
    level.dec(2)
    our_level.value -= 2
    assert scraped(ours) == scraped(theirs)


def test_a_series_is_created_once() -> None:
    registry = CollectorRegistry()
    counters, histograms = Counters(registry, "a", "", LABELS), Histograms(registry, "b", "", LABELS, bounds=BOUNDS)
    assert counters.series("b", "2") is counters.series("b", "2")
    assert histograms.series("b", "2") is histograms.series("b", "2")
