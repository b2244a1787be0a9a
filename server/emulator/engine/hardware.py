"""Reads the profiles of GPUs and of engine versions from `hardware.yaml`, where every number has a source.

This module does not know what the numbers are used for.
"""

from dataclasses import dataclass, fields
from functools import cache
from pathlib import Path
from typing import Any

import yaml

FILE = Path(__file__).with_name("hardware.yaml")


@dataclass(frozen=True, slots=True)
class Gpu:
    """One GPU model. gpu_telemetry.py explains how the power figures (`…_w`) are combined."""

    name: str
    memory_gib: float
    bandwidth_tb_s: float
    attention_bandwidth_tb_s: float
    peak_bandwidth_tb_s: float
    layer_ms: float
    dense_tflops: float
    link_tb_s: float
    allreduce_us: dict[int, tuple[float, float]]
    idle_w: float
    base_w: float
    memory_w: float
    compute_w: float
    link_w: float
    limit_w: float
    sm_clock_mhz: float
    idle_clock_mhz: float


@dataclass(frozen=True, slots=True)
class EngineVersion:
    """The part of the step time that depends on the vLLM release and its host, not on the GPU model."""

    release: str
    ngram_async: bool
    ngram_full_graph: bool
    layer_ms: float | None
    gap_ms: float
    parallel_gap_ms: float
    row_us: float
    async_fill_ms: float
    async_step_ms: float
    async_per_stream_us: float
    async_parallel_per_stream_us: float
    async_lag_steps: float
    sync_step_ms: float
    ngram_step_ms: float
    sync_per_stream_us: float
    sync_parallel_ms: float
    piecewise_layer_ms: float
    parallel_overlap: float
    eager_layer_ms: float
    graph_tokens: int
    parallel_fill_ms: float
    gemm_sharpness: float
    gemm_efficiency: float
    gemm_half_hidden: float
    overhead_gib: float
    ingest_ms: float
    ingest_request_us: float
    ingest_token_us: float
    output_us: float
    chunk_us: float
    baseline_async: bool = True


@cache
def read() -> dict[str, Any]:
    """The content of the file: each number with its source."""
    content: dict[str, Any] = yaml.safe_load(FILE.read_text())
    return content


def _values(entries: dict[Any, Any]) -> dict[Any, Any]:
    return {key: entry[0] for key, entry in entries.items()}


def gpus() -> dict[str, Gpu]:
    """The GPU profiles by their `--gpu` name."""
    found = {}
    for name, entries in read()["gpus"].items():
        reduce = _values(entries["allreduce_us"])
        rest = _values({key: entry for key, entry in entries.items() if key != "allreduce_us"})
        found[name] = Gpu(**rest, allreduce_us={int(ranks): tuple(pair) for ranks, pair in reduce.items()})
    return found


def engine_versions() -> dict[str, EngineVersion]:
    """The engine versions by their `--engine-version` name."""
    known = {f.name for f in fields(EngineVersion)}
    found = {name: _values(entries) for name, entries in read()["engines"].items()}
    return {
        name: EngineVersion(**{k: v for k, v in values.items() if k in known})
        for name, values in found.items()
    }
