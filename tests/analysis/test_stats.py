"""Intervals and tests: equal to SciPy's, and correct in a thousand simulated studies in which the true value is known."""

import numpy as np
import pandas as pd
import pytest
from scipy import stats as scipy_stats

from analysis import compare, stats
from analysis.tables import pairs
from analysis.tables.repeated_sampling import _votes, majority, pass_at_k
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


@pytest.mark.parametrize(("name", "n", "least"), [("speed-up", 10, 0.91), ("speed-up", 60, 0.93), ("mean", 100, 0.93)])
def test_the_interval_of_a_ratio_covers(name: str, n: int, least: float) -> None:
    """Intervals contain the true ratio of sums, or the true mean, also with few problems."""
    rng = np.random.default_rng(5)
    base = rng.lognormal(2, 0.5, size=(DRAWS, n))
    new = base / 1.5 * rng.lognormal(-0.02, 0.2, size=(DRAWS, n))  # mean of the noise is 1
    if name == "speed-up":
        found = covered([stats.ratio(a, b) for a, b in zip(base, new, strict=True)], 1.5)
    else:
        found = covered([stats.mean(row) for row in base], float(np.exp(2 + 0.5**2 / 2)))
    assert least <= found <= 0.97


def test_equal_answers_to_every_sample_make_a_problem_one_trial() -> None:
    """50 problems × 8 equal samples are worth 50 trials; where everything is correct, the interval has a width."""
    clear = stats.proportion_of_units(np.repeat([0.0, 1.0], [20, 30]), 400)
    wilson = stats.proportion(30, 50)
    assert clear.high - clear.low == pytest.approx(wilson.high - wilson.low, rel=0.05)
    perfect = stats.proportion_of_units(np.ones(50), 400)
    assert (perfect.estimate, perfect.high) == (1.0, 1.0)
    assert 0.90 < perfect.low < 0.94
    scattered = stats.proportion_of_units(np.random.default_rng(1).binomial(8, 0.6, 50) / 8, 400)
    assert scattered.high - scattered.low < 0.6 * (wilson.high - wilson.low)


def test_samples_of_a_problem_are_clustered_in_a_percentile() -> None:
    """60 problems × 8 similar samples: the interval of the median is that of about 60 values, not of 480."""
    rng = np.random.default_rng(2)
    units = np.repeat(np.arange(60), 8)
    values = np.exp(np.repeat(rng.normal(0, 0.7, 60), 8) + rng.normal(0, 0.05, 480))
    alone, clustered = stats.percentile(values, 0.5), stats.percentile(values, 0.5, "alone", units)
    few = stats.percentile(values[::8], 0.5)
    assert alone.high / alone.low < 0.8 * clustered.high / clustered.low
    assert clustered.high / clustered.low == pytest.approx(few.high / few.low, rel=0.35)


def test_a_small_sample_bounds_p95_from_below_only() -> None:
    """58 values bound p95 by their 51st, and there is no upper bound."""
    found = stats.percentile(np.arange(1.0, 59.0), 0.95)
    assert found.low == 51.0
    assert np.isnan(found.high)


def test_holm_multiplies_the_smallest_p_value_most() -> None:
    """Of 0.01, 0.04, 0.03 and one missing value, the adjusted ones are 0.03, 0.06 and 0.06."""
    assert stats.holm([0.01, 0.04, np.nan, 0.03]).tolist()[:2] == pytest.approx([0.03, 0.06])
    assert np.isnan(stats.holm([0.01, np.nan])[1])


def test_no_change_at_all_has_a_width() -> None:
    """100 problems that did not change leave a change of 2 points possible."""
    found = stats.change(np.zeros(100))
    assert found.low == pytest.approx(-found.high)
    assert 0.02 < found.high < 0.04


def frame(e2e_s: np.ndarray, correct: np.ndarray, cell: str = "a") -> pd.DataFrame:
    """Requests of one run of one setting, with the columns that `compare` reads."""
    n = len(e2e_s)
    words = {"model": "m", "config": "tp1", "gpu": "h200", "load": "c1", "asked": "greedy", "budget_mode": "cut"}
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
            pd.concat([frame(hard * rng.normal(1, 0.02), np.ones(100), f"run-{k}") for k in range(4)]) for _ in range(2)
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


def test_the_list_for_people_fits_80_columns_and_says_what_is_worse() -> None:
    """Latency is 10 % worse, and one answer of 100 more is right, which 100 problems cannot show."""
    first, second, times = np.ones(100), np.ones(100), np.linspace(1, 2, 100)
    first[:5], second[:4] = 0, 0
    model = {"model": "\x1b[31m" + "x" * 100}
    base, new = frame(times, first).assign(**model), frame(times * 1.1, second).assign(**model)
    changes = compare.compare(base, new, {"latency": 0.03, "accuracy": 0.01})
    lines = list(compare.short_list(changes, compare.status(changes), ["a note " * 30]))
    assert max(map(len, lines)) <= 80
    assert "\x1b" not in "".join(lines)
    assert lines[0].startswith("Regression")
    assert any(line.startswith("  worse        latency    1.500 → 1.650  +10.0 %") for line in lines)
    assert any(line.startswith("  cannot tell  accuracy   95.0% → 96.0%  +1.0 pt") for line in lines)
    assert next(iter(compare.short_list([], 2))) == "Nothing to compare"


def test_a_lost_twentieth_of_accuracy_is_a_regression() -> None:
    """30 of 500 correct answers become wrong, which exceeds a gate of one point."""
    second = np.ones(500)
    second[:30] = 0
    assert (
        compare.status(
            compare.compare(frame(np.ones(500), np.ones(500)), frame(np.ones(500), second), {"accuracy": 0.01})
        )
        == 1
    )


def test_a_row_just_over_the_gate_is_not_sound() -> None:
    """A change of 3.5 % at a gate of 3 % is no significant regression, and nothing that may pass."""
    rng = np.random.default_rng(9)
    hard = rng.lognormal(2, 0.3, 200)
    new = hard * 1.035 * rng.normal(1, 0.1, 200) / 1.0
    new *= 1.035 * hard.sum() / new.sum()
    changes = compare.compare(frame(hard, np.ones(200)), frame(new, np.ones(200)), {"latency": 0.03})
    assert changes[0].smallest_detectable <= 2 * 0.03
    assert not changes[0].conclusive
    assert compare.status(changes) == 2


def test_two_halves_of_a_problem_set_are_not_repeats() -> None:
    """Two runs of 50 different problems each say nothing about the noise between runs; two runs of the same 100 do."""
    values = np.random.default_rng(10).lognormal(2, 0.5, 100)
    whole = frame(values, np.ones(100))
    halves = whole.assign(cell=np.repeat(["a", "b"], 50))
    gate = {"latency": 0.03}
    assert np.isnan(compare.compare(halves, halves, gate)[0].noise_floor)
    twice = pd.concat([whole, frame(values * 1.02, np.ones(100), "b")])
    assert compare.compare(twice, twice, gate)[0].noise_floor == pytest.approx(np.log(1.02) / np.sqrt(2), rel=0.01)


def test_a_change_in_the_length_of_answers_is_named() -> None:
    """NEW is 10 % slower because its answers are 10 % longer, and the comparison says so."""
    values = np.random.default_rng(11).lognormal(2, 0.5, 100)
    old = frame(values, np.ones(100)).assign(completion_tokens=100.0)
    new = frame(values * 1.1, np.ones(100)).assign(completion_tokens=110.0)
    changes = compare.compare(old, new, compare.parse_gate("latency=3%"))
    assert changes[0].longer == pytest.approx(0.1)
    assert "Answers of NEW have +10.0% tokens" in compare.markdown(changes, 1)


def test_the_cost_gate_compares_the_steady_windows() -> None:
    """The whole run is 30 % dearer because of a longer drain, and a token costs the same in the steady window."""
    values = np.random.default_rng(12).lognormal(2, 0.5, 100)
    old = frame(values, np.ones(100)).assign(completion_tokens=100.0, steady=True)
    old = old.assign(gpu_s_whole=old["gpu_s"])
    new = old.assign(gpu_s_whole=old["gpu_s"] * 1.3)
    cost = compare.compare(old, new, {"cost": 0.03})[0]
    assert cost.worse == 0.0
    assert compare.compare(old, new.assign(gpu_s=old["gpu_s"] * 1.5), {"cost": 0.03})[0].worse > 0.3
    alone = new.assign(steady=False)
    assert compare.compare(old, alone, {"cost": 0.03})[0].worse == pytest.approx(np.log(1.3))


def test_equal_results_pass() -> None:
    """The same values on both sides give exit status 0."""
    values = np.random.default_rng(8).lognormal(size=500)
    same = frame(values, np.ones(500))
    assert compare.status(compare.compare(same, same, compare.parse_gate(compare.DEFAULT_GATE))) == 0


def test_speculation_pairs_by_problem() -> None:
    """A configuration that is twice as fast on every problem has a speed-up of exactly 2, in any order of problems."""
    base = frame(np.array([1.0, 2, 3, 4, 5, 6]), np.ones(6)).assign(speculation="off", config="tp1")
    new = frame(np.array([3.0, 2.5, 2, 1.5, 1, 0.5]), np.ones(6)).assign(speculation="ngram", config="tp1-ngram")
    new["problem_id"] = [5, 4, 3, 2, 1, 0]
    both = pd.concat([base, new]).assign(num_gpus=1.0, tp=1.0, params_b=1.5, completion_tokens=10.0)
    both = both.assign(energy_j=np.nan, tflop=1.0, fingerprint=7.0, server_s=1.0)
    row = pairs.speculation(pairs.per_problem(both), 0.0).iloc[0]
    assert row[["speedup", "speedup_low", "speedup_high"]].tolist() == pytest.approx([2.0, 2.0, 2.0])
    noisy = pairs.speculation(pairs.per_problem(both), 0.02).iloc[0]
    half = 1.96 * 0.02 * 2**0.5
    assert noisy["speedup_low"] == pytest.approx(2.0 * np.exp(-half), rel=1e-3)
    assert (row["difference"], noisy["difference"]) == ("faster", "faster")
    assert pairs.speculation(pairs.per_problem(both), 0.3).iloc[0]["difference"] == "not shown"
    assert row["identical"] == 1.0
    assert row["n"] == 6


@pytest.mark.parametrize(
    ("votes", "right"),
    [
        ([0, 0, 5], 1),  # two correct answers and one wrong answer
        ([5, 5, 0], 0),
        ([0, 5], 1),  # in a tie the first candidate wins
        ([5, 0], 0),
        ([-1, -1, 0], 1),  # an output without an answer does not vote
        ([-1, -1, -1], 0),
        ([5, 6, 0, 0], 1),  # different wrong answers do not add up
    ],
)
def test_majority(votes: list[float], right: int) -> None:
    """Correct answers are one candidate, and different wrong answers are different candidates."""
    assert majority(np.array([votes], dtype=float)).tolist() == [right]


def test_pass_at_k_is_unbiased() -> None:
    """If 1 of 4 samples is correct, a draw of 2 contains it in half of the cases; if none is correct, never."""
    assert pass_at_k(4, np.array([1.0, 0.0, 4.0]), 2).tolist() == [0.5, 0.0, 1.0]
    assert pass_at_k(4, np.array([1.0]), 1).tolist() == [0.25]


def test_a_wrong_answer_in_two_notations_is_one_candidate() -> None:
    """The vote of a correct answer is 0, and that of an output without an answer is -1."""
    group = pd.DataFrame({"answer": ["5", r"\frac{1}{2}", r"\dfrac{1}{2}.", "x=3", None], "correct": [1, 0, 0, 0, 0]})
    votes = _votes(group).tolist()
    assert (votes[0], votes[1] == votes[2], votes[4]) == (0, True, -1)
    assert len(set(votes)) == 4
