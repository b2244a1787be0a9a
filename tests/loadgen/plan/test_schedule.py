"""Schedules have the rate and the gaps they claim, and nothing else in common with a clock."""

import math
from itertools import pairwise
from pathlib import Path
from statistics import mean, stdev

import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy import stats

from loadgen.plan.schedule import ClosedLoop, OpenLoop, RateStep, arrivals, parse_rate, replay, split

RATE = 4.0
N = 100_000


def gaps(schedule: OpenLoop) -> list[float]:
    return [b - a for a, b in pairwise(schedule.times_s)]


@pytest.mark.parametrize(
    ("kind", "cv"), [("constant", 0), ("poisson", 1), ("gamma:1", 1), ("gamma:0.25", 2), ("gamma:4", 0.5)]
)
def test_mean_rate_and_gap_variation(kind: str, cv: float) -> None:
    """The mean rate is the one asked for, and the gaps' coefficient of variation is 1/√burstiness."""
    found = gaps(arrivals(kind, [RateStep(RATE)], seed=0, requests=N))
    assert 1 / mean(found) == pytest.approx(RATE, rel=0.02)
    assert stdev(found) / mean(found) == pytest.approx(cv, abs=0.03)


@pytest.mark.parametrize("seed", [0, 1, 42])
def test_poisson_gaps_are_exponential(seed: int) -> None:
    """No cap, no rescaling: Kolmogorov–Smirnov against the exponential distribution."""
    found = gaps(arrivals("poisson", [RateStep(200)], seed=seed, duration_s=60))
    assert stats.kstest(found, "expon", args=(0, 1 / 200)).pvalue > 0.001


def test_poisson_arrivals_keep_to_no_lattice() -> None:
    """Arrivals are uniform within the second: none gathers on whole seconds."""
    phases = [time_s % 1 for time_s in arrivals("poisson", [RateStep(RATE)], seed=0, requests=N).times_s]
    assert stats.kstest(phases, "uniform").pvalue > 0.001
    assert sum(phase == 0 for phase in phases) == 0


def test_seed_0_is_a_seed() -> None:
    first, again, other = (arrivals("poisson", [RateStep(1)], seed=seed, requests=9) for seed in (0, 0, 1))
    assert first == again != other


def test_constant_does_not_drift() -> None:
    """The millionth request is due at its place, not at a sum of a million roundings."""
    assert arrivals("constant", [RateStep(10)], seed=0, requests=1_000_001).times_s[-1] == 100_000


def test_bursts() -> None:
    """`burst` is due at once; `burst:N` comes in groups of N at the mean rate."""
    assert list(arrivals("burst", [RateStep(1)], seed=0, requests=3).times_s) == [0, 0, 0]
    assert list(arrivals("burst:2", [RateStep(4)], seed=0, requests=5).times_s) == [0, 0, 0.5, 0.5, 1]


def test_a_ramp_changes_its_rate_at_its_steps() -> None:
    times = arrivals("constant", parse_rate("1:4,2:2,4:1"), seed=0, duration_s=100).times_s
    assert list(times) == [0, 1, 2, 3, 4, 4.5, 5, 5.5, 6, 6.25, 6.5, 6.75]


def test_a_poisson_ramp_has_each_steps_rate() -> None:
    times = arrivals("poisson", parse_rate("10:1000,40:1000"), seed=3, duration_s=2000).times_s
    slow = sum(time_s < 1000 for time_s in times)
    assert slow == pytest.approx(10_000, abs=4 * 100)
    assert len(times) - slow == pytest.approx(40_000, abs=4 * 200)


def test_the_last_rate_goes_on() -> None:
    assert list(arrivals("constant", parse_rate("1:2,2"), seed=0, requests=6).times_s) == [
        0,
        1,
        2,
        2.5,
        3,
        3.5,
    ]


@given(
    st.sampled_from(["constant", "poisson", "gamma:0.5", "burst:7"]),
    st.floats(0.01, 1e4),
    st.integers(0, 2**32),
    st.integers(1, 200),
)
def test_times_never_fall_and_prefixes_agree(kind: str, rate: float, seed: int, requests: int) -> None:
    """A longer schedule begins with the shorter one, and no time is below the one before or below 0."""
    short = arrivals(kind, [RateStep(rate)], seed=seed, requests=requests).times_s
    long = arrivals(kind, [RateStep(rate)], seed=seed, requests=requests + 50).times_s
    assert list(long[:requests]) == list(short)
    assert all(a <= b for a, b in pairwise([0.0, *long]))


@given(st.lists(st.floats(0, 1e6), max_size=60), st.integers(1, 9))
def test_a_split_schedule_is_the_whole(times: list[float], workers: int) -> None:
    """Every time belongs to exactly one worker."""
    parts = [split(OpenLoop(times), worker, workers) for worker in range(workers)]
    assert sorted(
        time_s for part in parts if isinstance(part, OpenLoop) for time_s in part.times_s
    ) == sorted(times)


@given(st.integers(1, 500), st.integers(1, 16))
def test_split_slots_add_up(concurrency: int, workers: int) -> None:
    parts = [split(ClosedLoop(concurrency), worker, workers) for worker in range(workers)]
    slots = [part.concurrency for part in parts if isinstance(part, ClosedLoop)]
    assert sum(slots) == concurrency
    assert max(slots) - min(slots) <= 1


def test_replay_counts_from_the_first_time(tmp_path: Path) -> None:
    file = tmp_path / "times.txt"
    file.write_text("1700000002.5\n# a comment\n\n1700000000\n1700000001 # late\n")
    assert list(replay(file).times_s) == [0, 1, 2.5]


@pytest.mark.parametrize(("text", "says"), [("1\nx\n", ":2: 'x'"), ("inf\n", ":1: 'inf'"), ("", "no time")])
def test_a_bad_replay_file_is_named_with_its_line(tmp_path: Path, text: str, says: str) -> None:
    file = tmp_path / "times.txt"
    file.write_text(text)
    with pytest.raises(ValueError, match=says):
        replay(file)


@pytest.mark.parametrize(
    "kind", ["", "uniform", "gamma", "gamma:", "gamma:0", "gamma:x", "burst:-1", "poisson:2", "gamma:nan"]
)
def test_unknown_arrivals_are_refused(kind: str) -> None:
    with pytest.raises(ValueError, match=r"arrivals are|needs a number"):
        arrivals(kind, [RateStep(1)], seed=0, requests=1)


@pytest.mark.parametrize("text", ["", "x", "0", "-1", "1,2", "1:0", "1:-3,2", "inf", "nan"])
def test_bad_rates_are_refused(text: str) -> None:
    with pytest.raises(ValueError, match=r".+"):
        parse_rate(text)


def test_an_endless_schedule_is_refused() -> None:
    with pytest.raises(ValueError, match="number of requests or a duration"):
        arrivals("poisson", [RateStep(1, math.inf)], seed=0)
