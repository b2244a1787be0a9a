"""`/metrics`: the catalogue of a vLLM server, its names, types, labels and buckets.

Rules: one table lists every metric; a version or flag that lacks one is named beside it. Counters and histograms also
have a `_created` gauge, as prometheus_client writes them. Inter-token latency is observed once a stream and *step*, as
vLLM does, not once a token. Our own metrics begin with `thinkload_`. Does not know when anything happens.
"""

import time
from bisect import bisect_left
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from prometheus_client import (
    GC_COLLECTOR,
    PLATFORM_COLLECTOR,
    PROCESS_COLLECTOR,
    CollectorRegistry,
    generate_latest,
)
from prometheus_client.utils import floatToGoString

TTFT = (
    0.001,
    0.005,
    0.01,
    0.02,
    0.04,
    0.06,
    0.08,
    0.1,
    0.25,
    0.5,
    0.75,
    1.0,
    2.5,
    5.0,
    7.5,
    10.0,
    20.0,
    40.0,
    80.0,
    160.0,
    640.0,
    2560.0,
)
ITL = (
    0.01,
    0.025,
    0.05,
    0.075,
    0.1,
    0.15,
    0.2,
    0.3,
    0.4,
    0.5,
    0.75,
    1.0,
    2.5,
    5.0,
    7.5,
    10.0,
    20.0,
    40.0,
    80.0,
)
LATENCY = (
    0.3,
    0.5,
    0.8,
    1.0,
    1.5,
    2.0,
    2.5,
    5.0,
    10.0,
    15.0,
    20.0,
    30.0,
    40.0,
    50.0,
    60.0,
    120.0,
    240.0,
    480.0,
    960.0,
    1920.0,
    7680.0,
)
ITERATION = (1.0, *(float(2**power) for power in range(3, 15)))
LATE = (0.0001, 0.0002, 0.0005, 0.001, 0.0015, 0.002, 0.003, 0.005, 0.01, 0.02, 0.05, 0.1, 1.0)
HTTP_HIGH = (
    0.01,
    0.025,
    0.05,
    0.075,
    0.1,
    0.25,
    0.5,
    0.75,
    1.0,
    1.5,
    2.0,
    2.5,
    3.0,
    3.5,
    4.0,
    4.5,
    5.0,
    7.5,
    10.0,
    30.0,
    60.0,
)


def decades(limit: int) -> tuple[float, ...]:
    """1, 2, 5, 10 … up to `limit`: vLLM's buckets for token counts."""
    found = [float(mantissa * 10**power) for power in range(12) for mantissa in (1, 2, 5)]
    return tuple(bound for bound in found if bound <= limit)


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
    """Observations by bucket."""

    __slots__ = ("bounds", "counts", "sum")

    def __init__(self, bounds: tuple[float, ...]) -> None:
        self.bounds = bounds
        self.counts = [0] * (len(bounds) + 1)
        self.sum = 0.0

    def observe(self, value: float, count: int = 1) -> None:
        """`count` observations of one value."""
        self.counts[bisect_left(self.bounds, value)] += count
        self.sum += value * count

    def observe_all(self, values: Any, weight: int = 1) -> None:
        """Each value `weight` times."""
        if len(values) < 32:  # below this numpy costs more than it saves
            for value in values:
                self.observe(float(value), weight)
            return
        array = np.asarray(values, float)
        for place, count in zip(
            *np.unique(np.searchsorted(self.bounds, array), return_counts=True), strict=True
        ):
            self.counts[place] += int(count) * weight
        self.sum += float(array.sum()) * weight

    def lines(self, name: str, labels: Mapping[str, str]) -> Iterable[str]:
        """Cumulative buckets, count and sum."""
        total = 0
        for bound, count in zip((*self.bounds, float("inf")), self.counts, strict=True):
            total += count
            yield f"{name}_bucket{_labels({**labels, 'le': _number(bound)})} {_number(total)}"
        yield f"{name}_count{_labels(labels)} {_number(total)}"
        yield f"{name}_sum{_labels(labels)} {_number(self.sum)}"


@dataclass(slots=True)
class Family:
    """One metric: its children by label values."""

    name: str
    kind: str
    help: str
    labels: tuple[str, ...]
    bounds: tuple[float, ...]
    children: dict[tuple[str, ...], Any]
    created: dict[tuple[str, ...], float]

    def child(self, *values: str) -> Any:
        """The child of these label values, made on first use: a Histogram, or a one-element list."""
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
        """Exposition lines."""
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


# name, kind, help, further labels' values or buckets. Engine metrics carry `engine` and `model_name` besides.
SPECULATION = (
    ("spec_decode_num_drafts_total", "Drafts made by speculation."),
    ("spec_decode_num_draft_tokens_total", "Tokens drafted."),
    ("spec_decode_num_accepted_tokens_total", "Drafted tokens accepted."),
)
COUNTERS = (
    ("estimated_flops_per_gpu_total", "Floating point operations per GPU (zero unless asked for)."),
    ("estimated_read_bytes_per_gpu_total", "Bytes read per GPU (zero unless asked for)."),
    ("estimated_write_bytes_per_gpu_total", "Bytes written per GPU (zero unless asked for)."),
    ("prefix_cache_queries_total", "Prompt tokens looked up in the prefix cache."),
    ("prefix_cache_hits_total", "Prompt tokens found in the prefix cache."),
    ("external_prefix_cache_queries_total", "Prompt tokens looked up in other instances' caches."),
    ("external_prefix_cache_hits_total", "Prompt tokens found in other instances' caches."),
    ("mm_cache_queries_total", "Multi-modal items looked up."),
    ("mm_cache_hits_total", "Multi-modal items found."),
    ("num_preemptions_total", "Requests preempted for want of KV blocks."),
    ("prompt_tokens_total", "Prompt tokens of requests that have begun to answer."),
    ("prompt_tokens_cached_total", "Prompt tokens taken from a cache."),
    ("generation_tokens_total", "Tokens generated."),
)
BY_LABEL = (
    (
        "num_requests_waiting_by_reason",
        "gauge",
        "Waiting requests by reason.",
        "reason",
        ("capacity", "deferred"),
    ),
    (
        "engine_sleep_state",
        "gauge",
        "1 for the state the engine is in.",
        "sleep_state",
        ("awake", "weights_offloaded", "discard_all"),
    ),
    (
        "prompt_tokens_by_source_total",
        "counter",
        "Prompt tokens by where they came from.",
        "source",
        ("local_compute", "local_cache_hit", "external_kv_transfer"),
    ),
    (
        "prompt_tokens_cached_by_source_total",
        "counter",
        "Cached prompt tokens by tier.",
        "source",
        ("device", "host", "p2p", "disk", "external_unspecified"),
    ),
    (
        "request_success_total",
        "counter",
        "Requests that ended, by reason.",
        "finished_reason",
        ("stop", "length", "abort", "error", "repetition"),
    ),
)
HISTOGRAMS = (
    ("iteration_tokens_total", "Tokens in each engine step.", ITERATION),
    ("request_params_n", "The n asked for.", (1.0, 2.0, 5.0, 10.0, 20.0)),
    ("time_to_first_token_seconds", "Time to first token.", TTFT),
    ("inter_token_latency_seconds", "Time between a request's outputs, once a step.", ITL),
    ("request_time_per_output_token_seconds", "Decode time over output tokens but the first.", ITL),
    ("e2e_request_latency_seconds", "Arrival to last token.", LATENCY),
    ("request_queue_time_seconds", "Time waiting.", LATENCY),
    ("request_inference_time_seconds", "Time running.", LATENCY),
    ("request_prefill_time_seconds", "Scheduled to first token.", LATENCY),
    ("request_decode_time_seconds", "First to last token.", LATENCY),
    ("request_num_preemptions", "Times a request was preempted.", (1.0, 2.0, 3.0, 4.0, 5.0, 10.0, 20.0)),
)
TOKEN_HISTOGRAMS = (
    ("request_prompt_tokens", "Prompt tokens of a request."),
    ("request_generation_tokens", "Tokens a request generated."),
    ("request_max_num_generation_tokens", "The most tokens among a request's choices."),
    ("request_params_max_tokens", "The max_tokens asked for."),
    ("request_prefill_kv_computed_tokens", "Prompt tokens computed, cached ones left out."),
)
NOT_IN_026 = {"prompt_tokens_cached_by_source_total", "request_num_preemptions"}
NOT_IN_026_CACHE = {
    *(
        "prefix_cache_retention_interval",
        "enable_mamba_shared_prefix_checkpoint",
        "use_replayssm",
        "replayssm_buffer_len",
    ),
    *("use_kda_recoverssm", "effective_attention_block_size", "hash_block_size", "kv_cache_layout"),
    *("cache_hit_alignment_tokens", "swa_bounded_replay"),
}
OLD_CACHE = {"calculate_kv_scales": "False", "user_specified_mamba_block_size": "False"}
V0_NAMES = {
    "kv_cache_usage_perc": "gpu_cache_usage_perc",
    "inter_token_latency_seconds": "time_per_output_token_seconds",
}
V0_KEPT = {
    *(
        "num_requests_running",
        "num_requests_waiting",
        "kv_cache_usage_perc",
        "num_preemptions_total",
        "prompt_tokens_total",
    ),
    *(
        "generation_tokens_total",
        "request_success_total",
        "iteration_tokens_total",
        "inter_token_latency_seconds",
    ),
    *(
        "time_to_first_token_seconds",
        "e2e_request_latency_seconds",
        "request_queue_time_seconds",
        "request_params_n",
    ),
    *("request_inference_time_seconds", "request_prefill_time_seconds", "request_decode_time_seconds"),
    *(
        "request_prompt_tokens",
        "request_generation_tokens",
        "request_max_num_generation_tokens",
        "request_params_max_tokens",
    ),
    *("spec_decode_num_draft_tokens_total", "spec_decode_num_accepted_tokens_total"),
}


class Catalogue:
    """All metrics of one server."""

    def __init__(self, model: str, release: str, max_model_len: int, draft_tokens: int) -> None:
        self._v0 = release.startswith("0.7")
        self._old = release.startswith("0.26") or self._v0
        self._common = {"model_name": model} if self._v0 else {"engine": "0", "model_name": model}
        self._model = model
        self._engine: dict[str, Family] = {}
        self._others: dict[str, Family] = {}
        if draft_tokens:
            self._speculation(draft_tokens)
        self._plain()
        for name, text, bounds in HISTOGRAMS:
            self._add(name, "histogram", text, bounds=bounds).child()
        for name, text in TOKEN_HISTOGRAMS:
            self._add(name, "histogram", text, bounds=decades(max_model_len)).child()
        if not self._old:
            rejected = self._other(
                "vllm:admission_rejections_total",
                "counter",
                "Requests refused by a queue limit.",
                ("model_name", "reason"),
            )
            for reason in ("max_num_queued_reqs", "max_num_queued_tokens"):
                rejected.child(model, reason)
        self._http()
        self._ours()

    def _add(
        self, name: str, kind: str, text: str, labels: tuple[str, ...] = (), bounds: tuple[float, ...] = ()
    ) -> Family:
        shown = V0_NAMES.get(name, name) if self._v0 else name
        family = Family("vllm:" + shown, kind, text, labels, bounds, {}, {})
        if not ((self._old and name in NOT_IN_026) or (self._v0 and name not in V0_KEPT)):
            self._engine[name] = family
        return family

    def _other(
        self, name: str, kind: str, text: str, labels: tuple[str, ...] = (), bounds: tuple[float, ...] = ()
    ) -> Family:
        self._others[name] = family = Family(name, kind, text, labels, bounds, {}, {})
        return family

    def _speculation(self, draft_tokens: int) -> None:
        for name, text in SPECULATION:
            self._add(name, "counter", text).child()
        positions = self._add(
            "spec_decode_num_accepted_tokens_per_pos_total",
            "counter",
            "Drafted tokens accepted, by position.",
            ("position",),
        )
        for position in range(draft_tokens):
            positions.child(str(position))

    def _plain(self) -> None:
        for name, text in COUNTERS:
            self._add(name, "counter", text).child()
        self._add("num_requests_running", "gauge", "Requests in the running batch.").child()
        self._add("num_requests_waiting", "gauge", "Requests waiting.").child()
        self._add("kv_cache_usage_perc", "gauge", "Share of KV blocks held, 1 is all.").child()
        for name, kind, text, label, values in BY_LABEL:
            family = self._add(name, kind, text, (label,))
            for value in values:
                family.child(value)
        self.gauge("engine_sleep_state", 1, "awake")

    def _http(self) -> None:
        self._other("http_requests_total", "counter", "HTTP requests.", ("handler", "method", "status"))
        self._other("http_request_size_bytes", "summary", "Request bodies by handler.", ("handler",))
        self._other("http_response_size_bytes", "summary", "Response bodies by handler.", ("handler",))
        self._other(
            "http_request_duration_highr_seconds", "histogram", "Latency, finely.", (), HTTP_HIGH
        ).child()
        self._other(
            "http_request_duration_seconds",
            "histogram",
            "Latency by handler.",
            ("handler", "method"),
            (0.1, 0.5, 1.0),
        )

    def _ours(self) -> None:
        self._other(
            "thinkload_emulated_info",
            "gauge",
            "1: this server is emulated.",
            ("gpu", "config", "preset", "engine_version", "text"),
        )
        self._other("thinkload_time_scale", "gauge", "Model seconds in a wall second.").child()
        self._other(
            "thinkload_emulator_behind_seconds", "gauge", "Wall seconds the last writes were late."
        ).child()
        self._other("thinkload_emulator_behind_max_seconds", "gauge", "The most any write was late.").child()
        self._other(
            "thinkload_emulator_write_late_seconds",
            "histogram",
            "Wall seconds each chunk was written late.",
            (),
            LATE,
        ).child()
        self._other("thinkload_emulator_steps_total", "counter", "Engine steps.").child()

    # Moving them

    def describe_cache(self, labels: dict[str, str]) -> None:
        """`cache_config_info`: all in labels."""
        if self._old:
            labels = {k: v for k, v in labels.items() if k not in NOT_IN_026_CACHE} | OLD_CACHE
        labels = {"model_name": self._model} | labels if self._v0 else {"engine": "0"} | labels
        family = self._other(
            "vllm:cache_config_info", "gauge", "The KV cache's configuration.", tuple(labels)
        )
        family.child(*labels.values())[0] = 1.0

    def gauge(self, name: str, value: float, *labels: str) -> None:
        """Set a gauge, or a counter kept elsewhere."""
        family = self._engine.get(name) or self._others.get(name)
        if family:
            family.child(*labels)[0] = float(value)

    def histogram(self, name: str) -> Histogram:
        """An engine histogram, to observe into; one this version lacks swallows."""
        family = self._engine.get(name) or self._others.get(name)
        found: Histogram = family.child() if family else Histogram(())
        return found

    def count(self, name: str, *labels: str, by: float = 1) -> None:
        """Raise a counter."""
        family = self._engine.get(name) or self._others.get(name)
        if family:
            family.child(*labels)[0] += by

    def reject(self, reason: str) -> None:
        """A request refused by a queue limit."""
        self.count("vllm:admission_rejections_total", self._model, reason)

    def http(self, handler: str, method: str, status: int, seconds: float, sizes: tuple[int, int]) -> None:
        """One HTTP exchange, as prometheus-fastapi-instrumentator counts it."""
        self.count("http_requests_total", handler, method, f"{status // 100}xx")
        for name, size in zip(("http_request_size_bytes", "http_response_size_bytes"), sizes, strict=True):
            child = self._others[name].child(handler)
            child[0] += 1
            child[1] += size
        self._others["http_request_duration_highr_seconds"].child().observe(seconds)
        self._others["http_request_duration_seconds"].child(handler, method).observe(seconds)

    def render(self) -> bytes:
        """The whole page."""
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
