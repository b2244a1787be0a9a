"""The metrics of one vLLM server, built from `metrics_catalogue.yaml`, and how to update and render them.

Rules: names, types, labels and buckets are vLLM's for the release. Inter-token latency is observed once per sequence and
step, as in vLLM, not once per token. Counters, histograms and summaries also have a `_created` gauge. Many observations at once
are cheap, which those of prometheus_client's own metrics are not; prometheus_client writes the text format. Thinkload's own
metrics begin with `thinkload_`. This module does not know when events happen.
"""

import time
from bisect import bisect_left
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from itertools import accumulate
from pathlib import Path
from typing import Any

import numpy as np
import yaml
from prometheus_client import (
    GC_COLLECTOR,
    PLATFORM_COLLECTOR,
    PROCESS_COLLECTOR,
    CollectorRegistry,
    Metric,
    generate_latest,
)
from prometheus_client.utils import floatToGoString

from server.emulator.engine.hardware import EngineVersion

TABLE: dict[str, Any] = yaml.safe_load(Path(__file__).with_name("metrics_catalogue.yaml").read_text())


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


def decades(limit: int) -> tuple[float, ...]:
    """1, 2, 5, 10 … up to `limit`, which are vLLM's buckets for token counts."""
    found = [float(mantissa * 10**power) for power in range(12) for mantissa in (1, 2, 5)]
    return tuple(bound for bound in found if bound <= limit)


class Catalogue:
    """All metrics of one server."""

    def __init__(self, model: str, version: EngineVersion, max_model_len: int, draft_tokens: int) -> None:
        self._version = version
        self._model = {"model_name": model}
        self._engine = {} if version.v0 else {"engine": "0"}
        self._max_model_len = max_model_len
        self._families: dict[str, Family] = {}
        positions = [str(position) for position in range(draft_tokens)]
        for name, row in TABLE["engine"].items():
            if self._has(row) and (positions or row.get("when") != "speculation"):
                shown = row["v0"] if version.v0 and isinstance(row["v0"], str) else name
                common = self._model | (self._engine if row.get("engine", True) else {})
                self._add(name, f"vllm:{shown}", row, common, row.get("values", positions))
        for name, row in TABLE["others"].items():
            self._add(name, name, row, {}, ())
        self.gauge("engine_sleep_state", 1, "awake")
        self._registry = CollectorRegistry()
        for collector in (GC_COLLECTOR, PLATFORM_COLLECTOR, PROCESS_COLLECTOR, self):
            self._registry.register(collector)

    def _has(self, row: dict[str, Any]) -> bool:
        return "v0" in row if self._version.v0 else self._version.since(row.get("since", "0.26"))

    def _bounds(self, row: dict[str, Any]) -> tuple[float, ...]:
        name = row.get("buckets")
        if name == "tokens":
            return decades(self._max_model_len)
        return tuple(map(float, TABLE["buckets"][name])) if name else ()

    def _add(self, key: str, name: str, row: dict[str, Any], common: dict[str, str], values: Iterable[str]) -> None:
        """Add a metric. `values` are those values of its label that exist from the start."""
        labels = tuple(row.get("labels", ()))
        family = Family(name, row["type"], row["help"], common, labels, self._bounds(row))
        self._families[key] = family
        for present in [(value,) for value in values] if labels else [()]:
            family.child(*present)

    # Updates

    def describe_cache(self, labels: dict[str, str]) -> None:
        """Set `cache_config_info`, which holds its information in labels."""
        version = self._version
        if not version.since("0.32"):
            labels = {key: value for key, value in labels.items() if key not in TABLE["cache_since_0.32"]}
            labels |= TABLE["cache_until_0.26"]
        if version.since("0.33"):
            labels |= TABLE["cache_since_0.33"]
        common = (self._model if version.v0 else self._engine) | labels
        family = Family("vllm:cache_config_info", "gauge", "The KV cache's configuration.", common)
        self._families[family.name] = family
        family.child()[0] = 1.0

    def gauge(self, name: str, value: float, *labels: str) -> None:
        """Set a gauge, or a counter that is counted elsewhere; does nothing if the release does not have it."""
        if family := self._families.get(name):
            family.child(*labels)[0] = float(value)

    def histogram(self, name: str) -> Histogram:
        """The histogram of this name. If the release does not have it, observations are discarded."""
        family = self._families.get(name)
        found: Histogram = family.child() if family else Histogram(())
        return found

    def count(self, name: str, *labels: str) -> None:
        """Increase a counter by one; does nothing if the release does not have it."""
        if family := self._families.get(name):
            family.child(*labels)[0] += 1

    def http(self, handler: str, method: str, status: int, seconds: float, sizes: tuple[int, int]) -> None:
        """Count one HTTP exchange as prometheus-fastapi-instrumentator does. `sizes`: bytes of request and response bodies."""
        self.count("http_requests_total", handler, method, f"{status // 100}xx")
        for name, size in zip(("http_request_size_bytes", "http_response_size_bytes"), sizes, strict=True):
            child = self._families[name].child(handler)
            child[0] += 1
            child[1] += size
        self._families["http_request_duration_highr_seconds"].child().observe(seconds)
        self._families["http_request_duration_seconds"].child(handler, method).observe(seconds)

    def collect(self) -> Iterator[Metric]:
        """The metrics, as prometheus_client asks a collector for them."""
        return (family.metric() for family in self._families.values())

    def render(self) -> bytes:
        """The `/metrics` page."""
        return generate_latest(self._registry)
