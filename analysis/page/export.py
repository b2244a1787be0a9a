"""Write each figure as SVG, PNG and PDF, each table as CSV and Parquet, and a summary in Markdown.

A figure file is complete: it contains the claim, the source, the legend and the note, on a white background. Files have the
names that figures and tables have on the page.

This module does not know what a figure or a table means.
"""

import json
import textwrap
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pandas as pd
import vl_convert

from analysis.figures.base import Figure
from analysis.figures.style import LIGHT
from analysis.format import number, records
from analysis.page.chart_data import drawn, rows_of
from analysis.page.layout import PAGES, Table

PANEL_WIDTH, WIDE_WIDTH = 300, 720
FORMULA = ("=", "+", "-", "@", "\t", "\r")
SCALE = 2.0  # PNG pixels per point, sharp in print and on slides


def tables(made: dict[str, pd.DataFrame], out: Path) -> None:
    """Write CSV and Parquet of every table."""
    out.mkdir(parents=True, exist_ok=True)
    for name, table in made.items():
        words = table.select_dtypes(include=["category", "object", "str"]).columns
        plain = table.astype(dict.fromkeys(words, "str"))
        quoted = plain.assign(**{word: plain[word].map(as_text, na_action="ignore") for word in words})
        quoted.to_csv(out / f"{name}.csv", index=False)
        plain.to_parquet(out / f"{name}.parquet", index=False)


def latex(made: list[Table], out: Path) -> None:
    """Write the tables of the page as LaTeX, with the columns, titles and digits that the page has; they need booktabs."""
    out.mkdir(parents=True, exist_ok=True)
    for table in made:
        rows, columns = records(table.table), table.columns
        shown = pd.DataFrame({c.title: [c.text(row) for row in rows] for c in columns})
        style = shown.style.hide(axis="index").format(escape="latex").format_index(escape="latex", axis="columns")
        form = "".join("r" if c.number else "l" for c in columns)
        words = style.to_latex(hrules=True, column_format=form, caption=table.heading.title, label=f"tab:{table.name}")
        (out / f"{table.name}.tex").write_text(words, encoding="utf-8")


def as_text(cell: str) -> str:
    """A cell that a spreadsheet takes as text: a name from outside must not become a formula."""
    return f"'{cell}" if cell.startswith(FORMULA) else cell


def figures(made: list[Figure], scheme: dict[str, str], out: Path) -> None:
    """Write SVG, PNG and PDF of every figure. PNG and PDF are converted from the SVG, which is the slow step."""
    out.mkdir(parents=True, exist_ok=True)
    with ThreadPoolExecutor(2) as pool:
        list(pool.map(lambda figure: _figure(figure, scheme, out), made))


def _figure(figure: Figure, scheme: dict[str, str], out: Path) -> None:
    svg = vl_convert.vegalite_to_svg(json.dumps(specification(figure, scheme)))
    (out / f"{figure.name}.svg").write_text(svg, encoding="utf-8")
    (out / f"{figure.name}.png").write_bytes(vl_convert.svg_to_png(svg, scale=SCALE))
    (out / f"{figure.name}.pdf").write_bytes(vl_convert.svg_to_pdf(svg))


def specification(figure: Figure, scheme: dict[str, str]) -> dict[str, Any]:
    """The Vega-Lite specification of the complete figure: all panels, title, legend and rows."""
    configs = figure.rows["config"].astype(str).unique().tolist() if "config" in figure.rows else []
    chart, rows = drawn(figure, scheme, configs)
    panels = list(dict.fromkeys(figure.rows[figure.panel].astype(str))) if figure.panel else []
    chart["width"] = WIDE_WIDTH if len(panels) < 2 else PANEL_WIDTH
    _on_inherited_data(chart)
    width = chart["width"] * min(figure.columns, max(1, len(panels)))
    whole: dict[str, Any] = chart
    if len(panels) > 1:  # a facet cannot have two independent axes, so panels are concatenated
        parts = [_panel(chart, str(figure.panel), panel) for panel in panels]
        whole = {"columns": figure.columns, "concat": parts}
    note = f"{figure.source}. {figure.note}" if figure.source else figure.note
    title = {"text": textwrap.wrap(figure.claim, width // 8), "subtitle": textwrap.wrap(note, width // 6)}
    return whole | {"title": title, "data": {"values": rows_of(rows)}, "config": LIGHT, "padding": 12}


def _panel(chart: dict[str, Any], column: str, value: str) -> dict[str, Any]:
    shown = f"toString(datum[{json.dumps(column)}]) === {json.dumps(value)}"
    return chart | {
        "title": {"text": value, "fontSize": 11},
        "transform": [{"filter": shown}, *chart.get("transform", [])],
    }


def _on_inherited_data(chart: dict[str, Any]) -> None:
    """Remove the page's data set from a chart and its layers, so that they inherit the one given at the top. Changes `chart`."""
    chart.pop("data", None)
    for part in chart.get("layer", []):
        _on_inherited_data(part)


def markdown(headline: str, sentences: list[str], summary: pd.DataFrame, made: list[Figure]) -> str:
    """The report's summary in Markdown, for example for a pull request."""
    return PAGES.get_template("summary.md").render(
        headline=headline, sentences=sentences, rows=records(summary), figures=made, number=number
    )
