"""Percentiles and their intervals, for independent values and for the values of many requests."""

import math
import random
from statistics import NormalDist

import pytest
from scipy.stats import binom, binomtest

from loadgen.measure.quantiles import LEVELS, describe, interval_ranks, least_sample, wilson
from loadgen.measure.token_times import Cluster, pooled


@pytest.mark.parametrize("level", LEVELS.values())
@pytest.mark.parametrize("n", [6, 36, 72, 100, 368, 500, 2000])
def test_ranks_are_the_closest_that_bound_the_quantile_with_95_percent(n: int, level: float) -> None:
    """By SciPy's binomial, each bound is wrong with at most 2.5 %, and one rank closer would be wrong with more."""
    ranks = interval_ranks(n, level)
    if n < least_sample(level):
        assert ranks is None
        return
    assert ranks is not None
    lower, upper = ranks
    assert binom.cdf(lower - 1, n, level) <= 0.025 < binom.cdf(lower, n, level)
    assert binom.sf(upper - 1, n, level) <= 0.025 < binom.sf(upper - 2, n, level)


def test_ranks_of_500_values_are_the_published_ones() -> None:
    assert [interval_ranks(500, level) for level in LEVELS.values()] == [(228, 273), (436, 464), (465, 485), (490, 500)]
    assert [least_sample(level) for level in LEVELS.values()] == [6, 36, 72, 368]


def test_the_interval_contains_the_true_quantile_in_95_percent_of_samples() -> None:
    """The p90 of an exponential distribution is estimated from 2,000 samples of 50 values."""
    rng = random.Random(1)
    contained = 0
    for _ in range(2000):
        row = describe([rng.expovariate(1) for _ in range(50)])
        low, high = row["interval"]["p90"]
        contained += low <= math.log(10) <= high
    assert binomtest(contained, 2000, 0.95).pvalue > 1e-4 or contained / 2000 > 0.95


def test_a_sample_that_is_too_small_gives_null_and_the_reason() -> None:
    row = describe([1.0, 2.0, 3.0])
    assert (row["p50"], row["mean"], row["n"]) == (None, 2.0, 3)
    assert row["why"]["p50"] == "n too small: 3 of 6"


def test_failures_count_as_infinity() -> None:
    """Where 10 % failed, the median is finite and p95 is null, because it falls among the failures."""
    row = describe([float(i) for i in range(1, 91)] + [math.inf] * 10)
    assert row["p50"] == 50.0
    assert (row["p95"], row["why"]["p95"]) == (None, "infinite: falls among the failures")
    assert row["mean"] is None


def test_percentiles_over_requests_are_those_of_the_pooled_values() -> None:
    """Each of 50 requests has chunks of three sizes, given as values with weights."""
    clusters = [[Cluster([5.0, 20.0, 100.0], [18.0, 3.0, 1.0])]] * 50
    found = pooled(lambda: clusters)[0].described(1.0, "alone")
    plain = describe(([5.0] * 18 + [20.0] * 3 + [100.0]) * 50)
    for name in ("p50", "p90", "p95", "mean", "n"):
        assert found[name] == pytest.approx(plain[name])
    assert found["interval"]["p50"] == [5.0, 5.0]


def test_intervals_over_requests_are_right_although_values_are_dependent() -> None:
    """Each request has a mean of its own. Intervals that take every value as independent are far too narrow."""
    rng = random.Random(2)
    contained = naive = 0
    truth = NormalDist().inv_cdf(0.9) * math.hypot(1.0, 0.3)
    for _ in range(150):
        centres = [rng.gauss(0, 1) for _ in range(60)]
        clusters = [[Cluster([rng.gauss(centre, 0.3) for _ in range(30)])] for centre in centres]
        low, high = pooled(lambda: clusters)[0].described(1.0, "alone")["interval"]["p90"]  # noqa: B023  called at once
        contained += low <= truth <= high
        low, high = describe([v for (cluster,) in clusters for v in cluster.values])["interval"]["p90"]
        naive += low <= truth <= high
    assert contained / 150 > 0.88
    assert naive / 150 < 0.6


def test_wilson_agrees_with_the_textbook() -> None:
    low, high = wilson(45, 50) or (0, 0)
    assert (low, high) == pytest.approx((0.7864, 0.9565), abs=1e-4)
    assert wilson(0, 0) is None
