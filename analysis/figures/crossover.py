"""Draw the speed-up by speculation against the load, for settings that ran at several loads, and say where it stops paying.

Each model is shown at its largest budget, and each method has a panel of its own where there are several. Where more
configurations are shown than there are colours, colour is their number of draft tokens.

This module does not know how the crossing is computed (tables/crossover.py).
"""

import itertools

import altair as alt
import numpy as np
import pandas as pd

from analysis.figures.base import NO_BUDGET, Figure, drawable, numbers, rows_data, with_interval
from analysis.figures.style import HEIGHT, MUTED, PALETTE, colour
from analysis.tables.crossover import speedups

NOTE = (
    "Σ e2e without speculation / Σ e2e with it, same problems and same number of GPUs. Bars: 95 % intervals over problems, with the "
    "noise between runs. Above 1 is faster. The table `crossover` has the load at which each setting stops paying, with its interval."
)


def figures(pairs: pd.DataFrame, crossovers: pd.DataFrame) -> list[Figure]:
    """The figure, where a setting with speculation ran at several loads in a closed loop."""
    shown = crossovers[(crossovers["load_kind"] == "streams") & (crossovers["loads"] > 1)]
    if shown.empty:
        return []
    shown = shown[shown["budget"] == shown.groupby("model", observed=True)["budget"].transform("max")]
    rows = speedups(pairs).merge(shown.drop(columns=["base", "speculation", "params_b", "loads"]))
    rows = drawable(rows, "load")
    if len(rows["speculation"].unique()) > 1:
        rows["panel"] = rows["panel"] + ", " + rows["speculation"].astype(str)
    rows = rows.sort_values(["params_b", "panel", "config", "load_value"], kind="stable")
    loads = sorted(rows["load_value"].unique().tolist())
    axis = alt.Axis(values=loads, format="~g", labelOverlap=True, grid=False)
    x = alt.X("load_value:Q", title="requests in flight", axis=axis)
    x = x.scale(type="log", base=2, nice=False, padding=14)
    title = "speed-up by speculation"
    y, low = (alt.Y(f"speedup{end}:Q", title=title).scale(type="log", nice=False, padding=12) for end in ("", "_low"))
    hue, legend = _colour(rows)
    base = alt.Chart(rows_data()).encode(x=x, color=hue)
    tip = [
        "config:N",
        "base:N",
        "model:N",
        "load:N",
        *with_interval("speedup", title, ".3~g"),
        *numbers(n=",d"),
    ]
    layers = [
        alt.Chart(rows_data()).mark_rule(color=MUTED).encode(y=alt.datum(1.0)),
        base.mark_rule(opacity=0.25, strokeWidth=4).encode(y=low, y2="speedup_high:Q"),
        base.mark_line(strokeWidth=1.8).encode(y=y),
        base.mark_point(filled=True, size=50, opacity=1).encode(y=y, tooltip=tip),
    ]
    chart = alt.layer(*layers).properties(width="container", height=HEIGHT)
    return [
        Figure(
            "crossover",
            _claim(shown),
            NOTE,
            rows,
            chart,
            "panel",
            section="load",
            wide=True,
            legend=legend,
            filters=NO_BUDGET,
        )
    ]


def _colour(rows: pd.DataFrame) -> tuple[alt.Color, dict[str, str] | None]:
    """The configuration as colour, or its number of draft tokens (with a legend) where the colours would repeat."""
    if len(rows["config"].unique()) <= len(PALETTE) or rows["draft_tokens"].isna().any():
        return colour(), None
    known = sorted(rows["draft_tokens"].unique().tolist())
    shades = dict(zip(known, itertools.cycle(PALETTE), strict=False))
    hue = alt.Color("draft_tokens:N", title="draft tokens").scale(domain=known, range=[*shades.values()])
    return hue, {f"{count:.0f} draft token{'s' * (count > 1)}": shade for count, shade in shades.items()}


def _claim(shown: pd.DataFrame) -> str:
    """How many settings with speculation are faster at the smallest and at the largest load."""
    smallest, largest = shown["smallest_load"].min(), shown["largest_load"].max()
    some, always = int((shown["stops_at"] > 0).sum()), int(np.isinf(shown["stops_at"]).sum())
    begin = f"{some} of {len(shown)} settings with speculation are faster at {smallest:g} in flight"
    return f"{begin}, and {always} at every load that was run, up to {largest:g}"
