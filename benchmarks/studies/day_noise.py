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
import statistics
import sys
from collections.abc import Iterator
from pathlib import Path
from random import Random
from typing import Any, NamedTuple

import numpy as np

from benchmarks.studies.study_tables import MeasuredCell
from loadgen.record import find_runs

RESAMPLES = 400
HEAD = "| cell | limited by | requests | TPOT, ms | | | TTFT, ms | | | W | | |"


class Setting(NamedTuple):
    """What two cells have in common that are compared. The name of a configuration contains an imposed acceptance."""

    gpu: str
    config: str
    model: str
    streams: int
    temperature: float
    budget: int

    @property
    def limited_by(self) -> str:
        """Whether a step takes longer on the GPU or on the host that prepares it: from 7B on, without speculation, the GPU."""
        return "host" if "ngram" in self.config or self.model not in {"7b", "14b"} else "gpu"


def cells(root: Path) -> dict[Setting, MeasuredCell]:
    """The cells below a folder that measured a TPOT, by setting."""
    found = {}
    for folder in find_runs(root):
        cell = MeasuredCell.read(folder)
        run = cell.run
        if cell.records:
            load, temperature = run.load["concurrency"], run.sampling["temperature"]
            key = Setting(str(run.gpu), run.config, run.model, load, temperature, run.budgets[0])
            found[key] = cell
    return found


def mean_ms(cell: MeasuredCell, name: str) -> float:
    """The mean of a time over the requests of a cell."""
    return 1e3 * statistics.fmean(getattr(record, name) for record in cell.records)


def differences(days: list[dict[Setting, MeasuredCell]], chosen: list[Setting]) -> list[float]:
    """For each pair of days, the logarithms of the ratios of those cells of `chosen` that both have, less their mean."""
    out = []
    for first, second in itertools.combinations(days, 2):
        common = [key for key in chosen if key in first and key in second]
        ratios = [math.log(mean_ms(second[key], "tpot_s") / mean_ms(first[key], "tpot_s")) for key in common]
        if len(ratios) > 1:
            middle = statistics.fmean(ratios)
            scale = math.sqrt(len(ratios) / (len(ratios) - 1))  # the mean was estimated from the same cells
            out += [(ratio - middle) * scale for ratio in ratios]
    return out


def noise(days: list[dict[Setting, MeasuredCell]], chosen: list[Setting]) -> dict[str, Any] | None:
    """Standard deviation between runs, which is that of a difference of two runs / √2, with a 95 % interval over settings."""

    def deviation(settings: list[Setting]) -> float:
        squares = [value**2 for value in differences(days, settings)]
        return math.sqrt(statistics.fmean(squares) / 2) if squares else math.nan

    compared = differences(days, chosen)
    if not compared:
        return None
    random = Random(0)
    resampled = [deviation(random.choices(chosen, k=len(chosen))) for _ in range(RESAMPLES)]
    low, high = np.nanquantile(resampled, (0.025, 0.975)).tolist()
    values = {"deviation": deviation(chosen), "low": low, "high": high}
    return {"settings": len(chosen), "differences": len(compared)} | {
        name: round(value, 4) for name, value in values.items()
    }


def rows(first: dict[Setting, MeasuredCell], second: dict[Setting, MeasuredCell]) -> Iterator[str]:
    """Markdown rows of the common cells: TPOT, TTFT and power on both days, and by how much the second day differs."""
    for key in sorted(first.keys() & second.keys(), key=lambda key: (key.limited_by, key)):
        pair, values = (first[key], second[key]), []
        for name, digits in (("tpot_s", 3), ("ttft_s", 1)):
            values.append(([mean_ms(cell, name) for cell in pair], digits))
        values.append(([(cell.run.energy or {}).get("mean_w", math.nan) for cell in pair], 0))
        shown = [f"{a:.{digits}f} | {b:.{digits}f} | {b / a - 1:+.1%}" for (a, b), digits in values]
        requests = " and ".join(str(len(cell.records)) for cell in pair)
        name = f"{key.config} {key.model} c{key.streams} t{key.temperature:g} {key.budget}"
        yield f"| {name} | {key.limited_by} | {requests} | {' | '.join(shown)} |"


def main(argv: list[str]) -> int:
    """Print the noise of the settings that were run on several days: all, those that the GPU limits, those that the host limits."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("folders", nargs="+", type=Path)
    parser.add_argument("--table", action="store_true", help="print the cells of the first two folders")
    args = parser.parse_args(argv)
    days = [cells(root) for root in args.folders]
    several = sorted({key for day in days for key in day if sum(key in other for other in days) > 1})
    found = {
        group: noise(days, [key for key in several if group in {"all", key.limited_by}])
        for group in ("all", "gpu", "host")
    }
    if not found["all"]:
        print("day_noise: the folders have fewer than two cells in common", file=sys.stderr)
        return 2
    if args.table:
        print(HEAD, f"|{' --- |' * 12}", *rows(*days[:2]), sep="\n")
    print(json.dumps(found))
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
