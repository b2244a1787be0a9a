"""Where speculation stops paying, the best number of draft tokens, and that nothing recommends it beyond, on hand-worked frames."""

import math
from typing import Any

import numpy as np
import pandas as pd
import pytest

from analysis.advice import Requirements
from analysis.figures import load as figures
from analysis.recommend import recommend
from analysis.tables import capacity, pairs, summary
from analysis.tables.crossover import best_draft_tokens, beyond, crossing, crossovers
from analysis.traffic import Traffic, recommend_for
from tests.analysis.test_choice import frame
from tests.analysis.test_claims import arm


@pytest.mark.parametrize(
    ("points", "at"),
    [
        ([(1, 2.0), (4, 0.5)], 2.0),  # as far above 1 as below it: half of the way on a logarithmic scale
        ([(1, 4.0), (8, 0.5)], 4.0),  # two thirds of the way from 1 to 8
        ([(4, 0.5), (1, 2.0)], 2.0),
        ([(1, 0.9), (8, 2.0)], 0.0),
        ([(1, 1.5), (128, 1.0)], math.inf),
        ([(1, 2.0), (2, math.nan), (4, 0.5)], 2.0),
        ([(1, 2.0), (4, 0.5), (16, 2.0)], 2.0),  # where it pays again, is not said
    ],
)
def test_the_load_at_which_a_speed_up_falls_to_one(points: list[tuple[float, float]], at: float) -> None:
    assert crossing(points) == pytest.approx(at)


def test_nothing_is_said_where_no_speed_up_is_known() -> None:
    assert math.isnan(crossing([(1, math.nan)]))


def requests(config: str, load: str, e2e_s: float, **about: Any) -> pd.DataFrame:
    """40 requests that take about `e2e_s` each; their spread makes intervals, and is the same in all settings."""
    off = {"speculation": "off" if config == "tp1" else "ngram", "cell": f"{config}-{load}"}
    part = arm(e2e_s * np.linspace(0.9, 1.1, 40), config=config, load=load, **(off | about))
    return part.assign(server_s=part["e2e_s"], gpu_s=part["e2e_s"])


def three_loads() -> pd.DataFrame:
    """Speculation is twice as fast at one stream, equally fast at 4 and half as fast at 16."""
    parts = [
        requests(config, f"c{load}", seconds)
        for load, seconds in ((1, 10.0), (4, 20.0), (16, 40.0))
        for config, seconds in (("tp1", seconds), ("tp1-ngram", seconds / 2 * math.sqrt(load)))
    ]
    return frame(parts)


def test_the_crossing_of_a_setting_has_the_interval_of_its_speed_ups() -> None:
    problems = pairs.per_problem(three_loads())
    exact = crossovers(pairs.speculation(problems, 0.0)).iloc[0]
    assert (exact["config"], exact["base"], exact["loads"]) == ("tp1-ngram", "tp1", 3)
    assert exact[["stops_at", "stops_at_low", "stops_at_high"]].tolist() == pytest.approx([4.0] * 3)
    noisy = crossovers(pairs.speculation(problems, 0.05)).iloc[0]
    # The speed-up falls as 2 / sqrt(load); its interval is ± 1.96 × 0.05 × sqrt(2), which is doubled on the axis of the load.
    wide = math.exp(2 * 1.96 * 0.05 * math.sqrt(2))
    assert [noisy["stops_at_low"], noisy["stops_at_high"]] == pytest.approx([4 / wide, 4 * wide], rel=0.02)


def test_speculation_is_not_recommended_beyond_the_load_at_which_it_stops_paying() -> None:
    """At c16 it is slower, and yet it would be chosen: its requests cost less here, as the column of GPU-seconds says."""
    rows = three_loads()
    cheap = (rows["config"] == "tp1-ngram") & (rows["load"] == "c16")
    rows["gpu_s"] = rows["gpu_s"].where(~cheap, 1.0)
    table, problems = summary.summary(rows, 3.5), pairs.per_problem(rows)
    costs = table[table["load"] == "c16"].set_index("config")["cost_of_pass_gpu_s"]
    assert costs["tp1-ngram"] < costs["tp1"]
    found = recommend(table, Requirements(), pairs.Evidence(problems, 0.0))
    by_load = {one.compared["load"]: one for one in [found, *found.others]}
    chosen = {load: one.best["config"] for load, one in by_load.items() if one.best}
    assert (chosen["c1"], chosen["c16"]) == ("tp1-ngram", "tp1")
    said = "m-7B on tp1-ngram with a budget of 4,096 tokens stops paying at 4.00 in flight (95 % interval of that load: 4.00 to 4.00 in flight)"
    assert any(said in sentence for sentence in by_load["c16"].sentences)
    assert not any("stops paying" in sentence for sentence in by_load["c1"].sentences)


def test_a_load_without_its_baseline_recommends_nothing() -> None:
    rows = three_loads()
    problems = pairs.per_problem(rows)
    alone = rows[(rows["load"] == "c16") & (rows["config"] != "tp1")]
    found = recommend(summary.summary(alone, 3.5), Requirements(), pairs.Evidence(problems, 0.0))
    assert found.best is None
    assert "speculation does not pay at this load" in found.headline


def test_replicas_are_not_sized_with_speculation_beyond_it() -> None:
    slo = {"e2e": 100.0}
    rows = three_loads()
    loads = capacity.load_points(summary.summary(rows, 3.5, slo), {}, slo, 0.95)
    problems = pairs.per_problem(rows)
    found = recommend_for(Traffic(1.0, slo), loads, Requirements(), pairs.Evidence(problems, 0.0))
    rejected = beyond(loads, crossovers(pairs.speculation(problems, 0.0)))
    assert loads[rejected][["config", "load"]].to_numpy().tolist() == [["tp1-ngram", "c16"]]
    assert found.best
    assert (found.best["config"], found.best["load"]) != ("tp1-ngram", "c16")
    nothing = recommend_for(Traffic(1.0, slo), loads[rejected], Requirements(), pairs.Evidence(problems, 0.0))
    assert nothing.best is None
    assert nothing.headline.startswith("Nothing can be sized: speculation does not pay at these loads")


def test_the_best_number_of_draft_tokens_at_each_load() -> None:
    """At c1 three draft tokens are best and two are as good; at c16 every number is slower, and the best number is none."""
    speedups = {1: {1: 1.5, 2: 1.99, 3: 2.0}, 16: {1: 0.9, 2: 0.7, 3: 0.5}}
    parts = [requests("tp1", f"c{load}", 10.0) for load in speedups]
    parts += [
        requests(f"tp1-ngram-k{k}", f"c{load}", 10 / speedup)
        for load, by_k in speedups.items()
        for k, speedup in by_k.items()
    ]
    rows = frame(parts)
    numbers = {f"tp1-ngram-k{k}": k for k in (1, 2, 3)}
    compared = pairs.speculation(pairs.per_problem(rows), 0.05)
    table = best_draft_tokens(compared, numbers).set_index("load")
    assert table["draft_tokens"].to_dict() == {"c1": 3.0, "c16": 0.0}
    assert table.loc["c1", "as_good"] == "2"
    assert table.loc["c1", "speedup"] == pytest.approx(2.0)


def test_the_figure_names_how_many_settings_pay() -> None:
    table = pairs.speculation(pairs.per_problem(three_loads()), 0.0)
    (figure,) = figures.crossover(table, crossovers(table).assign(draft_tokens=5))
    assert (
        figure.claim
        == "1 of 1 settings with speculation are faster at 1 in flight, and 0 at every load that was run, up to 16"
    )
    assert figure.rows["load_value"].tolist() == [1, 4, 16]
    assert figures.crossover(table[table["load"] == "c1"], crossovers(table[table["load"] == "c1"])) == []


def test_many_configurations_are_coloured_by_their_number_of_draft_tokens() -> None:
    """Eleven configurations would share colours; two of them have the same number of draft tokens."""
    names = ["tp1-eagle3-k1", *(f"tp1-ngram-k{k}" for k in range(1, 11))]
    parts = [requests(config, f"c{load}", 10.0) for load in (1, 4) for config in ("tp1", *names)]
    table = pairs.speculation(pairs.per_problem(frame(parts)), 0.0)
    crossing = crossovers(table)
    counts = crossing["config"].astype(str).str.extract(r"k(\d+)$")[0].astype(float)
    (few,) = figures.crossover(table, crossing.assign(draft_tokens=math.nan))
    (many,) = figures.crossover(table, crossing.assign(draft_tokens=counts))
    assert few.legend is None
    assert list(many.legend or {})[:2] == ["1 draft token", "2 draft tokens"]
    assert len(many.legend or {}) == 10


def test_a_study_without_speculation_has_no_crossover() -> None:
    rows = frame([requests("tp1", "c1", 1.0)])
    table = pairs.speculation(pairs.per_problem(rows), 0.0)
    assert crossovers(table).empty
    assert not beyond(summary.summary(rows, 3.5), crossovers(table)).any()
