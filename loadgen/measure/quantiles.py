"""Percentiles of independent values with 95 % confidence intervals, and the interval of a proportion.

A percentile is an observed value (nearest-rank method). Its interval is two other observed values (order statistics), chosen
with the binomial distribution, so that no assumption about the shape of the distribution is needed. Where a sample is too
small for the interval to have both bounds, the percentile is not reported: this is the suite's only rule for when a
percentile may be shown. Failed requests can be in the sample as infinity; a percentile that falls among them is infinite.

This module does not know what the values measure. Values that depend on each other need `loadgen.measure.dependence` or `token_times`.
"""

import math
from collections.abc import Callable, Iterable, Sequence
from functools import lru_cache
from typing import Any

LEVELS = {"p50": 0.50, "p90": 0.90, "p95": 0.95, "p99": 0.99}
CONFIDENCE = 0.95
Z = 1.959963984540054
"""The quantile of the standard normal distribution that belongs to a two-sided confidence of 95 %."""
WITHHELD = "no interval, because requests depend on each other: use more requests or repeat the run"
Intervals = Callable[[float], tuple[float, float] | None]
"""The bounds of a percentile by its level, or None where the sample does not show them."""


@lru_cache(maxsize=256)
def interval_ranks(n: int, level: float) -> tuple[int, int] | None:
    """Return the ranks (from 1) of the two order statistics that bound the quantile, or None where n is too small.

    Each bound is wrong with a probability of at most 2.5 %: P(X(lower) > q) = P(B ≤ lower − 1) and
    P(X(upper) < q) = P(B ≥ upper), where B is distributed as Bin(n, level).
    """
    tail = (1 - CONFIDENCE) / 2
    if level**n > tail or (1 - level) ** n > tail:
        return None
    lower, upper, below = 0, n + 1, 0.0
    for k in range(n + 1):  # below = P(B ≤ k − 1)
        if below <= tail:
            lower = k
        if 1 - below <= tail and k >= 1:
            upper = k
            break
        below += _binomial_probability(n, k, level)
    return (max(lower, 1), min(upper, n))


def _binomial_probability(n: int, k: int, p: float) -> float:
    log = math.lgamma(n + 1) - math.lgamma(k + 1) - math.lgamma(n - k + 1)
    return math.exp(log + k * math.log(p) + (n - k) * math.log1p(-p))


@lru_cache
def least_sample(level: float) -> int:
    """Return the smallest n for which `interval_ranks` has both bounds: 6 for p50, 36 for p90, 72 for p95, 368 for p99."""
    n = 1
    while interval_ranks(n, level) is None:
        n += 1
    return n


def describe(values: Sequence[float], interval: Intervals | None = None) -> dict[str, Any]:
    """Return `p50 p90 p95 p99 mean n`, the `interval` of each percentile, and in `why` the reason for what is missing.

    `interval` gives the bounds for a level where the values are not independent.
    """
    ordered = sorted(values)
    n = len(ordered)
    found: dict[str, Any] = {}
    intervals: dict[str, list[float | None]] = {}
    why: dict[str, str] = {}
    for name, level in LEVELS.items():
        ranks = interval_ranks(n, level) if n else None
        if ranks is None:
            found[name] = None
            why[name] = f"n too small: {n} of {least_sample(level)}"
            continue
        found[name] = _finite(ordered[math.ceil(level * n) - 1])
        bounds = interval(level) if interval else (ordered[ranks[0] - 1], ordered[ranks[1] - 1])
        if bounds is not None:
            intervals[name] = [_finite(bound) for bound in bounds]
        else:
            why[name] = WITHHELD
        if found[name] is None:
            why[name] = "infinite: falls among the failures"
    mean = math.fsum(ordered) / n if n else None
    found["mean"] = None if mean is None else _finite(mean)
    return found | {"n": n, "interval": intervals} | ({"why": why} if why else {})


def _finite(value: float) -> float | None:
    return round(value, 9) if math.isfinite(value) else None


def wilson(successes: float, n: float, z: float = Z) -> tuple[float, float] | None:
    """Return the Wilson score interval of a proportion, or None where n is 0; n can be an effective number.

    `z` is the quantile of the standard normal distribution for its confidence, which is 95 % if nothing else is asked for.
    """
    if n == 0:
        return None
    share = successes / n
    center = share + z * z / (2 * n)
    spread = z * math.sqrt(share * (1 - share) / n + z * z / (4 * n * n))
    return (
        round(max(0.0, (center - spread) / (1 + z * z / n)), 6),
        round(min(1.0, (center + spread) / (1 + z * z / n)), 6),
    )


def weighted_median(weighted: Iterable[tuple[float, float]]) -> float | None:
    """Return the median of (value, weight) pairs, or None where there is none.

    Where the weights split evenly, it is the mean of the two middle values.
    """
    pairs = sorted(weighted)
    half = sum(weight for _, weight in pairs) / 2
    before = 0.0
    for index, (value, weight) in enumerate(pairs):
        before += weight
        if before > half:
            return value
        if before == half and index + 1 < len(pairs):
            return (value + pairs[index + 1][0]) / 2
    return None
