"""A Prometheus histogram that takes many observations at once.

``prometheus_client``'s own takes one at a time, under a lock for each bucket: in a bulk import, where a text
costs some fifty microseconds in all, four of them a text are a tenth of that.
"""

from __future__ import annotations

import threading
import time
from bisect import bisect_left
from collections.abc import Iterator, Sequence
from contextlib import contextmanager

from prometheus_client import CollectorRegistry
from prometheus_client.core import HistogramMetricFamily
from prometheus_client.registry import Collector
from prometheus_client.samples import Exemplar
from prometheus_client.utils import floatToGoString

Bucket = tuple[str, float] | tuple[str, float, Exemplar]


class Series:
    """The buckets of one set of label values. Any thread."""

    __slots__ = ("_bounds", "_counts", "_exemplars", "_lock", "_sum")

    def __init__(self, bounds: Sequence[float]) -> None:
        self._bounds = bounds
        self._counts = [0] * (len(bounds) + 1)
        self._exemplars: dict[int, Exemplar] = {}
        self._sum = 0.0
        self._lock = threading.Lock()

    def observe(self, value: float, times: int = 1, trace_id: str | None = None) -> None:
        """The same value ``times`` over. ``trace_id``: of its trace, shown as the exemplar of its bucket."""
        with self._lock:
            self._counts[bisect_left(self._bounds, value)] += times
            self._sum += value * times
            if trace_id is not None:
                self._show(value, trace_id)

    def observe_many(self, values: Sequence[float], traced: tuple[float, str] | None = None) -> None:
        """``traced``: one of the values, and the id of its trace, shown as the exemplar of its bucket."""
        bounds, counts = self._bounds, self._counts
        with self._lock:
            for value in values:
                counts[bisect_left(bounds, value)] += 1
            self._sum += sum(values)
            if traced is not None:
                self._show(*traced)

    def _show(self, value: float, trace_id: str) -> None:
        exemplar = Exemplar({"trace_id": trace_id}, value, time.time())
        self._exemplars[bisect_left(self._bounds, value)] = exemplar

    def read(self) -> tuple[list[int], float, dict[int, Exemplar]]:
        """Observations of each bucket by itself, the last without bound; their sum; exemplars by bucket."""
        with self._lock:
            return list(self._counts), self._sum, dict(self._exemplars)


class Histogram(Collector):
    """``buckets`` are upper bounds, ascending; the unbounded one is added."""

    def __init__(
        self,
        name: str,
        documentation: str,
        labelnames: Sequence[str] = (),
        *,
        buckets: Sequence[float],
        registry: CollectorRegistry,
    ) -> None:
        self._name = name
        self._documentation = documentation
        self._labelnames = tuple(labelnames)
        self.buckets = tuple(map(float, buckets))
        self._series: dict[tuple[str, ...], Series] = {}
        if not self._labelnames:
            self._series[()] = Series(self.buckets)
        registry.register(self)

    def labels(self, *values: str) -> Series:
        """The series of these label values, made when first asked for."""
        found = self._series.get(values)
        if found is None:
            if len(values) != len(self._labelnames):
                raise ValueError(f"{self._name} has the labels {self._labelnames}")
            found = self._series.setdefault(values, Series(self.buckets))  # atomic
        return found

    def observe(self, value: float) -> None:
        """For a histogram without labels."""
        self._series[()].observe(value)

    @contextmanager
    def time(self) -> Iterator[None]:
        """Observe the seconds spent within, for a histogram without labels."""
        began = time.perf_counter()
        try:
            yield
        finally:
            self.observe(time.perf_counter() - began)

    def read(self) -> dict[tuple[str, ...], list[int]]:
        """Observations of each bucket by itself, by label values."""
        return {values: series.read()[0] for values, series in list(self._series.items())}

    def collect(self) -> Iterator[HistogramMetricFamily]:
        family = HistogramMetricFamily(self._name, self._documentation, labels=self._labelnames)
        names = [floatToGoString(bound) for bound in (*self.buckets, float("inf"))]
        for values, series in list(self._series.items()):
            counts, total, exemplars = series.read()
            rows: list[Bucket] = []
            sofar = 0
            for number, (name, count) in enumerate(zip(names, counts, strict=True)):
                sofar += count
                exemplar = exemplars.get(number)
                rows.append((name, sofar) if exemplar is None else (name, sofar, exemplar))
            family.add_metric(values, rows, total)
        yield family
