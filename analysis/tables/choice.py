"""Judge the choice of the best of many settings: by how much chance decided it, and what the chosen one really costs.

The best of many estimates is partly the luckiest. Problems are resampled together for all settings, and every run gets its
noise (analysis/noise.py). This gives the settings that cannot be told apart from the best one (simultaneously, at 95 %), the
probability that a setting is the best, and an estimate that is drawn towards the mean of those that cannot be told apart, as
far as their differences are no larger than chance makes them (empirical Bayes).

This module does not know the requirements, or how the result is worded (recommend.py).
"""

from dataclasses import dataclass

import numpy as np
import pandas as pd

from analysis import stats
from analysis.data.setting import SETTING
from analysis.noise import DAY_TO_DAY
from analysis.stats import Floats, Interval
from analysis.tables.optima import noise_of_runs

DRAWS = 1000
WIDER = 0.999
"""The confidence at which a setting is so different that it says nothing about the one that was chosen."""
SUMS = {
    "cost_of_pass_gpu_s": ("gpu_s", "correct"),
    "cost_of_pass_j": ("energy_j", "correct"),
    "gpu_s_per_request": ("gpu_s", "asked"),
    "joules_per_request": ("energy_j", "asked"),
}
"""Measures that are a sum over problems / another one."""


@dataclass(frozen=True, slots=True)
class Choice:
    """The settings in the order of the given table, on a logarithmic scale, with the best first among equals."""

    best: int
    estimate: Floats
    """The measure of each setting, corrected for having been chosen."""
    draws: Floats
    """What other problems and runs would give: a row for each draw, a column for each setting."""
    tied: list[int]
    """Settings that cannot be told apart from the best one, without it; the nearest first."""

    def chance(self) -> float:
        """Probability that the best setting is really the best."""
        return float((self.draws.argmin(axis=1) == self.best).mean())

    def interval(self, place: int) -> Interval:
        """The corrected measure of a setting with its 95 % interval."""
        return _interval(self.estimate[place], self.draws[:, place])

    def over_best(self, place: int) -> Interval:
        """The measure of a setting / that of the best one, with the 95 % interval of the ratio."""
        return _interval(
            self.estimate[place] - self.estimate[self.best], self.draws[:, place] - self.draws[:, self.best]
        )


def _interval(middle: float, draws: Floats) -> Interval:
    low, high = np.nanquantile(draws, [stats.ALPHA / 2, 1 - stats.ALPHA / 2])
    return Interval(*(float(np.exp(value)) for value in (middle, low, high)))


def choose(
    fit: pd.DataFrame, problems: pd.DataFrame | None, measure: str, between_runs: float = DAY_TO_DAY, seed: int = 0
) -> Choice:
    """Judge the settings `fit` of the summary by a measure that all of them have; `problems` is `pairs.per_problem`.

    Without `problems` the intervals of the summary are used, as if the settings had been asked different problems.
    """
    rng = np.random.default_rng(seed)
    raw = np.log(fit[measure].to_numpy(dtype=float))
    if problems is None:
        arms = fit.assign(runs=1, deviation_e2e_s=np.nan)
        draws = _normal(fit, measure, rng)
    else:
        arms, rows = arms_of(fit, problems)
        draws = _resampled(rows, raw, measure) if measure in SUMS else _normal(fit, measure, rng)
    draws = draws + np.log(noise_of_runs(arms, between_runs, DRAWS, rng)[1:])
    best = int(raw.argmin())
    tied = _tied(raw, draws, best, stats.LEVEL)
    estimate = raw.copy()
    if tied:
        # A wider group: to leave out the unluckiest of equal settings would make the mean of the others too small.
        group = [best, *_tied(raw, draws, best, WIDER)]
        estimate[group] = _shrunk(raw[group], draws[:, group])
    return Choice(best, estimate, draws + (estimate - raw), tied)


def arms_of(fit: pd.DataFrame, problems: pd.DataFrame) -> tuple[pd.DataFrame, pd.DataFrame]:
    """The first row of each setting in `problems`, in the order of `fit`, and all their rows with the column `place`."""
    codes = problems.groupby(SETTING, observed=True, sort=False).ngroup()
    first = problems[~codes.duplicated().to_numpy()]
    place_of = {tuple(row): place for place, row in enumerate(fit[SETTING].itertuples(index=False, name=None))}
    places = [place_of.get(tuple(row), -1) for row in first[SETTING].itertuples(index=False, name=None)]
    rows = problems.assign(place=np.array(places, dtype=int)[codes.to_numpy()])
    arms = first.assign(place=places).query("place >= 0").set_index("place").reindex(range(len(fit)))
    return arms, rows[rows["place"].to_numpy() >= 0].assign(asked=1.0)


def resampled_sums(rows: pd.DataFrame, columns: tuple[str, ...], settings: int) -> list[Floats]:
    """Sums of columns when the problems are drawn again, the same ones for every setting: a row for each draw."""
    problem, _ = pd.factorize(rows["problem_id"])
    n, place = int(problem.max(initial=0)) + 1, rows["place"].to_numpy()
    wide = np.zeros((n, len(columns) * settings))
    for number, name in enumerate(columns):
        wide[problem, number * settings + place] = rows[name].fillna(0.0)
    blocks = np.array_split(stats.resampling(n, DRAWS), 10)  # in blocks, because floats need eight times the memory
    return np.split(np.concatenate([block.astype(float) @ wide for block in blocks]), len(columns), axis=1)


def _resampled(rows: pd.DataFrame, whole: Floats, measure: str) -> Floats:
    """Logarithms of the measure when the problems are drawn again."""
    above, below = resampled_sums(rows, SUMS[measure], len(whole))
    with np.errstate(divide="ignore", invalid="ignore"):
        found: Floats = np.log(above / below)
    return np.where(np.isfinite(found), found, whole)


def _normal(fit: pd.DataFrame, measure: str, rng: np.random.Generator) -> Floats:
    """Logarithms of a percentile, from its interval: percentiles of the same problems are taken as independent."""
    ends = fit.reindex(columns=[f"{measure}{end}" for end in ("", "_low", "_high")])
    middle, low, high = np.log(ends.to_numpy(dtype=float)).T
    error = (high - low) / 2 / stats.Z
    drawn: Floats = middle + rng.normal(size=(DRAWS, len(fit))) * np.where(np.isfinite(error), error, 0.0)
    return drawn


def _tied(raw: Floats, draws: Floats, best: int, level: float) -> list[int]:
    """Settings whose difference to the best one is within what the largest of all differences reaches by chance."""
    difference = raw - raw[best]
    chance = draws - draws[:, [best]] - difference
    error = chance.std(axis=0)
    others = [place for place in range(len(raw)) if place != best]
    if not others:
        return []
    scaled = np.divide(chance, error, out=np.zeros_like(chance), where=error > 0)
    limit = np.quantile(scaled[:, others].max(axis=1), level)
    tied = [place for place in others if difference[place] <= limit * error[place]]
    return sorted(tied, key=difference.__getitem__)


def _shrunk(raw: Floats, draws: Floats) -> Floats:
    """Estimates drawn towards their mean by the share of their variance that chance explains."""
    chance = (draws - draws.mean(axis=1, keepdims=True)).var(axis=0)
    by_chance = float(chance.mean()) * len(raw) / (len(raw) - 1)
    real = max(0.0, float(raw.var(ddof=1)) - by_chance)
    keep = real / (real + by_chance) if by_chance else 1.0
    shrunk: Floats = raw.mean() + keep * (raw - raw.mean())
    return shrunk
