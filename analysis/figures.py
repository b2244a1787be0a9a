"""Figures of the summary table: accuracy, latency, cost and energy against budget, and what is worth deploying.

Rules: one function, one figure, one claim; the claim is a sentence about this data, computed from the table, and says
less when the data says less. Every point carries its interval, its source and its run. Charts read the named data set
`rows`, so that the page can filter it.

Does not know: files, HTML.
"""

from dataclasses import dataclass, field
from typing import Any

import altair as alt
import pandas as pd

from analysis.style import HEIGHT, colour, dash, shape, tokens_axis


@dataclass(slots=True)
class Figure:
    """One claim, the rows that carry it and how they are drawn."""

    name: str
    """File name without suffix, and anchor on the page."""
    claim: str
    note: str
    """How to read it: what is drawn, by which formula."""
    rows: pd.DataFrame
    chart: alt.TopLevelMixin
    """Draws one panel from the data set `rows`."""
    panel: str | None = None
    """Column that splits the figure into small multiples."""
    section: str = "budget"
    wide: bool = False
    source: str = ""
    """measured, emulated, …: filled from `rows` where they say."""
    filters: list[str] = field(default_factory=lambda: ["model", "config", "budget", "load"])

    def __post_init__(self) -> None:
        """Say where the numbers come from."""
        if not self.source and "source" in self.rows:
            self.source = " and ".join(dict.fromkeys(self.rows["source"].astype(str)))


DETAIL = ["model:N", "load:N", "budget_mode:N", "source:N"]


def tooltip(*values: Any) -> list[Any]:
    """What hovering shows on every point of the summary."""
    return [
        alt.Tooltip("config:N", title="configuration"),
        alt.Tooltip("model:N"),
        alt.Tooltip("load:N"),
        alt.Tooltip("budget:Q", format=",d"),
        *values,
        alt.Tooltip("n:Q", title="requests", format=",d"),
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
    rows: pd.DataFrame, name: str, title: str, number: str, *, log: bool, zero: bool
) -> alt.LayerChart:
    """Lines over budget with 95 % bars, one line a configuration and load."""
    configs = list(rows["config"].unique())
    scale: dict[str, Any] = {"type": "log"} if log else {"zero": zero}
    y = alt.Y(f"{name}:Q", title=title, axis=alt.Axis(format=number.replace(",", "~"), tickCount=5)).scale(
        **scale
    )
    base = alt.Chart(alt.NamedData("rows")).encode(x=tokens_axis(), color=colour(configs), detail=DETAIL)
    bars = base.mark_rule(opacity=0.35, strokeWidth=5).encode(
        y=alt.Y(f"{name}_low:Q", title=title).scale(**scale), y2=f"{name}_high:Q"
    )
    lines = base.mark_line(strokeWidth=1.8).encode(y=y, strokeDash=dash())
    points = base.mark_point(filled=True, size=62, opacity=1).encode(
        y=y, shape=shape(), tooltip=tooltip(*with_interval(name, title, number)), href=alt.Href("link:N")
    )
    chart: alt.LayerChart = (bars + lines + points).properties(width="container", height=HEIGHT)
    return chart


def drawable(table: pd.DataFrame) -> pd.DataFrame:
    """Rows that may conclude: INVALID runs stay in the table only, unless there is nothing else."""
    usable = table[table["judged"] != "INVALID"] if (table["judged"] != "INVALID").any() else table
    usable = usable.assign(drafting=usable["speculation"].map(lambda s: "off" if s == "off" else "on"))
    return usable.assign(link="#run-" + usable["cells"].str.split(", ").str[0].map(anchor))


def anchor(cell: str) -> str:
    """An id for HTML."""
    return "".join(c if c.isalnum() else "-" for c in cell)
