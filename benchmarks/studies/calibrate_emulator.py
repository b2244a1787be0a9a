"""Fit the emulator to half of the measured cells and evaluate it on the other half.

    python -m benchmarks.studies.calibrate_emulator h200=CELLS h200=CELLS h100=CELLS [--half even] [--engine-version 0.26]

`--half` selects the cells for the fit by the hash of their names; the other half is used for the evaluation. The fit minimizes the errors of
TPOT and TTFT together, and then those of power. An error far beyond what runs differ by counts linearly, not squared, so that one disturbed cell does not decide. The
parameters of the engine are common to all GPUs; each GPU model has further parameters. A parameter may change as much as its start is
uncertain: by a tenth if earlier runs measured it, by a third if it depends on the host's processor, by a factor of two if it was assumed or
is new. Of an engine version other than 0.26, only the parameters of the engine are fitted, from the values in the profile: the GPUs are the
same. The script prints the fitted parameters, which are copied by hand into the emulator's hardware.yaml, and the errors of both halves for
each GPU model. The last line on stdout is one JSON object.
"""

import argparse
import json
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy.optimize import least_squares

from benchmarks.emulator_fidelity import ComparedRow, compare, show, summary
from benchmarks.studies.measured_rows import configurations
from server.emulator.engine.hardware import EngineVersion, engine_versions, gpus

FITTED_VERSION = "0.26"
SPREAD = {"tpot": 0.07, "ttft": 0.3, "power": 0.04}
"""How much cells with the same configuration differ between days and hosts, as a standard deviation. The host's processor causes it."""
GPU_SPREAD = 0.03
"""The same for TPOT where the GPU determines the step: 7B and 14B without n-gram speculation."""
ROUNDS = 8
KNOWN, HOST, UNKNOWN = 0.1, 0.3, 0.7
# fmt: off
TIMES = {
    "gap_ms": (0.121, KNOWN), "parallel_gap_ms": (0.09, UNKNOWN), "row_us": (2.26, KNOWN), "allreduce_exposed": (0.7, UNKNOWN),
    "async_step_ms": (1.35, HOST), "async_parallel_step_ms": (1.35, HOST), "async_worker_ms": (2.0, UNKNOWN),
    "async_per_stream_us": (18.5, HOST), "async_parallel_per_stream_us": (12.5, HOST),
    "sync_step_ms": (0.826, HOST), "sync_parallel_ms": (0.259, UNKNOWN), "sync_per_stream_us": (20.2, HOST), "sync_slowdown": (1.05, KNOWN),
    "ngram_step_ms": (0.982, HOST), "ngram_per_stream_us": (4.0, UNKNOWN), "ngram_context_ns": (4.0, UNKNOWN),
    "piecewise_layer_ms": (0.116, HOST), "eager_layer_ms": (0.53, HOST), "parallel_overlap": (1.45, HOST), "parallel_launch": (0.15, UNKNOWN),
    "prefill_ms": (3.0, UNKNOWN), "prefill_request_us": (400.0, UNKNOWN), "async_fill_ms": (1.8, HOST), "parallel_fill_ms": (3.6, UNKNOWN),
    "read_request_us": (620.0, HOST), "tokenize_request_us": (800.0, HOST), "ingest_ms": (3.6, HOST),
}
GPU_TIMES = {
    "h200": {"bandwidth_tb_s": (4.13, KNOWN), "layer_ms": (0.039, KNOWN)},
    "h100": {"bandwidth_tb_s": (2.92, KNOWN), "layer_ms": (0.0361, KNOWN)},
}
POWERS = {"base_w": (110.0, UNKNOWN), "memory_w": (330.0, UNKNOWN), "compute_w": (400.0, UNKNOWN), "link_w": (30.0, UNKNOWN)}
# fmt: on
GPUS = gpus()
Start = dict[str, tuple[float, float]]
"""Start value and log uncertainty of each parameter. Parameters of a GPU model have its name as prefix: `h100.base_w`."""
Values = dict[str, float]
Configs = list[dict[str, Any]]
"""Measured configurations; `gpu` of each is the GPU model."""


def rows(configs: Configs, values: Values, engine: EngineVersion) -> list[ComparedRow]:
    """Emulate every measured configuration with these parameters."""
    common: dict[str, Any] = {name: value for name, value in values.items() if "." not in name}
    found = []
    for config in configs:
        gpu = config["gpu"]
        own: dict[str, Any] = {
            name.removeprefix(f"{gpu}."): value for name, value in values.items() if name.startswith(f"{gpu}.")
        }
        found += compare([config], replace(GPUS[gpu], **own), replace(engine, **common))
    return found


def _scaled(row: ComparedRow) -> float:
    """The error of a row in units of its spread.

    TTFT counts by its relative error, not by its logarithm: twice the measured time weighs more than half of it.
    """
    if row.kind == "ttft":
        return row.error / SPREAD["ttft"]
    by_gpu = row.kind == "tpot" and "ngram" not in row.name and not row.name.startswith("1.5b")
    return float(np.log1p(row.error)) / (GPU_SPREAD if by_gpu else SPREAD[row.kind])


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

    def values(shifts: NDArray[np.float64]) -> Values:
        return dict(zip(start, (starts * np.exp(shifts * widths)).tolist(), strict=True))

    def residuals(shifts: NDArray[np.float64]) -> NDArray[np.float64]:
        found = rows(configs, (known or {}) | values(shifts), engine)
        errors = [_scaled(row) for row in found if row.kind in kinds and row.judged]
        return np.array([*errors, *shifts])

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
    folders = [(gpu, Path(path)) for gpu, _, path in (each.partition("=") for each in args.cells)]
    version, halves = args.engine_version, {}
    for name, half in (("calibrating", args.half), ("judging", "odd" if args.half == "even" else "even")):
        halves[name] = [
            config | {"gpu": gpu} for gpu, path in folders for config in configurations(path, half, version)
        ]
    models, engine, powers = dict(folders), engine_versions()[version], {}
    times: Start = {name: (getattr(engine, name), UNKNOWN) for name in TIMES}
    if version == FITTED_VERSION:
        times = TIMES | {f"{gpu}.{name}": at for gpu in models for name, at in GPU_TIMES[gpu].items()}
        powers = {f"{gpu}.{name}": at for gpu in models for name, at in POWERS.items()}
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
