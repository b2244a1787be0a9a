"""Choose the interval or the test for each kind of estimate, and state what it assumes.

All intervals are two-sided 95 % intervals. Bootstrap intervals use a fixed seed. The unit that is resampled is the problem
and never the request, because several samples of one problem depend on each other. A value is NaN where the sample is too
small for it. Wilson and order-statistic intervals come from `loadgen.measure.quantiles`, so that the report and the load
generator use the same rules; the bootstrap and the exact tests come from SciPy.

This module does not know columns, budgets or configurations.
"""

import math
from typing import NamedTuple

import numpy as np
import pandas as pd
from numpy.typing import ArrayLike, NDArray
from scipy import stats

from loadgen.measure.quantiles import interval_ranks, wilson

Floats = NDArray[np.float64]
LEVEL = 0.95
Z = float(stats.norm.ppf((1 + LEVEL) / 2))
RESAMPLES = 2000
NORMAL_ABOVE = 2000
"""Above this number of units the normal interval of a ratio is used: it agrees with the bootstrap to 1 % of its width."""
MIN_UNITS = 5
"""No interval is given for fewer units than this."""


class Interval(NamedTuple):
    """An estimate and its 95 % interval; a bound is NaN where there is none."""

    estimate: float
    low: float
    high: float


NOTHING = Interval(float("nan"), float("nan"), float("nan"))


def proportion(successes: int, n: int) -> Interval:
    """Share of successes in n independent trials, with Wilson's interval."""
    bounds = wilson(int(successes), int(n))
    return NOTHING if bounds is None else Interval(successes / n, *bounds)


def percentile(values: ArrayLike, p: float) -> Interval:
    """Nearest-rank percentile with its order-statistic interval; NaN values are ignored, infinite values are the slowest.

    Below `least_sample(p)` values the interval is NaN. A table must then not show the estimate either.
    """
    known = np.sort(np.asarray(values, dtype=float))
    known = known[~np.isnan(known)]
    n = len(known)
    if n == 0:
        return NOTHING
    ranks = interval_ranks(n, p)
    low, high = (float(known[rank - 1]) for rank in ranks) if ranks else (math.nan, math.nan)
    return Interval(float(known[math.ceil(p * n) - 1]), low, high)


def ratio(top: ArrayLike, bottom: ArrayLike, seed: int = 0) -> Interval:
    """Σ top / Σ bottom over units (problems), with numerator and denominator of a unit resampled together."""
    a, b = np.asarray(top, dtype=float), np.asarray(bottom, dtype=float)
    known = np.isfinite(a) & np.isfinite(b)
    a, b = a[known], b[known]
    if len(a) == 0 or b.sum() == 0:
        return NOTHING
    estimate = float(a.sum() / b.sum())
    if len(a) < MIN_UNITS:
        return Interval(estimate, float("nan"), float("nan"))
    if len(a) > NORMAL_ABOVE:
        error = float(np.std(a - estimate * b, ddof=1) / np.sqrt(len(a)) / b.mean())
        return Interval(estimate, estimate - Z * error, estimate + Z * error)
    low, high = _bootstrap(a, b, seed)
    return Interval(estimate, low, high)


def _bootstrap(a: Floats, b: Floats, seed: int) -> tuple[float, float]:
    """Percentile bootstrap over units; resamples whose denominator is zero are dropped."""
    rng = np.random.default_rng(seed)
    with np.errstate(divide="ignore", invalid="ignore"):
        result = stats.bootstrap(
            (a, b),
            lambda x, y, axis: x.sum(axis=axis) / y.sum(axis=axis),
            paired=True,
            vectorized=True,
            n_resamples=RESAMPLES,
            confidence_level=LEVEL,
            method="percentile",
            batch=max(1, 4_000_000 // len(a)),
            rng=rng,
        )
    draws = result.bootstrap_distribution
    draws = draws[~np.isnan(draws)]
    tail = (1 - LEVEL) / 2
    low, high = np.quantile(draws, [tail, 1 - tail], method="nearest") if len(draws) else (np.nan, np.nan)
    return float(low), float(high)


def mean(values: ArrayLike, seed: int = 0) -> Interval:
    """Mean over units, with its bootstrap interval."""
    known = np.asarray(values, dtype=float)
    return ratio(known, np.where(np.isfinite(known), 1.0, np.nan), seed)


class McNemar(NamedTuple):
    """Two arms graded on n common problems: `gained` were right only in the second arm, `lost` only in the first."""

    n: int
    gained: int
    lost: int
    p_value: float
    difference: Interval
    """Accuracy of the second arm minus accuracy of the first."""


def mcnemar(first: ArrayLike, second: ArrayLike) -> McNemar:
    """Exact McNemar test, with the interval of Bonett and Price (2012): Wald's, after adding 1 to each discordant count."""
    a, b = np.asarray(first, dtype=float), np.asarray(second, dtype=float)
    known = np.isfinite(a) & np.isfinite(b)
    a, b = a[known] > 0.5, b[known] > 0.5
    n, gained, lost = len(a), int((~a & b).sum()), int((a & ~b).sum())
    if n == 0:
        return McNemar(0, 0, 0, float("nan"), NOTHING)
    p_value = float(stats.binomtest(gained, gained + lost).pvalue) if gained + lost else 1.0
    up, down = (gained + 1) / (n + 2), (lost + 1) / (n + 2)
    half = Z * float(np.sqrt((up + down - (up - down) ** 2) / (n + 2)))
    return McNemar(
        n, gained, lost, p_value, Interval((gained - lost) / n, up - down - half, up - down + half)
    )


def variation(values: ArrayLike, seed: int = 0) -> Interval:
    """Coefficient of variation between units: standard deviation / mean, with its BCa bootstrap interval."""
    known = np.asarray(values, dtype=float)
    known = known[np.isfinite(known)]
    if len(known) < MIN_UNITS:
        return NOTHING
    estimate = float(known.std(ddof=1) / known.mean())
    if len(known) > NORMAL_ABOVE:
        known = np.random.default_rng(seed).permutation(known)[:NORMAL_ABOVE]
    result = stats.bootstrap(
        (known,),
        lambda x, axis: x.std(axis=axis, ddof=1) / x.mean(axis=axis),
        vectorized=True,
        n_resamples=RESAMPLES,
        method="BCa",
        rng=np.random.default_rng(seed),
    )
    ci = result.confidence_interval
    return Interval(estimate, float(ci.low), float(ci.high))


def variation_ratio(top: ArrayLike, bottom: ArrayLike, seed: int = 0) -> Interval:
    """Coefficient of variation of one arm divided by that of another, with the two values of a unit resampled together."""
    a, b = np.asarray(top, dtype=float), np.asarray(bottom, dtype=float)
    if len(a) < MIN_UNITS:
        return NOTHING

    def statistic(x: Floats, y: Floats, axis: int) -> Floats:
        spread: Floats = (x.std(axis=axis) / x.mean(axis=axis)) / (y.std(axis=axis) / y.mean(axis=axis))
        return spread

    with np.errstate(divide="ignore", invalid="ignore"):
        estimate = float(statistic(a, b, 0))
        if not np.isfinite(estimate):
            return NOTHING
        result = stats.bootstrap(
            (a[:NORMAL_ABOVE], b[:NORMAL_ABOVE]),
            statistic,
            paired=True,
            vectorized=True,
            n_resamples=RESAMPLES,
            method="percentile",
            rng=np.random.default_rng(seed),
        )
    return Interval(estimate, float(result.confidence_interval.low), float(result.confidence_interval.high))


def by_unit(frame: pd.DataFrame, columns: list[str]) -> pd.DataFrame:
    """Means of `columns` by problem: one row for each unit."""
    means: pd.DataFrame = frame.groupby("problem_id", observed=True)[columns].mean()
    return means
