"""What every figure shares: a claim, the rows that carry it, and the marks they are drawn with.

Rules: one figure, one claim; the claim is a sentence about this data, computed from the table, and says less when the
data says less. Every point carries its interval, its source and its run. Charts read the named data set `rows`, so that
the page can filter it.

Does not know: files, HTML.
"""

from dataclasses import dataclass, field
from typing import Any

import altair as alt
import pandas as pd

from analysis.data.setting import CONDITIONS, conditions, varying
from analysis.figures.style import HEIGHT, MUTED, colour, dash, shape, tokens_axis

FILTERS: tuple[str, ...] = ("model", "config", "budget", "load", "asked")
"""What the page can be filtered by."""
Chart = Any
"""An Altair chart: its own types refuse what its own operators return."""


@dataclass(slots=True)
class Figure:
    """One claim, the rows that carry it and how they are drawn."""

    name: str
    """File name without suffix, and anchor on the page."""
    claim: str
    note: str
    """How to read it: what is drawn, by which formula."""
    rows: pd.DataFrame
    chart: Chart
    """Draws one panel from the data set `rows`."""
    panel: str | None = None
    """Column that splits the figure into small multiples."""
    section: str = "budget"
    wide: bool = False
    filters: list[str] = field(default_factory=lambda: list(FILTERS))

    @property
    def source(self) -> str:
        """measured, emulated, …, as the rows say."""
        return " and ".join(dict.fromkeys(self.rows["source"].astype(str))) if "source" in self.rows else ""


DETAIL = [f"{name}:N" for name in ("model", *CONDITIONS)]
"""What a line is drawn for. Not the source: a line joins derived budgets and the one that was sent."""


def rows_data() -> alt.NamedData:
    """The data set the page fills and filters."""
    return alt.NamedData("rows")


def tooltip(*values: Any) -> list[Any]:
    """What hovering shows on every point of the summary."""
    return [
        alt.Tooltip("config:N", title="configuration"),
        alt.Tooltip("model:N"),
        alt.Tooltip("load:N"),
        alt.Tooltip("asked:N"),
        alt.Tooltip("budget:Q", format=",d"),
        *values,
        alt.Tooltip("n:Q", title="n", format=",d"),
        alt.Tooltip("source:N"),
        alt.Tooltip("run_verdict:N", title="verdict"),
    ]


def with_interval(name: str, title: str, number: str) -> list[Any]:
    """The value and its 95 % interval, for a tooltip."""
    return [
        alt.Tooltip(f"{name}:Q", title=title, format=number),
        alt.Tooltip(f"{name}_low:Q", title="95 % from", format=number),
        alt.Tooltip(f"{name}_high:Q", title="to", format=number),
    ]


def against_budget(
    rows: pd.DataFrame, name: str, title: str, number: str, *, log: bool = False, zero: bool = False
) -> Chart:
    """Lines over budget with 95 % bars, one line a configuration and load."""
    scale: dict[str, Any] = {"type": "log", "nice": False, "padding": 12} if log else {"zero": zero}
    y = alt.Y(f"{name}:Q", title=title, axis=alt.Axis(format=number, tickCount=5)).scale(**scale)
    base = alt.Chart(rows_data()).encode(
        x=tokens_axis(sorted(float(b) for b in rows["budget"].unique())), color=colour(), detail=DETAIL
    )
    lines = base.mark_line(strokeWidth=1.8).encode(y=y, strokeDash=dash())
    points = base.mark_point(filled=True, size=62, opacity=1).encode(
        y=y, shape=shape(), tooltip=tooltip(*with_interval(name, title, number)), href="link:N"
    )
    layers = [lines, points]
    if f"{name}_low" in rows:
        low = alt.Y(f"{name}_low:Q", title=title).scale(**scale)
        layers.insert(0, base.mark_rule(opacity=0.3, strokeWidth=5).encode(y=low, y2=f"{name}_high:Q"))
    chart: Chart = alt.layer(*layers).properties(width="container", height=HEIGHT)
    return chart


def level(value: float, *, vertical: bool = False) -> Chart:
    """A grey line at a value that means something."""
    place = {"x" if vertical else "y": alt.datum(value)}
    chart: Chart = alt.Chart(rows_data()).mark_rule(color=MUTED, strokeWidth=1).encode(**place)
    return chart


def drawable(table: pd.DataFrame) -> pd.DataFrame:
    """Rows that may conclude: INVALID runs stay in the table only, unless there is nothing else.

    Adds `panel`, the model and whatever conditions the study holds more than one of: lines of one panel may be compared.
    """
    if "judged" in table:
        table = table[table["judged"] != "INVALID"] if (table["judged"] != "INVALID").any() else table
    table = table.assign(
        drafting=table["speculation"].astype(str).map(lambda s: "off" if s == "off" else "on")
    )
    names = varying(table)
    under = (
        [conditions(row, names) for row in table[names].to_dict("records")] if names else [""] * len(table)
    )
    whole = [
        f"{model}, {words}" if words else str(model)
        for model, words in zip(table["model"], under, strict=True)
    ]
    table = table.assign(panel=whole, under=under)
    return table.assign(link=table["cells"].map(link)) if "cells" in table else table


def link(cells: str) -> str:
    """The anchor of the first run of a row."""
    return "#run-" + anchor(cells.split(", ", maxsplit=1)[0])


def anchor(cell: str) -> str:
    """An id for HTML."""
    return "".join(c if c.isalnum() else "-" for c in cell)
