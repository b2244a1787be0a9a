"""Intervals and tests: equal to SciPy's, and correct in a thousand simulated studies in which the true value is known."""

import numpy as np
import pandas as pd
import pytest
from scipy import stats as scipy_stats

from analysis import compare, stats
from analysis.tables import pairs
from loadgen.measure.quantiles import least_sample

DRAWS = 1000


def covered(intervals: list[stats.Interval], truth: float) -> float:
    """Share of intervals that contain the true value; a missing bound counts as infinite."""
    low = np.array([i.low for i in intervals])
    high = np.array([i.high for i in intervals])
    return float(np.mean(~(low > truth) & ~(high < truth)))


def test_the_wilson_interval_equals_scipys() -> None:
    """The interval of a proportion is SciPy's Wilson interval, rounded to six digits."""
    got = stats.proportion(412, 500)
    want = scipy_stats.binomtest(412, 500).proportion_ci(0.95, method="wilson")
    assert got == (412 / 500, round(want.low, 6), round(want.high, 6))


@pytest.mark.parametrize("p", [0.5, 0.9, 0.95])
def test_the_percentile_interval_equals_scipys_order_statistics(p: float) -> None:
    """The bounds are the order statistics of scipy.stats.quantile_test, which combines two one-sided intervals."""
    values = np.random.default_rng(1).lognormal(size=500)
    got = stats.percentile(values, p)
    want = scipy_stats.quantile_test(values, p=p).confidence_interval(0.95)
    assert (got.low, got.high) == pytest.approx((want.low, want.high), rel=0.02)


def test_a_percentile_is_not_bounded_by_too_small_a_sample() -> None:
    """An interval of p95 needs at least 72 values, and one of p99 at least 368."""
    assert (least_sample(0.95), least_sample(0.99)) == (72, 368)
    assert np.isnan(stats.percentile(np.arange(71.0), 0.95).high)
    assert np.isfinite(stats.percentile(np.arange(72.0), 0.95).high)


def test_failures_push_percentiles_up() -> None:
    """With ten failures in a hundred requests, counted as infinite latency, p95 is infinite and the median is finite."""
    values = np.append(np.linspace(1, 2, 90), np.full(10, np.inf))
    assert np.isinf(stats.percentile(values, 0.95).estimate)
    assert np.isfinite(stats.percentile(values, 0.5).estimate)


def test_mcnemar_is_the_exact_binomial_test() -> None:
    """Of 200 problems, 12 are gained and 3 are lost."""
    first = np.array([1] * 100 + [0] * 100)
    second = first.copy()
    second[:3], second[100:112] = 0, 1
    got = stats.mcnemar(first, second)
    assert (got.gained, got.lost, got.n) == (12, 3, 200)
    assert got.p_value == pytest.approx(scipy_stats.binomtest(12, 15).pvalue)
    assert got.difference.estimate == pytest.approx(9 / 200)


@pytest.mark.parametrize(("n", "share"), [(42, 0.8), (500, 0.93)])
def test_wilson_covers(n: int, share: float) -> None:
    """At least 93 % of 1,000 intervals contain the true share."""
    successes = np.random.default_rng(2).binomial(n, share, DRAWS)
    assert covered([stats.proportion(int(k), n) for k in successes], share) >= 0.93


@pytest.mark.parametrize("p", [0.5, 0.95])
def test_order_statistics_cover(p: float) -> None:
    """At least 93 % of 1,000 intervals, each of 200 latencies, contain the true percentile."""
    draws = np.random.default_rng(3).lognormal(sigma=0.8, size=(DRAWS, 200))
    truth = float(scipy_stats.lognorm.ppf(p, 0.8))
    assert covered([stats.percentile(row, p) for row in draws], truth) >= 0.93


def test_mcnemars_interval_covers() -> None:
    """At least 93 % of 1,000 intervals contain the true change of −1 point at 500 problems."""
    rng = np.random.default_rng(4)
    cells = rng.multinomial(500, [0.03, 0.04, 0.6, 0.33], size=DRAWS)  # gained, lost, both right, both wrong
    intervals = []
    for gained, lost, both, neither in cells:
        first = np.repeat([0, 1, 1, 0], [gained, lost, both, neither])
        second = np.repeat([1, 0, 1, 0], [gained, lost, both, neither])
        intervals.append(stats.mcnemar(first, second).difference)
    assert covered(intervals, -0.01) >= 0.93


@pytest.mark.parametrize(("name", "n"), [("speed-up", 60), ("speed-up", 150), ("mean", 100)])
def test_the_bootstrap_covers(name: str, n: int) -> None:
    """93 to 97 % of 1,000 intervals contain the true ratio of sums, or the true mean."""
    rng = np.random.default_rng(5)
    base = rng.lognormal(2, 0.5, size=(DRAWS, n))
    new = base / 1.5 * rng.lognormal(-0.02, 0.2, size=(DRAWS, n))  # mean of the noise is 1
    if name == "speed-up":
        intervals = [stats.ratio(a, b, seed) for seed, (a, b) in enumerate(zip(base, new, strict=True))]
        assert 0.93 <= covered(intervals, 1.5) <= 0.97
    else:
        intervals = [stats.mean(row, seed) for seed, row in enumerate(base)]
        assert 0.93 <= covered(intervals, float(np.exp(2 + 0.5**2 / 2))) <= 0.97


def frame(e2e_s: np.ndarray, correct: np.ndarray, cell: str = "a") -> pd.DataFrame:
    """Requests of one run of one setting, with the columns that `compare` reads."""
    n = len(e2e_s)
    words = {
        "model": "m",
        "config": "tp1",
        "gpu": "h200",
        "load": "c1",
        "asked": "greedy",
        "budget_mode": "cut",
    }
    words |= {"dataset": "sample", "source": "emulated"}
    return pd.DataFrame(
        words
        | {"budget": 4096.0, "cell": cell, "problem_id": np.arange(n), "e2e_s": e2e_s, "gpu_s": e2e_s * 2}
        | {"correct": correct.astype(float), "ok": True, "warmup": False, "run_verdict": "VALID"}
    )


def studies(effect: float, draws: int, n: int = 200, noise: float = 0.05) -> list[int]:
    """Exit codes of comparisons in which the true change of latency and cost is `effect`."""
    rng = np.random.default_rng([6, int(effect * 1000), n])
    gate, codes = compare.parse_gate("latency=3%,cost=3%"), []
    for _ in range(draws):
        hard = rng.lognormal(2, 0.6, n)
        base, new = (hard * factor * rng.normal(1, noise, n) for factor in (1.0, 1.0 + effect))
        right = np.ones(n)
        codes.append(compare.status(compare.compare(frame(base, right), frame(new, right), gate)))
    return codes


def test_the_gate_gives_few_false_alarms() -> None:
    """At most 5 % of comparisons find a regression when nothing changed, or when the change equals the gate."""
    assert np.mean(np.array(studies(0.0, 150)) == 1) <= 0.05
    assert np.mean(np.array(studies(0.03, 200)) == 1) <= 0.05 + 0.031  # two standard errors of 200 draws


def test_the_gate_sees_twice_its_size() -> None:
    """At least 90 % of changes of twice the gate in latency and cost are found as a regression."""
    assert np.mean(np.array(studies(0.06, 120)) == 1) >= 0.90


def test_repeats_widen_the_gate_by_the_noise_between_runs() -> None:
    """Where repeated runs differ by 2 %, equal sides give few false alarms, although problems of one run have no noise."""
    rng = np.random.default_rng(7)
    gate, alarms = compare.parse_gate("latency=3%"), 0
    for _ in range(100):
        hard = rng.lognormal(2, 0.6, 100)
        sides = [
            pd.concat([frame(hard * rng.normal(1, 0.02), np.ones(100), f"run-{k}") for k in range(4)])
            for _ in range(2)
        ]
        alarms += compare.status(compare.compare(sides[0], sides[1], gate)) == 1
    assert alarms <= 9  # 5 expected at most of 100, two standard errors above


def test_a_change_of_accuracy_that_100_problems_cannot_show_exits_2() -> None:
    """Five of 100 answers are lost and five are gained; the output names the smallest change that could be detected."""
    first, second = np.ones(100), np.ones(100)
    first[:5], second[5:10] = 0, 0
    changes = compare.compare(frame(np.ones(100), first), frame(np.ones(100), second), {"accuracy": 0.01})
    assert compare.status(changes) == 2
    assert 0.05 < changes[0].smallest_detectable < 0.15
    assert "pt" in compare.markdown(changes, 2)


def test_a_lost_twentieth_of_accuracy_is_a_regression() -> None:
    """30 of 500 correct answers become wrong, which exceeds a gate of one point."""
    second = np.ones(500)
    second[:30] = 0
    assert (
        compare.status(
            compare.compare(
                frame(np.ones(500), np.ones(500)), frame(np.ones(500), second), {"accuracy": 0.01}
            )
        )
        == 1
    )


def test_equal_results_pass() -> None:
    """The same values on both sides give exit status 0."""
    values = np.random.default_rng(8).lognormal(size=500)
    same = frame(values, np.ones(500))
    assert compare.status(compare.compare(same, same, compare.parse_gate(compare.DEFAULT_GATE))) == 0


def test_speculation_pairs_by_problem() -> None:
    """A configuration that is twice as fast on every problem has a speed-up of exactly 2, in any order of problems."""
    base = frame(np.array([1.0, 2, 3, 4, 5, 6]), np.ones(6)).assign(speculation="off", config="tp1")
    new = frame(np.array([3.0, 2.5, 2, 1.5, 1, 0.5]), np.ones(6)).assign(
        speculation="ngram", config="tp1-ngram"
    )
    new["problem_id"] = [5, 4, 3, 2, 1, 0]
    both = pd.concat([base, new]).assign(num_gpus=1.0, tp=1.0, params_b=1.5, completion_tokens=10.0)
    both = both.assign(energy_j=np.nan, tflop=1.0, fingerprint=7.0)
    row = pairs.speculation(pairs.per_problem(both)).iloc[0]
    assert row[["speedup", "speedup_low", "speedup_high"]].tolist() == pytest.approx([2.0, 2.0, 2.0])
    assert row["identical"] == 1.0
    assert row["n"] == 6
