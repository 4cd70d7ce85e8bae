"""Counters and histograms that cost a tenth of a microsecond, for the path of every call.

The client library's own counter takes a lock and a check on each increment (1 to 2 microseconds each, five of them per
call). These keep plain numbers and become metric families only when scraped, through the library's public `Collector`
interface, so the text format stays the library's.

Called by: `monitoring.metrics`, which declares them. Calls prometheus_client's families. Deliberately not: thread-safe;
they are incremented on the Trio thread alone, where nothing can come between reading and writing a number. A count kept
by another thread is read at scrape time (`Counter.follow`).

Laws: at most `MAX_SERIES_ITEMS` label sets each; beyond them everything counts under `other`.

Sources: OpenMetrics 1.0 (counter, histogram: cumulative buckets, `le` inclusive).
"""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Callable, Iterable, Sequence
from itertools import accumulate

from prometheus_client.core import CounterMetricFamily, HistogramMetricFamily, Metric
from prometheus_client.registry import Collector, CollectorRegistry

from mcpd.monitoring.merging import Family, Key

MAX_SERIES_ITEMS = 2000
OTHER = "other"


class Count:
    """One number that only goes up."""

    __slots__ = ("value",)

    def __init__(self) -> None:
        self.value = 0


class Spread:
    """One distribution: how many observations fell at or under each bound, and their sum."""

    __slots__ = ("bounds", "counts", "total")

    def __init__(self, bounds: Sequence[float]) -> None:
        self.bounds = bounds
        self.counts = [0] * (len(bounds) + 1)
        self.total = 0.0

    def observe(self, value: float) -> None:
        """Add one observation, in the unit of the metric's name."""
        self.counts[bisect_left(self.bounds, value)] += 1
        self.total += value


class Registry(CollectorRegistry):
    """Keeps apart what is ours, which can be reported without making Prometheus's objects of it."""

    def __init__(self) -> None:
        super().__init__()
        self.ours: list[Counter | Histogram] = []
        self.others: list[Collector] = []

    def register(self, collector: Collector) -> None:
        """See `CollectorRegistry`."""
        super().register(collector)
        if isinstance(collector, Counter | Histogram):
            self.ours.append(collector)
        else:
            self.others.append(collector)

    def report(self) -> list[Family]:
        """Return all values as they are; half a millisecond for a thousand samples."""
        metrics = [metric for other in self.others for metric in other.collect()]
        return [*(one.report() for one in self.ours), *map(_family_of, metrics)]


def _family_of(metric: Metric) -> Family:
    samples = tuple(((sample.name, tuple(sample.labels.items())), sample.value) for sample in metric.samples)
    return Family(metric.name, metric.type, metric.documentation, samples)


class Counter(Collector):
    """A family of `Count`s. `name` is without `_total`."""

    def __init__(self, name: str, documentation: str, labels: Sequence[str], registry: CollectorRegistry) -> None:
        self.name = name
        self._documentation = documentation
        self._labels = tuple(labels)
        self._counts: dict[tuple[str, ...], Count] = {}
        self._followed: dict[tuple[str, ...], Callable[[], float]] = {}
        registry.register(self)

    def of(self, *labels: str) -> Count:
        """Return the count of one label set, made when it is new."""
        count = self._counts.get(labels)
        if count is None:
            labels = labels if len(self._counts) < MAX_SERIES_ITEMS else (OTHER,) * len(labels)
            count = self._counts.setdefault(labels, Count())
        return count

    def inc(self, *labels: str, by: int = 1) -> None:
        """Add `by` to the count of one label set."""
        self.of(*labels).value += by

    def follow(self, read: Callable[[], float], *labels: str) -> None:
        """Take the value of one label set from `read`, a total that never falls, at scrape time."""
        self._followed[labels] = read

    def report(self) -> Family:
        """Return the family as values."""
        found = [(labels, float(count.value)) for labels, count in self._counts.items()]
        found += [(labels, read()) for labels, read in self._followed.items()]
        name = f"{self.name}_total"
        samples = tuple(((name, tuple(zip(self._labels, labels, strict=True))), value) for labels, value in found)
        return Family(self.name, "counter", self._documentation, samples)

    def collect(self) -> Iterable[CounterMetricFamily]:
        """Return the family, for the registry."""
        family = CounterMetricFamily(self.name, self._documentation, labels=self._labels)
        for labels, count in self._counts.items():
            family.add_metric(labels, count.value)
        for labels, read in self._followed.items():
            family.add_metric(labels, read())
        return [family]


class Histogram(Collector):
    """A family of `Spread`s over the same ascending, inclusive upper `bounds`; infinity is added."""

    def __init__(
        self, name: str, documentation: str, labels: Sequence[str], bounds: Sequence[float], registry: CollectorRegistry
    ) -> None:
        self.name = name
        self._documentation = documentation
        self._labels = tuple(labels)
        self._bounds = tuple(bounds)
        self._edges = [*(repr(float(bound)) for bound in bounds), "+Inf"]
        self._spreads: dict[tuple[str, ...], Spread] = {}
        self._keys: dict[tuple[str, ...], list[Key]] = {}
        registry.register(self)

    def of(self, *labels: str) -> Spread:
        """Return the distribution of one label set, made when it is new."""
        spread = self._spreads.get(labels)
        if spread is None:
            labels = labels if len(self._spreads) < MAX_SERIES_ITEMS else (OTHER,) * len(labels)
            spread = self._spreads.setdefault(labels, Spread(self._bounds))
        return spread

    def report(self) -> Family:
        """Return the family as values."""
        samples: list[tuple[Key, float]] = []
        for labels, spread in self._spreads.items():
            keys = self._keys.get(labels) or self._keys.setdefault(labels, self._keys_of(labels))
            running = list(map(float, accumulate(spread.counts)))
            samples += zip(keys, (*running, running[-1], spread.total), strict=True)
        return Family(self.name, "histogram", self._documentation, tuple(samples))

    def _keys_of(self, labels: tuple[str, ...]) -> list[Key]:
        pairs = tuple(zip(self._labels, labels, strict=True))
        buckets: list[Key] = [(f"{self.name}_bucket", (*pairs, ("le", edge))) for edge in self._edges]
        return [*buckets, (f"{self.name}_count", pairs), (f"{self.name}_sum", pairs)]

    def collect(self) -> Iterable[HistogramMetricFamily]:
        """Return the family, for the registry."""
        family = HistogramMetricFamily(self.name, self._documentation, labels=self._labels)
        for labels, spread in self._spreads.items():
            buckets = list(zip(self._edges, map(float, accumulate(spread.counts)), strict=True))
            family.add_metric(labels, buckets=buckets, sum_value=spread.total)
        return [family]
