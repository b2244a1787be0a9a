"""Intervals and tests, every one SciPy's: this file chooses which, and says what they assume.

Rules: 95 %, two-sided, seeded. The problem is the unit that is resampled, never the request, because samples of one
problem are alike. What a sample cannot carry is NaN, not a guess.

Does not know: columns, budgets, configurations.
"""

from typing import NamedTuple

import numpy as np
import pandas as pd
from numpy.typing import ArrayLike, NDArray
from scipy import stats

Floats = NDArray[np.float64]
LEVEL = 0.95
RESAMPLES = 2000
NORMAL_ABOVE = (
    2000  # units: from here the normal interval of a ratio agrees with the bootstrap to 1 % of its width
)
SMALLEST = 5  # units below which no interval is given


class Interval(NamedTuple):
    """An estimate and its 95 % interval; NaN where there is none."""

    estimate: float
    low: float
    high: float


NOTHING = Interval(float("nan"), float("nan"), float("nan"))


def proportion(successes: int, n: int) -> Interval:
    """Wilson's interval for independent trials."""
    if n == 0:
        return NOTHING
    ci = stats.binomtest(int(successes), int(n)).proportion_ci(LEVEL, method="wilson")
    return Interval(successes / n, float(ci.low), float(ci.high))


def percentile(values: ArrayLike, p: float) -> Interval:
    """An order statistic and the order statistics around it that hold the true one; infinite values count as slow."""
    known = np.sort(np.asarray(values, dtype=float))
    known = known[~np.isnan(known)]
    n = len(known)
    if n == 0:
        return NOTHING
    low, high = (float(stats.binom.ppf(tail, n, p)) for tail in ((1 - LEVEL) / 2, (1 + LEVEL) / 2))
    below, above = int(low) - 1, int(high)
    return Interval(
        float(np.quantile(known, p, method="inverted_cdf")),
        float(known[below]) if below >= 0 else float("nan"),
        float(known[above]) if above < n else float("nan"),
    )


def smallest_n(p: float) -> int:
    """The smallest sample that bounds the percentile from above: 72 for p95, 368 for p99."""
    return int(np.ceil(np.log((1 - LEVEL) / 2) / np.log(p)))


def ratio(top: ArrayLike, bottom: ArrayLike, seed: int = 0) -> Interval:
    """Σ top / Σ bottom over units (problems), the units resampled together: ratio of sums, not mean of ratios."""
    a, b = np.asarray(top, dtype=float), np.asarray(bottom, dtype=float)
    known = np.isfinite(a) & np.isfinite(b)
    a, b = a[known], b[known]
    if len(a) == 0 or b.sum() == 0:
        return NOTHING
    estimate = float(a.sum() / b.sum())
    if len(a) < SMALLEST:
        return Interval(estimate, float("nan"), float("nan"))
    if len(a) > NORMAL_ABOVE:
        error = float(np.std(a - estimate * b, ddof=1) / np.sqrt(len(a)) / b.mean())
        half = float(stats.norm.ppf((1 + LEVEL) / 2)) * error
        return Interval(estimate, estimate - half, estimate + half)
    low, high = _bootstrap(a, b, seed)
    return Interval(estimate, low, high)


def _bootstrap(a: Floats, b: Floats, seed: int) -> tuple[float, float]:
    """Percentile bootstrap, units resampled; resamples whose bottom is empty drop out."""
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
    """A mean over units."""
    known = np.asarray(values, dtype=float)
    return ratio(known, np.where(np.isfinite(known), 1.0, np.nan), seed)


class McNemar(NamedTuple):
    """Two arms graded on the same problems: `gained` right only in the second, `lost` only in the first."""

    n: int
    gained: int
    lost: int
    p_value: float
    difference: Interval
    """Second minus first, as a share."""


def mcnemar(first: ArrayLike, second: ArrayLike) -> McNemar:
    """Exact McNemar test, and Bonett and Price's interval (2012) for the difference: Wald after adding 1 to each cell."""
    a, b = np.asarray(first, dtype=float), np.asarray(second, dtype=float)
    known = np.isfinite(a) & np.isfinite(b)
    a, b = a[known] > 0.5, b[known] > 0.5
    n, gained, lost = len(a), int((~a & b).sum()), int((a & ~b).sum())
    if n == 0:
        return McNemar(0, 0, 0, float("nan"), NOTHING)
    p_value = float(stats.binomtest(gained, gained + lost).pvalue) if gained + lost else 1.0
    up, down = (gained + 1) / (n + 2), (lost + 1) / (n + 2)
    half = float(stats.norm.ppf((1 + LEVEL) / 2)) * float(np.sqrt((up + down - (up - down) ** 2) / (n + 2)))
    return McNemar(
        n, gained, lost, p_value, Interval((gained - lost) / n, up - down - half, up - down + half)
    )


def variation(values: ArrayLike, seed: int = 0) -> Interval:
    """Coefficient of variation between units: standard deviation over mean."""
    known = np.asarray(values, dtype=float)
    known = known[np.isfinite(known)]
    if len(known) < SMALLEST:
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
    """Coefficient of variation of one arm over that of another, units resampled together."""
    a, b = np.asarray(top, dtype=float), np.asarray(bottom, dtype=float)
    if len(a) < SMALLEST:
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
    """Means of `columns` by problem: one row a unit."""
    means: pd.DataFrame = frame.groupby("problem_id", observed=True)[columns].mean()
    return means
