"""Reads the profiles of GPUs and of engine versions from `hardware.yaml`, where every number has a source.

This module does not know how they make up the time of a step (step_time.py).
"""

from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any, TypeVar

import msgspec
import yaml

from server.config import release_number
from server.speculation import Drafter, Speculation

ENGINE_VERSION = "0.32"
"""The version that is emulated unless another one is named."""
FILE = Path(__file__).with_name("hardware.yaml")
Profile = TypeVar("Profile")


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
    sm_clock_mhz: int
    idle_clock_mhz: int
    fp8: bool = True
    """Whether its tensor cores compute in FP8."""


@dataclass(frozen=True, slots=True)
class EngineVersion:
    """The part of the step time that depends on the vLLM release and its host, not on the GPU model."""

    release: str
    ngram_async: bool
    ngram_v2: bool
    layer_ms: float | None
    gap_ms: float
    parallel_gap_ms: float
    row_us: float
    async_fill_ms: float
    async_step_ms: float
    async_parallel_step_ms: float
    async_worker_ms: float
    async_per_stream_us: float
    async_parallel_per_stream_us: float
    sync_step_ms: float
    sync_slowdown: float
    ngram_step_ms: float
    ngram_per_stream_us: float
    ngram_context_ns: float
    sync_per_stream_us: float
    sync_parallel_ms: float
    piecewise_layer_ms: float
    parallel_overlap: float
    allreduce_exposed: float
    parallel_launch: float
    eager_layer_ms: float
    graph_tokens: int
    prefill_ms: float
    prefill_request_us: float
    parallel_fill_ms: float
    gemm_sharpness: float
    gemm_efficiency: float
    gemm_half_hidden: float
    overhead_gib: float
    ingest_ms: float
    read_request_us: float
    tokenize_request_us: float
    tokenize_token_us: float
    output_us: float
    chunk_us: float
    baseline_async: bool = True

    def since(self, name: str) -> bool:
        """Whether the release is the one of this name or a later one."""
        return release_number(self.release) >= release_number(name)

    @property
    def v0(self) -> bool:
        """Whether the release has vLLM's V0 engine, as that of the paper has."""
        return not self.since("0.26")

    def may_be_async(self, speculation: Speculation | None) -> bool:
        """Whether asynchronous scheduling is possible; drafters with weights do not turn it off."""
        looks_up = speculation is not None and not isinstance(speculation, Drafter)
        return self.ngram_async if looks_up else self.baseline_async


@cache
def read() -> dict[str, Any]:
    """The content of the file: each number with its source."""
    content: dict[str, Any] = yaml.safe_load(FILE.read_text())
    return content


def _values(entries: dict[Any, Any]) -> dict[Any, Any]:
    return {key: _values(entry) if isinstance(entry, dict) else entry[0] for key, entry in entries.items()}


def _profiles(section: str, kind: type[Profile]) -> dict[str, Profile]:
    return {name: msgspec.convert(_values(entries), kind) for name, entries in read()[section].items()}


def gpus() -> dict[str, Gpu]:
    """The GPU profiles by their `--gpu` name."""
    return _profiles("gpus", Gpu)


def engine_versions() -> dict[str, EngineVersion]:
    """The engine versions by their `--engine-version` name."""
    return _profiles("engines", EngineVersion)


def version_name(release: str) -> str:
    """The `--engine-version` name of a release of vLLM from 0.26 on: `0.32.0+cpu` is `0.32`."""
    return ".".join(release.split(".")[:2])
