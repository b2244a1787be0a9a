"""Counters, gauges, histograms and summaries from which prometheus_client makes Prometheus' text format.

Rules: counters, histograms and summaries also have a `_created` gauge. Many observations at once are cheap, which those of
prometheus_client's own metrics are not. This module does not know the names of metrics.
"""

import time
from bisect import bisect_left
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from itertools import accumulate
from typing import Any

import numpy as np
from prometheus_client import Metric
from prometheus_client.utils import floatToGoString


class Histogram:
    """A histogram: observations counted by bucket."""

    __slots__ = ("bounds", "counts", "sum")

    def __init__(self, bounds: tuple[float, ...]) -> None:
        self.bounds = bounds
        self.counts = [0] * (len(bounds) + 1)
        self.sum = 0.0

    def observe(self, value: float, count: int = 1) -> None:
        """Add `count` observations of one value."""
        self.counts[bisect_left(self.bounds, value)] += count
        self.sum += value * count

    def observe_all(self, values: Any, weight: int = 1) -> None:
        """Add each value `weight` times."""
        if len(values) < 32:  # for fewer values numpy costs more than it saves
            for value in values:
                self.observe(float(value), weight)
            return
        array = np.asarray(values, float)
        buckets = np.bincount(np.searchsorted(self.bounds, array), minlength=len(self.counts))
        self.counts = [old + new * weight for old, new in zip(self.counts, buckets.tolist(), strict=True)]
        self.sum += float(array.sum()) * weight

    def samples(self) -> Iterator[tuple[str, dict[str, str], float]]:
        """Suffix, further labels and value of each sample: the cumulative buckets, the count and the sum."""
        for bound, count in zip((*self.bounds, float("inf")), accumulate(self.counts), strict=True):
            yield "_bucket", {"le": floatToGoString(bound)}, count  # type: ignore[no-untyped-call]
        yield "_count", {}, sum(self.counts)
        yield "_sum", {}, self.sum


@dataclass(slots=True)
class Family:
    """One metric with its children by label values."""

    name: str
    kind: str
    help: str
    common: Mapping[str, str]
    """Labels with the same value in every sample."""
    labels: tuple[str, ...] = ()
    bounds: tuple[float, ...] = ()
    children: dict[tuple[str, ...], Any] = field(default_factory=dict)
    created: dict[tuple[str, ...], float] = field(default_factory=dict)

    def child(self, *values: str) -> Any:
        """The child with these label values, created on first use.

        It is a Histogram, a list of count and sum for a summary, or else a list with one value.
        """
        if values not in self.children:
            size = 2 if self.kind == "summary" else 1
            self.children[values] = Histogram(self.bounds) if self.kind == "histogram" else [0.0] * size
            self.created[values] = time.time()
        return self.children[values]

    def metric(self) -> Metric:
        """The metric with its samples."""
        base = self.name.removesuffix("_total") if self.kind == "counter" else self.name
        found = Metric(base, self.help, self.kind)
        suffixes = ("_count", "_sum") if self.kind == "summary" else ("",)
        for values, child in self.children.items():
            labels = {**self.common, **dict(zip(self.labels, values, strict=True))}
            if isinstance(child, Histogram):
                samples = child.samples()
            else:
                samples = ((suffix, {}, value) for suffix, value in zip(suffixes, child, strict=True))
            for suffix, more, value in samples:
                found.add_sample(self.name + suffix, labels | more, value)
            if self.kind != "gauge":
                found.add_sample(f"{base}_created", labels, self.created[values])
        return found
