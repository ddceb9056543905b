"""Counters, gauges and histograms as plain numbers, which a scrape converts to Prometheus families.

An increment costs 0.02 µs and an observation 0.1 µs. In prometheus_client they cost 0.3 and 0.7 µs, because it
validates and locks each time. Without locks, only one thread may count; a scrape only reads, and may run in another.
"""

from __future__ import annotations

from bisect import bisect_left
from itertools import accumulate
from typing import TYPE_CHECKING, ClassVar, Generic, TypeVar

from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, HistogramMetricFamily
from prometheus_client.registry import Collector
from prometheus_client.utils import floatToGoString

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping, Sequence

    from prometheus_client import CollectorRegistry


class Value:
    """One number, 0 at first. Add to its `value` to count."""

    __slots__ = ("value",)

    def __init__(self) -> None:
        self.value: float = 0


class Buckets:
    """The number of observations between each two ascending `bounds`, and the sum of all."""

    __slots__ = ("_bounds", "counts", "sum")

    def __init__(self, bounds: Sequence[float]) -> None:
        self._bounds = bounds
        self.counts = [0] * (len(bounds) + 1)
        self.sum: float = 0

    def observe(self, value: float) -> None:
        """Count `value`; bounds are inclusive."""
        self.counts[bisect_left(self._bounds, value)] += 1
        self.sum += value


Series = TypeVar("Series", Value, Buckets)


class _Family(Collector, Generic[Series]):
    """All series of one metric, by the values of its `labels`, in the order of their creation."""

    def __init__(self, registry: CollectorRegistry, name: str, meaning: str, labels: Sequence[str] = ()) -> None:
        self._name = name
        self._meaning = meaning
        self._labels = labels
        self._series: dict[tuple[str, ...], Series] = {}
        registry.register(self)


class Counters(_Family[Value]):
    """A metric that only increases."""

    _kind: ClassVar[type[CounterMetricFamily | GaugeMetricFamily]] = CounterMetricFamily

    def series(self, *values: str) -> Value:
        """Return the series with these label values."""
        return self._series.setdefault(values, Value())

    def collect(self) -> Iterator[CounterMetricFamily | GaugeMetricFamily]:
        """Yield the family, at a scrape."""
        family = self._kind(self._name, self._meaning, labels=self._labels)
        for values, each in self._series.items():
            family.add_metric(values, each.value)
        yield family


class Gauges(Counters):
    """A metric that increases and decreases."""

    _kind = GaugeMetricFamily


class CounterOf(Collector):
    """A counter without labels that calls `now` at each scrape."""

    def __init__(self, registry: CollectorRegistry, name: str, meaning: str, now: Callable[[], float]) -> None:
        self._name = name
        self._meaning = meaning
        self._now = now
        registry.register(self)

    def collect(self) -> Iterator[CounterMetricFamily]:
        """Yield the family, at a scrape."""
        yield CounterMetricFamily(self._name, self._meaning, value=self._now())


class GaugesOf(Collector):
    """A gauge with one label that calls `now` at each scrape for all its values."""

    def __init__(
        self, registry: CollectorRegistry, name: str, meaning: str, label: str, now: Callable[[], Mapping[str, float]]
    ) -> None:
        self._name = name
        self._meaning = meaning
        self._label = label
        self._now = now
        registry.register(self)

    def collect(self) -> Iterator[GaugeMetricFamily]:
        """Yield the family, at a scrape."""
        family = GaugeMetricFamily(self._name, self._meaning, labels=[self._label])
        for value, each in self._now().items():
            family.add_metric([value], each)
        yield family


class Histograms(_Family[Buckets]):
    """The distribution of values over buckets with these ascending, inclusive upper `bounds`; the last has none."""

    def __init__(
        self,
        registry: CollectorRegistry,
        name: str,
        meaning: str,
        labels: Sequence[str] = (),
        *,
        bounds: Sequence[float],
    ) -> None:
        # Comparing two floats is faster than comparing a float with an int.
        self._bounds = tuple(float(each) for each in bounds)
        self._names = [floatToGoString(each) for each in (*bounds, float("inf"))]  # type: ignore[no-untyped-call]
        super().__init__(registry, name, meaning, labels)

    def series(self, *values: str) -> Buckets:
        """Return the series with these label values."""
        return self._series.setdefault(values, Buckets(self._bounds))

    def collect(self) -> Iterator[HistogramMetricFamily]:
        """Yield the family, at a scrape."""
        family = HistogramMetricFamily(self._name, self._meaning, labels=self._labels)
        for values, each in self._series.items():
            family.add_metric(values, list(zip(self._names, accumulate(each.counts), strict=True)), each.sum)
        yield family
