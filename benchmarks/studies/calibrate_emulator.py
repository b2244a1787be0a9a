"""Fit the emulator to half of the measured cells and evaluate it on the other half.

    python -m benchmarks.studies.calibrate_emulator h200=CELLS h100=CELLS [--half even]

`--half` selects the cells for the fit by the hash of their names; the other half is used for the evaluation. The fit minimizes the squared
log errors of TPOT first and of power second. It starts from the parameters that the emulator had before these cells were measured. The
parameters of the engine are common to all GPUs; each GPU model has further parameters. A parameter may change as much as its start is
uncertain: by a tenth if earlier runs measured it, by a factor of two if it was assumed or is new. The script prints the fitted
parameters, which are copied by hand into the emulator's hardware.yaml, and the errors of both halves for each GPU model. The last line on
stdout is one JSON object.
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

from benchmarks.emulator_fidelity import Row, compare, show, summary
from benchmarks.studies.measured_rows import configurations
from server.emulator.engine.hardware import EngineVersion, Gpu, engine_versions, gpus

CELL_LOG_ERROR = 0.04
"""Standard deviation of the log error of a cell. For 14B at one stream, earlier runs measured 9.10 ms and these runs 8.57 ms."""
KNOWN, UNKNOWN = 0.1, 0.7
TIMES = {
    "gap_ms": (0.12, KNOWN),
    "row_us": (2.3, KNOWN),
    "parallel_gap_ms": (0.1, UNKNOWN),
    "sync_step_ms": (0.8, UNKNOWN),  # measured as 1.6 together with ngram_step_ms
    "ngram_step_ms": (0.8, UNKNOWN),
    "sync_per_stream_us": (22.0, KNOWN),
    "sync_parallel_ms": (0.3, UNKNOWN),
    "piecewise_layer_ms": (0.12, KNOWN),
    "parallel_overlap": (2.0, UNKNOWN),
}
GPU_TIMES = {
    "h200": {"bandwidth_tb_s": (4.0, KNOWN), "layer_ms": (0.038, KNOWN)},
    "h100": {"bandwidth_tb_s": (3.01, KNOWN), "layer_ms": (0.037, KNOWN)},
}
POWERS = {
    "base_w": (110.0, UNKNOWN),
    "memory_w": (330.0, UNKNOWN),
    "compute_w": (400.0, UNKNOWN),
    "link_w": (30.0, UNKNOWN),
}
Start = dict[str, tuple[float, float]]
"""Start value and log uncertainty of each parameter. Parameters of a GPU model have its name as prefix: `h100.base_w`."""
Cells = dict[str, list[dict[str, Any]]]
"""Measured configurations by GPU model."""


def _apply(
    values: dict[str, float], gpu: str, model: Gpu, engine: EngineVersion
) -> tuple[Gpu, EngineVersion]:
    own = {name.partition(".")[2]: value for name, value in values.items() if name.startswith(f"{gpu}.")}
    common = {name: value for name, value in values.items() if "." not in name}
    return replace(model, **own), replace(engine, **common)  # type: ignore[arg-type]


def rows(cells: Cells, values: dict[str, float], models: dict[str, Gpu], engine: EngineVersion) -> list[Row]:
    """Emulate every measured configuration with these parameters."""
    return [
        row
        for gpu, configs in cells.items()
        for row in compare(configs, *_apply(values, gpu, models[gpu], engine))
    ]


def fit(
    cells: Cells,
    kind: str,
    start: Start,
    models: dict[str, Gpu],
    engine: EngineVersion,
    *,
    known: dict[str, float] | None = None,
) -> dict[str, float]:
    """Fit the parameters in `start` to the rows of one kind, with the parameters in `known` fixed."""
    starts, widths = np.array(list(start.values())).T

    def values(shifts: NDArray[np.float64]) -> dict[str, float]:
        return dict(zip(start, (starts * np.exp(shifts * widths)).tolist(), strict=True))

    def residuals(shifts: NDArray[np.float64]) -> NDArray[np.float64]:
        found = rows(cells, (known or {}) | values(shifts), models, engine)
        errors = [np.log1p(row.error) / CELL_LOG_ERROR for row in found if row.kind == kind and row.judged]
        return np.array([*errors, *shifts])

    found = least_squares(
        residuals, np.zeros(len(start)), diff_step=[1e-2] * len(start), xtol=1e-3, ftol=1e-3
    )
    return {name: float(f"{value:.3g}") for name, value in values(found.x).items()}


def main(argv: list[str]) -> int:
    """Fit the parameters, print them, and evaluate both halves."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument(
        "cells",
        nargs="+",
        metavar="GPU=CELLS",
        help="GPU model and published runs: h200=docs/results/…/cells",
    )
    parser.add_argument("--half", choices=("even", "odd"), default="even", help="half for the fit [even]")
    parser.add_argument("--engine-version", default="0.26")
    args = parser.parse_args(argv)
    folders = {gpu: Path(folder) for gpu, _, folder in (each.partition("=") for each in args.cells)}
    halves = {
        name: {gpu: configurations(folder, half) for gpu, folder in folders.items()}
        for name, half in (("calibrating", args.half), ("judging", "odd" if args.half == "even" else "even"))
    }
    models, engine = {gpu: gpus()[gpu] for gpu in folders}, engine_versions()[args.engine_version]
    times = TIMES | {f"{gpu}.{name}": at for gpu in folders for name, at in GPU_TIMES[gpu].items()}
    powers = {f"{gpu}.{name}": at for gpu in folders for name, at in POWERS.items()}
    fitted = fit(halves["calibrating"], "tpot", times, models, engine)
    fitted |= fit(halves["calibrating"], "power", powers, models, engine, known=fitted)
    evaluations = {}
    for name, cells in halves.items():
        for gpu, configs in cells.items():
            print(f"\n{name}, {gpu}", file=sys.stderr)
            found = rows({gpu: configs}, fitted, models, engine)
            show(found)
            evaluations[f"{name} {gpu}"] = summary(found)
    print(f"\n{'number':<22}{'start':>8}{'fitted':>9}", file=sys.stderr)
    for name, (value, _) in (times | powers).items():
        print(f"{name:<22}{value:>8g}{fitted[name]:>9g}", file=sys.stderr)
    print(json.dumps({"fitted": fitted} | evaluations))
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
