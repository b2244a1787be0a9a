"""The step-time model: how long one engine step takes and how much work it does on each GPU.

Weights are read once per step, and keys and values once per stream, both at the effective memory bandwidth. Above a few
dozen tokens per step the matrix multiplications take longer than the reading; the transition is gradual because real
kernels overlap the two imperfectly. Every layer costs a fixed time and, with tensor parallelism, two all-reduces. The
host works at the same time as the GPU: it schedules, and it launches kernels if no CUDA graph covers the whole step. With
asynchronous scheduling the longer of host time and GPU time determines the step; without it they are added. The passes of a
drafter with weights follow on the same GPU; each has the time of a model of its shape (drafter.py).

Rules: the functions are pure, and every number may also be a numpy array. This module does not know requests, clocks or
text.
"""

from dataclasses import dataclass
from typing import Any

import numpy as np

from server.config import ConfigError, Model, Serving
from server.emulator.engine.drafter import drafter_of
from server.emulator.engine.hardware import EngineVersion, Gpu

GIB = 2**30
ACTIVATION_READS = 12
"""Reads and writes of hidden-size vectors per token and layer outside GEMMs: norms, rotary embedding, residuals, attention."""


@dataclass(slots=True)
class Usage:
    """Work of all steps so far on each GPU of the group."""

    busy_s: float = 0.0
    read_bytes: float = 0.0
    flops: float = 0.0
    link_bytes: float = 0.0


OVERLAP = 12
"""Exponent of the norm that combines concurrent work: equal durations slow each other down by about 6 %."""


def _concurrent(first: Any, second: Any, sharpness: float = OVERLAP) -> Any:
    """Duration of two concurrent pieces of work, for numbers and arrays."""
    return (first**sharpness + second**sharpness) ** (1 / sharpness)


def _positive(value: Any) -> Any:
    """The larger of zero and the value, for numbers and arrays."""
    return (value + abs(value)) / 2


class StepModel:
    """Step times of one model on one GPU model with one serving configuration."""

    def __init__(self, model: Model, serving: Serving, gpu: Gpu, engine: EngineVersion) -> None:
        shape, tp = model.shape, serving.tensor_parallel_size
        layers, hidden = shape.num_hidden_layers, shape.hidden_size
        self.gpu, self.engine, self.tp = gpu, engine, tp
        self.layers, self.hidden = layers, hidden
        by_version = engine.may_be_async(serving.speculation)
        self.is_async = by_version if serving.async_scheduling is None else serving.async_scheduling
        self.speculates = serving.speculation is not None
        drafter = drafter_of(serving, model)
        self.drafter = StepModel(*drafter, gpu, engine) if drafter else None
        self.draft_tokens = serving.speculation.num_speculative_tokens if serving.speculation else 0
        self.eager = serving.enforce_eager
        attention = hidden * shape.head_dim * (2 * shape.num_attention_heads + 2 * shape.num_key_value_heads)
        body = layers * (attention + 3 * hidden * shape.intermediate_size) + shape.extra_parameters
        head = hidden * shape.vocab_size
        self.body_parameters = body
        head_bytes = max(model.weight_bytes, 2.0)  # vLLM does not quantize the embedding and the output layer
        self.weight_bytes = (body * model.weight_bytes + head * head_bytes) / tp
        """Bytes of weights that each GPU reads per step; the input embedding is not read as a whole."""
        embedding = head * (1 if shape.tie_word_embeddings else 2)
        self.resident_bytes = (body * model.weight_bytes + embedding * head_bytes) / tp
        kv_heads = max(shape.num_key_value_heads // tp, 1)
        kv_bytes = 1 if serving.kv_cache_dtype.startswith("fp8") else 2
        self.kv_bytes = 2 * layers * kv_heads * shape.head_dim * kv_bytes
        """Bytes of keys and values per token on each GPU; heads are replicated if there are more ranks than key-value heads."""
        efficiency = engine.gemm_efficiency * hidden / (hidden + engine.gemm_half_hidden)
        fast = 2.0 if model.weight_bytes == 1.0 else 1.0  # FP8 tensor cores run at twice the rate
        self.flops = gpu.dense_tflops * 1e12 * efficiency * fast
        self.bandwidth = gpu.bandwidth_tb_s * 1e12
        self.attention_bandwidth = gpu.attention_bandwidth_tb_s * 1e12
        self.weights_s = self.weight_bytes / self.bandwidth
        self.token_s = 2 * body / tp / self.flops
        self.row_s = 2 * head / tp / self.flops
        per_layer = ACTIVATION_READS * hidden + 4 * shape.intermediate_size / tp
        self.activation_s = 2 * layers * per_layer / self.bandwidth
        self.context_s = self.kv_bytes / self.attention_bandwidth
        self.attention_flops = 4 * layers * shape.num_attention_heads * shape.head_dim / tp
        self.pair_s = self.attention_flops / (gpu.dense_tflops * 1e12 * 0.45)
        # 0.45: share of peak that FlashAttention-3 reaches on Hopper (forward, head size 128, causal)
        gap_ms = engine.gap_ms + (engine.parallel_gap_ms if tp > 1 else 0.0)
        self.fixed_s = (layers * (engine.layer_ms or gpu.layer_ms) + gap_ms) / 1e3

    def allreduce_s(self, tokens: Any) -> Any:
        """Time of the all-reduces of one step's hidden states: two per layer."""
        if self.tp == 1:
            return 0.0 * tokens
        base_us, per_mib_us = self.gpu.allreduce_us[min(size for size in self.gpu.allreduce_us if size >= self.tp)]
        size = tokens * self.hidden * 2.0
        custom = base_us * 1e-6 * self.engine.allreduce_exposed
        custom += _positive(size - 65536) / 2**20 * per_mib_us * 1e-6
        ring = 20e-6 + size * 2 * (self.tp - 1) / self.tp / (self.gpu.link_tb_s * 1e12)
        # The shorter of the two times; above some MiB it is the one of NCCL's ring.
        return 2 * self.layers * (custom - _positive(custom - ring))

    def gpu_s(self, tokens: Any, rows: Any, context: Any, pairs: Any = 0.0) -> Any:
        """GPU time of one step.

        `tokens` are computed, `rows` of logits are sampled, the keys and values of `context` tokens are read, and attention
        computes `pairs` of tokens in prefill.
        """
        multiply = tokens * self.token_s + rows * self.row_s
        gemm = _concurrent(self.weights_s, multiply, self.engine.gemm_sharpness)
        attention = context * self.context_s + pairs * self.pair_s
        sampling = rows * (self.engine.row_us * 1e-6)
        return gemm + attention + tokens * self.activation_s + self.fixed_s + sampling + self.allreduce_s(tokens)

    def launch_s(self, tokens: Any, full_graph: Any, prompts: Any = 0) -> Any:
        """Host time to prepare and launch the kernels of a step that no full CUDA graph covers, or that computes `prompts`."""
        engine = self.engine
        eager = (tokens > engine.graph_tokens) | self.eager
        pieces = (1 - eager) * (1 - full_graph)
        piece_ms = engine.piecewise_layer_ms * self.tp**engine.parallel_launch
        layer_ms = eager * engine.eager_layer_ms + pieces * piece_ms
        prompts_ms = (prompts > 0) * engine.prefill_ms + prompts * engine.prefill_request_us * 1e-3
        drafter_s = self.drafter.launch_s(tokens, full_graph) if self.drafter else 0.0
        return (self.layers * layer_ms + prompts_ms) * 1e-3 + drafter_s

    def draft_s(self, streams: Any, tokens: Any, context: Any, pairs: Any = 0.0) -> Any:
        """GPU time of the drafter: one pass over the step's tokens, and one for each further draft token."""
        if self.drafter is None:
            return 0.0
        one = self.drafter.gpu_s(streams, streams, context)
        return self.drafter.gpu_s(tokens, streams, context, pairs) + (self.draft_tokens - 1) * one

    def host_s(self, streams: Any, context: Any = 0) -> Any:
        """Host time of a step apart from launching kernels: scheduling, lookup of drafts, processing of the output."""
        engine, parallel = self.engine, self.tp > 1
        if self.is_async:
            step_ms = engine.async_parallel_step_ms if parallel else engine.async_step_ms
            stream_us = engine.async_parallel_per_stream_us if parallel else engine.async_per_stream_us
        else:
            step_ms = engine.sync_step_ms + (engine.sync_parallel_ms if parallel else 0.0)
            stream_us = engine.sync_per_stream_us
            if self.speculates and not self.drafter:
                step_ms = step_ms + engine.ngram_step_ms + context * engine.ngram_context_ns * 1e-6
                stream_us += engine.ngram_per_stream_us
        return step_ms * 1e-3 + streams * (stream_us * 1e-6)

    def step_s(
        self,
        streams: Any,
        tokens: Any,
        rows: Any,
        context: Any,
        *,
        pairs: Any = 0.0,
        prompts: Any = 0,
        full_graph: Any = True,
        fill: bool = False,
    ) -> Any:
        """Duration of one step, which computes prompts of `prompts` requests.

        `fill` means that the engine was idle before, so that nothing hides the host's work.
        """
        engine, parallel = self.engine, self.tp > 1
        launch, host = self.launch_s(tokens, full_graph, prompts), self.host_s(streams, context)
        gpu = self.gpu_s(tokens, rows, context, pairs) + self.draft_s(streams, tokens, context, pairs)
        fill_s = fill * (engine.parallel_fill_ms if parallel else 0.0) * 1e-3
        if not self.is_async:
            # Ranks launch their pieces separately and wait for each other at every all-reduce, so launching is hidden in part.
            sharpness = engine.parallel_overlap if parallel and not np.any(pairs) else OVERLAP
            return _concurrent(gpu * engine.sync_slowdown, launch, sharpness) + host + fill_s
        fill_s += fill * engine.async_fill_ms * 1e-3
        if parallel:
            return _concurrent(_concurrent(gpu, launch + engine.async_worker_ms * 1e-3), host) + fill_s
        return _concurrent(gpu, launch + host) + fill_s

    def lag_s(self, streams: int, next_step_s: float | None = None) -> float:
        """How long an output waits for the engine to launch the next step; `next_step_s` is its duration if it computes prompts.

        With one GPU, the process that schedules also launches, which takes as long as the step if it has many kernels.
        """
        if not self.is_async:
            return 0.0
        host_s = float(self.host_s(streams))
        return host_s if next_step_s is None or self.tp > 1 else max(next_step_s, host_s)

    def use(
        self,
        usage: Usage,
        seconds: float,
        steps: int,
        *,
        streams: float,
        tokens: float,
        context: float,
        pairs: float = 0.0,
    ) -> None:
        """Add `steps` steps that took `seconds` together to `usage`; the other arguments are sums over these steps."""
        usage.busy_s += seconds
        usage.read_bytes += (
            steps * self.weight_bytes + context * self.kv_bytes + tokens * self.activation_s * self.bandwidth
        )
        usage.flops += (2 * self.body_parameters * tokens) / self.tp + pairs * self.attention_flops
        if self.tp > 1:
            usage.link_bytes += 2 * self.layers * tokens * self.hidden * 2 * 2 * (self.tp - 1) / self.tp
        if self.drafter:
            more = self.draft_tokens - 1
            self.drafter.use(usage, 0.0, steps, streams=streams, tokens=tokens, context=context, pairs=pairs)
            self.drafter.use(usage, 0.0, steps * more, streams=0, tokens=streams * more, context=context * more)

    def kv_blocks(self, serving: Serving) -> int:
        """Number of KV blocks that fit into each GPU's memory beside the weights."""
        if serving.num_gpu_blocks_override is not None:
            return serving.num_gpu_blocks_override
        room = (self.gpu.memory_gib * serving.gpu_memory_utilization - self.engine.overhead_gib) * GIB
        weights, per_token = self.resident_bytes, self.kv_bytes
        if self.drafter:
            weights, per_token = weights + self.drafter.resident_bytes, per_token + self.drafter.kv_bytes
        kv_bytes = serving.kv_cache_memory_bytes or room - weights
        return int(kv_bytes // (per_token * serving.block_size))

    def check_kv_cache(self, serving: Serving) -> None:
        """Refuses a KV cache that cannot hold one sequence of the maximum length, as vLLM does. Raises ConfigError."""
        if (tokens := self.kv_blocks(serving) * serving.block_size) < serving.max_model_len:
            raise ConfigError(
                f"{serving.name}: max-model-len: {serving.max_model_len} tokens do not fit into the KV cache, which holds "
                f"{max(tokens, 0)} beside the model on {self.tp} x {self.gpu.name}"
            )
