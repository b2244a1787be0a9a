"""What the scripts of this folder share: the measured cells of a published study, and the Markdown tables to print from them.

A cell is one run with its measured requests. Two cells of one setting were asked the same under the same conditions; only the day, the
machine, the problems and the number of requests may differ.

This module does not know which cells are compared.
"""

from collections.abc import Iterable
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import NamedTuple

import pandas as pd

from analysis.data.frame import read_study
from loadgen.record import RunInfo


class Setting(NamedTuple):
    """What two cells must have in common to be compared. The name of a configuration contains an imposed acceptance."""

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


@dataclass(frozen=True)
class MeasuredCell:
    """One run with its measured requests."""

    folder: Path
    run: RunInfo
    requests: pd.DataFrame
    """The successful requests that have a TPOT, without warm-up and derived budgets; docs/analysis.md describes the columns."""

    @property
    def name(self) -> str:
        """The name of the folder."""
        return self.folder.name

    @property
    def setting(self) -> Setting:
        """What was asked, and of which configuration."""
        run = self.run
        load, temperature = run.load["concurrency"], run.sampling["temperature"]
        return Setting(str(run.gpu), run.config, run.model, load, temperature, run.budgets[0])

    def ms(self, name: str) -> "pd.Series[float]":
        """A time of each request in milliseconds."""
        return 1e3 * self.requests[name]

    @cached_property
    def tpot_ms(self) -> "pd.Series[float]":
        """TPOT by problem in ms; the mean if a problem has several requests."""
        return self.ms("tpot_s").groupby(self.requests["problem_id"].astype(str), sort=False).mean()

    @property
    def power_and_rate(self) -> tuple[float, float]:
        """Mean power in W, and tokens per second in the steady window; of the whole run, where it had none. 0 is unknown."""
        rates = (self.run.summary.get(part, {}).get("completion_tokens_per_s") for part in ("steady", "throughput"))
        return self.run.energy.get("mean_w", 0.0), next(filter(None, rates), 0.0)


def read_cells(*roots: Path) -> list[MeasuredCell]:
    """Every run below these folders, in the order of their names."""
    cells = []
    for root in roots:
        study = read_study(root, grade=False)
        frame = study.frame
        requests = frame[frame["ok"] & ~frame["warmup"] & ~frame["derived"] & (frame["tpot_s"] > 0)]
        cells += [
            MeasuredCell(study.folder(name), run, requests[requests["cell"] == name])
            for name, run in study.runs.items()
        ]
    return cells


def by_setting(root: Path) -> dict[Setting, MeasuredCell]:
    """The cells below a folder that measured a TPOT."""
    return {cell.setting: cell for cell in read_cells(root) if len(cell.requests)}


def table(head: str, rows: Iterable[str]) -> None:
    """Print one Markdown table from cells that are separated by bars."""
    columns = head.count("|") + 1
    print(f"| {head} |", f"|{' --- |' * columns}", *(f"| {row} |" for row in rows), sep="\n")


def interval(estimate: float, low: float, high: float, digits: int = 2) -> str:
    """An estimate with its 95 % interval."""
    return f"{estimate:.{digits}f} [{low:.{digits}f}, {high:.{digits}f}]"
