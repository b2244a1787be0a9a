"""Draw figures over the token budget: accuracy, latency, cost, energy, and the grades of the answers.

A title holds in every panel below it: it gives the range over the panels, and it names a configuration only where the same one is
ahead in all of them by more than the noise between runs.
"""

from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path

import altair as alt
import msgspec
import pandas as pd

from analysis.data.frame import NOT_GRADED
from analysis.figures.base import Figure, against_budget, comparable, drawable, once, over, rows_data
from analysis.figures.style import BUDGET_LABEL, GRADE_COLOURS, HEIGHT
from analysis.format import short_budget, span
from analysis.noise import DAY_TO_DAY, smallest


def figures(
    table: pd.DataFrame, endings: pd.DataFrame, verdicts: dict[str, str], between_runs: float = DAY_TO_DAY
) -> list[Figure]:
    """Every figure for which the tables have data; `verdicts` are the results of the claims, which titles must not exceed."""
    rows = drawable(table)
    made = [
        _accuracy(rows, verdicts.get("accuracy-flattens", "")),
        *(_curve(rows, name, curve, between_runs) for name, curve in CURVES.items()),
        _endings(endings),
    ]
    return [figure for figure in made if figure is not None]


def _accuracy(rows: pd.DataFrame, verdict: str) -> Figure | None:
    rows = once(comparable(rows[rows["accuracy"].notna()]), "accuracy")
    if rows.empty:
        return None
    chart = against_budget(rows, "accuracy", "accuracy", ".0%", zero=True)
    note = "Correct answers / all requests. Bars: 95 % intervals. Configurations of one model coincide where serving does not change the answers."
    return Figure("accuracy", _flattens(rows, verdict), note, rows, chart, panel="panel")


def _flattens(rows: pd.DataFrame, verdict: str) -> str:
    means = rows.pivot_table(index="panel", columns="budget", values="accuracy", observed=True).sort_index(axis=1)
    steps = [f"{short_budget(low)} to {short_budget(high)}" for low, high in pairwise(means.columns.astype(float))]
    gains = [span(means.diff(axis=1)[budget] * 100, "+.1f") for budget in means.columns[1:]]
    if not gains:
        return f"Accuracy at the only budget, {means.columns[0]:,.0f} tokens"
    if len(gains) == 1:
        return f"From {steps[0]} tokens the accuracy changes by {gains[0]} points"
    first, last = f"{gains[0]} points from {steps[0]}", f"{gains[-1]} from {steps[-1]}"
    words = {
        "held": "Accuracy rises with the budget, then flattens",
        "not held": "Accuracy does not rise and then flatten",
    }
    return f"{words.get(verdict, 'Accuracy by budget')}: {first}, {last}"


@dataclass(frozen=True, slots=True)
class Curve:
    """A quantity over the budget, as curves.toml describes it."""

    column: str
    title: str
    claim: str
    note: str
    alone: str = ""
    number: str = "~g"


CURVES = msgspec.toml.decode((Path(__file__).parent / "curves.toml").read_bytes(), type=dict[str, Curve])


def _curve(rows: pd.DataFrame, name: str, curve: Curve, between_runs: float) -> Figure | None:
    rows = comparable(rows[rows[curve.column].gt(0)])
    if rows.empty:
        return None
    chart = against_budget(rows, curve.column, curve.title, curve.number, log=True)
    claim = _extremes(rows, curve, 1 + smallest(between_runs)) if curve.alone else _lowest(rows, curve)
    return Figure(name, claim, curve.note, rows, chart, panel="panel")


def _extremes(rows: pd.DataFrame, curve: Curve, shown: float) -> str:
    """The claim: two configurations of which one is better in every panel at every budget, or else the range of differences.

    `shown` is the smallest ratio that is more than the noise between runs.
    """
    wide = rows.pivot_table(index=["panel", "budget"], columns="config", values=curve.column, observed=True).dropna()
    if wide.shape[1] < 2 or wide.empty:
        only = rows["config"].astype(str).unique()
        return f"{curve.alone} on {only[0]}, by budget" if len(only) == 1 else f"{curve.alone}, by budget"
    compared = over(rows[rows["panel"].isin(wide.index.get_level_values("panel"))])
    order = wide.rank(axis=1).mean().sort_values(kind="stable").index
    best, worst = order[0], order[-1]
    times = wide[worst] / wide[best]
    if times.min() >= shown:
        return curve.claim.format(best=best, worst=worst, times=span(times, ".2g")) + compared
    largest = wide.max(axis=1) / wide.min(axis=1)
    if largest.max() < shown:
        return f"{curve.alone}: no difference between configurations is larger than the noise between runs{compared}"
    return f"{curve.alone}: the highest is {span(largest, '.2g')} times the lowest of the configurations{compared}"


def _lowest(rows: pd.DataFrame, curve: Curve) -> str:
    """The claim: the lowest value of each panel."""
    lowest = rows.groupby("panel")[curve.column].min()
    return curve.claim.format(lowest=span(lowest, ".3g")) + (f" of each panel{over(rows)}" if len(lowest) > 1 else "")


def _endings(rows: pd.DataFrame) -> Figure | None:
    if rows.empty:
        return None
    rows = drawable(rows)
    graded = ~rows["grade"].isin(NOT_GRADED)  # without grades, truncated answers are not known
    rows = once(rows[graded.groupby(rows["panel"]).transform("any")], "count", "grade")
    if rows.empty:
        return None
    counts = rows.assign(truncated=rows["count"].where(rows["grade"] == "truncated", 0))
    counts = counts.groupby(["budget", "panel"])[["truncated", "count"]].sum()
    cut = (counts["truncated"] / counts["count"]).groupby(level="budget").agg(lambda share: span(share, ".0%"))
    claim = f"{cut.iloc[0]} of the answers are truncated at {short_budget(float(cut.index[0]))}"
    if len(cut) > 1:
        claim += f", {cut.iloc[-1]} at {short_budget(float(cut.index[-1]))}"
    claim += over(rows)
    grades = [grade for grade in GRADE_COLOURS if (rows["grade"] == grade).any()]
    legend = {grade: GRADE_COLOURS[grade] for grade in grades}
    fill = alt.Color("grade:N", title="grade").scale(domain=grades, range=[*legend.values()])
    one = len(cut) == 1  # the bar of a single budget lies on its side, where it takes less room
    along, up = (alt.Y, alt.X) if one else (alt.X, alt.Y)
    label = alt.Axis(labelAngle=0, labelExpr=BUDGET_LABEL)
    budgets = along("budget:O", title=None if one else "token budget", axis=label)
    share = up("total:Q", stack="normalize", title="share of requests", axis=alt.Axis(format=".0%"))
    tips = ["budget:Q", "grade:N", alt.Tooltip("total:Q", title="requests", format=",d")]
    totals = alt.Chart(rows_data()).transform_aggregate(total="sum(count)", groupby=["budget", "grade"])
    bars = totals.transform_calculate(place=f"indexof({grades}, datum.grade)").mark_bar()
    chart = bars.encode(budgets, share, color=fill, order="place:Q", tooltip=tips)
    chart = chart.properties(width="container", height=50 if one else HEIGHT)
    note = f"All selected configurations together. From the {'left' if one else 'bottom'}: {', '.join(grades)}. A truncated answer does not count as wrong here."
    return Figure("endings", claim, note, rows, chart, panel="panel", legend=legend)
