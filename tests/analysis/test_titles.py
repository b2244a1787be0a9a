"""Titles of figures hold in every panel below them, and do not decide ties: worked out by hand."""

from typing import Any

import numpy as np
import pandas as pd
import pytest

from analysis.figures import budget, pareto, serving
from analysis.figures.base import Figure
from analysis.tables import pairs, summary
from analysis.tables.optima import optima
from tests.analysis.test_choice import frame
from tests.analysis.test_claims import arm

LOADS = ("c1", "c32")


def settings(latency_s: dict[str, tuple[float, float]], n: int = 60, **about: Any) -> pd.DataFrame:
    """The summary of one model at two loads: configuration → mean latency at one and at 32 requests in flight."""
    parts = [
        arm(
            np.full(n, seconds) + np.arange(n) * 1e-6,
            config=config,
            load=load,
            cell=f"{config}-{load}",
            **about,
        )
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
        ({"tp1": (16.0, 12.0), "tp4": (10.0, 10.0)}, "tp4 answers 1.2 to 1.6 times as fast as tp1"),
        (
            {"tp1": (16.0, 10.0), "tp4": (10.0, 20.0)},
            "Median latency: the highest is 1.6 to 2.0 times the lowest of the configurations",
        ),
        (
            {"tp1": (10.5, 10.0), "tp4": (10.0, 10.2)},
            "Median latency: no difference between configurations is larger than the noise between runs",
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
    assert "costs 2.00 to 10.0 GPU-seconds" in title(
        budget.figures(table, table.iloc[:0], {}), "cost-of-pass"
    )


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
    assert claim.startswith(
        "The most accurate setting is 40 points more accurate than the cheapest, at 2.5 times"
    )


def test_a_leader_leads_in_every_panel() -> None:
    """tp4 is the fastest for one user at one load only, and within the noise at the other."""
    both = settings({"tp1": (20.0, 20.0), "tp4": (10.0, 10.0)})
    one = settings({"tp1": (20.0, 10.1), "tp4": (10.0, 10.0)})
    assert "tp4 is the fastest for one user" in title(pareto.figures(both, []), "speed-throughput")
    assert "is the fastest" not in title(pareto.figures(one, []), "speed-throughput")


def test_a_speed_up_is_a_range_and_no_mean_over_loads() -> None:
    n = 60
    parts = [
        arm(
            np.arange(1.0, n + 1) / factor,
            config=config,
            speculation=speculation,
            load=load,
            cell=f"{config}{load}",
        )
        for load, gain in (("c1", 1.5), ("c32", 0.75))
        for config, speculation, factor in (("tp1", "off", 1.0), ("tp1-ngram", "ngram", gain))
    ]
    requests = frame(parts)
    table = pairs.speculation(pairs.per_problem(requests)).assign(judged="usable", cells="a")
    found = serving.figures(table, table.iloc[:0], table.iloc[:0], table.iloc[:0], {})
    assert found == []  # one budget and one configuration in each panel: nothing is compared
    more = pd.concat([table, table.assign(budget=8192.0)])
    found = serving.figures(more, table.iloc[:0], table.iloc[:0], table.iloc[:0], {})
    assert "the speed-up is 0.75 to 1.50 at 7B" in title(found, "speculation")
