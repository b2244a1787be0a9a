"""Draw where the time goes: the parts of latency, its distribution, and each run over time with its power."""

import altair as alt
import pandas as pd

from analysis.figures.base import DETAIL, NO_BUDGET, Figure, drawable, labels, link, numbers, over, rows_data
from analysis.figures.style import HEIGHT, MUTED, SI_LABEL, colour, dash, shape
from analysis.format import number, short_budget, span
from analysis.tables.distributions import PARTS

MAX_RUNS = 12  # timelines on the page; the table has all


def figures(parts: pd.DataFrame, quantiles: pd.DataFrame, timelines: pd.DataFrame) -> list[Figure]:
    """Every figure for which the tables have data."""
    made = [_parts(parts), _distribution(quantiles), _timeline(timelines)]
    return [figure for figure in made if figure is not None]


def largest_budget(rows: pd.DataFrame) -> pd.DataFrame:
    """The rows of the largest budget of each panel, where fewest answers are truncated."""
    rows = drawable(rows)
    return rows[rows["budget"] == rows.groupby("panel")["budget"].transform("max")]


def _parts(rows: pd.DataFrame) -> Figure | None:
    rows = largest_budget(rows) if len(rows) else rows
    rows = rows[rows["seconds"].gt(0)] if len(rows) else rows
    if rows.empty:
        return None
    shares = {part: span(found["share"], ".1%") for part, found in rows.groupby("part")}
    words = {"decode": "decoding", "queue": "queueing"}
    found = [f"{shares[part]} is {word}" for part, word in words.items() if part in shares]
    claim = f"Of the latency, {' and '.join(found)}{over(rows)}" if found else "Parts of the latency"
    tips = [*labels("config", "part"), *numbers(seconds=".3~g", share=".2%", n=",d"), *labels("source")]
    x = alt.X("seconds:Q", title="mean seconds per request", axis=alt.Axis(format="~g", tickCount=5))
    y = alt.Y("part:N", title=None, sort=list(PARTS.values()), axis=alt.Axis(grid=True, labelLimit=200))
    points = alt.Chart(rows_data()).mark_point(filled=True, size=90, opacity=0.9)
    x = x.scale(type="log", nice=False, padding=14)
    chart = points.encode(x=x, y=y, color=colour(), shape=shape(), tooltip=tips)
    chart = chart.properties(width="container", height=190)
    note = "As the server reported them, at each model's largest budget. 'network + client' is e2e minus queue, prefill and decode. vLLM's time to first token starts at scheduling."
    return Figure("decomposition", claim, note, rows, chart, panel="panel", section="time", filters=NO_BUDGET)


def _distribution(rows: pd.DataFrame) -> Figure | None:
    rows = largest_budget(rows[rows["metric"] == "e2e_s"]) if len(rows) else rows
    if rows.empty:
        return None
    arm = ["panel", "config", "source"]
    wide = rows.pivot_table(index=arm, columns="share", values="seconds", observed=True).reindex(columns=[0.5, 0.95])
    times = (wide[0.95] / wide[0.5]).dropna()
    claim = "Distribution of latency"
    if len(times):
        compared = over(rows[rows["panel"].isin(times.index.get_level_values("panel"))])
        claim = f"One answer in twenty takes at least {span(times, '.2g')} times the median latency{compared}"
    tips = [*labels("config", "load"), *numbers(share=".1%", seconds=".3~g", n=",d"), *labels("source")]
    along = alt.X("seconds:Q", title="e2e, s", axis=alt.Axis(format="~g", tickCount=6))
    lines = alt.Chart(rows_data()).mark_line(strokeWidth=1.8, point={"size": 14, "filled": True})
    chart = lines.encode(
        x=along.scale(type="log", nice=False, padding=10),
        y=alt.Y("share:Q", title="share of answers within", axis=alt.Axis(format=".0%")),
        color=colour(),
        strokeDash=dash(),
        detail=[*DETAIL, alt.Detail("source:N")],
        tooltip=tips,
    ).properties(width="container", height=HEIGHT)
    budgets = " and ".join(short_budget(b) for b in sorted(rows["budget"].unique()))
    note = f"Order statistics of successful requests at the largest budget ({budgets}). The table has every budget."
    return Figure("distribution", claim, note, rows, chart, panel="panel", section="time", filters=NO_BUDGET)


def _timeline(rows: pd.DataFrame) -> Figure | None:
    if rows.empty:
        return None
    cells = list(rows["cell"].unique())
    rows = rows[rows["cell"].isin(cells[:MAX_RUNS])]
    rows = rows.assign(link=rows["cell"].map(link))
    power = rows[rows["series"] == "power, W"]
    claim = "Each run over time"
    if len(power):
        means = power.groupby("cell")["value"].mean()
        least, most = number(means.min(), ",d"), number(means.max(), ",d")
        claim = f"The run draws {most} W while it generates"
        if len(means) > 1:
            claim = f"Runs draw {least} to {most} W while they generate"
    x = alt.X("t_s:Q", title="seconds from the run's start", axis=alt.Axis(labelExpr=SI_LABEL, tickCount=5))
    base = alt.Chart(rows_data()).encode(x=x, tooltip=[*labels("series"), *numbers(t_s=",.1f", value=",.3~g")])
    watts = base.transform_filter("datum.series == 'power, W'").mark_area(
        opacity=0.25, color=MUTED, line={"color": MUTED, "strokeWidth": 1.2}
    )
    speed = base.transform_filter("datum.series == 'tokens/s'").mark_line(strokeWidth=1.5)
    left = alt.Axis(labelExpr=SI_LABEL, tickCount=4)
    right = alt.Axis(orient="right", labelExpr=SI_LABEL, tickCount=4, grid=False)
    chart = speed.encode(y=alt.Y("value:Q", title="tokens/s", axis=right if len(power) else left), color=colour())
    note = "Tokens per second of the run."
    if len(power):
        grey = watts.encode(y=alt.Y("value:Q", title="power, W", axis=left))
        chart = alt.layer(grey, chart).resolve_scale(y="independent")
        note = "Grey: power of all GPUs of the configuration (left axis). Line: tokens per second (right axis)."
    chart = chart.properties(width="container", height=150)
    if len(cells) > MAX_RUNS:
        note += f" The first {MAX_RUNS} of {len(cells)} runs are shown; tables/timelines has all of them."
    return Figure("timeline", claim, note, rows, chart, panel="cell", section="time", filters=NO_BUDGET)
