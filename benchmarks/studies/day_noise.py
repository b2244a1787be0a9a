"""The noise between runs of one setting, from cells that were run again: `python -m benchmarks.studies.day_noise FOLDER FOLDER …`.

Each folder holds the cells of one day on one machine. A setting is a GPU model, a configuration, a model, a number of streams, a
temperature and a budget; the number of requests may differ. The noise is that of a cell's mean TPOT. Between two days the mean
difference of all cells is removed first, because a faster machine changes both sides of a comparison alike; what remains is the
noise that a comparison within one day does not remove. `analysis.noise.DAY_TO_DAY` is the result for all cells. Prints one JSON
object. `--table` prints, for the settings that the first two folders have in common, both days as a Markdown table.

This module does not know why a cell differed.
"""

import argparse
import itertools
import json
import math
import sys
from collections.abc import Iterator
from pathlib import Path
from random import Random
from typing import Any

import numpy as np

from analysis.stats import Floats
from benchmarks.studies.cells import MeasuredCell, Setting, by_setting, table

RESAMPLES = 400
HEAD = "cell | limited by | requests | TPOT, ms | | | TTFT, ms | | | W | |"
Cells = dict[Setting, MeasuredCell]


def differences(logs: Floats) -> Floats:
    """For each pair of days, by how much the settings that ran on both differ, less the mean difference of the pair.

    `logs` has a row for each setting and a column for each day: the logarithm of the mean TPOT, or NaN.
    """
    out = []
    for first, second in itertools.combinations(logs.T, 2):
        ratios = (second - first)[~np.isnan(second - first)]
        if len(ratios) > 1:
            scale = math.sqrt(len(ratios) / (len(ratios) - 1))  # the mean was estimated from the same cells
            out.append((ratios - ratios.mean()) * scale)
    return np.concatenate(out) if out else np.array([])


def deviation(logs: Floats) -> float:
    """Standard deviation between runs, which is that of a difference of two runs / √2; NaN where no two days are comparable."""
    compared = differences(logs)
    return math.sqrt(float((compared**2).mean()) / 2) if len(compared) else math.nan


def noise(days: list[Cells], chosen: list[Setting]) -> dict[str, Any] | None:
    """The standard deviation between runs of the chosen settings, with a 95 % interval over settings."""
    mean_ms = [[day[key].ms("tpot_s").mean() if key in day else math.nan for day in days] for key in chosen]
    logs = np.log(mean_ms)
    if not len(compared := differences(logs)):
        return None
    random = Random(0)
    resampled = [deviation(logs[random.choices(range(len(chosen)), k=len(chosen))]) for _ in range(RESAMPLES)]
    low, high = np.nanquantile(resampled, (0.025, 0.975)).tolist()
    values = {"deviation": deviation(logs), "low": low, "high": high}
    return {"settings": len(chosen), "differences": len(compared)} | {
        name: round(value, 4) for name, value in values.items()
    }


def rows(first: Cells, second: Cells) -> Iterator[str]:
    """Rows of the common cells: TPOT, TTFT and power on both days, and by how much the second day differs."""
    for key in sorted(first.keys() & second.keys(), key=lambda key: (key.limited_by, key)):
        pair = (first[key], second[key])
        measured = (
            ([cell.ms("tpot_s").mean() for cell in pair], 3),
            ([cell.ms("ttft_s").mean() for cell in pair], 1),
            ([cell.run.energy.get("mean_w", math.nan) for cell in pair], 0),
        )
        shown = [f"{a:.{digits}f} | {b:.{digits}f} | {b / a - 1:+.1%}" for (a, b), digits in measured]
        requests = " and ".join(str(len(cell.requests)) for cell in pair)
        name = f"{key.config} {key.model} c{key.streams} t{key.temperature:g} {key.budget}"
        yield f"{name} | {key.limited_by} | {requests} | {' | '.join(shown)}"


def main(argv: list[str]) -> int:
    """Print the noise of the settings that were run on several days: all, those that the GPU limits, those that the host limits."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("folders", nargs="+", type=Path)
    parser.add_argument("--table", action="store_true", help="print the cells of the first two folders")
    args = parser.parse_args(argv)
    days = [by_setting(root) for root in args.folders]
    several = sorted({key for day in days for key in day if sum(key in other for other in days) > 1})
    found = {
        group: noise(days, [key for key in several if group in {"all", key.limited_by}])
        for group in ("all", "gpu", "host")
    }
    if not found["all"]:
        print("day_noise: the folders have fewer than two cells in common", file=sys.stderr)
        return 2
    if args.table:
        table(HEAD, rows(*days[:2]))
    print(json.dumps(found))
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
