"""Draw figures over the token budget: accuracy, latency, cost, energy, and the grades of the answers."""

from dataclasses import dataclass
from itertools import pairwise

import altair as alt
import numpy as np
import pandas as pd

from analysis.data.frame import NOT_GRADED
from analysis.figures.base import Figure, against_budget, comparable, drawable, rows_data
from analysis.figures.style import BUDGET_LABEL, HEIGHT
from analysis.format import number, records, short_budget

GRADE_COLOURS = {
    "correct": "#16906a",
    "wrong": "#d0454c",
    "no_answer": "#a8821a",
    "truncated": "#7a7f87",
    "undecided": "#4a7fc1",
    "grade_timeout": "#8567d6",
    "grade_error": "#b0489c",
    "filtered": "#c96f2e",
    "failed": "#3a3f47",
    "ungraded": "#b9bec5",
}


def figures(table: pd.DataFrame, endings: pd.DataFrame, verdicts: dict[str, str]) -> list[Figure]:
    """Every figure for which the tables have data; `verdicts` are the results of the claims, which titles must not exceed."""
    rows = drawable(table)
    made = [
        _accuracy(rows, verdicts.get("accuracy-flattens", "")),
        _curve(rows, LATENCY),
        _curve(rows, COST),
        _cost_of_pass(rows),
        _curve(rows, ENERGY),
        _endings(endings),
    ]
    return [figure for figure in made if figure is not None]


def _accuracy(rows: pd.DataFrame, verdict: str) -> Figure | None:
    rows = comparable(rows[rows["accuracy"].notna()])
    if rows.empty:
        return None
    chart = against_budget(rows, "accuracy", "accuracy", ".0%", zero=True)
    note = "Correct answers / all requests. Bars: 95 % intervals. Configurations of one model coincide where serving does not change the answers."
    return Figure("accuracy", _flattens(rows, verdict), note, rows, chart, panel="panel")


def _flattens(rows: pd.DataFrame, verdict: str) -> str:
    means = rows.groupby("budget")["accuracy"].mean().sort_index()
    steps = [f"{short_budget(low)} to {short_budget(high)}" for low, high in pairwise(means.index)]
    gains = means.diff().dropna().mul(100).tolist()
    if not gains:
        return f"Accuracy at the only budget, {means.index[0]:,.0f} tokens"
    if len(gains) == 1:
        return f"From {steps[0]} tokens the accuracy changes by {gains[0]:+.1f} points"
    first, last = f"{gains[0]:+.1f} points from {steps[0]}", f"{gains[-1]:+.1f} from {steps[-1]}"
    words = {
        "held": "Accuracy rises with the budget, then flattens",
        "not held": "Accuracy does not rise and then flatten",
    }
    return f"{words.get(verdict, 'Accuracy by budget')}: {first}, {last}"


@dataclass(frozen=True, slots=True)
class Curve:
    """A quantity over the budget, with a line for each configuration; the claim names the best and the worst."""

    name: str
    column: str
    title: str
    claim: str
    alone: str
    """The beginning of the claim where there is nothing to compare."""
    note: str
    number: str = "~g"


LATENCY = Curve(
    "latency",
    "e2e_p50_s",
    "median latency, s",
    "{best} answers {times:.1f} times as fast as {worst}",
    "Median latency",
    "Median time from send to last token over successful requests. Bars: 95 % order-statistic intervals.",
)
COST = Curve(
    "cost-per-token",
    "gpu_s_per_token",
    "GPU-seconds per token",
    "A token costs least on {best} and {times:.1f} times as much on {worst}",
    "Cost per token",
    "GPUs × wall time / tokens, a ratio of sums. Bars: 95 % intervals over problems. The table also has the paper's GPUs × e2e / tokens.",
)
ENERGY = Curve(
    "energy",
    "cost_of_pass_j",
    "joules per correct answer",
    "A correct answer takes least energy on {best} and {times:.1f} times as much on {worst}",
    "Energy per correct answer",
    "Joules of all GPUs of the configuration / correct answers. Joules are divided among requests like GPU-seconds.",
    "~s",
)


def _curve(rows: pd.DataFrame, curve: Curve) -> Figure | None:
    rows = comparable(rows[rows[curve.column].gt(0)])
    if rows.empty:
        return None
    chart = against_budget(rows, curve.column, curve.title, curve.number, log=True)
    return Figure(curve.name, _extremes(rows, curve), curve.note, rows, chart, panel="panel")


def _extremes(rows: pd.DataFrame, curve: Curve) -> str:
    """The claim: best and worst configuration by geometric mean over the panels and budgets that all have."""
    wide = rows.pivot_table(
        index=["panel", "budget"], columns="config", values=curve.column, observed=True
    ).dropna()
    if wide.shape[1] < 2 or wide.empty:
        only = rows["config"].astype(str).unique()
        return f"{curve.alone} on {only[0]}, by budget" if len(only) == 1 else f"{curve.alone}, by budget"
    means = np.exp(np.log(wide).mean()).sort_values()
    times = float(means.iloc[-1] / means.iloc[0])
    return curve.claim.format(best=means.index[0], worst=means.index[-1], times=times)


def _cost_of_pass(rows: pd.DataFrame) -> Figure | None:
    rows = comparable(rows[rows["cost_of_pass_gpu_s"].gt(0)])
    if rows.empty:
        return None
    chart = against_budget(rows, "cost_of_pass_gpu_s", "GPU-seconds per correct answer", "~g", log=True)
    low = records(rows.nsmallest(1, "cost_of_pass_gpu_s"))[0]
    claim = f"A correct answer costs least, {number(low['cost_of_pass_gpu_s'], '.3g')} GPU-seconds, with {low['model']} on {low['config']} at {short_budget(low['budget'])}"
    note = "Cost of pass: GPUs × wall time of all requests / correct answers. It includes wrong and truncated answers."
    return Figure("cost-of-pass", claim, note, rows, chart, panel="panel")


def _endings(rows: pd.DataFrame) -> Figure | None:
    if rows.empty:
        return None
    rows = drawable(rows)
    graded = ~rows["grade"].isin(NOT_GRADED)  # without grades, truncated answers are not known
    rows = rows[graded.groupby(rows["panel"]).transform("any")]
    if rows.empty:
        return None
    truncated = rows[rows["grade"] == "truncated"].groupby("budget")["count"].sum()
    cut = (truncated / rows.groupby("budget")["count"].sum()).fillna(0.0).sort_index()
    claim = (
        f"{number(cut.iloc[0], '.0%')} of the answers are truncated at {short_budget(float(cut.index[0]))}"
    )
    if len(cut) > 1:
        claim += f", {number(cut.iloc[-1], '.0%')} at {short_budget(float(cut.index[-1]))}"
    grades = [grade for grade in GRADE_COLOURS if (rows["grade"] == grade).any()]
    fill = alt.Color("grade:N", title="grade").scale(domain=grades, range=[GRADE_COLOURS[g] for g in grades])
    budgets = alt.X("budget:O", title="token budget", axis=alt.Axis(labelAngle=0, labelExpr=BUDGET_LABEL))
    share = alt.Y("total:Q", stack="normalize", title="share of requests", axis=alt.Axis(format=".0%"))
    tips = ["budget:Q", "grade:N", alt.Tooltip("total:Q", title="requests", format=",d")]
    totals = alt.Chart(rows_data()).transform_aggregate(total="sum(count)", groupby=["budget", "grade"])
    bars = totals.transform_calculate(place=f"indexof({grades}, datum.grade)").mark_bar()
    chart = bars.encode(x=budgets, y=share, color=fill, order="place:Q", tooltip=tips)
    chart = chart.properties(width="container", height=HEIGHT)
    note = f"All selected configurations together. From the bottom: {', '.join(grades)}. A truncated answer does not count as wrong here."
    return Figure("endings", claim, note, rows, chart, panel="panel")
