"""One look for every figure: a colour for each configuration, the same everywhere, readable on white and on black.

Rules: colour says configuration; dash and shape say speculation, so that no figure depends on colour alone. Figures on
the page take ink and paper from the page's CSS; exported ones are drawn in the light theme here.

Does not know: what a figure shows.
"""

import re
from typing import Any

import altair as alt

# Mid-lightness hues, apart from one another for the colour-blind too, ≥ 3:1 on #ffffff and on #14171c.
PALETTE = (
    "#2f7bd9",
    "#c2610c",
    "#16906a",
    "#b0489c",
    "#8567d6",
    "#a8821a",
    "#d0454c",
    "#0f8ea8",
    "#7a7f87",
    "#5d9431",
)
FONT = "system-ui, -apple-system, 'Segoe UI', Roboto, 'Helvetica Neue', Arial, sans-serif"
MUTED = "#7d858f"
HEIGHT = 270
BUDGET_LABEL = "datum.value >= 1024 ? format(datum.value / 1024, '~g') + 'K' : datum.value"
SI_LABEL = "format(datum.value, '~s')"  # not the axis' own format, which writes 0 as 0k

LIGHT: dict[str, Any] = {
    "background": "#ffffff",
    "font": "Liberation Sans, DejaVu Sans, Arial, sans-serif",
    "title": {
        "anchor": "start",
        "fontSize": 14,
        "color": "#1a1f26",
        "subtitleColor": "#59616b",
        "offset": 12,
    },
    "axis": {
        "labelColor": "#3c434c",
        "titleColor": "#3c434c",
        "gridColor": "#e4e7eb",
        "domainColor": "#a9b0b8",
    },
    "view": {"stroke": None},
    "legend": {"labelColor": "#3c434c", "titleColor": "#3c434c", "symbolStrokeWidth": 2},
}


def natural(name: str) -> list[Any]:
    """Sort key that puts `tp2` before `tp10`, and `tp2` before `tp2-ngram`."""
    return [int(part) if part.isdigit() else part for part in re.split(r"(\d+)", name)]


def colours(configs: list[str]) -> dict[str, str]:
    """A colour for each configuration; more than ten share."""
    return {name: PALETTE[n % len(PALETTE)] for n, name in enumerate(sorted(configs, key=natural))}


def colour() -> alt.Color:
    """The configuration's colour; `paint` fills in the scheme, so that it is the same on every figure."""
    return alt.Color("config:N", title="configuration")


def paint(chart: Any, scheme: dict[str, str], shown: list[str]) -> None:
    """Give every colour of a configuration in a chart's specification the study's scheme, for the configurations shown."""
    if isinstance(chart, list):
        for part in chart:
            paint(part, scheme, shown)
    elif isinstance(chart, dict):
        hue = chart.get("color")
        if isinstance(hue, dict) and hue.get("field") == "config":
            domain = [name for name in scheme if name in shown]
            hue["scale"] = {"domain": domain, "range": [scheme[name] for name in domain]}
        for part in chart.values():
            paint(part, scheme, shown)


def shape() -> alt.Shape:
    """Filled circle without speculation, triangle with."""
    return alt.Shape("drafting:N", title="speculation").scale(
        domain=["off", "on"], range=["circle", "triangle-up"]
    )


def dash() -> alt.StrokeDash:
    """Full line without speculation, dashed with."""
    return alt.StrokeDash("drafting:N", title="speculation").scale(
        domain=["off", "on"], range=[[1, 0], [6, 3]]
    )


def tokens_axis(budgets: list[float]) -> alt.X:
    """Budgets on a doubling axis, with a tick at each: a step to the right is twice the tokens."""
    axis = alt.Axis(values=budgets, labelExpr=BUDGET_LABEL, grid=False, labelOverlap=True)
    x = alt.X("budget:Q", title="token budget", axis=axis)
    if min(budgets, default=0) <= 0:  # imported runs have no budget; a logarithm has no zero
        return x.scale(type="symlog", nice=False, padding=14)
    low, high = min(budgets, default=1), max(budgets, default=1)
    domain = [low, high] if low < high else [low / 2, high * 2]  # the same in every panel, whatever it holds
    return x.scale(type="log", base=2, nice=False, padding=14, domain=domain)
