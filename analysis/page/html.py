"""One self-contained HTML page: figures, tables, manifests and the program that filters them, no network.

Rules: Vega is inlined once for all charts; a chart's rows are inlined once for all of its panels. Everything a person
reads is escaped by the template. A number is shown with the digits its interval supports and keeps its full value in
`data-v` for sorting and for CSV.

Does not know: how a table or a figure was computed.
"""

import html
import json
import re
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, field
from datetime import UTC, datetime
from functools import cache
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

import jinja2
import markupsafe
import msgspec
import pandas as pd
import vl_convert

from analysis.data.frame import Study
from analysis.figures.base import FILTERS, Figure, anchor
from analysis.figures.style import FONT, colours, natural, paint
from analysis.format import number, plain, records

TEMPLATES = Path(__file__).parent / "templates"
MANIFEST_CHARACTERS = 20_000  # a manifest longer than this is shown cut; the file is whole


@dataclass(frozen=True, slots=True)
class Column:
    """One column of a table as shown."""

    name: str
    title: str
    number: str | None = None
    """Format of a number; None for words."""
    help: str = ""
    flag: bool = False
    """Shown as a coloured word."""

    @property
    def align(self) -> str:
        """Words left, numbers right."""
        return "" if self.number else "l"


@dataclass(frozen=True, slots=True)
class Shown:
    """A table of the page."""

    name: str
    title: str
    lede: str
    columns: list[Column]
    table: pd.DataFrame
    hits: pd.Series | None = None
    """Rows to stress."""


@dataclass(slots=True)
class Answer:
    """The top of the page: what to deploy, in a sentence."""

    headline: str
    facts: list[tuple[str, str]] = field(default_factory=list)
    lines: list[str] = field(default_factory=list)


@dataclass(frozen=True, slots=True)
class Notice:
    """Something to know before reading on."""

    text: str
    lines: list[str] = field(default_factory=list)
    kind: str = ""


@dataclass(frozen=True, slots=True)
class Section:
    """Figures under one heading."""

    name: str
    title: str
    lede: str = ""


@dataclass(frozen=True, slots=True)
class Page:
    """What stands on the page, from top to bottom."""

    answer: Answer
    notices: list[Notice]
    sections: list[Section]
    figures: list[Figure]
    tables: list[Shown]
    definitions: list[tuple[str, str]]


@cache
def bundle_vega() -> "Future[str]":
    """Vega's code for the page, in a thread: it takes a second or two in which everything else is computed."""
    pool = ThreadPoolExecutor(1)
    bundle = pool.submit(vl_convert.javascript_bundle, VEGA)
    pool.shutdown(wait=False)
    return bundle


def render(study: Study, page: Page, vega: "Future[str]") -> str:
    """The page of one study, whole."""
    environment = jinja2.Environment(
        autoescape=True, loader=jinja2.FileSystemLoader(TEMPLATES), trim_blocks=True
    )
    scheme = colours([str(config) for config in study.frame["config"].unique()])
    data = {"font": FONT, "figures": [_figure_data(figure, scheme) for figure in page.figures]}
    return environment.get_template("report.html").render(
        name=study.root.resolve().name,
        requests=len(study.frame),
        sources=words(" and ".join(study.frame["source"].astype(str).unique())) if len(study.frame) else [],
        answer=page.answer,
        notices=page.notices,
        filters=_filters(study.frame),
        sections=[
            _section(section, page.figures)
            for section in page.sections
            if any(f.section == section.name for f in page.figures)
        ],
        tables=[_table(shown) for shown in page.tables],
        runs=[_run(cell, run) for cell, run in study.runs.items()],
        definitions=page.definitions,
        made=datetime.now(UTC).strftime("%Y-%m-%d %H:%M UTC"),
        version=_version(),
        css=_asset("report.css"),
        program=_asset("report.js"),
        vega=markupsafe.Markup(vega.result()),  # noqa: S704  # vega's own code, not input
        data=markupsafe.Markup(json.dumps(data, allow_nan=False).replace("<", "\\u003c")),  # noqa: S704  # "<" escaped
    )


VEGA = "window.vegaEmbed = vegaEmbed;"
"""What the bundle is to hand to the page."""


def _asset(name: str) -> markupsafe.Markup:
    return markupsafe.Markup((TEMPLATES / name).read_text())  # noqa: S704  # our own file


def _version() -> str:
    try:
        return version("thinkload")
    except PackageNotFoundError:
        return "(not installed)"


def rows_of(table: pd.DataFrame) -> list[dict[str, Any]]:
    """Rows for Vega: plain values, null for what is not there, six digits."""
    return [{name: plain(value) for name, value in row.items()} for row in records(table)]


def _figure_data(figure: Figure, scheme: dict[str, str]) -> dict[str, Any]:
    spec = figure.chart.to_dict(validate=False)
    for key in ("config", "$schema", "datasets"):
        spec.pop(key, None)
    paint(spec, scheme, list(scheme))
    wanted = {"name": figure.name, "spec": spec, "panel": figure.panel, "filters": figure.filters}
    return wanted | {"columns": columns_of(figure.rows[used(figure, json.dumps(spec))])}


def columns_of(table: pd.DataFrame) -> dict[str, Any]:
    """Rows by column, each word written once: a third of the page that rows with their names would take."""
    columns: dict[str, Any] = {}
    for name in table:
        values = [plain(value) for value in table[name]]
        once = list(dict.fromkeys(values))
        if any(isinstance(value, str) for value in once):
            place = {value: n for n, value in enumerate(once)}
            columns[str(name)] = {"words": once, "codes": [place[value] for value in values]}
        else:
            columns[str(name)] = values
    return columns


def used(figure: Figure, spec: str) -> list[Any]:
    """The columns a chart reads, its panel and its filters: the page carries no others."""
    words = set(re.findall(r"\w+", spec)) | {figure.panel, *figure.filters}
    return [column for column in figure.rows.columns if column in words]


def words(source: str) -> list[str]:
    """Each word of a source once: `derived and emulated, derived` is two words."""
    return list(dict.fromkeys(word for word in re.split(r" and |, ", source) if word))


def _section(section: Section, figures: list[Figure]) -> dict[str, Any]:
    mine = [figure for figure in figures if figure.section == section.name]
    return {
        "name": section.name,
        "title": section.title,
        "lede": section.lede,
        "figures": [
            {
                "name": f.name,
                "claim": f.claim,
                "note": f.note,
                "words": words(f.source),
                "wide": f.wide or (f.panel is not None and len(f.rows[f.panel].unique()) > 1),
            }
            for f in mine
        ],
    }


def _filters(frame: pd.DataFrame) -> list[dict[str, Any]]:
    """Chips for whatever has more than one value."""
    filters = []
    scheme = colours([str(c) for c in frame["config"].unique()]) if len(frame) else {}
    titles = {
        "model": "model",
        "config": "configuration",
        "budget": "budget",
        "load": "load",
        "asked": "asked",
    }
    for name, title in titles.items():
        values = sorted(frame[name].unique().tolist(), key=lambda v: natural(str(v)))
        if len(values) > 1 or name == "config":
            options = [_option(name, value, scheme) for value in values]
            filters.append({"name": name, "title": title, "options": options})
    return [f for f in filters if f["options"]]


def _option(name: str, value: Any, scheme: dict[str, str]) -> dict[str, Any]:
    label = f"{int(value):,}" if name == "budget" else str(value)
    key = str(int(value)) if name == "budget" else str(value)
    mark = "on" if "-" in str(value) else ""
    return {
        "value": key,
        "label": label,
        "colour": scheme.get(str(value), "") if name == "config" else "",
        "mark": mark,
    }


def _table(shown: Shown) -> dict[str, Any]:
    rows = []
    hits = [False] * len(shown.table) if shown.hits is None else shown.hits.tolist()
    for row, hit in zip(records(shown.table), hits, strict=True):
        filters = {
            k: str(int(row[k])) if k == "budget" else str(row[k])
            for k in FILTERS
            if k in row and pd.notna(row[k])
        }
        cells = [_cell(column, row) for column in shown.columns if column.name in shown.table]
        rows.append({"cells": cells, "filters": json.dumps(filters) if filters else "", "hit": bool(hit)})
    columns = [column for column in shown.columns if column.name in shown.table]
    return {"name": shown.name, "title": shown.title, "lede": shown.lede, "columns": columns, "rows": rows}


def _cell(column: Column, row: dict[str, Any]) -> dict[str, Any]:
    value = row[column.name]
    cell: dict[str, Any] = {"align": column.align, "value": None, "flag": "", "link": "", "small": ""}
    if column.number is None:
        cell["text"] = str(value) if pd.notna(value) else "–"
        cell["align"] += " wrap" if len(cell["text"]) > 60 else ""
        if column.flag:
            cell["flag"] = cell["text"].replace("can't", "cant").split(" ", maxsplit=1)[0].rstrip(",")
            cells = row.get("cells", row.get("cell"))
            cell["link"] = (
                "#run-" + anchor(str(cells).split(", ", maxsplit=1)[0]) if cells is not None else ""
            )
        return cell
    cell["text"] = number(value, column.number)
    cell["value"] = "" if pd.isna(value) else plain(float(value))
    low, high = row.get(f"{column.name}_low"), row.get(f"{column.name}_high")
    if low is not None and high is not None and (pd.notna(low) or pd.notna(high)):
        cell["small"] = (
            f"{number(low, column.number)}–{number(high, column.number) if pd.notna(high) else '?'}"
        )
    return cell


def _run(cell: str, run: Any) -> dict[str, Any]:
    manifest = msgspec.json.format(msgspec.json.encode(run), indent=1).decode()
    if len(manifest) > MANIFEST_CHARACTERS:
        manifest = manifest[:MANIFEST_CHARACTERS] + "\n… (cut here; run.json is whole)"
    text = markupsafe.Markup(html.escape(manifest, quote=False))  # noqa: S704  # quotes may stand between tags
    source = "simulated" if run.simulated else "emulated" if run.emulated else "measured"
    speed = f", {run.time_scale:g}× real time" if run.time_scale != 1 else ""
    line = f"{run.config} · {run.model.rsplit('/', 1)[-1]} · {run.num_gpus} GPU{'s' if run.num_gpus > 1 else ''}{speed}"
    return {
        "anchor": "run-" + anchor(cell),
        "cell": cell,
        "verdict": run.verdict or "not judged",
        "source": source,
        "line": line,
        "reasons": run.reasons,
        "manifest": text,
    }
