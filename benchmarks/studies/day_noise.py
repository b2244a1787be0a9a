"""The noise between runs of one setting, from cells that were run again: `python -m benchmarks.studies.day_noise FOLDER FOLDER …`.

Each folder holds the cells of one day on one machine; cells of the same name are the same setting. A cell's value is its mean
TPOT. Between two days the mean difference of all cells is removed first, because a faster machine changes both sides of a
comparison alike; what remains is the noise that a comparison within one day does not remove. `analysis.noise.DAY_TO_DAY`
is the result for all cells. Prints one JSON object.

This module does not know why a cell differed.
"""

import argparse
import itertools
import json
import math
import statistics
import sys
from collections.abc import Callable
from pathlib import Path

from loadgen.record import RECORDS, find_runs, read_records, read_run


def tpots_s(root: Path) -> dict[tuple[str, str], float]:
    """Mean TPOT of each cell, by the GPU and the cell's name."""
    found = {}
    for folder in find_runs(root):
        run = read_run(folder)
        values = [
            record.tpot_s
            for record in read_records(folder / RECORDS)
            if record.outcome == "ok" and record.tpot_s and not record.warmup and not record.derived
        ]
        if values:
            found[str(run.gpu), folder.name] = statistics.fmean(values)
    return found


def limited_by_gpu(name: str) -> bool:
    """Whether a step takes longer on the GPU than on the host that prepares it: from 7B on, without speculation."""
    return "ngram" not in name and ("_7b_" in name or "_14b_" in name)


def differences(roots: list[Path], keep: Callable[[str], bool]) -> list[float]:
    """For each pair of days, the logarithms of the ratios of common cells, less their mean."""
    out = []
    for first, second in itertools.combinations([tpots_s(root) for root in roots], 2):
        common = [key for key in first.keys() & second.keys() if keep(key[1])]
        ratios = [math.log(second[key] / first[key]) for key in common]
        if len(ratios) > 1:
            middle = statistics.fmean(ratios)
            scale = math.sqrt(len(ratios) / (len(ratios) - 1))  # the mean was estimated from the same cells
            out += [(ratio - middle) * scale for ratio in ratios]
    return out


def deviation(values: list[float]) -> float | None:
    """Standard deviation between runs: that of a difference of two runs / √2."""
    return round((statistics.fmean(value**2 for value in values) / 2) ** 0.5, 4) if values else None


def main(argv: list[str]) -> int:
    """Print the noise of all cells, and of those that the GPU and those that the host limits."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("folders", nargs="+", type=Path)
    folders = parser.parse_args(argv).folders
    groups: dict[str, Callable[[str], bool]] = {
        "all": lambda _: True,
        "limited_by_gpu": limited_by_gpu,
        "limited_by_host": lambda name: not limited_by_gpu(name),
    }
    found = {group: differences(folders, keep) for group, keep in groups.items()}
    if not found["all"]:
        print("day_noise: the folders have fewer than two cells in common", file=sys.stderr)
        return 2
    print(json.dumps({group: {"cells": len(d), "deviation": deviation(d)} for group, d in found.items()}))
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
