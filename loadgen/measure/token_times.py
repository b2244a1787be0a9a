"""Times between tokens and between chunks of a whole run, from `chunks.bin`, and percentiles of such values.

The values of one request depend on each other: a request that is slow at one token is often slow at the next one too. An
interval that took every token as independent would be far too narrow. The intervals here are those of Woodruff (1952): for each
percentile, the share of values at or below it varies from request to request, and this variance gives two ranks in the
pooled values. Under a load of several requests, the variance is that between blocks of consecutive requests, as in
`loadgen.measure.dependence`, because requests that shared a server resemble each other.

This module does not know the texts, and what it needs of the records is counted in `RunFacts`.
"""

import math
from array import array
from bisect import bisect_left, bisect_right
from collections import Counter, defaultdict
from collections.abc import Callable, Iterable, Iterator, Sequence
from itertools import accumulate
from operator import sub, truediv
from pathlib import Path
from typing import Any, NamedTuple

from loadgen.chunks import CHUNKS, read_chunks
from loadgen.measure.dependence import BLOCKS, Load, T, block_sums, inflation
from loadgen.measure.quantiles import LEVELS, WITHHELD, Z, describe
from loadgen.measure.run_facts import RunFacts
from loadgen.record import RunInfo

LEAST_CLUSTERS = 6
"""With fewer requests, the variance between them says too little for an interval."""


class Cluster(NamedTuple):
    """The values of one request. Without weights, each value counts once."""

    values: Sequence[float]
    weights: Sequence[float] | None = None


def describe_token_times(
    folder: Path, run: RunInfo, facts: RunFacts, load: Load
) -> tuple[dict[str, Any], dict[str, Any], dict[str, Any]]:
    """Describe the measured requests: `itl_s` (one value per token), the same with failures, and `inter_chunk_s` (per chunk).

    Requests whose chunks arrived in clumps are left out: their gaps were lost on the way. With failures, a failed request
    counts as infinitely slow for as many tokens as a mean request has.
    """
    path, first, measured = folder / CHUNKS, run.load.get("warmup") or 0, facts.measured

    def clusters() -> Iterator[tuple[Cluster, Cluster]]:
        for chunks in read_chunks(path) if path.exists() else ():
            if not first <= chunks.seq < facts.first_check or chunks.seq in facts.streams.clumped:
                continue
            gaps_us = list(map(sub, chunks.arrival_us[1:], chunks.arrival_us))
            counts: list[float] = [*chunks.tokens[1:]]
            if (mean := facts.mean_tokens.get(chunks.seq)) is not None:
                counts = [mean] * len(counts)
            gaps = Cluster(gaps_us)
            if counts.count(1) == len(counts):
                yield gaps, gaps
            else:
                yield Cluster(list(map(truediv, gaps_us, counts)), counts), gaps

    pools = pooled(clusters)
    if not pools:
        return describe([]), describe([]), describe([])
    itl, inter_chunk = pools
    row = itl.described(1e-6, load)
    failures = itl.with_failures(row, 1e-6, measured.failed / measured.n if measured.n else 0.0)
    return row, failures, inter_chunk.described(1e-6, load)


def pooled(clusters: Callable[[], Iterable[Sequence[Cluster]]]) -> list["Pool"]:
    """Return the values of several metrics. `clusters` yields one cluster per metric for every request, and is called twice."""
    pools: list[Pool] = []
    for row in clusters():
        pools += [Pool() for _ in row[len(pools) :]]
        for pool, cluster in zip(pools, row, strict=True):
            pool.add(cluster)
    for pool in pools:
        pool.close()
    for row in clusters():
        for pool, cluster in zip(pools, row, strict=True):
            pool.add_variance(cluster)
    return pools


class Pool:
    """All values of one metric. The values are added first, then the variance between the requests."""

    def __init__(self) -> None:
        self._counts: Counter[float] = Counter()
        self._weights: defaultdict[float, float] = defaultdict(float)
        self._values: list[float] = []
        self._cumulated: list[float] = []
        self._percentiles: dict[str, float] = {}
        self._excess = {name: array("d") for name in LEVELS}
        self._sum = 0.0

    def add(self, cluster: Cluster) -> None:
        """Add the values of one request (first pass)."""
        if cluster.weights is None:
            self._counts.update(cluster.values)
            return
        for value, weight in zip(cluster.values, cluster.weights, strict=True):
            self._weights[value] += weight

    def close(self) -> None:
        """Compute the percentiles once all values have been added."""
        for value, count in self._counts.items():
            self._weights[value] += count
        ordered = sorted(self._weights.items())
        self._values = [value for value, _ in ordered]
        self._cumulated = list(accumulate(weight for _, weight in ordered))
        self._sum = math.fsum(value * weight for value, weight in ordered)
        if ordered:
            self._percentiles = {name: self._at(level) for name, level in LEVELS.items()}

    def add_variance(self, cluster: Cluster) -> None:
        """Add how far this request's share below each percentile is from that of all requests (second pass)."""
        if not cluster.values:
            return
        ordered, cumulated = _in_order(cluster)
        for name, percentile in self._percentiles.items():
            index = bisect_right(ordered, percentile)
            below = cumulated[index - 1] if index else 0.0
            self._excess[name].append(below - LEVELS[name] * cumulated[-1])

    def _half(self, name: str, load: Load) -> float | None:
        """Return half the width of the interval of the share of values below a percentile; None withholds it."""
        excess = self._excess[name]
        n = len(excess)
        if load == "alone":
            return Z * math.sqrt(n / max(n - 1, 1) * math.fsum(one * one for one in excess))
        middle = self._excess["p50"]
        factor = inflation(middle, sorted(middle), load)
        if factor is None:
            return None
        squares = math.fsum(one * one for one in block_sums(excess, math.fsum(excess) / n))
        return T * math.sqrt(BLOCKS / (BLOCKS - 1) * squares * factor)

    def described(self, unit: float, load: Load) -> dict[str, Any]:
        """Describe the values, multiplied by `unit`, with the keys of `quantiles.describe`."""
        if not self._values:
            return describe([])
        total, n = self._cumulated[-1], len(self._excess["p50"])
        found: dict[str, Any] = {}
        intervals: dict[str, list[float]] = {}
        why: dict[str, str] = {}
        for name, level in LEVELS.items():
            half = self._half(name, load)
            low, high = level - (half or 0.0) / total, level + (half or 0.0) / total
            if n < LEAST_CLUSTERS or low <= 0 or high >= 1:
                found[name] = None
                why[name] = f"n too small: {n} requests"
                continue
            found[name] = round(self._percentiles[name] * unit, 9)
            if half is None:
                why[name] = WITHHELD
                continue
            intervals[name] = [round(self._at(bound) * unit, 9) for bound in (low, high)]
        found["mean"] = round(self._sum / total * unit, 9)
        return found | {"n": round(total), "interval": intervals} | ({"why": why} if why else {})

    def with_failures(self, row: dict[str, Any], unit: float, failed_share: float) -> dict[str, Any]:
        """Return the percentiles of `row`, the mean and the maximum if this share of all values is infinite."""
        largest = round(self._values[-1] * unit, 9) if self._values else None
        mean, largest = (None, None) if failed_share else (row["mean"], largest)
        found: dict[str, Any] = {"n": row["n"], "mean": mean, "max": largest}
        for name, level in LEVELS.items():
            finite = row[name] is not None and level <= 1 - failed_share
            found[name] = round(self._at(level / (1 - failed_share)) * unit, 9) if finite else None
        return found | {"why": {name: why for name, why in row.get("why", {}).items() if row[name] is None}}

    def _at(self, level: float) -> float:
        """Return the pooled value at `level` (nearest rank)."""
        index = bisect_left(self._cumulated, level * self._cumulated[-1] * (1 - 1e-12))
        return self._values[min(index, len(self._values) - 1)]


def _in_order(cluster: Cluster) -> tuple[Sequence[float], Sequence[float]]:
    """Return the values in ascending order and their cumulated weights."""
    if cluster.weights is None:
        return sorted(cluster.values), range(1, len(cluster.values) + 1)
    pairs = sorted(zip(cluster.values, cluster.weights, strict=True))
    return [value for value, _ in pairs], list(accumulate(weight for _, weight in pairs))
