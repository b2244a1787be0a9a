"""What is run for a Spec: `vllm serve …` or `python -m server emulate …`, as argument lists.

Rules: the configuration file goes to vLLM as it is (`--config`); what the model needs (dtype, reasoning parser) and what
measuring needs is added here, the same for every configuration, so that configurations stay comparable.

Does not know: where the command runs (local.py, containers.py).
"""

import sys
from pathlib import Path
from typing import Any

import yaml

from server.config import CONFIGS, MODELS, ConfigError, names
from server.launch.spec import Spec

MEASURING = (
    "--enable-per-request-metrics",  # the server's own timings beside the client's
    "--enable-prompt-tokens-details",  # prefix-cache hits of each request
    "--disable-uvicorn-access-log",  # a line a request costs time where it is measured
)
"""Options of `vllm serve`, 0.26 and later, for every server that is started here."""


def config_file(name: str) -> Path:
    """The file that a configuration's name, or path, means."""
    return Path(name) if name.endswith((".yaml", ".yml")) else CONFIGS / f"{name}.yaml"


def read_config(name: str) -> dict[str, Any]:
    """A configuration as written. Any method of speculation is fine here: the engine decides what it can do."""
    path = config_file(name)
    if not path.is_file():
        raise ConfigError(
            f"unknown configuration {name!r}: choose from {', '.join(names(CONFIGS))}, or give a .yaml file"
        )
    content = yaml.safe_load(path.read_text())
    if not isinstance(content, dict):
        raise ConfigError(f"{path}: must be a mapping of vllm serve's option names to values")
    return content


def tensor_parallel_size(config: dict[str, Any]) -> int:
    """GPUs that one replica needs."""
    return int(config.get("tensor-parallel-size", 1))


def speculation(config: dict[str, Any]) -> str | None:
    """Method of speculation, or None."""
    return (config.get("speculative-config") or {}).get("method")


def preset(model: str) -> dict[str, object]:
    """The preset of a name or model id; empty for a model that has none."""
    for name in names(MODELS):
        content = yaml.safe_load((MODELS / f"{name}.yaml").read_text())
        if model in {name, content["id"]}:
            return dict(content)
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
