"""TODO docstring."""

from dataclasses import dataclass


@dataclass(frozen=True)
class ServerInfo:
    """Who answers at the target."""

    model: str
    max_model_len: int | None = None
    version: str | None = None
    emulated: bool = False
    simulated: bool = False
    time_scale: float = 1.0
    gpu: str | None = None
    config: str | None = None
    preset: str | None = None
    num_gpus: int | None = None
    tensor_parallel_size: int | None = None
    speculation: str | None = None
    gpu_metrics: str | None = None
    fingerprint: str | None = None
    metrics: bool = False
    """It has vLLM's /metrics."""
