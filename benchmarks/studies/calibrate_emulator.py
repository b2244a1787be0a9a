"""Fit the emulator to measured cells and judge it on others: `python -m benchmarks.studies.calibrate_emulator h200=CELLS h100=CELLS [--half even]`.

`--half` says which cells calibrate, by the hash of their names; the other half judges. The fit is least squares on
log errors of TPOT, then of power, from where the profile stood before it saw any of these cells; the engine's numbers are common
to all cards, a card's are its own. Each number may move as far as its start is uncertain: a tenth where earlier runs measured it,
a factor of two where it was assumed or is new. Prints the fitted numbers, to be copied into profiles.yaml, and both halves'
errors by card; the last line on stdout is one JSON object.
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

CELL = 0.04
"""Spread of a cell's error, in log: 14B at one stream took 9.10 ms in the earlier runs and 8.57 in these."""
KNOWN, UNKNOWN = 0.1, 0.7
TIMES = {
    "gap_ms": (0.12, KNOWN),
    "row_us": (2.3, KNOWN),
    "parallel_gap_ms": (0.1, UNKNOWN),
    "sync_step_ms": (0.8, UNKNOWN),  # with the next: 1.6 together, measured
    "ngram_step_ms": (0.8, UNKNOWN),
    "sync_per_stream_us": (22.0, KNOWN),
    "sync_parallel_ms": (0.3, UNKNOWN),
    "piecewise_layer_ms": (0.12, KNOWN),
    "parallel_overlap": (2.0, UNKNOWN),
}
CARD_TIMES = {
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
"""Name of a number, a card's as `h100.base_w`, to where it starts and how far it may go, in log."""
Cells = dict[str, list[dict[str, Any]]]
"""Measured configurations by card."""


def _with(values: dict[str, float], card: str, gpu: Gpu, engine: EngineVersion) -> tuple[Gpu, EngineVersion]:
    own = {name.partition(".")[2]: value for name, value in values.items() if name.startswith(f"{card}.")}
    common = {name: value for name, value in values.items() if "." not in name}
    return replace(gpu, **own), replace(engine, **common)  # type: ignore[arg-type]


def rows(cells: Cells, values: dict[str, float], cards: dict[str, Gpu], engine: EngineVersion) -> list[Row]:
    """Every row of every card, with these numbers."""
    return [
        row
        for card, configs in cells.items()
        for row in compare(configs, *_with(values, card, cards[card], engine))
    ]


def fit(
    cells: Cells,
    kind: str,
    start: Start,
    cards: dict[str, Gpu],
    engine: EngineVersion,
    *,
    known: dict[str, float] | None = None,
) -> dict[str, float]:
    """The numbers of `start`, moved to where the rows of one kind are met best, beside those `known`."""
    starts, widths = np.array(list(start.values())).T

    def values(moves: NDArray[np.float64]) -> dict[str, float]:
        return dict(zip(start, (starts * np.exp(moves * widths)).tolist(), strict=True))

    def residuals(moves: NDArray[np.float64]) -> NDArray[np.float64]:
        found = rows(cells, (known or {}) | values(moves), cards, engine)
        errors = [np.log1p(row.error) / CELL for row in found if row.kind == kind and row.judged]
        return np.array([*errors, *moves])

    found = least_squares(
        residuals, np.zeros(len(start)), diff_step=[1e-2] * len(start), xtol=1e-3, ftol=1e-3
    )
    return {name: float(f"{value:.3g}") for name, value in values(found.x).items()}


def main(argv: list[str]) -> int:
    """Fit, show, judge."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument(
        "cells", nargs="+", metavar="GPU=CELLS", help="published runs, e.g. h200=docs/results/…/cells"
    )
    parser.add_argument("--half", choices=("even", "odd"), default="even", help="which calibrates [even]")
    parser.add_argument("--engine-version", default="0.26")
    args = parser.parse_args(argv)
    folders = {card: Path(folder) for card, _, folder in (each.partition("=") for each in args.cells)}
    halves = {
        name: {card: configurations(folder, half) for card, folder in folders.items()}
        for name, half in (("calibrating", args.half), ("judging", "odd" if args.half == "even" else "even"))
    }
    cards, engine = {card: gpus()[card] for card in folders}, engine_versions()[args.engine_version]
    times = TIMES | {f"{card}.{name}": at for card in folders for name, at in CARD_TIMES[card].items()}
    powers = {f"{card}.{name}": at for card in folders for name, at in POWERS.items()}
    fitted = fit(halves["calibrating"], "tpot", times, cards, engine)
    fitted |= fit(halves["calibrating"], "power", powers, cards, engine, known=fitted)
    verdicts = {}
    for name, cells in halves.items():
        for card, configs in cells.items():
            print(f"\n{name}, {card}", file=sys.stderr)
            found = rows({card: configs}, fitted, cards, engine)
            show(found)
            verdicts[f"{name} {card}"] = summary(found)
    print(f"\n{'number':<22}{'start':>8}{'fitted':>9}", file=sys.stderr)
    for name, (value, _) in (times | powers).items():
        print(f"{name:<22}{value:>8g}{fitted[name]:>9g}", file=sys.stderr)
    print(json.dumps({"fitted": fitted} | verdicts))
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
