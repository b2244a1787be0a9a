"""Fit the emulator to half of the measured cells, and evaluate it on both halves.

    python -m benchmarks.studies.calibrate_emulator h200=CELLS h200=CELLS h100=CELLS [--half even] [--engine-version 0.26]

Each cell with outputs of a fixed length is one row with the median TPOT and TTFT of its requests and the mean power of a GPU. The halves
are the cells whose name has an even and an odd hash, so that nobody chooses them; `--half` is the one for the fit.

The fit has two steps: first the parameters of time, from the errors of TPOT and TTFT together, and then those of power. Errors are
divided by the spread that equal cells have between days. An error far beyond it counts linearly and not squared, so that one disturbed
cell does not decide. Each parameter starts at a known value and costs more the further it moves from it, by how uncertain the
value is: a tenth if earlier runs measured it, a third if it depends on the host's processor, a factor of two if it was assumed or is new.
The parameters of the engine are common to all GPU models, which have further parameters of their own. For another engine version than
0.26 only the parameters of the engine are fitted, from the values in its profile, because the GPUs are the same.

The script prints the fitted parameters and the errors of both halves for each GPU model; the parameters are copied by hand into the
emulator's hardware.yaml. The last line on stdout is one JSON object.

This module does not know how a row is emulated (emulator_fidelity.py).
"""

import argparse
import json
import sys
import zlib
from collections import defaultdict
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import yaml
from scipy.optimize import least_squares

from analysis.stats import Floats
from benchmarks.emulator_fidelity import compare, show, summary
from benchmarks.studies.cells import MeasuredCell, read_cells
from server.emulator.engine.hardware import EngineVersion, engine_versions, gpus
from server.emulator.engine.model_runner import RUNNER

FITTED_VERSION = "0.26"
SPREAD = {"tpot": 0.07, "ttft": 0.3, "power": 0.04}
"""How much cells with the same configuration differ between days and hosts, as a standard deviation. The host's processor causes it."""
GPU_SPREAD = 0.03
"""The same for TPOT where the GPU determines the step: 7B and 14B without n-gram speculation."""
ROUNDS = 8
STARTS: dict[str, Any] = yaml.safe_load(Path(__file__).with_suffix(".yaml").read_text())
GPUS = gpus()
Start = dict[str, tuple[float, float]]
"""Start value and log uncertainty of each parameter. Parameters of a GPU model have its name as prefix: `h100.base_w`."""
Values = dict[str, float]
Configs = list[dict[str, Any]]
"""Measured configurations; `gpu` of each is the GPU model."""


def starts(section: str, prefix: str = "") -> Start:
    """The start values of a section of calibrate_emulator.yaml."""
    uncertainty = STARTS["uncertainty"]
    return {prefix + name: (value, uncertainty[how]) for name, (value, how) in STARTS[section].items()}


def half_of(name: str) -> str:
    """Return `even` or `odd` for the name of a cell. The result is the same on every machine."""
    return "odd" if zlib.crc32(name.encode()) % 2 else "even"


def decode_row(cell: MeasuredCell) -> dict[str, Any]:
    """The row of one cell, as in the reference measurements that benchmarks.emulator_fidelity reads."""
    run, requests = cell.run, cell.requests
    mean_w = run.energy.get("mean_w")
    return {
        "concurrency": run.load["concurrency"],
        "requests": len(requests),
        "temperature": run.sampling["temperature"],
        "output_tokens": int(requests["completion_tokens"].mode()[0]),
        "mean_prompt_tokens": requests["prompt_tokens"].mean(),
        "ttft_p50_ms": round(cell.ms("ttft_s").median(), 3),
        "tpot_p50_ms": round(cell.ms("tpot_s").median(), 4),
        "tokens_per_chunk": round((requests["completion_tokens"] / requests["chunks"]).median(), 3),
        "gpu_power_w": round(mean_w / run.num_gpus, 1) if mean_w and run.num_gpus else None,
    }


def configurations(cells: list[MeasuredCell], half: str | None, version: str = "") -> Configs:
    """The cells of a vLLM version by configuration. Cells whose outputs may end before their budget are left out."""
    found: dict[tuple[str, str, int, str | None, str | None], list[dict[str, Any]]] = defaultdict(list)
    for cell in cells:
        run = cell.run
        fixed_length = (run.sampling.get("extra_body") or run.options.get("extra_body") or {}).get("ignore_eos")
        # The emulator has no setting for CUDA graphs of pieces only.
        emulated = "piecewise" not in run.config and run.server["version"].startswith(version)
        if emulated and fixed_length and len(cell.requests) and half in {None, half_of(cell.name)}:
            runner = (run.server.get("environment") or {}).get(RUNNER)
            found[run.model, run.config, run.tensor_parallel_size, run.speculation, runner].append(decode_row(cell))
    return [
        {
            "config": f"{model}-{config}",
            "model": model,
            "tensor_parallel_size": tp,
            "speculation": "ngram k=5 lookup 1..4" if spec else None,
            "async_scheduling": not config.endswith("-sync"),
            "environment": {RUNNER: runner} if runner else {},
            "decode": rows,
        }
        for (model, config, tp, spec, runner), rows in sorted(found.items(), key=str)
    ]


def rows(configs: Configs, values: Values, engine: EngineVersion) -> pd.DataFrame:
    """Emulate every measured configuration with these parameters."""
    common: dict[str, Any] = {name: value for name, value in values.items() if "." not in name}
    found = []
    for config in configs:
        prefix = f"{config['gpu']}."
        own: dict[str, Any] = {
            name.removeprefix(prefix): value for name, value in values.items() if name.startswith(prefix)
        }
        found.append(compare([config], replace(GPUS[config["gpu"]], **own), replace(engine, **common)))
    return pd.concat(found)


def scaled(rows: pd.DataFrame) -> Floats:
    """The errors of rows in units of their spread.

    TTFT counts by its relative error, not by its logarithm: twice the measured time weighs more than half of it.
    """
    kind, name, error = rows["kind"], rows["row"], rows["error"]
    by_gpu = (kind == "tpot") & ~name.str.contains("ngram") & ~name.str.startswith("1.5b")
    spread = kind.map(SPREAD).mask(by_gpu, GPU_SPREAD)
    return (error.where(kind == "ttft", np.log1p(error)) / spread).to_numpy()


def fit(
    configs: Configs,
    kinds: tuple[str, ...],
    start: Start,
    engine: EngineVersion,
    known: Values | None = None,
    *,
    rounds: int = ROUNDS,
) -> Values:
    """Fit the parameters in `start` to the rows of these kinds, with the parameters in `known` fixed, in at most `rounds` rounds."""
    starts, widths = np.array(list(start.values())).T

    def values(shifts: Floats) -> Values:
        return dict(zip(start, (starts * np.exp(shifts * widths)).tolist(), strict=True))

    def residuals(shifts: Floats) -> Floats:
        found = rows(configs, (known or {}) | values(shifts), engine)
        return np.concatenate([scaled(found[found["judged"] & found["kind"].isin(kinds)]), shifts])

    # Each round computes the rows once more than there are parameters. Later rounds change little: steps are whole numbers.
    found = least_squares(
        residuals, np.zeros(len(start)), diff_step=[2e-2] * len(start), loss="soft_l1", max_nfev=rounds
    )
    return {name: float(f"{value:.3g}") for name, value in values(found.x).items()}


def main(argv: list[str]) -> int:
    """Fit the parameters, print them, and evaluate both halves."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("cells", nargs="+", metavar="GPU=CELLS", help="published runs on a GPU model")
    parser.add_argument("--half", choices=("even", "odd"), default="even", help="half for the fit [even]")
    parser.add_argument("--engine-version", default=FITTED_VERSION, help="vLLM version of the runs [0.26]")
    args = parser.parse_args(argv)
    measured = [(gpu, read_cells(Path(path))) for gpu, _, path in (each.partition("=") for each in args.cells)]
    version, halves = args.engine_version, {}
    for name, half in (("calibrating", args.half), ("judging", "odd" if args.half == "even" else "even")):
        halves[name] = [
            config | {"gpu": gpu} for gpu, cells in measured for config in configurations(cells, half, version)
        ]
    models, engine = dict.fromkeys(gpu for gpu, _ in measured), engine_versions()[version]
    powers: Start = {}
    times: Start = {name: (getattr(engine, name), STARTS["uncertainty"]["unknown"]) for name in STARTS["times"]}
    if version == FITTED_VERSION:
        times = starts("times")
        for gpu in models:
            times |= starts(f"{gpu} times", f"{gpu}.")
            powers |= starts("powers", f"{gpu}.")
    fitted = fit(halves["calibrating"], ("tpot", "ttft"), times, engine)
    if powers:
        fitted |= fit(halves["calibrating"], ("power",), powers, engine, fitted)
    evaluations = {}
    for name, configs in halves.items():
        for gpu in models:
            print(f"\n{name}, {gpu}", file=sys.stderr)
            found = rows([config for config in configs if config["gpu"] == gpu], fitted, engine)
            show(found)
            evaluations[f"{name} {gpu}"] = summary(found)
    print(f"\n{'number':<30}{'start':>8}{'fitted':>9}", file=sys.stderr)
    for name, (value, _) in (times | powers).items():
        print(f"{name:<30}{value:>8g}{fitted[name]:>9g}", file=sys.stderr)
    print(json.dumps({"fitted": fitted} | evaluations))
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
