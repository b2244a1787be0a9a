"""Figures against the load and of one budget, and titles that hold in every panel and decide no tie: worked out by hand."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest

from analysis.data.searches import read_searches
from analysis.figures import budget, load, pareto, serving, time
from analysis.figures.base import Figure, over
from analysis.page.export import specification
from analysis.tables import distributions, pairs, summary
from analysis.tables.optima import optima
from tests.analysis.test_choice import frame
from tests.analysis.test_claims import arm
from tests.analysis.test_traffic import SLO, at_load, at_rate, points, search, written

LOADS = ("c1", "c32")


def test_a_percentile_is_drawn_where_the_sample_carries_it() -> None:
    """100 requests carry p95 and not p99; 400 carry both."""
    latency, throughput = load.figures(points([at_load(1, 1.0, n=100), at_load(8, 1.0), at_load(16, 1.0)]), SLO)
    e2e = latency.rows[latency.rows["quantity"] == "end-to-end latency, s"]
    drawn = e2e.groupby("percentile")["load_value"].apply(list)
    assert drawn["p95"] == [1, 8, 16]
    assert drawn["p99"] == [8, 16]
    assert (e2e["objective"] == 2.0).all()
    per_s = throughput.rows[throughput.rows["quantity"] == "requests per second"]
    assert per_s["value"].tolist() == pytest.approx([1, 8, 16])
    assert throughput.claim == "From 1 to 16 in flight, the throughput changes from 1.0 to 16 requests per second"


def test_one_load_is_no_curve_and_open_and_closed_loops_have_panels_of_their_own() -> None:
    assert load.figures(points([at_load(8, 1.0)]), SLO) == []
    both = [at_load(8, 1.0), at_load(16, 1.0), at_rate(1, 1.0), at_rate(2, 1.0)]
    panels = set(load.figures(points(both), SLO)[1].rows["panel"])
    assert {"requests per second, requests in flight", "requests per second, poisson arrivals"} <= panels


def test_the_limit_of_a_search_is_marked_with_its_interval(tmp_path: Path) -> None:
    searches = read_searches(written(tmp_path, search()), [])
    parts = [at_load(streams, 1.0, cell=f"c{streams}") for streams in (8, 16)]
    latency = load.figures(points(parts, searches), SLO)[0]
    marked = latency.rows[["limit_low", "limit_high"]].drop_duplicates()
    assert marked.to_numpy().tolist() == [[8.0, 16.0]]
    assert "the highest load that a search has shown" in latency.note
    assert "limit_high" in json.dumps(specification(latency, {"tp1": "#000000"}))


def one_budget(configs: list[str]) -> list[str]:
    requests = frame([arm(pd.Series([1.0] * 40).to_numpy(), config=name, cell=name) for name in configs])
    table, endings = summary.summary(requests, 3.5), distributions.endings(requests)
    drawn = {
        figure.name: json.dumps(figure.chart.to_dict(validate=False)) for figure in budget.figures(table, endings, {})
    }
    assert all('"type": "bar"' in chart for chart in drawn.values())
    return list(drawn)


def test_one_budget_is_drawn_as_bars_and_one_setting_is_not_drawn() -> None:
    assert one_budget(["tp1", "tp2"]) == [
        "accuracy",
        "latency",
        "ttft",
        "tpot",
        "cost-per-token",
        "cost-of-pass",
        "endings",
    ]
    assert one_budget(["tp1"]) == ["endings"]


def settings(latency_s: dict[str, tuple[float, float]], n: int = 60, **about: Any) -> pd.DataFrame:
    """The summary of one model at two loads: configuration → mean latency at one and at 32 requests in flight."""
    parts = [
        arm(np.full(n, seconds) + np.arange(n) * 1e-6, config=config, load=load, cell=f"{config}-{load}", **about)
        for config, both in latency_s.items()
        for load, seconds in zip(LOADS, both, strict=True)
    ]
    return summary.summary(frame(parts), 3.5)


def title(found: list[Figure], name: str) -> str:
    """The title of one figure."""
    return next(figure.claim for figure in found if figure.name == name)


@pytest.mark.parametrize(
    ("times", "words"),
    [
        (
            {"tp1": (16.0, 12.0), "tp4": (10.0, 10.0)},
            "tp4 answers 1.2 to 1.6 times as fast as tp1 (1 and 32 in flight)",
        ),
        (
            {"tp1": (16.0, 10.0), "tp4": (10.0, 20.0)},
            "Median latency: the highest is 1.6 to 2.0 times the lowest of the configurations (1 and 32 in flight)",
        ),
        (
            {"tp1": (10.5, 10.0), "tp4": (10.0, 10.2)},
            "Median latency: no difference between configurations is larger than the noise between runs (1 and 32 in flight)",
        ),
    ],
)
def test_a_comparison_names_two_configurations_where_one_is_ahead_in_every_panel(
    times: dict[str, tuple[float, float]], words: str
) -> None:
    table = settings(times)
    assert title(budget.figures(table, table.iloc[:0], {}, 0.06), "latency") == words


def test_the_cheapest_answer_is_a_range_over_the_loads() -> None:
    """10 GPU-seconds at one load and 2 at the other are not one lowest cost."""
    table = settings({"tp1": (16.0, 4.0), "tp4": (10.0, 2.0)})
    assert "costs 2.00 to 10.0 GPU-seconds" in title(budget.figures(table, table.iloc[:0], {}), "cost-of-pass")


def fronts(correct: dict[float, float]) -> list[Figure]:
    """The fronts of one configuration whose share of correct answers and cost rise with the budget."""
    n = 100
    parts = [
        arm(
            np.full(n, tokens) + np.arange(n) * 1e-6,
            (np.arange(n) < share * n).astype(float),
            budget=tokens,
            cell=f"{load}-{tokens}",
            load=load,
        )
        for tokens, share in correct.items()
        for load in LOADS
    ]
    table = summary.summary(frame(parts), 3.5)
    return pareto.figures(table, optima(table))


def test_a_tie_in_accuracy_is_not_worth_a_multiple_of_the_cost() -> None:
    """One answer of a hundred more is within the interval, and 40 are not."""
    assert "No setting is shown to be more accurate" in title(fronts({1.0: 0.6, 5.0: 0.61}), "accuracy-cost")
    claim = title(fronts({1.0: 0.4, 5.0: 0.8}), "accuracy-cost")
    assert claim.startswith("The most accurate setting is 40 points more accurate than the cheapest, at 2.5 times")


def test_a_leader_leads_in_every_panel() -> None:
    """tp4 is the fastest for one user at one load only, and within the noise at the other."""
    both = settings({"tp1": (20.0, 20.0), "tp4": (10.0, 10.0)})
    one = settings({"tp1": (20.0, 10.1), "tp4": (10.0, 10.0)})
    assert "tp4 is the fastest for one user" in title(pareto.figures(both, []), "speed-throughput")
    assert "is the fastest" not in title(pareto.figures(one, []), "speed-throughput")


def test_a_leader_leads_with_every_model() -> None:
    """tp4 has the fastest point of each panel, but is slower than tp1 with the other model."""
    small = settings({"tp1": (2.0, 2.0), "tp4": (1.0, 1.0)}, model="m-1B")
    large = settings({"tp1": (10.0, 10.0), "tp4": (20.0, 20.0)}, model="m-9B")
    found = pareto.figures(pd.concat([small, large], ignore_index=True), [])
    assert "is the fastest" not in title(found, "speed-throughput")


def test_the_panels_of_a_model_stand_side_by_side() -> None:
    """Two loads are two columns, three are three, and the four of a model stand in two rows."""

    def columns(loads: int) -> int:
        panels = [f"{model} {load}" for model in "abcde" for load in range(loads)]
        rows = pd.DataFrame({"panel": panels, "model": [panel[0] for panel in panels]})
        return Figure("f", "", "", rows, None, panel="panel").columns

    assert [columns(loads) for loads in (1, 2, 3, 4, 6)] == [3, 2, 3, 2, 3]


@pytest.mark.parametrize(
    ("under", "words"),
    [
        (["1 in flight"], ""),
        (["1 in flight", "32 in flight"], " (1 and 32 in flight)"),
        (["16 in flight", "2 in flight", "8 in flight"], " (2 to 16 in flight)"),
        (["2/s poisson", "1 in flight"], " (2/s poisson; 1 in flight)"),
    ],
)
def test_a_range_over_loads_names_its_ends(under: list[str], words: str) -> None:
    assert over(pd.DataFrame({"under": under})) == words


def test_a_range_names_only_the_loads_that_it_is_from() -> None:
    """With 20 requests there is no p95, so the load with 20 requests is not one of those that are compared."""
    parts = [
        arm(np.arange(1.0, n + 1), config=config, load=load, cell=f"{config}{load}")
        for load, n in (("c1", 20), ("c8", 100), ("c32", 100))
        for config in ("tp1", "tp2")
    ]
    table = distributions.distributions(frame(parts)).assign(cells="a")
    none = table.iloc[:0]
    assert "(8 and 32 in flight)" in title(time.figures(none, table, none), "distribution")


def test_a_speed_up_is_a_range_and_no_mean_over_loads() -> None:
    n = 60
    parts = [
        arm(np.arange(1.0, n + 1) / factor, config=config, speculation=speculation, load=load, cell=f"{config}{load}")
        for load, gain in (("c1", 1.5), ("c32", 0.75))
        for config, speculation, factor in (("tp1", "off", 1.0), ("tp1-ngram", "ngram", gain))
    ]
    requests = frame(parts)
    table = pairs.speculation(pairs.per_problem(requests)).assign(judged="usable", cells="a")
    found = serving.figures(
        dict.fromkeys(("tensor_parallel", "cost_variation", "acceptance"), table.iloc[:0]) | {"speculation": table}, {}
    )
    assert found == []  # one budget and one configuration in each panel: nothing is compared
    more = pd.concat([table, table.assign(budget=8192.0)])
    found = serving.figures(
        dict.fromkeys(("tensor_parallel", "cost_variation", "acceptance"), table.iloc[:0]) | {"speculation": more}, {}
    )
    assert "the speed-up is 0.75 to 1.50 at 7B" in title(found, "speculation")


def test_loads_are_sorted_as_numbers_and_equal_curves_are_drawn_once() -> None:
    """16 in flight comes after 2; the accuracy is the same at every load, and the latency is not."""
    parts = [
        arm(np.full(60, 10.0 / streams), budget=budget_, load=f"c{streams}", cell=f"{streams}-{budget_}")
        for streams in (16, 2, 1)
        for budget_ in (1024.0, 4096.0)
    ]
    table = summary.summary(frame(parts), 3.5)
    assert table["load"].unique().tolist() == ["c1", "c2", "c16"]
    found = {figure.name: figure for figure in budget.figures(table, table.iloc[:0], {})}
    assert found["accuracy"].rows["panel"].unique().tolist() == ["m-7B, the same under all conditions"]
    panels = found["latency"].rows["panel"].unique().tolist()
    assert panels == ["m-7B, 1 in flight", "m-7B, 2 in flight", "m-7B, 16 in flight"]


def test_a_label_is_where_no_other_point_is() -> None:
    """The first point has one at its right below it, so its label is at the left; the second has room on neither side."""
    points_ = [(0.5, 0.5), (0.6, 0.45), (0.0, 0.0), (0.05, 0.05), (1.0, 1.0)]
    panel = pd.DataFrame(points_, columns=[pareto.USER.name, pareto.ACCURACY.name]).assign(
        label=["a", "", "b", "", "c"], front=True
    )
    sides = pareto._sides(panel, pareto.USER, pareto.ACCURACY)
    assert sides.tolist() == ["left", "", "right", "", "right"]


@pytest.mark.parametrize(
    ("seconds", "sides", "places"),
    [
        ((8.0, 9.0), ("right", "right"), ["above", "higher"]),
        ((3.5, 10.0), ("right", "right"), ["above", "above"]),
        ((2.5, 6.0), ("left", "right"), ["above", "higher"]),
        ((1.0, 10.0), ("left", "right"), ["above", "above"]),
    ],
)
def test_the_labels_of_the_two_optima_do_not_overlap(
    seconds: tuple[float, float], sides: tuple[str, str], places: list[str]
) -> None:
    """Both are above their rings, where there are no points, and on two lines where the texts would meet."""
    marks = {"optimum": ["system-optimal", "compute-optimal"], "optimum_side": sides}
    marked = pd.DataFrame({pareto.LATENCY.name: seconds} | marks)
    ends = pd.DataFrame({pareto.LATENCY.name: [1.0, 10.0], "optimum": "", "optimum_side": ""})
    panel = pd.concat([marked, ends], ignore_index=True)
    assert pareto._places(panel, pareto.LATENCY).tolist()[:2] == places


def test_a_run_without_a_power_log_has_no_axis_for_it() -> None:
    """The chart of one run has tokens per second at the left, and two axes where power was measured."""
    about = {"cell": "a", "config": "tp1", "model": "m", "source": "measured", "t_s": [0.0, 1.0], "value": 5.0}
    speed = pd.DataFrame(about | {"series": "tokens/s"})
    none = speed.iloc[:0]
    alone = time.figures(none, none, speed)[0]
    both = time.figures(none, none, pd.concat([speed, speed.assign(series="power, W")]))[0]
    assert "power" not in json.dumps(alone.chart.to_dict(validate=False))
    assert "power" in json.dumps(both.chart.to_dict(validate=False))
