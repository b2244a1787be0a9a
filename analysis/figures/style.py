"""Define the style of all figures: each configuration has one colour, readable on white and on black.

Colour shows the configuration. Dash and shape show speculation, so that no figure depends on colour alone. Figures on the page
take text and background colours from the page's CSS. Exported figures use the light theme of theme.toml.

This module does not know what a figure shows.
"""

import itertools
import tomllib
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import altair as alt

from analysis.format import natural

_THEME = tomllib.loads((Path(__file__).parent / "theme.toml").read_text(encoding="utf-8"))
PALETTE: list[str] = _THEME["palette"]
GRADE_COLOURS: dict[str, str] = _THEME["grades"]
LIGHT: dict[str, Any] = _THEME["light"] | {"view": {"stroke": None}}  # TOML has no null
FONT = "system-ui, -apple-system, 'Segoe UI', Roboto, 'Helvetica Neue', Arial, sans-serif"
MUTED = "#7d858f"
HEIGHT = 270
BUDGET_LABEL = "datum.value >= 1024 ? format(datum.value / 1024, '~g') + 'K' : datum.value"
NUMBER_LABEL = "format(datum.value, datum.value < 1000 ? '.3~g' : '~s')"
SI_LABEL = "format(datum.value, '~s')"  # the axis format of Vega would write 0 as 0k


def colours(configs: Iterable[Any]) -> dict[str, str]:
    """A colour for each configuration. Beyond ten configurations colours repeat."""
    return dict(zip(sorted(map(str, configs), key=natural), itertools.cycle(PALETTE), strict=False))


def colour() -> alt.Color:
    """Encode the configuration as colour. `paint` later fills in the scheme, so that it is the same in every figure."""
    return alt.Color("config:N", title="configuration")


def paint(chart: Any, scheme: dict[str, str], shown: list[str]) -> None:
    """Fill the study's colour scheme into a chart's specification, in place, for the configurations shown."""
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
    """Encode speculation as shape: circle without, triangle with."""
    return alt.Shape("drafting:N", title="speculation").scale(domain=["off", "on"], range=["circle", "triangle-up"])


def dash() -> alt.StrokeDash:
    """Encode speculation as dash: solid line without, dashed with."""
    return alt.StrokeDash("drafting:N", title="speculation").scale(domain=["off", "on"], range=[[1, 0], [6, 3]])


def tokens_axis(budgets: list[float]) -> alt.X:
    """A logarithmic axis of budgets to the base 2, with a tick at each budget."""
    axis = alt.Axis(values=budgets, labelExpr=BUDGET_LABEL, grid=False, labelOverlap=True)
    x = alt.X("budget:Q", title="token budget", axis=axis)
    if min(budgets, default=0) <= 0:  # imported runs have the budget 0, which a logarithmic axis cannot show
        return x.scale(type="symlog", nice=False, padding=14)
    low, high = min(budgets, default=1), max(budgets, default=1)
    domain = [low, high] if low < high else [low / 2, high * 2]  # the same in every panel
    return x.scale(type="log", base=2, nice=False, padding=14, domain=domain)
