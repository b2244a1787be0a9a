"""Builds the command that starts a server for a Spec: `vllm serve …` or `python -m server emulate …`.

vLLM reads the configuration file itself (`--config`). The options that the model needs (dtype, reasoning parser) and the
options that the measurement needs are added here. They are the same for every configuration, so that configurations remain
comparable.

This module does not know where the command runs (see process_backend.py and docker_backend.py).
"""

import json
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from server.config import config_file, read_preset
from server.launch.spec import Spec

MEASUREMENT_OPTIONS = (
    "--enable-per-request-metrics",  # the server's own timings, to compare with the client's
    "--enable-prompt-tokens-details",  # prefix-cache hits of each request
    "--disable-uvicorn-access-log",  # a log line for each request costs time on the measured path
)
"""Options of `vllm serve` (0.26 and later) that every server started here receives."""


def speculation(config: dict[str, Any]) -> str | None:
    """The speculation method, or None."""
    return (config.get("speculative-config") or {}).get("method")


def labels(spec: Spec) -> dict[str, str]:
    """The five labels of the Prometheus series of the server and of its GPUs."""
    config = spec.options
    return {
        "config": Path(spec.config).stem,
        "model": str(read_preset(spec.model).get("id", spec.model)),
        "tp": str(config["tensor-parallel-size"]),
        "speculation": speculation(config) or "none",
        "run": spec.run or "none",
    }


def vllm_arguments(spec: Spec, config: str, port: int, host: str = "127.0.0.1") -> list[str]:
    """The arguments after `vllm serve`."""
    preset = read_preset(spec.model)
    of_preset = {option: preset[option] for option in ("dtype", "reasoning-parser") if preset.get(option)}
    options = {**of_preset, **spec.serve}
    model = str(options.pop("model", preset.get("id", spec.model)))
    arguments = [model, "--config", config, "--host", host, "--port", str(port), *words(options)]
    return [*arguments, *MEASUREMENT_OPTIONS, *spec.vllm]


def words(options: Mapping[str, Any]) -> list[str]:
    """Options in the format of a configuration as words of a command line. None omits an option."""
    found: list[str] = []
    for name, value in options.items():
        if isinstance(value, bool):
            found.append(f"--{name}" if value else f"--no-{name}")
        elif value is not None:
            values = value if isinstance(value, list) else [value]
            found += [f"--{name}", *(json.dumps(v) if isinstance(v, dict) else str(v) for v in values)]
    return found


def emulator_arguments(spec: Spec, config: str, port: int, host: str = "127.0.0.1") -> list[str]:
    """The arguments after `python -m server`."""
    arguments = ["emulate", config, "--model", spec.model, "--host", host, "--port", str(port)]
    options = {name: value for name, value in spec.serve.items() if name != "model"}
    return [*arguments, *words(options), *spec.emulate]


def local_command(spec: Spec, port: int) -> list[str]:
    """The whole command of a subprocess on this machine."""
    if spec.backend == "emulator":
        return [sys.executable, "-m", "server", *emulator_arguments(spec, spec.config, port)]
    return ["vllm", "serve", *vllm_arguments(spec, str(config_file(spec.config).resolve()), port)]
