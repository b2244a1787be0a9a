"""Draw the dashboards as PNG pictures from a running Prometheus, without Grafana.

    python -m grafana.render --prometheus http://127.0.0.1:9090 --last 5m --out docs/dashboards

Queries and layout come from `grafana/dashboards/*.json`; Vega-Lite draws the panels (`panel_charts`), not Grafana. This module does not
know what the queries mean.
"""

import argparse
import json
import math
import re
import sys
import time
import urllib.error
import urllib.parse
import urllib.request
from collections.abc import Iterator
from dataclasses import dataclass
from html import escape
from pathlib import Path
from typing import Any

import vl_convert

from grafana import panel_charts as charts
from grafana.generate import BOARDS, FOLDER
from grafana.png_compression import compress

SECONDS = {"s": 1, "m": 60, "h": 3600}
WIDTH, HEADER, GAP, ROW = 1440, 52, 8, 38
COLUMN = (WIDTH - GAP) / 24
"""Pixels of a screen, of the space above and between panels, and of the rows and columns of Grafana's grid."""
LINE_GAP_S = 30
"""The longest time between two points that a line joins: `span_nulls` in the dashboards."""
NOTE = "drawn by grafana.render from Prometheus; not a Grafana screenshot"


@dataclass(frozen=True)
class Selection:
    """What the user selects in Grafana: the time range in Unix seconds, the Prometheus server, and values of variables."""

    start_s: float
    end_s: float
    prometheus: str
    variables: dict[str, str]

    @property
    def step_s(self) -> int:
        """Seconds between two points: at most 240 points in a panel, and at most one point for two scrapes."""
        return max(2, math.ceil((self.end_s - self.start_s) / 240))

    def fill_in(self, expr: str) -> str:
        """Replace the variables in a query as Grafana does. A variable without a value selects everything."""
        values = {
            "__rate_interval": f"{max(self.step_s + 2, 8)}s",
            "__range": f"{self.end_s - self.start_s:.0f}s",
            "price": "3",
            "tflops": "989",
            **self.variables,
        }
        return re.sub(r"\$(\w+)", lambda match: values.get(match[1], ".*"), expr)


class QueryError(Exception):
    """Prometheus cannot be reached or rejects a query. The message is one line."""


def run_query(selection: Selection, expr: str, *, instant: bool = False) -> list[dict[str, Any]]:
    """Return the series of one query in the form of Prometheus's API, sorted by their labels. Raises QueryError."""
    times = {"start": selection.start_s, "end": selection.end_s, "step": selection.step_s}
    if instant:
        times = {"time": selection.end_s}
    query = urllib.parse.urlencode({"query": selection.fill_in(expr), **times})
    url = f"{selection.prometheus}/api/v1/{'query' if instant else 'query_range'}?{query}"
    try:
        with urllib.request.urlopen(url, timeout=30) as response:  # noqa: S310  # the user gives the address
            result = json.load(response)["data"]["result"]
    except OSError as error:
        raise QueryError(f"--prometheus {selection.prometheus}: {error}") from error
    return sorted(result, key=lambda series: sort_key(series["metric"]))


def sort_key(labels: dict[str, str]) -> list[tuple[str, float, str]]:
    """Sort by label values; values that are numbers are sorted as numbers."""
    return [(name, float(value) if value.isdigit() else math.inf, value) for name, value in sorted(labels.items())]


def legend(pattern: str, labels: dict[str, str]) -> str:
    """Replace `{{label}}` in a legend by the label's value, as Grafana does."""
    return re.sub(r"{{(\w+)}}", lambda match: labels.get(match[1], ""), pattern).strip()


def panel_rows(selection: Selection, panel: dict[str, Any]) -> Iterator[charts.Row]:
    """Yield the points of a panel, with the name of their line from the legend as Grafana fills it in."""
    for target in panel["targets"]:
        for series in run_query(selection, target["expr"], instant=bool(target.get("instant"))):
            labels = series["metric"]
            name = legend(target["legendFormat"], labels)
            part, last_s = 0, -math.inf
            for at_s, value in series.get("values") or [series["value"]]:
                if math.isfinite(float(value)):
                    part += at_s - last_s > LINE_GAP_S
                    last_s = at_s
                    yield {
                        "name": name,
                        "config": labels.get("config", name),
                        "part": f"{labels} {part}",
                        "at_s": at_s - selection.start_s,
                        "value": float(value),
                    }


def panel_table(selection: Selection, panel: dict[str, Any]) -> tuple[list[charts.Row], dict[str, str]]:
    """Return the rows of a table and the unit of each column: the results of its queries, joined by their labels."""
    names = next(t["options"]["renameByName"] for t in panel["transformations"] if t["id"] == "organize")
    headings = {label: name for label, name in names.items() if not label.startswith("Value #")}
    rows: dict[tuple[str, ...], charts.Row] = {}
    for target in panel["targets"]:
        for series in run_query(selection, target["expr"], instant=True):
            labels = {heading: series["metric"].get(label, "") for label, heading in headings.items()}
            value = float(series["value"][1])
            row = rows.setdefault(tuple(labels.values()), labels)
            row[target["legendFormat"]] = value if math.isfinite(value) else None
    units = {
        override["matcher"]["options"]: property_["value"]
        for override in panel["fieldConfig"]["overrides"]
        for property_ in override["properties"]
        if property_["id"] == "unit"
    }
    return list(rows.values()), dict.fromkeys(headings.values(), "") | units


def boundaries(selection: Selection, dashboard: dict[str, Any]) -> list[float]:
    """Return the times, in seconds from the start, at which a run or a cell starts or ends, from the annotations."""
    queries = (annotation["expr"] for annotation in dashboard["annotations"]["list"])
    series = [series["values"] for query in queries for series in run_query(selection, query)]
    return sorted({values[end][0] - selection.start_s for values in series for end in (0, -1)})


def panel_chart(selection: Selection, panel: dict[str, Any], marks_s: list[float]) -> charts.Chart:
    """Return the chart of one panel."""
    if panel["type"] == "table":
        return charts.table(*panel_table(selection, panel))
    rows = list(panel_rows(selection, panel))
    if panel["type"] == "timeseries":
        return charts.time_series(panel, rows, selection.end_s - selection.start_s, marks_s)
    return charts.stat(panel, rows) if panel["type"] == "stat" else charts.bar_gauge(panel, rows)


def draw(selection: Selection, dashboard: dict[str, Any]) -> bytes:
    """Draw the whole dashboard as PNG: each panel at its position in the grid. Raises QueryError."""
    marks_s = boundaries(selection, dashboard)
    body = [_text(10, 32, 20, dashboard["title"]), _text(WIDTH - 420, 32, 12, NOTE)]
    for panel in dashboard["panels"]:
        grid = panel["gridPos"]
        x, width = grid["x"] * COLUMN + GAP, grid["w"] * COLUMN - GAP
        y, height = grid["y"] * ROW + HEADER, grid["h"] * ROW - GAP
        if panel["type"] == "row":
            body.append(_text(x, y + 24, 15, panel["title"]))
        else:
            chart = charts.specification(panel_chart(selection, panel, marks_s), panel["title"], width, height)
            body.append(vl_convert.vegalite_to_svg(chart).replace("<svg ", f'<svg x="{x}" y="{y}" ', 1))
    height = max(panel["gridPos"]["y"] + panel["gridPos"]["h"] for panel in dashboard["panels"]) * ROW + HEADER
    frame = f'<svg xmlns="http://www.w3.org/2000/svg" width="{WIDTH}" height="{height}"><rect width="100%" height="100%" fill="#f4f5f6"/>'
    return vl_convert.svg_to_png(frame + "".join(body) + "</svg>", scale=1.25)


def _text(x: float, y: float, size: int, words: str) -> str:
    return f'<text x="{x}" y="{y}" font-size="{size}" font-family="{charts.FONT}">{escape(words)}</text>'


def duration(text: str) -> float:
    """Convert `90s`, `5m` or `2h` to seconds."""
    match = re.fullmatch(r"(\d+)([smh])", text)
    if not match:
        raise argparse.ArgumentTypeError(f"{text} is not a duration; write for example 90s, 5m or 2h")
    return int(match[1]) * SECONDS[match[2]]


def variable(text: str) -> tuple[str, str]:
    """Split `config=tp1` into name and value."""
    name, equals, value = text.partition("=")
    if not equals:
        raise argparse.ArgumentTypeError(f"{text} has no value; write NAME=VALUE")
    return name, value


def parse_arguments(arguments: list[str]) -> argparse.Namespace:
    """Read the command line."""
    parser = argparse.ArgumentParser(
        prog="grafana.render", formatter_class=argparse.RawDescriptionHelpFormatter, description=__doc__
    )
    parser.add_argument("--prometheus", default="http://127.0.0.1:9090", help="address of Prometheus [%(default)s]")
    parser.add_argument(
        "--last", type=duration, default="5m", help="length of the time range: 90s, 5m or 2h [%(default)s]"
    )
    parser.add_argument("--end", type=float, default=None, help="end of the time range in Unix seconds [now]")
    parser.add_argument(
        "--set",
        type=variable,
        action="append",
        default=[],
        metavar="NAME=VALUE",
        help="set a variable of the dashboards, for example config=tp2-ngram; can be repeated",
    )
    parser.add_argument(
        "--board", action="append", choices=sorted(BOARDS), help="draw only this dashboard; can be repeated [all]"
    )
    parser.add_argument("--out", type=Path, default=Path("docs/dashboards"), help="output folder [%(default)s]")
    return parser.parse_args(arguments)


def main(arguments: list[str]) -> int:
    """Draw the dashboards."""
    args = parse_arguments(arguments)
    end_s = args.end or time.time()
    selection = Selection(end_s - args.last, end_s, args.prometheus.rstrip("/"), dict(args.set))
    args.out.mkdir(parents=True, exist_ok=True)
    drawn = []
    for path in (FOLDER / f"{name}.json" for name in args.board or BOARDS):
        try:
            picture = draw(selection, json.loads(path.read_text()))
        except QueryError as error:
            print(error, file=sys.stderr)
            return 2
        target = args.out / f"{path.stem}.png"
        target.write_bytes(compress(picture))
        drawn.append(str(target))
    print(json.dumps({"drawn": drawn}))
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
