"""Percentiles that say how sure they are, from the order of the sample alone.

Rules: a percentile is an observed value (nearest rank), its 95 % interval two other observed values found by the
binomial distribution, with no assumption on the shape; where the sample is too small to have both bounds there is no
percentile. Failures can stand in the sample as +inf: a percentile that falls among them is infinite.

Does not know: what the values measure.
"""

import math
from bisect import bisect_left, bisect_right
from collections import Counter, defaultdict
from collections.abc import Callable, Iterable, Sequence
from functools import lru_cache
from itertools import accumulate
from typing import Any, NamedTuple

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


class Cluster(NamedTuple):
    """Values of one request: they depend on each other, those of two requests do not. No weights: each counts once."""

    values: Sequence[float]
    weights: Sequence[float] | None = None


LEAST_CLUSTERS = 6


def describe_clusters(
    clusters: Callable[[], Iterable[Sequence[Cluster]]], unit: float
) -> list[dict[str, Any]]:
    """As `describe`, of every value of every request, for several metrics at once; `clusters` is gone through twice.

    Intervals are Woodruff's: the share of values at or below the percentile varies from request to request; its 95 %
    interval is read off the pooled values as two ranks.
    """
    pools: list[_Pool] = []
    for row in clusters():
        pools += [_Pool() for _ in row[len(pools) :]]
        for pool, cluster in zip(pools, row, strict=True):
            pool.add(cluster)
    for pool in pools:
        pool.close()
    for row in clusters():
        for pool, cluster in zip(pools, row, strict=True):
            pool.vary(cluster)
    return [pool.described(unit) for pool in pools]


class _Pool:
    """All values of one metric: first gathered, then the variance between requests."""

    def __init__(self) -> None:
        self._counts: Counter[float] = Counter()
        self._weights: defaultdict[float, float] = defaultdict(float)
        self._values: list[float] = []
        self._cumulated: list[float] = []
        self._points: dict[str, float] = {}
        self._clusters = 0
        self._squares = dict.fromkeys(LEVELS, 0.0)
        self._sum = 0.0

    def add(self, cluster: Cluster) -> None:
        """First pass."""
        if cluster.weights is None:
            self._counts.update(cluster.values)
            return
        for value, weight in zip(cluster.values, cluster.weights, strict=True):
            self._weights[value] += weight

    def close(self) -> None:
        """All are in."""
        for value, count in self._counts.items():
            self._weights[value] += count
        ordered = sorted(self._weights.items())
        self._values = [value for value, _ in ordered]
        self._cumulated = list(accumulate(weight for _, weight in ordered))
        self._sum = math.fsum(value * weight for value, weight in ordered)
        if ordered:
            self._points = {name: self._at(level) for name, level in LEVELS.items()}

    def vary(self, cluster: Cluster) -> None:
        """Second pass: how far this request's share below each percentile is from the whole's."""
        if not cluster.values:
            return
        self._clusters += 1
        ordered, cumulated = _in_order(cluster)
        for name, point in self._points.items():
            index = bisect_right(ordered, point)
            below = cumulated[index - 1] if index else 0.0
            self._squares[name] += (below - LEVELS[name] * cumulated[-1]) ** 2

    def described(self, unit: float) -> dict[str, Any]:
        """The result."""
        if not self._values:
            return describe([])
        total, n = self._cumulated[-1], self._clusters
        found: dict[str, Any] = {}
        intervals: dict[str, list[float]] = {}
        why: dict[str, str] = {}
        for name, level in LEVELS.items():
            error = math.sqrt(n / max(n - 1, 1) * self._squares[name]) / total
            low, high = level - Z * error, level + Z * error
            if n < LEAST_CLUSTERS or low <= 0 or high >= 1:
                found[name] = None
                why[name] = f"n too small: {n} requests"
                continue
            found[name] = round(self._points[name] * unit, 9)
            intervals[name] = [round(self._at(bound) * unit, 9) for bound in (low, high)]
        found["mean"] = round(self._sum / total * unit, 9)
        return found | {"n": round(total), "interval": intervals} | ({"why": why} if why else {})

    def _at(self, level: float) -> float:
        """Nearest rank."""
        index = bisect_left(self._cumulated, level * self._cumulated[-1] * (1 - 1e-12))
        return self._values[min(index, len(self._values) - 1)]


def _in_order(cluster: Cluster) -> tuple[Sequence[float], Sequence[float]]:
    """Values in order, and their cumulated weights."""
    if cluster.weights is None:
        return sorted(cluster.values), range(1, len(cluster.values) + 1)
    pairs = sorted(zip(cluster.values, cluster.weights, strict=True))
    return [value for value, _ in pairs], list(accumulate(weight for _, weight in pairs))


def _weighted_median(values: list[tuple[float, float]]) -> float | None:
    """Median of values that each count so often; the mean of the two middle ones where they split evenly."""
    values = sorted(values)
    half = sum(weight for _, weight in values) / 2
    before = 0.0
    for index, (value, weight) in enumerate(values):
        before += weight
        if before > half:
            return value
        if before == half and index + 1 < len(values):
            return (value + values[index + 1][0]) / 2
    return None
