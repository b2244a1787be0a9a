"""The metrics of one vLLM server, built from `metrics_catalogue.yaml`, and how to update and render them.

Rules: names, types, labels and buckets are vLLM's for the release. Inter-token latency is observed once per sequence and
step, as in vLLM, not once per token. Thinkload's own metrics begin with `thinkload_`. This module does not know when
events happen.
"""

from pathlib import Path
from typing import Any

import yaml
from prometheus_client import (
    GC_COLLECTOR,
    PLATFORM_COLLECTOR,
    PROCESS_COLLECTOR,
    CollectorRegistry,
    generate_latest,
)

from server.emulator.api.prometheus_text import Family, Histogram

TABLE: dict[str, Any] = yaml.safe_load(Path(__file__).with_name("metrics_catalogue.yaml").read_text())


def decades(limit: int) -> tuple[float, ...]:
    """1, 2, 5, 10 … up to `limit`, which are vLLM's buckets for token counts."""
    found = [float(mantissa * 10**power) for power in range(12) for mantissa in (1, 2, 5)]
    return tuple(bound for bound in found if bound <= limit)


class Catalogue:
    """All metrics of one server."""

    def __init__(self, model: str, release: str, max_model_len: int, draft_tokens: int) -> None:
        self._v0 = release.startswith("0.7")
        self._old = release.startswith("0.26") or self._v0
        self._common = {"model_name": model} if self._v0 else {"engine": "0", "model_name": model}
        self.model, self._max_model_len = model, max_model_len
        self._engine: dict[str, Family] = {}
        self._others: dict[str, Family] = {}
        for name, row in TABLE["engine"].items():
            if self._has(row) and (draft_tokens or row.get("when") != "speculation"):
                self._add(name, row, [str(position) for position in range(draft_tokens)])
        for name, row in TABLE["others"].items():
            if not self._v0 or not name.startswith("vllm:"):
                self._add_other(name, row)
        self.gauge("engine_sleep_state", 1, "awake")

    def _has(self, row: dict[str, Any]) -> bool:
        return bool(row.get("v0")) if self._v0 else not (self._old and "since" in row)

    def _bounds(self, row: dict[str, Any]) -> tuple[float, ...]:
        name = row.get("buckets")
        if name == "tokens":
            return decades(self._max_model_len)
        return tuple(map(float, TABLE["buckets"][name])) if name else ()

    def _add(self, name: str, row: dict[str, Any], positions: list[str]) -> None:
        old = row.get("v0")
        shown = old if self._v0 and isinstance(old, str) else name
        labels = (row["label"],) if "label" in row else ()
        self._engine[name] = family = Family(
            "vllm:" + shown, row["type"], row["help"], labels, self._bounds(row)
        )
        for values in [(value,) for value in row.get("values", positions)] if labels else [()]:
            family.child(*values)

    def _add_other(self, name: str, row: dict[str, Any]) -> None:
        if self._old and "since" in row:
            return
        labels = tuple(row.get("labels", ()))
        self._others[name] = family = Family(name, row["type"], row["help"], labels, self._bounds(row))
        if not labels:
            family.child()
        if name == "vllm:admission_rejections_total":
            for reason in ("max_num_queued_reqs", "max_num_queued_tokens"):
                family.child(self.model, reason)

    # Updates

    def describe_cache(self, labels: dict[str, str]) -> None:
        """Set `cache_config_info`, which holds its information in labels."""
        if self._old:
            labels = {key: value for key, value in labels.items() if key not in TABLE["cache_since_0.32"]}
            labels |= TABLE["cache_until_0.26"]
        labels = ({"model_name": self.model} if self._v0 else {"engine": "0"}) | labels
        name = "vllm:cache_config_info"
        self._others[name] = family = Family(name, "gauge", "The KV cache's configuration.", tuple(labels))
        family.child(*labels.values())[0] = 1.0

    def gauge(self, name: str, value: float, *labels: str) -> None:
        """Set a gauge, or a counter that is counted elsewhere."""
        family = self._engine.get(name) or self._others.get(name)
        if family:
            family.child(*labels)[0] = float(value)

    def histogram(self, name: str) -> Histogram:
        """The histogram of this name. If the release does not have it, observations are discarded."""
        family = self._engine.get(name) or self._others.get(name)
        found: Histogram = family.child() if family else Histogram(())
        return found

    def count(self, name: str, *labels: str, by: float = 1) -> None:
        """Increase a counter; does nothing if the release does not have it."""
        family = self._engine.get(name) or self._others.get(name)
        if family:
            family.child(*labels)[0] += by

    def http(self, handler: str, method: str, status: int, seconds: float, sizes: tuple[int, int]) -> None:
        """Count one HTTP exchange as prometheus-fastapi-instrumentator does. `sizes`: bytes of request and response bodies."""
        self.count("http_requests_total", handler, method, f"{status // 100}xx")
        for name, size in zip(("http_request_size_bytes", "http_response_size_bytes"), sizes, strict=True):
            child = self._others[name].child(handler)
            child[0] += 1
            child[1] += size
        self._others["http_request_duration_highr_seconds"].child().observe(seconds)
        self._others["http_request_duration_seconds"].child(handler, method).observe(seconds)

    def render(self) -> bytes:
        """The `/metrics` page."""
        lines: list[str] = []
        for family in self._engine.values():
            lines.extend(family.render(self._common))
        for family in self._others.values():
            lines.extend(family.render({}))
        return _process_metrics() + ("\n".join(lines) + "\n").encode()


def _process_metrics() -> bytes:
    registry = CollectorRegistry()
    for collector in (GC_COLLECTOR, PLATFORM_COLLECTOR, PROCESS_COLLECTOR):
        registry.register(collector)
    return generate_latest(registry)
