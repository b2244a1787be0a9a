"""The description of a server. What a server does not report stays None; nothing is guessed."""

from dataclasses import dataclass


@dataclass(frozen=True)
class ServerInfo:
    """The server at the target, as it describes itself or as the operator describes it by options."""

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
    """It serves the /metrics of vLLM."""
