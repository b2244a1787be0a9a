"""Schedules have the rate and the distribution of gaps that were asked for."""

import math
from itertools import pairwise
from pathlib import Path
from statistics import mean, stdev

import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy import stats

from loadgen.errors import UsageError
from loadgen.option_types import arrival, ramp, rate
from loadgen.plan.schedule import ClosedLoop, OpenLoop, RateStep, arrivals, replay, split

RATE = 4.0
N = 100_000


def gaps(schedule: OpenLoop) -> list[float]:
    return [b - a for a, b in pairwise(schedule.times_s)]


@pytest.mark.parametrize(
    ("kind", "cv"), [("constant", 0), ("poisson", 1), ("gamma:1", 1), ("gamma:0.25", 2), ("gamma:4", 0.5)]
)
def test_mean_rate_and_gap_variation(kind: str, cv: float) -> None:
    """The mean rate is the one asked for, and the coefficient of variation of the gaps is 1/√B."""
    found = gaps(arrivals(kind, [RateStep(RATE)], seed=0, requests=N))
    assert 1 / mean(found) == pytest.approx(RATE, rel=0.02)
    assert stdev(found) / mean(found) == pytest.approx(cv, abs=0.03)


@pytest.mark.parametrize("seed", [0, 1, 42])
def test_poisson_gaps_are_exponential(seed: int) -> None:
    """A Kolmogorov–Smirnov test compares the gaps with the exponential distribution."""
    found = gaps(arrivals("poisson", [RateStep(200)], seed=seed, duration_s=60))
    assert stats.kstest(found, "expon", args=(0, 1 / 200)).pvalue > 0.001


def test_poisson_arrivals_are_uniform_within_a_second() -> None:
    """No arrival is exactly at a whole second."""
    phases = [time_s % 1 for time_s in arrivals("poisson", [RateStep(RATE)], seed=0, requests=N).times_s]
    assert stats.kstest(phases, "uniform").pvalue > 0.001
    assert sum(phase == 0 for phase in phases) == 0


def test_seed_0_is_a_seed_like_any_other() -> None:
    first, again, other = (arrivals("poisson", [RateStep(1)], seed=seed, requests=9) for seed in (0, 0, 1))
    assert first == again != other


def test_constant_arrivals_do_not_drift() -> None:
    """The time of the millionth request has no accumulated rounding error."""
    assert arrivals("constant", [RateStep(10)], seed=0, requests=1_000_001).times_s[-1] == 100_000


def test_bursts() -> None:
    """With `burst` all requests are due at once; with `burst:N` they come in groups of N at the mean rate."""
    assert list(arrivals("burst", [RateStep(1)], seed=0, requests=3).times_s) == [0, 0, 0]
    assert list(arrivals("burst:2", [RateStep(4)], seed=0, requests=5).times_s) == [0, 0, 0.5, 0.5, 1]


def test_a_ramp_changes_the_rate_at_its_steps() -> None:
    times = arrivals("constant", [RateStep(1, 4), RateStep(2, 2), RateStep(4, 1)], seed=0, duration_s=100).times_s
    assert list(times) == [0, 1, 2, 3, 4, 4.5, 5, 5.5, 6, 6.25, 6.5, 6.75]


def test_a_poisson_ramp_has_the_rate_of_each_step() -> None:
    times = arrivals("poisson", [RateStep(10, 1000), RateStep(40, 1000)], seed=3, duration_s=2000).times_s
    slow = sum(time_s < 1000 for time_s in times)
    assert slow == pytest.approx(10_000, abs=4 * 100)
    assert len(times) - slow == pytest.approx(40_000, abs=4 * 200)


def test_the_last_rate_continues() -> None:
    assert list(arrivals("constant", [RateStep(1, 2), RateStep(2)], seed=0, requests=6).times_s) == [
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
def test_times_are_ascending_and_a_longer_schedule_begins_with_the_shorter(
    kind: str, rate: float, seed: int, requests: int
) -> None:
    """No time is negative or earlier than the one before it."""
    short = arrivals(kind, [RateStep(rate)], seed=seed, requests=requests).times_s
    long = arrivals(kind, [RateStep(rate)], seed=seed, requests=requests + 50).times_s
    assert list(long[:requests]) == list(short)
    assert all(a <= b for a, b in pairwise([0.0, *long]))


@given(st.lists(st.floats(0, 1e6), max_size=60), st.integers(1, 9))
def test_a_split_schedule_has_every_time_once(times: list[float], workers: int) -> None:
    """Every time belongs to exactly one worker."""
    parts = [split(OpenLoop(times), worker, workers) for worker in range(workers)]
    assert sorted(time_s for part in parts if isinstance(part, OpenLoop) for time_s in part.times_s) == sorted(times)


@given(st.integers(1, 500), st.integers(1, 16))
def test_split_slots_add_up_to_the_concurrency(concurrency: int, workers: int) -> None:
    parts = [split(ClosedLoop(concurrency), worker, workers) for worker in range(workers)]
    slots = [part.concurrency for part in parts if isinstance(part, ClosedLoop)]
    assert sum(slots) == concurrency
    assert max(slots) - min(slots) <= 1


def test_replayed_times_are_counted_from_the_first_one(tmp_path: Path) -> None:
    file = tmp_path / "times.txt"
    file.write_text("\ufeff1700000002.5\n# a comment\n\n1700000000\n1700000001 # late\n")
    assert list(replay(file).times_s) == [0, 1, 2.5]


@pytest.mark.parametrize(
    ("text", "says"),
    [
        (b"1\nx\n", ":2: 'x'"), (b"inf\n", ":1: 'inf'"), (b"", "no time"),
        (b"0\n1e300\n", ":2: '1e300'"), (b"0\n\xff\n", "times.txt:2: "),
    ],
)  # fmt: skip
def test_an_error_in_a_replay_file_names_the_line(tmp_path: Path, text: bytes, says: str) -> None:
    file = tmp_path / "times.txt"
    file.write_bytes(text)
    with pytest.raises(ValueError, match=says):
        replay(file)


@pytest.mark.parametrize(
    "kind", ["", "uniform", "gamma", "gamma:", "gamma:0", "gamma:x", "burst:-1", "poisson:2", "gamma:nan"]
)
def test_unknown_arrivals_are_refused(kind: str) -> None:
    with pytest.raises(UsageError, match=r"write poisson|is not a"):
        arrival(kind)


@pytest.mark.parametrize("text", ["", "x", "0", "-1", "1,2", "1:0", "1:-3,2", "inf", "nan"])
def test_invalid_ramps_are_refused(text: str) -> None:
    with pytest.raises(UsageError, match=r".+"):
        ramp(text)


def test_an_endless_schedule_is_refused() -> None:
    with pytest.raises(ValueError, match="number of requests or a duration"):
        arrivals("poisson", [RateStep(1, math.inf)], seed=0)


@pytest.mark.parametrize("text", ["2", "2/s", "2.0/s"])
def test_a_rate_may_name_its_unit(text: str) -> None:
    """Load points, `recommend` and results write 2/s."""
    assert rate(text) == 2.0
