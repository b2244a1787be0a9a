"""Figures against the load, and figures of a study of one budget, from frames worked out by hand."""

import json
from pathlib import Path

import pandas as pd
import pytest

from analysis.data.searches import read_searches
from analysis.figures import budget, load
from analysis.page.export import specification
from analysis.tables import distributions, summary
from tests.analysis.test_choice import frame
from tests.analysis.test_claims import arm
from tests.analysis.test_traffic import SLO, at_load, at_rate, points, search, written


def test_a_percentile_is_drawn_where_the_sample_carries_it() -> None:
    """100 requests carry p95 and not p99; 400 carry both."""
    latency, throughput = load.figures(
        points([at_load(1, 1.0, n=100), at_load(8, 1.0), at_load(16, 1.0)]), SLO
    )
    e2e = latency.rows[latency.rows["quantity"] == "end-to-end latency, s"]
    drawn = e2e.groupby("percentile")["load_value"].apply(list)
    assert drawn["p95"] == [1, 8, 16]
    assert drawn["p99"] == [8, 16]
    assert (e2e["objective"] == 2.0).all()
    per_s = throughput.rows[throughput.rows["quantity"] == "requests per second"]
    assert per_s["value"].tolist() == pytest.approx([1, 8, 16])
    assert (
        throughput.claim
        == "From 1 to 16 in flight, the throughput changes from 1.0 to 16 requests per second"
    )


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
        figure.name: json.dumps(figure.chart.to_dict(validate=False))
        for figure in budget.figures(table, endings, {})
    }
    assert all('"type": "bar"' in chart for chart in drawn.values())
    return list(drawn)


def test_one_budget_is_drawn_as_bars_and_one_setting_is_not_drawn() -> None:
    assert one_budget(["tp1", "tp2"]) == ["accuracy", "latency", "cost-per-token", "cost-of-pass", "endings"]
    assert one_budget(["tp1"]) == ["endings"]
