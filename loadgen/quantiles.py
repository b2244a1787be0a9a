"""Percentiles that say how sure they are, from the order of the sample alone.

Rules: a percentile is an observed value (nearest rank), its 95 % interval two other observed values found by the
binomial distribution, with no assumption on the shape; where the sample is too small to have both bounds there is no
percentile. Failures can stand in the sample as +inf: a percentile that falls among them is infinite.

Does not know: what the values measure.
"""

import math
from bisect import bisect_left, bisect_right
from collections import defaultdict
from collections.abc import Callable, Iterable, Mapping, Sequence
from functools import lru_cache
from itertools import accumulate
from typing import Any

LEVELS = {"p50": 0.50, "p90": 0.90, "p95": 0.95, "p99": 0.99}
CONFIDENCE = 0.95
Z = 1.959963984540054
"""Of the normal distribution, for 95 %."""


@lru_cache(maxsize=256)
def interval_ranks(n: int, level: float) -> tuple[int, int] | None:
    """Ranks (from 1) of two order statistics that hold the quantile between them with 95 %; None where n is too small.

    Each side misses with at most 2.5 %: P(X(lower) > q) = P(B ≤ lower − 1) and P(X(upper) < q) = P(B ≥ upper), B ~ Bin(n, level).
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
        below += _pmf(n, k, level)
    return (max(lower, 1), min(upper, n))


def _pmf(n: int, k: int, p: float) -> float:
    log = math.lgamma(n + 1) - math.lgamma(k + 1) - math.lgamma(n - k + 1)
    return math.exp(log + k * math.log(p) + (n - k) * math.log1p(-p))


@lru_cache
def least_sample(level: float) -> int:
    """Fewest values for which `interval_ranks` has both bounds: 6 for the median, then 36, 72 and 368."""
    n = 1
    while interval_ranks(n, level) is None:
        n += 1
    return n


def describe(values: Sequence[float]) -> dict[str, Any]:
    """`p50 p90 p95 p99 mean n`, an `interval` a percentile, and for each null in `why` the reason."""
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
        intervals[name] = [_finite(ordered[rank - 1]) for rank in ranks]
        if found[name] is None:
            why[name] = "infinite: falls among the failures"
    mean = math.fsum(ordered) / n if n else None
    found["mean"] = None if mean is None else _finite(mean)
    return found | {"n": n, "interval": intervals} | ({"why": why} if why else {})


def _finite(value: float) -> float | None:
    return round(value, 9) if math.isfinite(value) else None


def wilson(successes: int, n: int) -> tuple[float, float] | None:
    """95 % Wilson interval of a share."""
    if n == 0:
        return None
    z = Z
    share = successes / n
    centre = share + z * z / (2 * n)
    spread = z * math.sqrt(share * (1 - share) / n + z * z / (4 * n * n))
    return (
        round(max(0.0, (centre - spread) / (1 + z * z / n)), 6),
        round(min(1.0, (centre + spread) / (1 + z * z / n)), 6),
    )


Cluster = Sequence[tuple[float, float]]
"""(value, weight) pairs of one request: its values depend on each other, those of two requests do not."""

LEAST_CLUSTERS = 6


def describe_clusters(clusters: Callable[[], Iterable[Cluster]], unit: float) -> dict[str, Any]:
    """As `describe`, of every value of every request; `clusters` is gone through twice.

    Intervals are Woodruff's: the share of values at or below the percentile varies from request to request; its 95 %
    interval is read off the pooled values as two ranks.
    """
    weights: defaultdict[float, float] = defaultdict(float)
    for cluster in clusters():
        for value, weight in cluster:
            weights[value] += weight
    if not weights:
        return describe([])
    pooled = _Pooled(weights)
    points = {name: pooled.at(level) for name, level in LEVELS.items()}
    n, errors = _errors(clusters(), points, pooled.total)
    found: dict[str, Any] = {}
    intervals: dict[str, list[float]] = {}
    why: dict[str, str] = {}
    for name, level in LEVELS.items():
        low, high = level - Z * errors[name], level + Z * errors[name]
        if n < LEAST_CLUSTERS or low <= 0 or high >= 1:
            found[name] = None
            why[name] = f"n too small: {n} requests"
            continue
        found[name] = round(points[name] * unit, 9)
        intervals[name] = [round(pooled.at(bound) * unit, 9) for bound in (low, high)]
    found["mean"] = round(pooled.sum / pooled.total * unit, 9)
    return found | {"n": round(pooled.total), "interval": intervals} | ({"why": why} if why else {})


class _Pooled:
    """All values in order, with their cumulated weight."""

    def __init__(self, weights: Mapping[float, float]) -> None:
        ordered = sorted(weights.items())
        self._values = [value for value, _ in ordered]
        self._cumulated = list(accumulate(weight for _, weight in ordered))
        self.total = self._cumulated[-1]
        self.sum = math.fsum(value * weight for value, weight in ordered)

    def at(self, level: float) -> float:
        """Nearest rank."""
        index = bisect_left(self._cumulated, level * self.total * (1 - 1e-12))
        return self._values[min(index, len(self._values) - 1)]


def _errors(
    clusters: Iterable[Cluster], points: Mapping[str, float], total: float
) -> tuple[int, dict[str, float]]:
    """Clusters that hold a value, and the standard error of the share at or below each point, as of a ratio."""
    n = 0
    squares = dict.fromkeys(points, 0.0)
    for cluster in clusters:
        if not cluster:
            continue
        n += 1
        ordered = sorted(cluster)
        cumulated = list(accumulate(weight for _, weight in ordered))
        for name, point in points.items():
            index = bisect_right(ordered, (point, math.inf))
            below = cumulated[index - 1] if index else 0.0
            squares[name] += (below - LEVELS[name] * cumulated[-1]) ** 2
    spread = n / max(n - 1, 1)
    return n, {name: math.sqrt(spread * value) / total for name, value in squares.items()}
