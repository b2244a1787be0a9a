"""Choose the interval or the test for each kind of estimate, and state what it assumes.

All intervals are two-sided 95 % intervals. The unit is the problem and never the request, because several samples of one
problem depend on each other. Ratios and means have a t interval on the logarithm, with the linearized (delta method) standard
error: it covers as well as a bootstrap of many problems, better than one of few, and needs no random numbers. A value is NaN
where the sample is too small for it. Wilson's intervals and those of percentiles come from `loadgen.measure`, so that the
report and the load generator use the same rules; the quantiles and the exact tests come from SciPy. docs/analysis.md has the
measured coverage of each.

This module does not know columns, budgets or configurations.
"""

import math
from functools import lru_cache
from typing import NamedTuple

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy import special

from loadgen.measure.dependence import InTime, Load
from loadgen.measure.quantiles import least_sample, wilson

Floats = NDArray[np.float64]
LEVEL = 0.95
ALPHA = 1 - LEVEL
Z = float(special.ndtri((1 + LEVEL) / 2))
MIN_UNITS = 5
"""No interval is given for fewer units than this."""


class Interval(NamedTuple):
    """An estimate and its 95 % interval; a bound is NaN where there is none."""

    estimate: float
    low: float
    high: float


NOTHING = Interval(float("nan"), float("nan"), float("nan"))


@lru_cache(maxsize=4)
def resampling(n: int, draws: int = 1000) -> NDArray[np.uint8]:
    """How often each of n units is drawn when n are drawn at random with replacement: a row for each draw.

    The same n gives the same draws, so that everything about one set of problems is resampled together, with one product.
    """
    rng = np.random.default_rng(n)
    counts = [np.bincount(rng.integers(n, size=n), minlength=n).astype(np.uint8) for _ in range(draws)]
    return np.stack(counts)


@lru_cache(maxsize=4096)
def t_quantile(degrees: float, comparisons: int = 1) -> float:
    """Student's quantile for a two-sided interval; with several comparisons, for their simultaneous intervals (Bonferroni)."""
    return t_bound(1 - ALPHA / 2 / comparisons, degrees)


def t_bound(p: float, degrees: float) -> float:
    """The value below which Student's t lies with probability p. scipy.special, because scipy.stats takes a second to import."""
    return float(special.stdtrit(degrees, p) if math.isfinite(degrees) else special.ndtri(p))


def t_tail(value: float, degrees: float) -> float:
    """The probability that Student's t is above a value."""
    return float(special.stdtr(degrees, -value) if math.isfinite(degrees) else special.ndtr(-value))


def proportion(successes: float, n: float) -> Interval:
    """Share of successes in n independent trials, with Wilson's interval."""
    bounds = wilson(successes, n)
    return NOTHING if bounds is None else Interval(successes / n, *bounds)


def proportion_of_units(shares: ArrayLike, samples: int) -> Interval:
    """Mean share over problems that have several samples each: Wilson's interval at the effective number of problems.

    Equal answers to every sample of a problem make a problem worth one trial, independent ones make it worth its samples.
    The width is never zero, also where every answer is correct.
    """
    known = np.asarray(shares, dtype=float)
    known = known[np.isfinite(known)]
    n = len(known)
    if n == 0:
        return NOTHING
    share = float(known.mean())
    if n == 1:
        return Interval(share, float("nan"), float("nan"))
    error = float(known.var(ddof=1)) / n
    effective = min(max(share * (1 - share) / error, n), samples) if error else n
    effective *= (Z / t_quantile(n - 1)) ** 2
    return Interval(share, *proportion(share * effective, effective)[1:])


def percentile(values: ArrayLike, p: float, load: Load = "alone", units: NDArray[np.int64] | None = None) -> Interval:
    """Nearest-rank percentile with its interval; NaN values are ignored, infinite values are the slowest.

    `values` are in the order of time; `load` says how they depend on each other. `units` are the numbers of their problems,
    where problems have several samples. Below `least_sample(p)` values there may be a lower bound but no upper one, and a
    table must not show the estimate. Above it the interval can be missing, where the values depend on each other too much.
    """
    ordered = np.asarray(values, dtype=float)
    known = ~np.isnan(ordered)
    ordered = ordered[known]
    n = len(ordered)
    if n < least_sample(p):
        rank = int(np.searchsorted(special.bdtr(np.arange(n), n, p), ALPHA / 2)) if n else 0
        low = float(np.sort(ordered)[rank - 1]) if rank else math.nan
        return Interval(nearest_rank(ordered, p), low, math.nan)
    at_most = math.inf if units is None else _worth(ordered, p, units[known])
    bounds = InTime(ordered.tolist(), load).interval(p, at_most)
    return Interval(nearest_rank(ordered, p), *(bounds or (math.nan, math.nan)))


def nearest_rank(values: ArrayLike, p: float) -> float:
    """Nearest-rank percentile without its interval."""
    known = np.asarray(values, dtype=float)
    known = known[~np.isnan(known)]
    rank = math.ceil(p * len(known)) - 1
    return float(np.partition(known, rank)[rank]) if len(known) else math.nan


def _worth(values: Floats, p: float, units: NDArray[np.int64]) -> float:
    """How many independent values a sample with several values of each unit is worth for its percentile."""
    n, (_, codes) = len(values), np.unique(units, return_inverse=True)
    groups = int(codes.max()) + 1
    if groups == n:
        return math.inf
    hits = values <= nearest_rank(values, p)
    excess = np.bincount(codes, hits - hits.mean())
    squares = float((excess**2).sum()) * groups / max(1, groups - 1)
    return n / max(1.0, squares / n / (p * (1 - p))) * (Z / t_quantile(max(1, groups - 1))) ** 2


def log_ratio(top: ArrayLike, bottom: ArrayLike) -> tuple[float, float, int]:
    """Logarithm of Σ top / Σ bottom over the units where both are known, its standard error, and the number of units."""
    a, b = np.asarray(top, dtype=float), np.asarray(bottom, dtype=float)
    known = np.isfinite(a) & np.isfinite(b)
    a, b = a[known], b[known]
    if len(a) == 0 or not (a.sum() > 0 and b.sum() > 0):
        return math.nan, math.nan, len(a)
    spread = np.std(a / a.mean() - b / b.mean(), ddof=1) if len(a) > 1 else math.nan
    return float(np.log(a.sum() / b.sum())), float(spread / np.sqrt(len(a))), len(a)


def ratio(top: ArrayLike, bottom: ArrayLike) -> Interval:
    """Σ top / Σ bottom over units (problems), with the t interval of its logarithm."""
    middle, error, n = log_ratio(top, bottom)
    if math.isnan(middle):
        return NOTHING
    half = t_quantile(n - 1) * error if n >= MIN_UNITS else math.nan
    return Interval(math.exp(middle), math.exp(middle - half), math.exp(middle + half))


def mean(values: ArrayLike) -> Interval:
    """Mean of positive values over units, with the t interval of its logarithm."""
    known = np.asarray(values, dtype=float)
    return ratio(known, np.where(np.isfinite(known), 1.0, np.nan))


def change(values: ArrayLike, comparisons: int = 1) -> Interval:
    """Mean of differences between −1 and 1 over units, with a t interval after one more pair of +1 and −1.

    The additional pair, as in Bonett and Price's interval, keeps the width above zero where no problem changed. The interval
    of several comparisons is simultaneous.
    """
    known = np.asarray(values, dtype=float)
    known = known[np.isfinite(known)]
    if len(known) < MIN_UNITS:
        return NOTHING if len(known) == 0 else Interval(float(known.mean()), math.nan, math.nan)
    more = np.append(known, [1.0, -1.0])
    half = t_quantile(len(more) - 1, comparisons) * float(more.std(ddof=1)) / math.sqrt(len(more))
    return Interval(float(known.mean()), float(more.mean()) - half, float(more.mean()) + half)


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
    p_value = min(1.0, 2 * float(special.bdtr(min(gained, lost), gained + lost, 0.5)))
    up, down = (gained + 1) / (n + 2), (lost + 1) / (n + 2)
    half = Z * float(np.sqrt((up + down - (up - down) ** 2) / (n + 2)))
    difference = Interval((gained - lost) / n, up - down - half, up - down + half)
    return McNemar(n, gained, lost, p_value, difference)


def variation(values: ArrayLike) -> Interval:
    """Coefficient of variation between units: standard deviation / mean, with a jackknife t interval of its logarithm."""
    known = np.asarray(values, dtype=float)
    known = known[np.isfinite(known)]
    if len(known) < MIN_UNITS:
        return NOTHING
    return _jackknife(np.log(known.std(ddof=1) / known.mean()), _log_variations(known))


def variation_ratio(top: ArrayLike, bottom: ArrayLike) -> Interval:
    """Coefficient of variation of one arm divided by that of another, with the two values of a unit left out together."""
    a, b = np.asarray(top, dtype=float), np.asarray(bottom, dtype=float)
    if len(a) < MIN_UNITS:
        return NOTHING
    with np.errstate(divide="ignore", invalid="ignore"):
        whole = np.log((a.std(ddof=1) / a.mean()) / (b.std(ddof=1) / b.mean()))
        return _jackknife(whole, _log_variations(a) - _log_variations(b))


def _log_variations(values: Floats) -> Floats:
    """Logarithm of the coefficient of variation without each of the values in turn."""
    n = len(values) - 1
    centred = values - values.mean()  # the squares of large values would lose their last digits
    sums, squares = -centred, (centred**2).sum() - centred**2
    with np.errstate(divide="ignore", invalid="ignore"):
        spread = np.sqrt(np.maximum(squares - sums**2 / n, 0.0) / (n - 1))
        found: Floats = np.log(spread / (values.mean() + sums / n))
    return found


def _jackknife(whole: float, without: Floats) -> Interval:
    n = len(without)
    if not (np.isfinite(whole) and np.isfinite(without).all()):
        return NOTHING
    half = t_quantile(n - 1) * math.sqrt((n - 1) / n * float(((without - without.mean()) ** 2).sum()))
    return Interval(math.exp(whole), math.exp(whole - half), math.exp(whole + half))


def holm(p_values: ArrayLike) -> Floats:
    """Holm's adjusted p-values: at or below 0.05, at most 5 % of such tables contain any false finding. NaN stays NaN."""
    given = np.asarray(p_values, dtype=float)
    adjusted = np.full(len(given), np.nan)
    known = np.flatnonzero(np.isfinite(given))
    order = known[np.argsort(given[known], kind="stable")]
    steps = given[order] * np.arange(len(order), 0, -1)
    adjusted[order] = np.minimum(1.0, np.maximum.accumulate(steps))
    return adjusted
