"""Noise between runs: the same setting, run again, gives other times, and no number of requests in one run shows by how much.

With repeats the run is the unit, and the noise is estimated from them. Without, the noise is a setting: the day-to-day spread
that was measured on real GPUs, or what `--noise` says. A ratio of two settings includes the noise of the runs on both sides.
Noise is the standard deviation of the logarithm, so 0.02 means 2 %.

This module does not know what was measured.
"""

import argparse
import math
from collections.abc import Iterable
from typing import NamedTuple

import numpy as np

from analysis.errors import InputError
from analysis.stats import NOTHING, Interval, Z, t_quantile, t_tail

DAY_TO_DAY = 0.065
"""Measured: `python -m benchmarks.studies.day_noise`. docs/analysis.md has the figures."""


class Effect(NamedTuple):
    """A ratio of two settings on a logarithmic scale, with its standard error and degrees of freedom."""

    middle: float
    error: float
    degrees: float
    repeated: bool = False
    """Whether the noise between runs was estimated from repeats."""

    def interval(self, comparisons: int = 1) -> Interval:
        """The ratio with its 95 % interval, simultaneous for several comparisons."""
        if not math.isfinite(self.middle):
            return NOTHING
        half = t_quantile(self.degrees, comparisons) * self.error if self.degrees > 0 else math.nan
        return Interval(*(math.exp(self.middle + side * half) for side in (0, -1, 1)))

    @property
    def p_value(self) -> float:
        """Probability of a ratio at least this far from 1, if the true ratio were 1."""
        if not math.isfinite(self.middle) or not self.degrees > 0:
            return math.nan
        if self.error == 0:
            return 1.0 if self.middle == 0 else 0.0
        return 2 * t_tail(abs(self.middle) / self.error, self.degrees)


class Runs(NamedTuple):
    """The runs on one side of a comparison: how many, and the standard deviation between them (NaN for a single run)."""

    number: int
    deviation: float = math.nan


def pooled(sides: Iterable[Runs]) -> tuple[float, int]:
    """The standard deviation between the repeated runs of all sides, with its degrees of freedom; NaN without repeats."""
    known = [(side.number - 1, side.deviation) for side in sides if math.isfinite(side.deviation)]
    spare = sum(degrees for degrees, _ in known)
    squares = sum(degrees * value**2 for degrees, value in known)
    return math.sqrt(squares / spare) if spare else math.nan, spare


def effect(middle: float, error: float, units: int, sides: tuple[Runs, Runs], noise: float) -> Effect:
    """Add the noise between runs to a log ratio whose standard error over `units` problems is known."""
    estimated, spare = pooled(sides)
    between = (estimated if spare else noise) ** 2 * sum(1 / side.number for side in sides)
    whole = error**2 + between
    parts = error**4 / max(1, units - 1) + (between**2 / spare if spare else 0.0)
    degrees = whole**2 / parts if parts else math.inf  # Satterthwaite's approximation
    return Effect(middle, math.sqrt(whole), degrees if units > 1 else math.nan, spare > 0)


def smallest(noise: float) -> float:
    """The smallest difference that one run on each side can show: 0.17 means 17 %."""
    return math.expm1(Z * math.sqrt(2) * noise)


def limits(noise: float) -> str:
    """What one run each cannot show, in words."""
    return f"one run each: differences below {smallest(noise) * 100:.2g} % are not shown"


def deviation(run_means: list[float]) -> float:
    """Standard deviation of the logarithms of repeated runs' means; NaN for a single run."""
    known = np.log([value for value in run_means if value > 0])
    return float(known.std(ddof=1)) if len(known) > 1 else math.nan


def percentage(text: str) -> float:
    """Parse `2%` into 0.02. Raises InputError."""
    try:
        value = float(text.removesuffix("%")) / 100
    except ValueError:
        value = math.nan
    if not text.endswith("%") or not 0 <= value <= 1:
        raise InputError(f"{text!r}: give a percentage from 0% to 100%, for example 2%")
    return value


def add_noise(parser: argparse.ArgumentParser) -> None:
    """The option `--noise` of the commands that compare settings."""
    shown = f"{DAY_TO_DAY * 100:g}%"
    parser.add_argument(
        "--noise",
        type=percentage,
        default=shown,
        metavar="PERCENT",
        help=f"standard deviation between runs of a setting, where it was run once (default: {shown}%, measured)",
    )
