"""Intervals for requests that depend on each other, because they shared a server or waited in one queue.

The requests, in the order of time, are divided into 20 blocks. The variance between the blocks says how many independent
requests the sample is worth: its effective size. Where neighbouring blocks resemble each other, the blocks are too short to
be independent, and the variance is increased for it (as for an autoregressive process). Where less than LEAST_EFFECTIVE
independent requests remain, the run does not show how much another run would differ, and there is no interval at all.

This module does not know what the values measure. It cannot see a dependence that lasts longer than the run.
"""

import math
from collections.abc import Sequence
from itertools import islice, pairwise
from typing import Any, Literal

from loadgen.measure.quantiles import Z, describe, interval_ranks, wilson

Load = Literal["alone", "closed", "open"]
"""One request at a time, which are independent; several in a closed loop; or an open loop, where a queue can form."""
BLOCKS = 20
T = 2.093024054408263
"""The quantile of Student's distribution with BLOCKS − 1 degrees of freedom that belongs to a confidence of 95 %."""
LEAST_EFFECTIVE = {"closed": 100, "open": 200}
"""The effective number of requests from which an interval is given. A queue varies more slowly than a closed loop, and a run
that happens to see no slow period looks independent. `python -m benchmarks.coverage` shows what these numbers achieve."""


def kind_of(load: dict[str, object]) -> Load:
    """Return the kind of load that `RunInfo.load` describes."""
    if load.get("kind") == "open":
        return "open"
    return "alone" if load.get("concurrency") in (None, 1) else "closed"


class InTime:
    """Values in the order of time, whose percentiles get intervals that allow for their dependence."""

    def __init__(self, values: Sequence[float], load: Load) -> None:
        self._values, self._load = values, load
        self._ordered = sorted(values)
        self._inflation = 1.0 if load == "alone" else inflation(values, self._ordered, load)

    def interval(self, level: float, at_most: float = math.inf) -> tuple[float, float] | None:
        """Return two of the values that bound the percentile with 95 % confidence, or None where the run does not show it.

        The sample is worth `at_most` this many independent values.
        """
        n, ordered = len(self._ordered), self._ordered
        if self._inflation is None or not n:
            return None
        effective = n
        if self._load != "alone":
            limit = ordered[math.ceil(level * n) - 1]
            hits = [value <= limit for value in self._values]
            effective = int(_effective(hits, level * (1 - level), self._inflation))
        effective = int(min(effective, at_most))
        ranks = interval_ranks(effective, level) if effective else None
        if ranks is None:
            return None
        low, high = math.floor((ranks[0] - 1) * n / effective), math.ceil(ranks[1] * n / effective) - 1
        return ordered[low], ordered[min(high, n - 1)]


def described(values: Sequence[float], load: Load) -> dict[str, Any]:
    """Describe values in the order of time, with the keys of `quantiles.describe`."""
    return describe(values, None if load == "alone" else InTime(values, load).interval)


def share_interval(
    hits: Sequence[int],
    load: Load,
    in_time: Sequence[float] = (),
    *,
    z: float = Z,
    least: int | None = None,
    highest: Sequence[float] = (),
) -> tuple[float, float] | None:
    """Return Wilson's interval of the share of hits, in the order of time, at the effective number of requests.

    `in_time` are the latencies behind the hits, which show a dependence better than the hits do. `z` is the normal quantile
    for the confidence of the interval, and `least` replaces LEAST_EFFECTIVE. Given shares of the `highest` latencies, the
    dependence is that of the requests with such latencies, for each of the shares, instead of that of all latencies.
    """
    n, count = len(hits), sum(hits)
    if load == "alone" or not n:
        return wilson(count, n, z)
    factors = [inflation([float(hit) for hit in hits], [], load, least)]
    ordered = sorted(in_time)
    for share in highest:
        level = ordered[max(0, math.ceil((1 - share) * n) - 1)]
        factors.append(inflation([float(value >= level) for value in in_time], [], load, least))
    if in_time and not highest:
        factors.append(inflation(in_time, ordered, load, least))
    known = [factor for factor in factors if factor is not None]
    if len(known) < len(factors):
        return None
    effective = _effective(hits, count / n * (1 - count / n), max(known), z)
    return wilson(count / n * effective, effective, z)


def inflation(in_time: Sequence[float], ordered: Sequence[float], load: Load, least: int | None = None) -> float | None:
    """Return the factor by which resemblance of neighbouring blocks increases the variance; None withholds the interval.

    It is judged by the quartile in which each value lies, because single extreme values must not decide it.
    """
    n, least = len(in_time), LEAST_EFFECTIVE[load] if least is None else least
    if n < least:
        return None
    scores: Sequence[float] = in_time
    if ordered:
        first, second, third = (ordered[math.ceil(share * n) - 1] for share in (0.25, 0.5, 0.75))
        scores = [(value > first) + (value > second) + (value > third) for value in in_time]
    mean = math.fsum(scores) / n
    variance = math.fsum((score - mean) ** 2 for score in scores) / n
    if variance == 0:
        return 1.0
    squares, factor = _between_blocks(scores, mean)
    effective = n * n * variance * (BLOCKS - 1) / BLOCKS / squares / factor if squares else math.inf
    return factor if effective >= least else None


def _between_blocks(values: Sequence[float], mean: float) -> tuple[float, float]:
    """Return the sum of the squared block sums, and the factor by which resemblance of neighbours increases the variance."""
    sums = block_sums(values, mean)
    squares = math.fsum(one * one for one in sums)
    resemblance = math.fsum(a * b for a, b in pairwise(sums)) / squares if squares else 0.0
    return squares, (1 + resemblance) / (1 - resemblance) if resemblance > 0 else 1.0


def slow_deviation(values: Sequence[float]) -> float:
    """Return the standard deviation of the means of blocks of time, increased for the resemblance of neighbouring blocks."""
    n = len(values)
    squares, factor = _between_blocks(values, math.fsum(values) / n)
    return math.sqrt(BLOCKS * squares * factor) / n


def _effective(hits: Sequence[int], variance: float, factor: float, z: float = Z) -> float:
    """Return how many independent requests give as certain a share of hits; `variance` is that of a single one."""
    n = len(hits)
    squares = math.fsum(one * one for one in block_sums(hits, sum(hits) / n)) * BLOCKS / (BLOCKS - 1)
    design_effect = squares / n / variance * factor if variance else factor
    return n / max(1.0, design_effect) * (z / (T if z == Z else _student(z))) ** 2


def _student(z: float) -> float:
    """Return the quantile of Student's distribution with BLOCKS − 1 degrees of freedom (Cornish and Fisher's expansion)."""
    degrees = BLOCKS - 1
    return z + (z**3 + z) / (4 * degrees) + (5 * z**5 + 16 * z**3 + 3 * z) / (96 * degrees**2)


def block_sums(values: Sequence[float], mean: float) -> list[float]:
    """Return, for each block of consecutive values, the sum of their differences from the mean."""
    n, rest = len(values), iter(values)
    edges = [index * n // BLOCKS for index in range(BLOCKS + 1)]
    return [math.fsum(islice(rest, stop - start)) - mean * (stop - start) for start, stop in pairwise(edges)]
