"""Counters, gauges, histograms and summaries in Prometheus' text format, as prometheus_client writes it.

Rules: counters, histograms and summaries also have a `_created` gauge. Many observations at once are cheap. This module
does not know the names of metrics.
"""

import time
from bisect import bisect_left
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from prometheus_client.utils import floatToGoString


def _number(value: float) -> str:
    return str(floatToGoString(value))  # type: ignore[no-untyped-call]  # prometheus_client's own


def _labels(labels: Mapping[str, str]) -> str:
    if not labels:
        return ""
    escaped = (
        (key, value.replace("\\", "\\\\").replace('"', '\\"').replace("\n", "\\n"))
        for key, value in sorted(labels.items())
    )
    return "{" + ",".join(f'{key}="{value}"' for key, value in escaped) + "}"


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
        for bucket, count in zip(
            *np.unique(np.searchsorted(self.bounds, array), return_counts=True), strict=True
        ):
            self.counts[bucket] += int(count) * weight
        self.sum += float(array.sum()) * weight

    def lines(self, name: str, labels: Mapping[str, str]) -> Iterable[str]:
        """Lines of the cumulative buckets, the count and the sum."""
        total = 0
        for bound, count in zip((*self.bounds, float("inf")), self.counts, strict=True):
            total += count
            yield f"{name}_bucket{_labels({**labels, 'le': _number(bound)})} {_number(total)}"
        yield f"{name}_count{_labels(labels)} {_number(total)}"
        yield f"{name}_sum{_labels(labels)} {_number(self.sum)}"


@dataclass(slots=True)
class Family:
    """One metric with its children by label values."""

    name: str
    kind: str
    help: str
    labels: tuple[str, ...]
    bounds: tuple[float, ...] = ()
    children: dict[tuple[str, ...], Any] = field(default_factory=dict)
    created: dict[tuple[str, ...], float] = field(default_factory=dict)

    def child(self, *values: str) -> Any:
        """The child with these label values, created on first use.

        It is a Histogram, a list of count and sum for a summary, or else a list with one value.
        """
        if values not in self.children:
            made = (
                Histogram(self.bounds)
                if self.kind == "histogram"
                else [0, 0.0]
                if self.kind == "summary"
                else [0.0]
            )
            self.children[values] = made
            self.created[values] = time.time()
        return self.children[values]

    def _base(self) -> str:
        return self.name.removesuffix("_total") if self.kind == "counter" else self.name

    def render(self, common: Mapping[str, str]) -> Iterable[str]:
        """The lines of this metric. `common` labels are added to every sample."""
        yield f"# HELP {self.name} {self.help}"
        yield f"# TYPE {self.name} {self.kind}"
        for values, child in self.children.items():
            labels = {**common, **dict(zip(self.labels, values, strict=True))}
            if self.kind == "histogram":
                yield from child.lines(self.name, labels)
            elif self.kind == "summary":
                yield f"{self.name}_count{_labels(labels)} {_number(child[0])}"
                yield f"{self.name}_sum{_labels(labels)} {_number(child[1])}"
            else:
                yield f"{self.name}{_labels(labels)} {_number(child[0])}"
        if self.kind != "gauge" and self.children:
            yield f"# HELP {self._base()}_created {self.help}"
            yield f"# TYPE {self._base()}_created gauge"
            for values, created in self.created.items():
                yield f"{self._base()}_created{_labels({**common, **dict(zip(self.labels, values, strict=True))})} {_number(created)}"
