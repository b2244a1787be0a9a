"""Draw the comparison of one longer answer (sequential) and several answers (parallel) at equal cost."""

import altair as alt
import numpy as np
import pandas as pd

from analysis.figures.base import DETAIL, Figure, drawable, labels, layered, rows_data
from analysis.figures.style import HEIGHT, MUTED, colour, shape
from analysis.format import records, short_budget, span


def figures(rows: pd.DataFrame) -> list[Figure]:
    """One figure, where problems have several samples."""
    rows = rows[rows["majority"].notna() & rows["gpu_s_per_problem"].gt(0)] if len(rows) else rows
    if rows.empty:
        return []
    label = np.where(
        rows["k"] == 1,
        rows["budget"].map(short_budget),
        np.where(rows["k"] == rows["k"].max(), "×" + rows["k"].astype(str), ""),
    )
    rows = drawable(rows.assign(label=label, way=np.where(rows["k"] == 1, "one answer", "vote")))
    if rows.empty:
        return []
    x = alt.X("gpu_s_per_problem:Q", title="GPU-seconds per problem", axis=alt.Axis(format="~g", tickCount=5))
    slowest = alt.Tooltip("e2e_s:Q", title="slowest of k, s", format=".3~g")
    shares = [alt.Tooltip(f"{name}:Q", format=".1%") for name in ("majority", "pass_at_k")]
    problems = alt.Tooltip("n:Q", title="problems")
    tips = [*labels("config", "model"), alt.Tooltip("budget:Q"), alt.Tooltip("k:Q"), *shares, slowest, problems]
    tips += labels("source")
    base = alt.Chart(rows_data()).encode(
        x=x.scale(type="log", nice=False, padding=18),
        y=alt.Y("majority:Q", title="accuracy", axis=alt.Axis(format=".0%", tickCount=5)).scale(zero=False),
        detail=[alt.Detail("config:N"), *DETAIL],
    )
    layers = [
        base.transform_filter("datum.k == 1").mark_line(color=MUTED, strokeWidth=2.5, opacity=0.7),
        base.mark_line(strokeWidth=1.5).encode(color=colour(), detail=[alt.Detail("budget:N"), *DETAIL]),
        base.mark_point(filled=True, size=55, opacity=1).encode(color=colour(), shape=shape(), tooltip=tips),
        base.mark_text(dy=-9, fontSize=10).encode(text=alt.Text("label:N")),
    ]
    chart = layered(layers, HEIGHT + 40)
    note = (
        "Grey: one answer at increasing budgets (sequential). Coloured: majority vote over 2, 4, … answers at one budget "
        "(parallel), at the sum of their costs. The table also has pass@k and the latency of the slowest answer."
    )
    return [Figure("parallel-compute", claim(rows), note, rows, chart, panel="panel", section="parallel")]


def claim(rows: pd.DataFrame) -> str:
    """Compare votes to one answer at the same budget, and to one longer answer at the same cost."""
    gains, same = [], []
    for _, line in rows.groupby(["panel", "config"], observed=True, sort=False):
        single = line[line["k"] == 1].sort_values("gpu_s_per_problem")
        for row in records(line[line["k"] > 1]):
            at_budget = single[single["budget"] == row["budget"]]["majority"]
            most = row["k"] == line["k"].max() and len(at_budget) > 0
            same += [(row["majority"] - at_budget.iloc[0]) * 100] if most else []
            if len(single) > 1 and row["gpu_s_per_problem"] <= single["gpu_s_per_problem"].max():
                longer = np.interp(row["gpu_s_per_problem"], single["gpu_s_per_problem"], single["majority"])
                gains.append((row["majority"] - longer) * 100)
    if not same:
        return "One answer or several: accuracy at equal cost"
    text = f"{rows['k'].max()} votes instead of one answer change the accuracy by {span(same, '+.1f')} points"
    return text + (
        f"; compared to one longer answer at equal cost, votes change it by {span(gains, '+.1f')}" if gains else ""
    )
