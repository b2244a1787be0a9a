"""Render one self-contained HTML page with figures, tables, manifests and filters. The page needs no network.

Vega is included once for all charts, and the rows of a chart are included once for all of its panels. The template escapes
all text. A number is shown with few digits and keeps six digits in `data-v` for sorting and for CSV.

This module does not know how a table or a figure was computed.
"""

import html
import json
import re
import tomllib
from concurrent.futures import Future, ThreadPoolExecutor
from datetime import UTC, datetime
from functools import cache
from importlib.metadata import PackageNotFoundError, version
from typing import Any

import markupsafe
import msgspec
import pandas as pd
import vl_convert

from analysis.data.frame import Study
from analysis.data.setting import gpus_label
from analysis.figures.base import FILTERS, Figure, anchor, link
from analysis.figures.style import FONT, colours
from analysis.format import natural, number, plain, records
from analysis.page.chart_data import columns_of, drawn
from analysis.page.layout import DEFINITIONS, PAGES, TEMPLATES, Column, Page, Table
from analysis.tables.summary import run_source
from loadgen.files import git, shipped
from loadgen.record import RunInfo

MANIFEST_CHARACTERS = 20_000
"""A longer manifest is truncated on the page."""
VEGA = "window.vegaEmbed = vegaEmbed;"
"""JavaScript that makes the function of the bundle available to the page."""


@cache
def bundle_vega() -> "Future[str]":
    """Start to bundle Vega's code in a thread. It takes one or two seconds, in which the tables are computed."""
    pool = ThreadPoolExecutor(1)
    bundle = pool.submit(vl_convert.javascript_bundle, VEGA)
    pool.shutdown(wait=False)
    return bundle


def render(study: Study, page: Page, vega: "Future[str]") -> str:
    """The complete page of one study."""
    scheme = colours(study.frame["config"].unique())
    data = {"font": FONT, "figures": [_figure_data(figure, scheme) for figure in page.figures]}
    return PAGES.get_template("report.html").render(
        name=study.root.resolve().name,
        requests=len(study.frame),
        sources=words(" and ".join(study.frame["source"].astype(str).unique())) if len(study.frame) else [],
        page=page,
        filters=_filters(study.frame, scheme),
        legends={figure.name: _legend(figure, scheme) for figure in page.figures},
        words=words,
        tables=[_table(table) for table in page.tables],
        runs=study.runs,
        anchor=anchor,
        run_source=run_source,
        gpus_label=gpus_label,
        manifest=_manifest,
        definitions=DEFINITIONS.definitions,
        made=datetime.now(UTC).strftime("%Y-%m-%d %H:%M UTC"),
        version=_version(),
        css=_asset("report.css"),
        program=_asset("report.js"),
        vega=markupsafe.Markup(vega.result()),  # noqa: S704  # the code of Vega, not input
        data=markupsafe.Markup(json.dumps(data, allow_nan=False).replace("<", "\\u003c")),  # noqa: S704  # "<" is escaped
    )


def _asset(name: str) -> markupsafe.Markup:
    return markupsafe.Markup((TEMPLATES / name).read_text())  # noqa: S704  # a file of this package


def _version() -> str:
    """The version of the installed package, with the commit where it is a checkout."""
    commit = git("describe", "--always", "--dirty")
    try:
        release = version("thinkload")
    except PackageNotFoundError:  # the checkout is not installed
        release = tomllib.loads(shipped("pyproject.toml").read_text())["project"]["version"]
    return release + (f" ({commit})" if commit else "")


def _legend(figure: Figure, scheme: dict[str, str]) -> list[dict[str, str]]:
    """The colours of a figure with their marks: of configurations, with a triangle for speculation, or of words."""
    if figure.legend is not None:
        return [{"label": name, "colour": colour, "mark": "box"} for name, colour in figure.legend.items()]
    rows = figure.rows
    if "config" not in rows:
        return []
    drafts = set(rows.loc[rows["drafting"] == "on", "config"]) if "drafting" in rows else set()
    names = sorted({str(name) for name in rows["config"]}, key=natural)
    return [{"label": n, "colour": scheme.get(n, ""), "mark": "on" if n in drafts else ""} for n in names]


def _figure_data(figure: Figure, scheme: dict[str, str]) -> dict[str, Any]:
    spec, rows = drawn(figure, scheme, list(scheme))
    data = {"name": figure.name, "spec": spec, "panel": figure.panel, "filters": figure.filters}
    return data | {"columns": columns_of(rows)}


def words(source: str) -> list[str]:
    """Each word of a source once: `derived and emulated, derived` has two words."""
    return list(dict.fromkeys(word for word in re.split(r" and |, ", source) if word))


def _filters(frame: pd.DataFrame, scheme: dict[str, str]) -> list[dict[str, Any]]:
    """The filters of the page: configurations, and every other column that has more than one value."""
    filters = []
    for name in FILTERS:
        values = sorted(frame[name].unique().tolist(), key=lambda v: natural(str(v)))
        if len(values) > 1 or (values and name == "config"):
            options = [
                {
                    "value": _key(name, value),
                    "label": f"{value:,.0f}" if name == "budget" else value,
                    "colour": scheme.get(value, "") if name == "config" else "",
                    "mark": "on" if "-" in str(value) else "",
                }
                for value in values
            ]
            filters.append({"name": name, "title": "configuration" if name == "config" else name, "options": options})
    return filters


def _key(name: str, value: Any) -> str:
    """How the page's program names a value of a filter."""
    return str(int(value)) if name == "budget" else str(value)


def _table(shown: Table) -> dict[str, Any]:
    rows, columns = [], shown.columns
    for row in records(shown.table):
        filters = {name: _key(name, row[name]) for name in FILTERS if pd.notna(row.get(name))}
        cells = [_cell(column, row) for column in columns]
        rows.append({"cells": cells, "filters": json.dumps(filters) if filters else ""})
    return {"name": shown.name, "heading": shown.heading, "columns": columns, "rows": rows}


def _cell(column: Column, row: dict[str, Any]) -> dict[str, Any]:
    value, text = row[column.name], column.text(row)
    cell: dict[str, Any] = {"align": column.align, "text": text, "value": None}
    if column.number is None:
        cell["align"] += " wrap" if len(text) > 60 else ""
        if column.flag:
            cell["flag"] = text.replace("can't", "cant").split(" ", maxsplit=1)[0].rstrip(",")
            cells = row.get("cells", row.get("cell"))
            cell["link"] = link(str(cells)) if cells is not None else ""
        return cell
    cell["value"] = "" if pd.isna(value) else plain(float(value))
    low, high = row.get(f"{column.name}_low"), row.get(f"{column.name}_high")
    if low is not None and high is not None and pd.notna(low):
        bounded = f"{number(low, column.number)}–{number(high, column.number)}"
        cell["small"] = bounded if pd.notna(high) else f"at least {number(low, column.number)}"
    return cell


def _manifest(run: RunInfo) -> markupsafe.Markup:
    """The manifest of a run as text of the page."""
    manifest = msgspec.json.format(msgspec.json.encode(run), indent=1).decode()
    if len(manifest) > MANIFEST_CHARACTERS:
        manifest = manifest[:MANIFEST_CHARACTERS] + "\n… (truncated; run.json has the complete manifest)"
    return markupsafe.Markup(html.escape(manifest, quote=False))  # noqa: S704  # quotes need no escape between tags
