"""What a larger budget buys: accuracy, latency, cost, energy; and the fronts of what is worth deploying."""

import altair as alt
import pandas as pd

from analysis import tables
from analysis.figures import DETAIL, Figure, against_budget, drawable, tooltip, with_interval
from analysis.page import number
from analysis.style import MUTED, colour, shape


def figures(table: pd.DataFrame) -> list[Figure]:
    """Every figure the table supports."""
    rows = drawable(table)
    made = [_front(rows), _accuracy(rows), _latency(rows), _cost(rows)]
    return [figure for figure in made if figure is not None]


def _front(rows: pd.DataFrame) -> Figure | None:
    rows = rows[rows["accuracy"].notna() & rows["e2e_p50_s"].notna()]
    if rows.empty:
        return None
    rows = rows.assign(front=tables.front(rows, "e2e_p50_s", "accuracy"))
    best = rows[rows["front"]]
    claim = f"{len(best)} of {len(rows)} settings are worth deploying: for each other one, another is faster and at least as accurate"
    configs = list(rows["config"].unique())
    x = alt.X("e2e_p50_s:Q", title="median latency, s").scale(type="log", nice=False, padding=20)
    y = alt.Y("accuracy:Q", title="accuracy", axis=alt.Axis(format=".0%", tickCount=6)).scale(zero=False)
    base = alt.Chart(alt.NamedData("rows")).encode(x=x)
    bars = base.mark_rule(opacity=0.25, strokeWidth=1.5).encode(
        y=alt.Y("accuracy_low:Q"), y2="accuracy_high:Q", color=colour(configs)
    )
    line = (
        base.transform_filter("datum.front")
        .mark_line(color=MUTED, strokeWidth=1.5, interpolate="step-after")
        .encode(y=y)
    )
    details = tooltip(
        *with_interval("accuracy", "accuracy", ".1%"), *with_interval("e2e_p50_s", "e2e p50, s", ".3~g")
    )
    points = base.mark_point(filled=True, size=80).encode(
        y=y,
        color=colour(configs),
        shape=shape(),
        tooltip=details,
        detail=DETAIL,
        opacity=alt.condition("datum.front", alt.value(1), alt.value(0.4)),
    )
    names = (
        base.transform_filter("datum.front")
        .mark_text(align="left", dx=8, dy=9, fontSize=11)
        .encode(y=y, text="label:N")
    )
    short = rows["model"].str.extract(r"(\d+(?:\.\d+)?[bB])", expand=False).fillna(rows["model"])
    rows = rows.assign(
        label=short + " " + rows["budget"].map(lambda b: f"{b / 1024:g}K" if b >= 1024 else f"{b:g}")
    )
    chart = (bars + line + points + names).properties(width="container", height=420)
    note = (
        "Up and left is better. Full points and the line: the Pareto front; bars: 95 % intervals of accuracy."
    )
    return Figure("accuracy-latency", claim, note, rows, chart, section="front", wide=True)


def _accuracy(rows: pd.DataFrame) -> Figure | None:
    rows = rows[rows["accuracy"].notna()]
    if rows.empty:
        return None
    chart = against_budget(rows, "accuracy", "accuracy", ".0%", log=False, zero=True)
    return Figure("accuracy", _flattens(rows), "Bars: 95 % intervals.", rows, chart, panel="model")


def _flattens(rows: pd.DataFrame) -> str:
    means = rows.groupby("budget")["accuracy"].mean().sort_index()
    if len(means) < 2:
        return f"Accuracy at the one budget measured, {means.index[0]:,.0f} tokens"
    first, last = means.iloc[1] - means.iloc[0], means.iloc[-1] - means.iloc[-2]
    if len(means) == 2:
        return f"From {means.index[0]:,.0f} to {means.index[1]:,.0f} tokens accuracy changes by {first * 100:+.1f} points"
    verb = "flattens" if last < first / 2 else "keeps rising" if last > 0 else "does not rise"
    return f"Accuracy {verb}: the first step of the budget brings {first * 100:+.1f} points, the last {last * 100:+.1f}"


def _latency(rows: pd.DataFrame) -> Figure | None:
    rows = rows[rows["e2e_p50_s"].notna()]
    if rows.empty:
        return None
    chart = against_budget(rows, "e2e_p50_s", "median latency, s", "~g", log=True, zero=False)
    means = rows.groupby("config", observed=True)["e2e_p50_s"].mean().sort_values()
    claim = f"{means.index[0]} answers fastest" if len(means) > 1 else "Median latency against the budget"
    if len(means) > 1:
        claim += f": {means.iloc[-1] / means.iloc[0]:.1f} times as fast as {means.index[-1]}"
    return Figure(
        "latency",
        claim,
        "Sent to last token, median of successes; bars: 95 % order-statistic intervals.",
        rows,
        chart,
        panel="model",
    )


def _cost(rows: pd.DataFrame) -> Figure | None:
    rows = rows[rows["gpu_s_per_token"].gt(0)]
    if rows.empty:
        return None
    chart = against_budget(rows, "gpu_s_per_token", "GPU-seconds per token", "~g", log=True, zero=False)
    means = rows.groupby("config", observed=True)["gpu_s_per_token"].mean().sort_values()
    claim = f"A token costs least on {means.index[0]}: {number(means.iloc[0] * 1e3, '.3g')} GPU-ms"
    if len(means) > 1:
        claim += f", against {number(means.iloc[-1] * 1e3, '.3g')} on {means.index[-1]}"
    return Figure(
        "cost-per-token",
        claim,
        "GPUs × wall / tokens; the paper's formula is in the table.",
        rows,
        chart,
        panel="model",
    )
