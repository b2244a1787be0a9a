"""The description of a server. What a server does not report stays None; nothing is guessed."""

from typing import Annotated, Literal

import msgspec

LimitField = Literal["max_tokens", "max_completion_tokens"]
Text = Annotated[str, msgspec.Meta(max_length=500)]
Count = Annotated[int, msgspec.Meta(gt=0, le=100_000)]


class Reported(msgspec.Struct, frozen=True, kw_only=True):
    """What this suite's emulator says at /version. vLLM says only its version."""

    version: Text | None = None
    emulated: bool = False
    simulated: bool = False
    gpu: Text | None = None
    config: Text | None = None
    preset: Text | None = None
    num_gpus: Count | None = None
    """None means that it is not known, so that no cost is calculated."""
    tensor_parallel_size: Count | None = None
    speculation: Text | None = None
    draft_tokens: Count | None = None
    acceptance: Text | None = None
    """Which acceptance of drafts an emulated server imposes, and its source."""
    gpu_metrics: Text | None = None


class ServerInfo(Reported, frozen=True):
    """The server at the target, as it describes itself or as the operator describes it by options."""

    model: str
    max_model_len: int | None = None
    time_scale: float = 1.0
    pipeline_parallel_size: int | None = None
    data_parallel_size: int | None = None
    fingerprint: str | None = None
    metrics: bool = False
    """It serves the /metrics of vLLM."""
    engines: int = 1
    """Number of engines (data parallel ranks) in its /metrics."""
    replicas: int = 1
    """Number of servers that answered at the address when its /metrics were read several times."""
    others: str = ""
    """The models that the server lists, where `model` is not in the list."""
    limit_field: LimitField = "max_tokens"
    """Field of a chat request that limits the tokens of a reply."""


def with_gpus(server: ServerInfo) -> ServerInfo:
    """Add the number of GPUs, where the sizes of the server's parallelism tell it and one server answers at the address."""
    if server.num_gpus is not None or server.tensor_parallel_size is None or server.replicas > 1:
        return server
    data_parallel = max(server.data_parallel_size or 1, server.engines)
    gpus = server.tensor_parallel_size * (server.pipeline_parallel_size or 1) * data_parallel
    return msgspec.structs.replace(server, num_gpus=gpus)
