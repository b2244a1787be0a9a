"""Runs `python -m server emulate`: checks the arguments, then serves one configuration without a GPU.

This module imports the emulator and numpy, so `server/__main__.py` imports it only for this command.
"""

import argparse
import json
import os
from pathlib import Path

from server.config import ConfigError, check_parallel, load_model, load_serving, overrides_from
from server.emulator.api.app import EmulatorSettings
from server.emulator.api.faults import FaultInjector, read_faults
from server.emulator.api.serve import serve
from server.emulator.engine import hardware
from server.emulator.engine.model_runner import served
from server.emulator.engine.precision import quantized
from server.emulator.engine.step_time import StepModel
from server.emulator.text.model import MODES
from server.emulator.text.problems import KnownProblem, read_problems

SAMPLE = Path(__file__).parent.parent / "loadgen" / "data" / "sample.jsonl"


def main(args: argparse.Namespace, vllm_options: list[str]) -> int:
    """Serves until SIGTERM and returns the exit status. `vllm_options` override the file. Raises ConfigError."""
    settings = _settings(args, vllm_options)
    problems = _problems(Path(args.dataset) if args.dataset else SAMPLE)
    StepModel(settings.model, settings.serving, settings.gpu, settings.version).check_kv_cache(settings.serving)
    faults = FaultInjector(read_faults(args.fault), args.seed)
    status = serve(settings, problems, faults, args.host, args.port)
    print(json.dumps({"stopped": settings.serving.name, "status": status}))
    return status


def _settings(args: argparse.Namespace, vllm_options: list[str]) -> EmulatorSettings:
    serving, model = load_serving(args.config, overrides_from(vllm_options)), load_model(args.model)
    check_parallel(serving, model)
    gpus, versions = hardware.gpus(), hardware.engine_versions()
    version = args.era or args.engine_version
    for value, known, flag in ((args.gpu, gpus, "--gpu"), (version, versions, "--engine-version")):
        if value not in known:
            raise ConfigError(f"{flag} {value}: choose from {', '.join(known)}")
    if args.text not in MODES and not Path(args.text).is_file():
        raise ConfigError(f"--text {args.text}: choose from {', '.join(MODES)}, or name a file of recorded outputs")
    serving, engine = served(serving, version, os.environ, args.acceptance, gpus[args.gpu])
    model = quantized(model, serving, gpus[args.gpu])
    return EmulatorSettings(
        serving=serving, model=model, gpu_name=args.gpu, gpu=gpus[args.gpu], version=engine, seed=args.seed, speed=args.speed, text=args.text
    )  # fmt: skip


def _problems(path: Path) -> list[KnownProblem]:
    if not path.is_file():
        raise ConfigError(f"--dataset {path}: no such file")
    try:
        problems = read_problems(path)
    except ValueError as error:
        raise ConfigError(str(error)) from error
    if not problems:
        raise ConfigError(f"--dataset {path}: the file contains no problem")
    return problems
