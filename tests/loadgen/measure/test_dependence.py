"""Intervals for requests that depend on each other cover the true value, or are not given."""

import math
import random
from collections.abc import Callable
from statistics import NormalDist

import pytest

from loadgen.measure.dependence import InTime, Load, described, kind_of, share_interval
from loadgen.measure.quantiles import interval_ranks
from loadgen.measure.run_facts import RunFacts
from loadgen.measure.summary import goodput
from loadgen.measure.token_times import Cluster, pooled
from loadgen.record import Record


def waves(rng: random.Random, n: int) -> list[float]:
    """Logarithms of latencies on a server whose pace changes slowly: their true median is 0."""
    pace, out = rng.gauss(0, 0.3), []
    for _ in range(n):
        pace = 0.9 * pace + rng.gauss(0, 0.3 * math.sqrt(1 - 0.81))
        out.append(pace + rng.gauss(0, 0.5))
    return out


def queue(rng: random.Random, n: int) -> list[float]:
    """Latencies of one server that is busy for 90 % of the time, after the queue has formed."""
    work, out = 0.0, []
    for index in range(n + 500):
        work = max(0.0, work - rng.expovariate(0.9)) + rng.expovariate(1)
        out += [work] if index >= 500 else []
    return out


def ordinary(values: list[float]) -> tuple[float, float]:
    """The interval that takes the values as independent."""
    low, high = interval_ranks(len(values), 0.5) or (1, len(values))
    return sorted(values)[low - 1], sorted(values)[high - 1]


def test_requests_that_share_a_server_get_an_interval_that_covers() -> None:
    """Of 200 runs of 600 requests, nine in ten of the intervals that are given cover; those for independent requests cover three in four."""
    rng = random.Random(1)
    runs = [waves(rng, 600) for _ in range(200)]
    found = [bounds for run in runs if (bounds := InTime(run, "closed").interval(0.5))]
    assert len(found) > 80
    assert sum(low <= 0 <= high for low, high in found) / len(found) > 0.9
    assert sum(low <= 0 <= high for low, high in map(ordinary, runs)) / 200 < 0.8


def test_a_queue_gives_no_interval() -> None:
    """The waves of a busy queue are longer than the run, which therefore does not show how much another run would differ."""
    rng = random.Random(2)
    found = [InTime(queue(rng, 800), "open").interval(0.5) for _ in range(50)]
    assert sum(bounds is not None for bounds in found) <= 2
    row = described(queue(rng, 800), "open")
    assert row["p50"] is not None
    assert "p50" not in row["interval"]
    assert "repeat the run" in row["why"]["p50"]


def test_independent_requests_keep_almost_the_same_interval() -> None:
    """Allowing for a dependence that is not there makes the interval at most half as wide again, in the mean of 50 runs."""
    rng = random.Random(3)
    widths, plain = 0.0, 0.0
    for _ in range(50):
        run = [rng.gauss(0, 1) for _ in range(400)]
        low, high = InTime(run, "closed").interval(0.5) or (math.nan, math.nan)
        widths += high - low
        low, high = ordinary(run)
        plain += high - low
        assert InTime(run, "alone").interval(0.5) == (low, high)
    assert plain < widths < 1.5 * plain


@pytest.mark.parametrize(
    ("load", "kind"),
    [
        ({"kind": "closed", "concurrency": 1}, "alone"),
        ({"kind": "closed", "concurrency": 32}, "closed"),
        ({"kind": "open", "rate": 2.0}, "open"),
        ({}, "alone"),
    ],
)
def test_the_load_says_how_requests_depend(load: dict[str, object], kind: Load) -> None:
    assert kind_of(load) == kind


def record(seq: int, e2e_s: float | None) -> Record:
    """A request that took `e2e_s`, or a failed one."""
    outcome = "ok" if e2e_s is not None else "server_error"
    known = {"run_id": "r", "seq": seq, "problem_id": str(seq), "budget": 10, "due_s": 0.0, "outcome": outcome}
    return Record(**known, e2e_s=e2e_s)  # type: ignore[arg-type]  # the fields have several types


def test_goodput_of_a_wave_has_no_interval() -> None:
    """Half of 600 requests are good, in ten stretches of 30. They are worth about ten independent requests, and not 600."""
    facts = RunFacts()
    for seq in range(600):
        facts.measured.add(record(seq, 1.0 if seq // 30 % 2 else 3.0), {"e2e": 2.0})
    assert goodput(facts.measured, {"e2e": 2.0}, 60.0, "closed")["interval"] is None
    scattered = random.Random(4).choices((0, 1), k=600)
    low, high = share_interval(scattered, "open") or (0.0, 0.0)
    assert 0.07 < high - low < 0.15


def test_failures_stand_where_they_happened() -> None:
    """Latencies with failures keep the order of time and their number: three successes, a failure, then one success."""
    facts = RunFacts()
    for seq, took in enumerate((1.0, 2.0, 3.0, None, 4.0)):
        facts.measured.add(record(seq, took), {})
    assert facts.measured.and_failures("e2e_s") == [1.0, 2.0, 3.0, math.inf, 4.0]
    assert facts.measured.with_failures()["e2e_s"]["n"] == 5


def make(pace: Callable[[int], float], rng: random.Random) -> list[list[Cluster]]:
    """Times between tokens of 400 requests, whose mean is the pace of the server."""
    return [[Cluster([rng.gauss(pace(index), 0.3) for _ in range(20)])] for index in range(400)]


def test_times_between_tokens_allow_for_requests_that_shared_a_server() -> None:
    """The pace of the server drifts: intervals over requests cover too rarely, those over blocks of time nine times in ten."""
    rng = random.Random(5)
    truth = NormalDist(0, math.hypot(0.3, 0.3)).inv_cdf(0.9)
    covered = {"alone": [0, 0], "closed": [0, 0]}
    for _ in range(60):
        drift = [value * 0.3 / math.hypot(0.3, 0.5) for value in waves(rng, 400)]
        clusters = make(drift.__getitem__, rng)
        for load in ("alone", "closed"):
            bounds = pooled(lambda: clusters)[0].described(1.0, load)["interval"].get("p90")  # noqa: B023  called at once
            if bounds:
                covered[load][0] += 1
                covered[load][1] += bounds[0] <= truth <= bounds[1]
    assert covered["closed"][1] / covered["closed"][0] > 0.88 > covered["alone"][1] / covered["alone"][0]
