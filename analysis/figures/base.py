"""Define what all figures share: the claim, the rows behind it, and the marks with which they are drawn.

Each figure has one claim: a sentence about this data, computed from the table. Where the table does not support a
comparison, the claim only names what is shown. Every point has its interval, its source and a link to its run. Charts read the
named data set `rows`, so that the page can filter it.

This module does not know files or HTML.
"""

from dataclasses import dataclass, field
from typing import Any

import altair as alt
import numpy as np
import pandas as pd

from analysis.data.setting import CONDITIONS, conditions, joined_sources, varying
from analysis.figures.style import HEIGHT, MUTED, NUMBER_LABEL, colour, dash, shape, tokens_axis
from analysis.format import records

FILTERS: tuple[str, ...] = ("model", "config", "budget", "load", "asked")
"""Columns by which the page can be filtered."""
NO_BUDGET = [name for name in FILTERS if name != "budget"]
"""Filters of a figure that does not show every budget."""
Chart = Any
"""An Altair chart. Altair's types do not accept the results of Altair's own operators, so this is Any."""


@dataclass(slots=True)
class Figure:
    """One claim, the rows behind it, and the chart that draws them."""

    name: str
    """File name without suffix, also the anchor on the page."""
    claim: str
    note: str
    """How to read the figure: what is drawn, and by which formula."""
    rows: pd.DataFrame
    chart: Chart
    """Draws one panel from the data set `rows`."""
    panel: str | None = None
    """Column whose values each get a panel of their own."""
    section: str = "budget"
    wide: bool = False
    filters: list[str] = field(default_factory=lambda: list(FILTERS))
    legend: dict[str, str] | None = None
    """The colours of words, where colour does not show the configuration."""

    @property
    def full_width(self) -> bool:
        """Whether the figure takes the width of the page, as one with several panels does."""
        return self.wide or (self.panel is not None and len(self.rows[self.panel].unique()) > 1)

    @property
    def columns(self) -> int:
        """How many panels stand beside each other: all those of one model, or an equal part of them."""
        if self.panel is None or "model" not in self.rows:
            return 3
        of_model = self.rows.groupby("model", observed=True)[self.panel].nunique().max()
        return 2 if of_model % 2 == 0 and of_model % 3 else 3

    @property
    def source(self) -> str:
        """The words of the sources of the rows, each once: measured, emulated, ..."""
        return joined_sources(self.rows["source"].astype(str).unique()) if "source" in self.rows else ""


DETAIL = [alt.Detail(f"{name}:N") for name in ("model", *CONDITIONS)]
"""Columns that separate lines. The source is not one of them: a line joins derived budgets and the budget that was sent."""


def rows_data() -> alt.NamedData:
    """The data set that the page fills and filters."""
    return alt.NamedData("rows")


def tooltip(*values: Any) -> list[Any]:
    """The tooltip of every point of the summary, with `values` in the middle."""
    config = alt.Tooltip("config:N", title="configuration")
    verdict = alt.Tooltip("run_verdict:N", title="verdict")
    about, n = numbers(budget=",d"), numbers(n=",d")
    return [config, *labels("model", "load", "asked"), *about, *values, *n, *labels("source"), verdict]


def labels(*names: str) -> list[Any]:
    """Tooltip entries for columns of words. Altair takes much longer to read a text than to make an object."""
    return [alt.Tooltip(f"{name}:N") for name in names]


def numbers(**formats: str) -> list[Any]:
    """Tooltip entries for columns, each with the format of its number."""
    return [alt.Tooltip(f"{name}:Q", format=form) for name, form in formats.items()]


def with_interval(name: str, title: str, number: str) -> list[Any]:
    """Tooltip entries for a value and its 95 % interval."""
    ends = {"": title, "_low": "95 % from", "_high": "to"}
    return [alt.Tooltip(f"{name}{end}:Q", title=text, format=number) for end, text in ends.items()]


def against_budget(
    rows: pd.DataFrame, name: str, title: str, number: str, *, log: bool = False, zero: bool = False
) -> Chart:
    """Draw a column over the budget with 95 % intervals, one line for each configuration and condition.

    A study of one budget has a bar for each configuration.
    """
    if len(rows["budget"].unique()) == 1:
        return _bars(rows, name, title, number)
    scale: dict[str, Any] = {"type": "log", "nice": False, "padding": 12} if log else {"zero": zero}
    y = alt.Y(f"{name}:Q", title=title, axis=alt.Axis(format=number, tickCount=5)).scale(**scale)
    base = alt.Chart(rows_data()).encode(
        x=tokens_axis(sorted(float(b) for b in rows["budget"].unique())), color=colour(), detail=DETAIL
    )
    lines = base.mark_line(strokeWidth=1.8).encode(y=y, strokeDash=dash())
    points = base.mark_point(filled=True, size=62, opacity=1).encode(
        y=y, shape=shape(), tooltip=tooltip(*with_interval(name, title, number)), href=alt.Href("link:N")
    )
    layers = [lines, points]
    if f"{name}_low" in rows:
        low = alt.Y(f"{name}_low:Q", title=title).scale(**scale)
        layers.insert(0, base.mark_rule(opacity=0.3, strokeWidth=5).encode(y=low, y2=f"{name}_high:Q"))
    return layered(layers)


def layered(layers: list[Any], height: int = HEIGHT) -> Chart:
    """Layers as one panel, which is as wide as the page lets it be."""
    return alt.layer(*layers).properties(width="container", height=height)


def _bars(rows: pd.DataFrame, name: str, title: str, number: str) -> Chart:
    label: dict[str, Any] = {"format": number} if "%" in number else {"labelExpr": NUMBER_LABEL}
    x = alt.X(f"{name}:Q", title=title, axis=alt.Axis(**label, tickCount=5))
    base = alt.Chart(rows_data()).encode(y=alt.Y("config:N", title=None, sort=None), color=colour())
    bars = base.mark_bar(opacity=0.85, height=14).encode(
        x=x, tooltip=tooltip(*with_interval(name, title, number)), href=alt.Href("link:N")
    )
    layers = [bars]
    if f"{name}_low" in rows:
        rule = base.mark_rule(color=MUTED, strokeWidth=1.5)
        low = alt.X(f"{name}_low:Q", title=title)
        layers.append(rule.encode(x=low, x2=f"{name}_high:Q", color=alt.value(MUTED)))
    return layered(layers, 26 * len(rows["config"].unique()) + 10)


def once(rows: pd.DataFrame, name: str, *by: str) -> pd.DataFrame:
    """Rows whose curves are the same under every condition are drawn once for each model, in a panel that says so."""
    kept = []
    for model, part in rows.groupby("model", observed=True, sort=False):
        wide = part.pivot_table(index=["config", "budget", *by], columns="under", values=name, observed=True)
        alike = wide.shape[1] > 1 and bool(wide.sub(wide.iloc[:, 0], axis=0).abs().max().max() == 0)
        first = part[part["under"] == part["under"].iloc[0]].assign(panel=f"{model}, the same under all conditions")
        kept.append(first if alike and not wide.isna().any().any() else part)
    return pd.concat(kept) if kept else rows


def comparable(rows: pd.DataFrame) -> pd.DataFrame:
    """Rows whose panel has at least two of them, and two budgets where any panel has: a single point compares nothing."""
    groups = rows.groupby("panel")["budget"]
    several = groups.transform("nunique") > 1
    return rows[several] if several.any() else rows[groups.transform("size") > 1]


def drawable(table: pd.DataFrame, along: str = "") -> pd.DataFrame:
    """Rows to draw, without INVALID runs. `along` is a condition that is drawn as an axis.

    Adds the column `panel`, the model with those conditions that vary in the study, so that all lines of a panel are
    comparable, and the column `under`, the same without the model.
    """
    if "judged" in table:
        table = table[table["judged"] != "INVALID"]
    table = table.assign(drafting=np.where(table["speculation"].astype(str) == "off", "off", "on"))
    names = [name for name in varying(table) if name != along]
    rows = records(table[["model", *names]])
    under = [conditions(row, names) for row in rows]
    panel = [conditions(row, ["model", *names]) for row in rows]
    table = table.assign(panel=panel, under=under)
    return table.assign(link=table["cells"].map(link)) if "cells" in table else table


def over(rows: pd.DataFrame, most: int = 3) -> str:
    """The conditions over which a title gives a range, in parentheses; empty where all rows have the same."""
    names = [name for name in rows["under"].unique() if name]
    if len(names) < 2:
        return ""
    loads = [name.removesuffix(" in flight") for name in names]
    if all(load.isdigit() for load in loads):
        least, *_, largest = sorted(loads, key=int)
        return f" ({least} {'and' if len(loads) == 2 else 'to'} {largest} in flight)"
    return f" ({'; '.join(names) if len(names) <= most else f'{len(names)} sets of conditions'})"


def link(cells: str) -> str:
    """Link to the manifest of a row's first run."""
    return "#run-" + anchor(cells.split(", ", maxsplit=1)[0])


def anchor(cell: str) -> str:
    """An HTML id for a cell."""
    return "".join(c if c.isalnum() else "-" for c in cell)
