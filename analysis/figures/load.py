"""Draw what depends on the load, for settings that ran at several loads: latency, throughput and speed-up by speculation.

A percentile is drawn where its sample carries it. Each figure shows every model at its largest budget; the table has all. The
limit that a search has found is a vertical line with its interval, and an objective of the SLO is a horizontal line. Each method
of speculation has a panel of its own where there are several.

This module does not know how a capacity or a crossing is found (tables/capacity.py, tables/crossover.py).
"""

import itertools
from typing import Any

import altair as alt
import numpy as np
import pandas as pd

from analysis.figures.base import NO_BUDGET, Chart, Figure, drawable, labels, layered, numbers, rows_data, with_interval
from analysis.figures.style import MUTED, NUMBER_LABEL, PALETTE, colour, shape
from analysis.format import number, records, short_models
from analysis.tables.capacity import CHOICE
from analysis.tables.crossover import speedups

LATENCIES = {"ttft": "time to first token, s", "tpot": "time per output token, s", "e2e": "end-to-end latency, s"}
PERCENTILES = ("p50", "p95", "p99")
THROUGHPUT = {"requests_per_s": "requests per second", "tokens_per_s_gpu": "tokens per second and GPU"}
GOODPUT = {
    "requests_per_s": "requests per second",
    "goodput_per_s": "requests per second within the SLO",
    "good_share": "share of requests within the SLO",
}
KINDS = {"streams": "requests in flight"}


def figures(points: pd.DataFrame, slo: dict[str, float]) -> list[Figure]:
    """Both figures, where a setting was run at several loads of one kind; `points` is `capacity.load_points`."""
    if points.empty:
        return []
    loads = points.groupby([*CHOICE, "load_kind"], observed=True)["load_value"].transform("nunique")
    points = points[loads > 1]
    points = _at_largest_budget(points)
    if points.empty:
        return []
    points = drawable(points, "load")
    latency = [
        points.assign(quantity=title, percentile=p, value=points[f"{name}_{p}_s"], objective=slo.get(name, np.nan))
        for name, title in LATENCIES.items()
        for p in PERCENTILES
    ]
    rates = [
        points.assign(quantity=title, percentile="", value=points[name], objective=np.nan)
        for name, title in (GOODPUT if slo else THROUGHPUT).items()
    ]
    limit = LIMIT if points["limit_low"].notna().any() else ""
    percentiles = "Solid lines: p50, dashed: p95, dotted: p99, over successful requests."
    objective = " Horizontal lines are the objectives of the SLO." if slo else ""
    per_token = _claim(points, "tpot_p50_s", "median time per output token", "ms", 1e3)
    per_s = _claim(points, "requests_per_s", "throughput", "requests per second")
    made = [
        _figure("latency-load", per_token, percentiles + objective + limit, latency),
        _figure("throughput-load", per_s, f"Under the steady load.{limit}", rates),
    ]
    return [figure for figure in made if figure is not None]


def _at_largest_budget(rows: pd.DataFrame) -> pd.DataFrame:
    """The rows of each model at its largest budget."""
    return rows[rows["budget"] == rows.groupby("model", observed=True)["budget"].transform("max")]


LIMIT = " A vertical line is the highest load that a search has shown to meet the SLO; the limit lies in the band beside it."


def _figure(name: str, claim: str, note: str, parts: list[pd.DataFrame]) -> Figure | None:
    """A panel for each quantity, kind of load, model and conditions, where it has at least two loads."""
    rows = pd.concat(parts, ignore_index=True)
    rows = rows[rows["value"].gt(0) if name == "latency-load" else rows["value"].notna()]
    short, several = short_models(rows["model"]), len(rows["panel"].unique()) > 1
    kinds = len(rows["load_kind"].unique())
    rows["panel"] = [
        ", ".join(
            [row["quantity"]]
            + ([short[str(row["model"])], *filter(None, [row["under"]])] if several else [])
            + ([KINDS.get(row["load_kind"], f"{row['load_kind']} arrivals")] if kinds > 1 else [])
        )
        for row in records(rows)
    ]
    rows = rows.sort_values(["params_b", "model"], kind="stable")
    rows = rows[rows.groupby("panel")["load_value"].transform("nunique") > 1]
    if rows.empty:
        return None
    title = "requests in flight, or per second"
    if kinds == 1:
        title = KINDS.get(rows["load_kind"].iloc[0], "requests per second")
    chart = _chart(rows, title, log=name == "latency-load")
    return Figure(name, claim, note, rows, chart, panel="panel", section="load", wide=True, filters=NO_BUDGET)


LOAD_SCALE: dict[str, Any] = {"type": "log", "base": 2, "nice": False, "padding": 14}


def _load_axis(rows: pd.DataFrame, title: str) -> alt.X:
    """A logarithmic axis of loads, with a tick at each load."""
    loads = sorted(rows["load_value"].unique().tolist())
    axis = alt.Axis(values=loads, format="~g", labelOverlap=True, grid=False)
    return alt.X("load_value:Q", title=title, axis=axis).scale(**LOAD_SCALE)


def _chart(rows: pd.DataFrame, title: str, *, log: bool) -> Chart:
    x = _load_axis(rows, title)
    scale: dict[str, Any] = {"type": "log", "nice": False, "padding": 12} if log else {"zero": True}
    y = alt.Y("value:Q", title=None, axis=alt.Axis(labelExpr=NUMBER_LABEL, tickCount=5)).scale(**scale)
    base = alt.Chart(rows_data())
    marks = base.encode(x=x, y=y, color=colour())
    dashes = alt.StrokeDash("percentile:N", title="percentile").scale(
        domain=["", *PERCENTILES], range=[[1, 0], [1, 0], [6, 3], [2, 3]]
    )
    good = alt.Tooltip("good_share:Q", title="within the SLO", format=".1%")
    tips = [*labels("config", "model", "load", "percentile"), *numbers(value=".3~g"), good, *numbers(n=",d")]
    tips += labels("source")
    once = base.transform_filter("isValid(datum.limit_low)").transform_aggregate(
        groupby=["config", "limit_low", "limit_high"]
    )
    limit_x = alt.X("limit_low:Q", title=title).scale(**LOAD_SCALE)
    limit = once.encode(color=colour())
    layers = [
        limit.mark_rect(opacity=0.1).encode(x=limit_x, x2="limit_high:Q"),
        limit.mark_rule(strokeWidth=1.2).encode(x=limit_x),
        base.transform_filter("isValid(datum.objective)").mark_rule(color=MUTED).encode(y="objective:Q"),
        marks.mark_line(strokeWidth=1.8).encode(strokeDash=dashes, detail=[alt.Detail("percentile:N"), *DETAIL]),
        marks.mark_point(filled=True, size=50, opacity=1).encode(shape=shape(), tooltip=tips, href=alt.Href("link:N")),
    ]
    return layered(layers)


DETAIL = [alt.Detail(f"{name}:N") for name in CHOICE]


def _claim(points: pd.DataFrame, name: str, what: str, unit: str, factor: float = 1.0) -> str:
    """How a quantity changes from the smallest to the largest load, where all settings have both; ranges are over settings."""
    ends = [points[points["load_value"] == edge] for edge in points["load_value"].agg(["min", "max"])]
    values = [end[name] * factor for end in ends]
    alike = len(points["load_kind"].unique()) == 1 and len(ends[0]) == len(ends[1])
    if not alike or any(value.isna().any() for value in values):
        return f"{what.capitalize()} against the load"
    low, high = ([number(value.agg(side), ".2g") for value in values] for side in ("min", "max"))
    ranges = [a if a == b else f"{a}–{b}" for a, b in zip(low, high, strict=True)]
    loads = " to ".join(f"{end['load_value'].iloc[0]:g}" for end in ends)
    per = " in flight" if points["load_kind"].iloc[0] == "streams" else "/s"
    return f"From {loads}{per}, the {what} changes from {ranges[0]} to {ranges[1]} {unit}"


CROSSOVER_NOTE = (
    "Σ e2e without speculation / Σ e2e with it, same problems and same number of GPUs. Bars: 95 % intervals over problems, with the "
    "noise between runs. Above 1 is faster. The table `crossover` has the load at which each setting stops paying, with its interval."
)


def crossover(pairs: pd.DataFrame, crossovers: pd.DataFrame) -> list[Figure]:
    """The speed-up by speculation, where a setting with speculation ran at several loads in a closed loop."""
    shown = crossovers[(crossovers["load_kind"] == "streams") & (crossovers["loads"] > 1)]
    if shown.empty:
        return []
    shown = _at_largest_budget(shown)
    rows = speedups(pairs).merge(shown.drop(columns=["base", "speculation", "params_b", "loads"]))
    rows = drawable(rows, "load")
    if len(rows["speculation"].unique()) > 1:
        rows["panel"] = rows["panel"] + ", " + rows["speculation"].astype(str)
    rows = rows.sort_values(["params_b", "panel", "config", "load_value"], kind="stable")
    title = "speed-up by speculation"
    y, low = (alt.Y(f"speedup{end}:Q", title=title).scale(type="log", nice=False, padding=12) for end in ("", "_low"))
    hue, legend = _colour(rows)
    base = alt.Chart(rows_data()).encode(x=_load_axis(rows, KINDS["streams"]), color=hue)
    tip = [*labels("config", "base", "model", "load"), *with_interval("speedup", title, ".3~g"), *numbers(n=",d")]
    layers = [
        alt.Chart(rows_data()).mark_rule(color=MUTED).encode(y=alt.datum(1.0)),
        base.mark_rule(opacity=0.25, strokeWidth=4).encode(y=low, y2="speedup_high:Q"),
        base.mark_line(strokeWidth=1.8).encode(y=y),
        base.mark_point(filled=True, size=50, opacity=1).encode(y=y, tooltip=tip),
    ]
    claim, chart = _crossover_claim(shown), layered(layers)
    figure = Figure(
        "crossover",
        claim,
        CROSSOVER_NOTE,
        rows,
        chart,
        "panel",
        section="load",
        wide=True,
        legend=legend,
        filters=NO_BUDGET,
    )
    return [figure]


def _colour(rows: pd.DataFrame) -> tuple[alt.Color, dict[str, str] | None]:
    """The configuration as colour, or its number of draft tokens (with a legend) where the colours would repeat."""
    if len(rows["config"].unique()) <= len(PALETTE) or rows["draft_tokens"].isna().any():
        return colour(), None
    known = sorted(rows["draft_tokens"].unique().tolist())
    shades = dict(zip(known, itertools.cycle(PALETTE), strict=False))
    hue = alt.Color("draft_tokens:N", title="draft tokens").scale(domain=known, range=[*shades.values()])
    return hue, {f"{count:.0f} draft token{'s' * (count > 1)}": shade for count, shade in shades.items()}


def _crossover_claim(shown: pd.DataFrame) -> str:
    """How many settings with speculation are faster at the smallest and at the largest load."""
    smallest, largest = shown["smallest_load"].min(), shown["largest_load"].max()
    some, always = int((shown["stops_at"] > 0).sum()), int(np.isinf(shown["stops_at"]).sum())
    begin = f"{some} of {len(shown)} settings with speculation are faster at {smallest:g} in flight"
    return f"{begin}, and {always} at every load that was run, up to {largest:g}"
