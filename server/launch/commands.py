"""What is run for a Spec: `vllm serve …` or `python -m server emulate …`, as argument lists.

Rules: the configuration file goes to vLLM as it is (`--config`); what the model needs (dtype, reasoning parser) and what
measuring needs is added here, the same for every configuration, so that configurations stay comparable.

Does not know: where the command runs (local.py, containers.py).
"""

import sys
from pathlib import Path
from typing import Any

from server.config import MODELS, config_file, names, read_config, read_mapping
from server.launch.spec import Spec

MEASURING = (
    "--enable-per-request-metrics",  # the server's own timings beside the client's
    "--enable-prompt-tokens-details",  # prefix-cache hits of each request
    "--disable-uvicorn-access-log",  # a line a request costs time where it is measured
)
"""Options of `vllm serve`, 0.26 and later, for every server that is started here."""


def tensor_parallel_size(config: dict[str, Any]) -> int:
    """GPUs that one replica needs."""
    return int(config["tensor-parallel-size"])


def speculation(config: dict[str, Any]) -> str | None:
    """Method of speculation, or None."""
    return (config.get("speculative-config") or {}).get("method")


def preset(model: str) -> dict[str, object]:
    """The preset of a name or model id; empty for a model that has none."""
    for name in names(MODELS):
        content = read_mapping(MODELS / f"{name}.yaml")
        if model in {name, content["id"]}:
            return content
    return {}


def labels(spec: Spec) -> dict[str, str]:
    """The five labels of the server's and its GPUs' series."""
    config = read_config(spec.config)
    return {
        "config": Path(spec.config).stem,
        "model": str(preset(spec.model).get("id", spec.model)),
        "tp": str(tensor_parallel_size(config)),
        "speculation": speculation(config) or "none",
        "run": spec.run or "none",
    }


def vllm_arguments(spec: Spec, config: str, port: int, host: str = "127.0.0.1") -> list[str]:
    """Arguments after `vllm serve`."""
    model = preset(spec.model)
    head = [str(model.get("id", spec.model)), "--config", config, "--host", host, "--port", str(port)]
    if model:
        head += ["--dtype", str(model["dtype"])]
        head += (
            ["--reasoning-parser", str(model["reasoning-parser"])] if model.get("reasoning-parser") else []
        )
    return [*head, *MEASURING, *spec.vllm]


def emulator_arguments(spec: Spec, config: str, port: int, host: str = "127.0.0.1") -> list[str]:
    """Arguments after `python -m server`."""
    return ["emulate", config, "--model", spec.model, "--host", host, "--port", str(port), *spec.emulate]


def local_command(spec: Spec, port: int) -> list[str]:
    """The whole command for a subprocess."""
    if spec.backend == "emulator":
        return [sys.executable, "-m", "server", *emulator_arguments(spec, spec.config, port)]
    return ["vllm", "serve", *vllm_arguments(spec, str(config_file(spec.config).resolve()), port)]
