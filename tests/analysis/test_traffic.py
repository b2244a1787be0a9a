"""The capacity of a setting within an SLO, and the replicas that a rate needs, on frames worked out by hand."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
from hypothesis import given
from hypothesis import strategies as st

from analysis.advice import Recommendation, Requirements
from analysis.data.searches import Search, read_searches
from analysis.data.setting import load_label, load_point
from analysis.errors import InputError
from analysis.tables import capacity, pairs, summary
from analysis.traffic import Traffic, recommend_for
from loadgen.measure.formulas import meets
from loadgen.record import Record
from tests.analysis.test_choice import frame
from tests.analysis.test_claims import arm

SLO = {"e2e": 2.0}


def at_load(streams: int, good: float, n: int = 400, **about: Any) -> pd.DataFrame:
    """A closed loop of so many streams; a share of the requests takes 1 s and the others take 3 s."""
    slow = np.arange(n) % 100 >= good * 100
    about = {"load": f"c{streams}", "cell": f"{about.get('config', 'tp1')}-{streams}"} | about
    part = arm(np.where(slow, 3.0, 1.0), **about)
    return part.assign(server_s=part["e2e_s"] / streams, gpu_s=part["e2e_s"] / streams * part["num_gpus"])


def at_rate(rate: float, good: float, **about: Any) -> pd.DataFrame:
    """An open loop whose server does nothing else; the order of slow requests is random, so that it shows no dependence."""
    load = {"load": f"{rate:g}/s poisson", "cell": f"{about.get('config', 'tp1')}-r{rate:g}"}
    part = at_load(1, good, n=1000, **(load | about)).sample(frac=1.0, random_state=1)
    return part.assign(server_s=1 / rate, gpu_s=part["num_gpus"] / rate)


def points(parts: list[pd.DataFrame], searches: dict[str, Search] | None = None) -> pd.DataFrame:
    return capacity.load_points(summary.summary(frame(parts), 3.5, SLO), searches or {}, SLO, 0.95)


def found(parts: list[pd.DataFrame], rate: float = 10.0, **required: Any) -> Recommendation:
    requests = frame(parts)
    loads = capacity.load_points(summary.summary(requests, 3.6, SLO), {}, SLO, 0.95)
    traffic = Traffic(rate, SLO, headroom=0.2, price_per_gpu_hour=3.6)
    return recommend_for(traffic, loads, Requirements(**required), pairs.Evidence(pairs.per_problem(requests), 0.0))


def test_the_capacity_is_the_highest_load_that_passes_below_the_lowest_that_fails() -> None:
    """2/s passes, 3/s is undecided, 4/s fails, and 5/s passes by luck: one replica takes 2/s."""
    loads = points([at_rate(2, 1.0), at_rate(3, 0.95), at_rate(4, 0.8), at_rate(5, 1.0)])
    assert loads["decision"].tolist() == ["pass", "undecided", "fail", "pass"]
    row = capacity.capacities(loads).iloc[0]
    assert (row["capacity_per_s"], row["at_least"], row["fails_at"]) == (2.0, False, 4.0)


def test_no_capacity_beyond_the_largest_load_that_was_run() -> None:
    row = capacity.capacities(points([at_rate(2, 1.0), at_rate(4, 1.0)])).iloc[0]
    assert (row["capacity_per_s"], row["at_least"]) == (4.0, True)
    advice = found([at_rate(2, 1.0), at_rate(4, 1.0)])
    assert advice.headline.startswith("Deploy 3 replicas of m-7B on tp1")
    assert "takes at least 4.00 requests/s" in " ".join(advice.sentences)
    assert "10/s × 1.2 (headroom) / 4.00/s = 3.00, so at most 3 replicas" in " ".join(advice.sentences)


def test_a_closed_loop_counts_with_the_lower_bound_of_its_throughput() -> None:
    """10 streams of 1 s or 3 s: the mean request takes 1.04 s, so the throughput is 9.6/s, and its lower bound is below."""
    row = capacity.capacities(points([at_load(10, 0.98)])).iloc[0]
    assert row["requests_per_s"] == pytest.approx(10 / 1.04)
    assert row["capacity_per_s"] == row["requests_per_s_low"] < row["requests_per_s"]
    assert "A closed loop is not traffic" in " ".join(found([at_load(10, 0.98)]).sentences)


def test_poisson_arrivals_come_before_a_closed_loop() -> None:
    assert capacity.capacities(points([at_load(10, 1.0), at_rate(4, 1.0)]))["capacity_per_s"].tolist() == [4.0]


def test_a_server_that_cannot_follow_takes_what_it_answered() -> None:
    """It was asked 8 requests/s and answered 4 of them, each within the SLO."""
    slow = at_rate(8, 1.0).assign(server_s=0.25)
    assert capacity.capacities(points([slow]))["capacity_per_s"].tolist() == pytest.approx([4.0])


def test_a_share_without_interval_still_decides_what_is_beyond_doubt() -> None:
    """40 streams in long waves have no interval: 50 % good is a failure, and 100 % passes, but is not shown."""
    waves = np.repeat([1.0, 3.0], 200)
    loads = points([at_load(8, 1.0, n=90), at_load(40, 1.0).assign(e2e_s=waves)])
    assert loads["good_share_low"].isna().all()
    assert list(zip(loads["decision"], loads["shown"], strict=True)) == [("pass", False), ("fail", False)]


def test_too_few_requests_are_undecided_and_the_words_say_so() -> None:
    """20 of 20 good requests can be 84 %: the load is used where nothing better is known, with a warning."""
    advice = found([at_load(1, 1.0, n=20)], rate=0.5)
    assert advice.best is not None
    assert advice.best["decision"] == "undecided"
    assert "The requests are too few to show that 95 % of them meet the SLO" in " ".join(advice.sentences)


def test_dollars_are_those_of_all_replicas() -> None:
    """Two GPUs at 1 dollar per 1,000 s: 6 replicas take 12/s, so 10 requests cost 12 GPU-seconds, and 80 % are correct."""
    right = (np.arange(1000) % 5 > 0).astype(float)
    advice = found([at_rate(2, 1.0, correct=right, num_gpus=2.0)])
    assert advice.best is not None
    assert (advice.best["replicas"], advice.best["gpus"]) == (6, 12)
    assert advice.best["usd_per_1000"] == pytest.approx(12 * 3.6 / 3600 / (10 * 0.8) * 1000)


def test_the_cheapest_that_is_accurate_enough_with_runner_up_and_what_more_would_cost() -> None:
    """Accuracies 60 %, 80 % and 90 %: the first is not accurate enough, and the last costs more; at 1/s `c` is twice as fast."""
    shares = {"a": (8.0, 0.6), "b": (4.0, 0.8), "c": (2.0, 0.9)}
    parts = [
        at_rate(rate, 1.0, config=name, correct=(np.arange(1000) % 10 < share * 10).astype(float))
        for name, (rate, share) in shares.items()
    ]
    fast = at_rate(1.0, 1.0, config="c", correct=(np.arange(1000) % 10 < 9).astype(float))
    advice = found([*parts, fast.assign(e2e_s=0.5)], min_accuracy=0.7)
    assert advice.best is not None
    assert advice.second is not None
    assert (advice.best["config"], advice.second["config"]) == ("b", "c")
    assert advice.chance is not None
    assert advice.chance > 0.99
    words = " ".join(advice.sentences)
    assert "2 of 3 settings meet the SLO at some load and reach an accuracy of 70.0%" in words
    assert "One more point of accuracy: 6 replicas of m-7B on c" in words
    assert "Half the latency: 12 replicas of m-7B on c" in words
    assert "compared at its own capacity" in words


def test_the_chance_counts_an_accuracy_that_may_be_too_low() -> None:
    """80 % of 40 answers are correct and 79 % are required: about half of the resamples do not reach it."""
    part = at_load(4, 1.0, n=40, correct=(np.arange(40) % 5 > 0).astype(float))
    advice = found([part], min_accuracy=0.79)
    assert advice.chance is not None
    assert 0.3 < advice.chance < 0.7


def test_latency_only_runs_are_sized_without_accuracy() -> None:
    advice = found([at_rate(2, 1.0, correct=np.nan, config="a"), at_rate(4, 1.0, correct=np.nan, config="b")])
    assert advice.headline.startswith("Deploy 3 replicas of m-7B on b")
    words = " ".join(advice.sentences)
    assert "per 1,000 requests at this rate" in words
    assert "accuracy" not in words


def test_nothing_is_recommended_where_the_lowest_load_fails() -> None:
    advice = found([at_rate(2, 0.5)])
    assert advice.best is None
    assert "even at its lowest load, no setting meets e2e ≤ 2 s for 95 % of requests" in advice.headline


def test_an_open_loop_of_several_budgets_tells_no_capacity_of_one() -> None:
    both = [at_rate(2, 1.0, budget=float(budget), cell="both") for budget in (1024, 4096)]
    assert points(both).empty
    assert "no usable run has one budget and a constant load" in found(both).headline


def search(**fields: Any) -> dict[str, Any]:
    probes = [
        {"run": "c8", "load": 8, "decision": "undecided"},
        {"run": "c8-2", "load": 8, "decision": "pass", "runs": ["c8-2", "c8-3"]},
        {"run": "c16", "load": 16, "decision": "fail", "fails": "e2e"},
    ]
    limit = {"load": 8, "interval": [8, 16], "fails_first": "e2e", "run": "c8-2"}
    head = {"schema_version": 1, "over": "streams", "slo": SLO, "attain": 0.95, "from": 1, "to": 64}
    return head | {"probes": probes, "limit": limit, "stopped": "resolved", "new": 1} | fields


def written(folder: Path, content: Any) -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "search.json").write_text(content if isinstance(content, str) else json.dumps(content))
    return folder


def test_a_search_decides_where_it_is_for_the_same_slo(tmp_path: Path) -> None:
    """By their intervals both loads pass. The search says that 16 streams fail, unless it was for another SLO."""
    written(tmp_path / "tp1", search())
    parts = [at_load(streams, 1.0, cell=f"tp1/c{streams}") for streams in (8, 16)]
    searches = read_searches(tmp_path, [])
    loads = points(parts, searches)
    assert loads["decision"].tolist() == ["pass", "fail"]
    assert (loads["limit_low"][0], loads["limit_high"][0]) == (8.0, 16.0)
    assert searches["tp1/"].decisions() == {"c8": "pass", "c8-2": "pass", "c8-3": "pass", "c16": "fail"}
    row = capacity.capacities(points(parts[:1], searches)).iloc[0]
    assert (row["fails_at"], row["at_least"]) == (16.0, False), "the run at 16 is INVALID and in no table"
    searches["tp1/"].slo = {"ttft": 1.0}
    assert points(parts, searches)["decision"].tolist() == ["pass", "pass"]


def test_a_search_of_a_newer_version_is_refused(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="schema_version is 2, and this version reads up to 1"):
        read_searches(written(tmp_path, search(schema_version=2, probes="other")), [])


@pytest.mark.parametrize(
    "content",
    [
        "",
        "[1]",
        "[" * 100_000,
        "{" + " " * (1 << 20) + "}",
        search(probes=[{"run": 1}]),
        search(attain=2),
        search(limit={"load": -1, "interval": [1, 2], "run": "c1"}),
        search(limit={"load": 1, "interval": [1], "run": "c1"}),
        search(probes=[{"run": "c1", "load": 1, "decision": "pass", "runs": "c1"}]),
        search(over="\x1b[31m"),
    ],
)
def test_a_damaged_search_is_left_out_with_a_note(content: Any, tmp_path: Path) -> None:
    notes: list[str] = []
    assert read_searches(written(tmp_path, content), notes) == {}
    assert len(notes) == 1
    assert "search.json cannot be read" in notes[0]
    assert "\x1b" not in notes[0]


@given(st.text(max_size=30))
def test_every_label_of_a_load_has_a_point_or_none(label: str) -> None:
    kind, value = load_point(label)
    assert (kind == "") == bool(np.isnan(value))


@given(st.floats(1e-6, 1e6), st.sampled_from(["poisson", "constant", "gamma:2"]))
def test_a_rate_is_read_back_from_its_label(rate: float, arrival: str) -> None:
    kind, value = load_point(load_label({"kind": "open", "rate": rate, "arrival": arrival}))
    assert kind == arrival
    assert value == pytest.approx(rate, rel=1e-5)


SOME = st.none() | st.sampled_from([0.5, 1.0, 2.0])


@given(st.tuples(SOME, SOME, SOME), st.booleans(), st.sampled_from([1, 2]), st.sampled_from([1, 2]))
def test_the_share_within_the_slo_has_the_rule_of_the_load_generator(
    latencies: tuple[float | None, ...], ok: bool, tokens: int, chunks: int
) -> None:
    ttft, tpot, e2e = latencies
    slo = {"ttft": 1.0, "tpot": 1.0, "e2e": 1.0}
    measured = {"ttft_s": ttft, "tpot_s": tpot, "e2e_s": e2e, "completion_tokens": tokens, "chunks": chunks}
    record = Record(
        run_id="r", seq=0, problem_id="p", budget=1, due_s=0.0, outcome="ok" if ok else "timeout", **measured
    )
    row = pd.DataFrame([measured | {"ok": ok}]).astype(dict.fromkeys(measured, float))
    assert bool(summary.meets(row, slo)[0]) == meets(record, slo)
