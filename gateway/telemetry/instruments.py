"""Counters, gauges and histograms that are plain numbers, which a scrape makes into Prometheus' families.

Each increment of prometheus_client's own costs 0.3 µs and each observation 0.7 µs, against 0.02 and 0.1 µs of these: it
checks and takes a lock each time. So all who count share one thread; a scrape only reads, and may be on another.
"""

from __future__ import annotations

from bisect import bisect_left
from itertools import accumulate
from typing import TYPE_CHECKING, ClassVar, Generic, TypeVar

from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, HistogramMetricFamily
from prometheus_client.registry import Collector
from prometheus_client.utils import floatToGoString

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence

    from prometheus_client import CollectorRegistry


class Value:
    """One number, 0 at first: who counts adds to its `value`, or takes from it where it is a gauge's."""

    __slots__ = ("value",)

    def __init__(self) -> None:
        self.value: float = 0


class Buckets:
    """How many observations fell between each two of the ascending `bounds`, and the sum of them all."""

    __slots__ = ("_bounds", "counts", "sum")

    def __init__(self, bounds: Sequence[float]) -> None:
        self._bounds = bounds
        self.counts = [0] * (len(bounds) + 1)
        self.sum: float = 0

    def observe(self, value: float) -> None:
        """Counts `value`, which belongs below a bound that it equals."""
        self.counts[bisect_left(self._bounds, value)] += 1
        self.sum += value


Series = TypeVar("Series", Value, Buckets)


class _Family(Collector, Generic[Series]):
    """All series of one metric, by the values of its `labels`, in the order in which they were made."""

    def __init__(self, registry: CollectorRegistry, name: str, meaning: str, labels: Sequence[str] = ()) -> None:
        self._name = name
        self._meaning = meaning
        self._labels = labels
        self._series: dict[tuple[str, ...], Series] = {}
        registry.register(self)


class Counters(_Family[Value]):
    """What only goes up."""

    _kind: ClassVar[type[CounterMetricFamily | GaugeMetricFamily]] = CounterMetricFamily

    def series(self, *values: str) -> Value:
        """The one whose labels have these values."""
        return self._series.setdefault(values, Value())

    def collect(self) -> Iterator[CounterMetricFamily | GaugeMetricFamily]:
        """For a scrape."""
        family = self._kind(self._name, self._meaning, labels=self._labels)
        for values, tally in self._series.items():
            family.add_metric(values, tally.value)
        yield family


class Gauges(Counters):
    """What also goes down."""

    _kind = GaugeMetricFamily


class CounterOf(Collector):
    """A counter without labels that asks `now` at each scrape."""

    def __init__(self, registry: CollectorRegistry, name: str, meaning: str, now: Callable[[], float]) -> None:
        self._name = name
        self._meaning = meaning
        self._now = now
        registry.register(self)

    def collect(self) -> Iterator[CounterMetricFamily]:
        """For a scrape."""
        yield CounterMetricFamily(self._name, self._meaning, value=self._now())


class Histograms(_Family[Buckets]):
    """How values are spread over buckets, whose ascending upper `bounds` belong to them; the last has none."""

    def __init__(
        self,
        registry: CollectorRegistry,
        name: str,
        meaning: str,
        labels: Sequence[str] = (),
        *,
        bounds: Sequence[float],
    ) -> None:
        # Among floats a comparison is quicker than with an int.
        self._bounds = tuple(float(each) for each in bounds)
        self._names = [floatToGoString(each) for each in (*bounds, float("inf"))]  # type: ignore[no-untyped-call]
        super().__init__(registry, name, meaning, labels)

    def series(self, *values: str) -> Buckets:
        """The one whose labels have these values."""
        return self._series.setdefault(values, Buckets(self._bounds))

    def collect(self) -> Iterator[HistogramMetricFamily]:
        """For a scrape."""
        family = HistogramMetricFamily(self._name, self._meaning, labels=self._labels)
        for values, each in self._series.items():
            family.add_metric(values, list(zip(self._names, accumulate(each.counts), strict=True)), each.sum)
        yield family
