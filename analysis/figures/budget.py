"""What a larger budget buys: accuracy, latency, cost, energy, and how answers end."""

from dataclasses import dataclass

import altair as alt
import numpy as np
import pandas as pd

from analysis.figures.base import Figure, against_budget, drawable, rows_data
from analysis.figures.style import BUDGET_LABEL, HEIGHT
from analysis.format import number, records, short_budget

ENDINGS = {
    "correct": "#16906a",
    "wrong": "#d0454c",
    "no_answer": "#a8821a",
    "truncated": "#7a7f87",
    "grade_timeout": "#8567d6",
    "grade_error": "#b0489c",
    "failed": "#3a3f47",
    "ungraded": "#b9bec5",
}


def figures(table: pd.DataFrame, endings: pd.DataFrame) -> list[Figure]:
    """Every figure the tables support."""
    rows = drawable(table)
    made = [
        _accuracy(rows),
        _curve(rows, LATENCY),
        _curve(rows, COST),
        _pass(rows),
        _curve(rows, ENERGY),
        _endings(endings),
    ]
    return [figure for figure in made if figure is not None]


def _accuracy(rows: pd.DataFrame) -> Figure | None:
    rows = rows[rows["accuracy"].notna()]
    if rows.empty:
        return None
    chart = against_budget(rows, "accuracy", "accuracy", ".0%", zero=True)
    note = "Right answers / all requests; bars: 95 % intervals. Configurations of one model lie on one another where serving does not change answers."
    return Figure("accuracy", _flattens(rows), note, rows, chart, panel="panel")


def _flattens(rows: pd.DataFrame) -> str:
    means = rows.groupby("budget")["accuracy"].mean().sort_index()
    steps = [
        f"{short_budget(low)} to {short_budget(high)}"
        for low, high in zip(means.index, means.index[1:], strict=False)
    ]
    gains = means.diff().dropna().mul(100).tolist()
    if not gains:
        return f"Accuracy at the one budget asked, {means.index[0]:,.0f} tokens"
    if len(gains) == 1:
        return f"From {steps[0]} tokens accuracy changes by {gains[0]:+.1f} points"
    first, last = f"{steps[0]} brings {gains[0]:+.1f} points", f"{steps[-1]} {gains[-1]:+.1f}"
    verb = "flattens" if gains[-1] < max(gains) / 2 else "keeps rising" if gains[-1] > 0 else "does not rise"
    return f"Accuracy {verb} with the budget: {first}, {last}"


@dataclass(frozen=True, slots=True)
class Curve:
    """A quantity against the budget, a line a configuration; the claim names the best and the worst."""

    name: str
    column: str
    title: str
    claim: str
    alone: str
    """The claim's subject where there is nothing to compare."""
    note: str
    number: str = "~g"


LATENCY = Curve(
    "latency",
    "e2e_p50_s",
    "median latency, s",
    "{best} answers {times:.1f} times as fast as {worst}",
    "Median latency",
    "Sent to last token, median of successes; bars: 95 % order-statistic intervals.",
)
COST = Curve(
    "cost-per-token",
    "gpu_s_per_token",
    "GPU-seconds per token",
    "A token costs least on {best}; on {worst} it costs {times:.1f} times as much",
    "Cost of a token",
    "GPUs × wall / tokens, ratio of sums; bars: 95 %, resampled by problem. The paper's GPUs × e2e / tokens is in the table.",
)
ENERGY = Curve(
    "energy",
    "cost_of_pass_j",
    "joules per right answer",
    "A right answer takes least energy on {best}; on {worst} {times:.1f} times as much",
    "Energy of a right answer",
    "Joules of all GPUs of the configuration over the run, shared like its GPU-seconds / right answers.",
    "~s",
)


def _curve(rows: pd.DataFrame, curve: Curve) -> Figure | None:
    rows = rows[rows[curve.column].gt(0)]
    if rows.empty:
        return None
    chart = against_budget(rows, curve.column, curve.title, curve.number, log=True)
    return Figure(curve.name, _extremes(rows, curve), curve.note, rows, chart, panel="panel")


def _extremes(rows: pd.DataFrame, curve: Curve) -> str:
    """Best and worst configuration by geometric mean over what all have, and their ratio."""
    wide = rows.pivot_table(
        index=["panel", "budget"], columns="config", values=curve.column, observed=True
    ).dropna()
    if wide.shape[1] < 2 or wide.empty:
        only = rows["config"].astype(str).unique()
        return f"{curve.alone} on {only[0]}, by budget" if len(only) == 1 else f"{curve.alone}, by budget"
    means = np.exp(np.log(wide).mean()).sort_values()
    times = float(means.iloc[-1] / means.iloc[0])
    return curve.claim.format(best=means.index[0], worst=means.index[-1], times=times)


def _pass(rows: pd.DataFrame) -> Figure | None:
    rows = rows[rows["cost_of_pass_gpu_s"].gt(0)]
    if rows.empty:
        return None
    chart = against_budget(rows, "cost_of_pass_gpu_s", "GPU-seconds per right answer", "~g", log=True)
    low = records(rows.nsmallest(1, "cost_of_pass_gpu_s"))[0]
    claim = f"A right answer costs least, {number(low['cost_of_pass_gpu_s'], '.3g')} GPU-seconds, from {low['model']} on {low['config']} at {short_budget(low['budget'])}"
    note = (
        "Cost of pass: GPUs × wall of all requests / right answers; wrong and cut answers are paid for too."
    )
    return Figure("cost-of-pass", claim, note, rows, chart, panel="panel")


def _endings(rows: pd.DataFrame) -> Figure | None:
    if rows.empty:
        return None
    rows = drawable(rows)
    graded = ~rows["verdict"].isin(["ungraded", "failed"])
    rows = rows[graded.groupby(rows["panel"]).transform("any")]  # ungraded, a cut answer looks like any other
    if rows.empty:
        return None
    cut = rows[rows["verdict"] == "truncated"].groupby("budget")["count"].sum()
    share = (cut / rows.groupby("budget")["count"].sum()).fillna(0.0).sort_index()
    claim = f"{number(share.iloc[0], '.0%')} of answers run into the budget at {short_budget(float(share.index[0]))}"
    if len(share) > 1:
        claim += f", {number(share.iloc[-1], '.0%')} at {short_budget(float(share.index[-1]))}"
    kinds = [kind for kind in ENDINGS if (rows["verdict"] == kind).any()]
    fill = alt.Color("verdict:N", title="answer").scale(domain=kinds, range=[ENDINGS[k] for k in kinds])
    budgets = alt.X("budget:O", title="token budget", axis=alt.Axis(labelAngle=0, labelExpr=BUDGET_LABEL))
    chart = (
        alt.Chart(rows_data())
        .transform_aggregate(total="sum(count)", groupby=["budget", "verdict"])
        .transform_calculate(place=f"indexof({kinds}, datum.verdict)")
        .mark_bar()
        .encode(
            x=budgets,
            y=alt.Y("total:Q", stack="normalize", title="share of requests", axis=alt.Axis(format=".0%")),
            color=fill,
            order="place:Q",
            tooltip=["budget:Q", "verdict:N", alt.Tooltip("total:Q", title="requests", format=",d")],
        )
        .properties(width="container", height=HEIGHT)
    )
    note = (
        "All configurations shown together. "
        + " · ".join(kinds)
        + " (from the bottom). A cut answer is not counted as wrong here."
    )
    return Figure("endings", claim, note, rows, chart, panel="panel")
