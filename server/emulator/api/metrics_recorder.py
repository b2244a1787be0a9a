"""Records engine totals, finished requests and HTTP exchanges in the metrics catalogue.

Rules: every observation has the same meaning as in vLLM. A request whose client disconnected counts neither as success
nor in the latency histograms. This module does not know the text format of metrics.
"""

import time
from typing import Any

from server.config import Serving
from server.emulator.api.choice import Choice
from server.emulator.api.http import HttpExchange
from server.emulator.api.metrics_catalogue import TABLE, Catalogue
from server.emulator.api.response import ResponseWriter
from server.emulator.engine.kv_cache import BlockPool
from server.emulator.engine.realtime import RealtimeEngine
from server.emulator.engine.sequence import TokenSequence

UNCOUNTED = {"/health", "/ping", "/version", "/load", "/metrics", "/dcgm/metrics"}


class MetricsRecorder:
    """Updates the metrics catalogue of one server."""

    def __init__(self, catalogue: Catalogue, serving: Serving, realtime: RealtimeEngine, paths: set[str]) -> None:
        self.catalogue, self._serving, self._realtime, self._paths = catalogue, serving, realtime, paths
        self._step_tokens = catalogue.histogram("iteration_tokens_total")
        self._itl = catalogue.histogram("inter_token_latency_seconds")
        realtime.engine.on_steps = self._steps
        realtime.on_late = catalogue.histogram("thinkload_emulator_write_late_seconds").observe
        catalogue.gauge("thinkload_time_scale", realtime.clock.speed)
        catalogue.describe_cache(cache_labels(serving, realtime.engine.pool))

    def _steps(self, tokens: Any, gaps: Any, weight: int) -> None:
        self._step_tokens.observe_all(tokens)
        self._itl.observe_all(gaps, weight)

    def began(self, sequence: TokenSequence) -> None:
        """Record the first token of a sequence."""
        self._observe("time_to_first_token_seconds", (sequence.first_s or 0.0) - sequence.arrived_s)

    def ended(self, choice: Choice, writer: ResponseWriter) -> None:
        """Record the end of a choice."""
        sequence, tokens = choice.sequence, choice.decoded
        first_s, last_s = sequence.first_s or 0.0, sequence.last_s or 0.0
        scheduled_s = sequence.scheduled_s or 0.0
        self.catalogue.count("request_success_total", choice.finish)
        self._observe("request_prompt_tokens", sequence.prompt)
        self._observe("request_generation_tokens", tokens)
        self._observe(
            "request_params_max_tokens", writer.params.max_tokens or self._serving.max_model_len - sequence.prompt
        )
        self._observe("request_prefill_kv_computed_tokens", sequence.prompt - sequence.cached)
        self._observe("request_num_preemptions", sequence.preemptions)
        self._observe("e2e_request_latency_seconds", last_s - sequence.arrived_s)
        self._observe("request_queue_time_seconds", scheduled_s - sequence.queued_s)
        self._observe("request_inference_time_seconds", last_s - scheduled_s)
        self._observe("request_prefill_time_seconds", first_s - scheduled_s)
        self._observe("request_decode_time_seconds", last_s - first_s)
        self._observe("request_time_per_output_token_seconds", (last_s - first_s) / (tokens - 1) if tokens > 1 else 0.0)
        if writer.done:
            self._observe("request_params_n", writer.params.n)
            self._observe("request_max_num_generation_tokens", max(c.decoded for c in writer.choices))

    def _observe(self, name: str, value: float) -> None:
        self.catalogue.histogram(name).observe(value)

    def rejected(self, reason: str) -> None:
        """Record a request that a queue limit refused."""
        self.catalogue.count("admission_rejections_total", reason)

    def exchange(self, exchange: HttpExchange) -> None:
        """Record one HTTP exchange; as in vLLM, health and metrics requests are not counted."""
        if exchange.path in UNCOUNTED:
            return
        handler = exchange.path if exchange.path in self._paths else "none"
        seconds = (time.perf_counter() - exchange.started_s) * self._realtime.clock.speed
        sizes = (len(exchange.body), exchange.sent_bytes)
        self.catalogue.http(handler, exchange.method, exchange.status, seconds, sizes)

    def render(self) -> bytes:
        """The current `/metrics` page."""
        engine, gauge = self._realtime.engine, self.catalogue.gauge
        totals = engine.totals
        cached = totals.prompt_tokens - totals.computed_prompt_tokens
        gauge("num_requests_running", len(engine.running))
        gauge("num_requests_waiting", len(engine.waiting))
        gauge("num_requests_waiting_by_reason", len(engine.waiting), "capacity")
        gauge("kv_cache_usage_perc", engine.pool.usage)
        gauge("prefix_cache_queries_total", totals.queried_tokens)
        gauge("prefix_cache_hits_total", totals.cached_tokens)
        gauge("num_preemptions_total", totals.preemptions)
        gauge("prompt_tokens_total", totals.prompt_tokens)
        gauge("prompt_tokens_by_source_total", totals.computed_prompt_tokens, "local_compute")
        gauge("prompt_tokens_by_source_total", cached, "local_cache_hit")
        gauge("prompt_tokens_cached_total", cached)
        gauge("prompt_tokens_cached_by_source_total", cached, "device")
        gauge("generation_tokens_total", totals.generation_tokens)
        gauge("spec_decode_num_drafts_total", totals.drafts)
        gauge("spec_decode_num_draft_tokens_total", totals.draft_tokens)
        gauge("spec_decode_num_accepted_tokens_total", totals.accepted_tokens)
        for position, accepted in enumerate(totals.accepted_at):
            gauge("spec_decode_num_accepted_tokens_per_pos_total", accepted, str(position))
        gauge("thinkload_emulator_behind_seconds", self._realtime.behind_s)
        gauge("thinkload_emulator_behind_max_seconds", self._realtime.behind_max_s)
        gauge("thinkload_emulator_steps_total", totals.steps)
        return self.catalogue.render()

    def timings(self, choices: list[Choice]) -> dict[str, Any] | None:
        """Metrics of one request if the server's options enable them. As in vLLM, there are none for n > 1."""
        serving, sequence, tokens = self._serving, choices[0].sequence, choices[0].decoded
        first_s, last_s, scheduled_s = sequence.first_s, sequence.last_s, sequence.scheduled_s
        if len(choices) > 1 or first_s is None or last_s is None or scheduled_s is None:
            return None
        found: dict[str, Any] = {}
        if serving.enable_per_request_metrics:
            found = {
                "time_to_first_token_ms": (first_s - scheduled_s) * 1e3,
                "generation_time_ms": (last_s - first_s) * 1e3,
                "queue_time_ms": (scheduled_s - sequence.queued_s) * 1e3,
                "mean_itl_ms": (last_s - first_s) * 1e3 / (tokens - 1) if tokens > 1 else None,
                "tokens_per_second": tokens / (last_s - scheduled_s),
            }
        level = serving.per_request_spec_decode_metrics
        if level == "none" and serving.enable_per_request_metrics:
            level = "summary"
        if serving.speculation and level != "none":
            width = serving.speculation.num_speculative_tokens
            found["speculative_decoding"] = _speculation(sequence, width, detailed=level == "detailed")
        return found or None


def _speculation(sequence: TokenSequence, width: int, *, detailed: bool) -> dict[str, Any]:
    drafted, accepted, steps = sum(sequence.drafted), sum(sequence.accepted), len(sequence.drafted)
    found: dict[str, Any] = {
        "mean_acceptance_length": 1 + accepted / steps if steps else None,
        "draft_acceptance_rate": accepted / drafted if drafted else None,
        "acceptance_histogram": [sequence.accepted.count(length) for length in range(width + 1)],
        "num_spec_steps": steps,
        "num_accepted_draft_tokens": accepted,
        "num_draft_tokens": drafted,
        "num_spec_tokens": width,
    }
    found["per_step_accepted"] = list(sequence.accepted) if detailed else None
    found["per_step_drafted"] = list(sequence.drafted) if detailed else None
    return found


def cache_labels(serving: Serving, pool: BlockPool) -> dict[str, str]:
    """The labels of `cache_config_info`."""
    tokens = pool.total * pool.size
    defaults: dict[str, str] = TABLE["cache_defaults"]
    return defaults | {
        "block_size": str(pool.size),
        "cache_dtype": serving.kv_cache_dtype,
        "effective_attention_block_size": str(pool.size),
        "enable_prefix_caching": str(pool.caching),
        "gpu_memory_utilization": str(serving.gpu_memory_utilization),
        "kv_cache_max_concurrency": str(tokens / serving.max_model_len),
        "kv_cache_size_tokens": str(tokens),
        "num_gpu_blocks": str(pool.total),
        "num_gpu_blocks_override": str(serving.num_gpu_blocks_override),
        "user_specified_block_size": str("block-size" in serving.raw),
    }
