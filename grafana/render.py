"""Draw the dashboards as PNG pictures from a running Prometheus, without Grafana.

    python -m grafana.render --prometheus http://127.0.0.1:9090 --last 5m --out docs/dashboards

Queries and layout come from `grafana/dashboards/*.json`; `svg_panels` draws the panels, not Grafana. This module does not know what
the queries mean.
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
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from grafana import svg_panels as svg
from grafana.generate import BOARDS, FOLDER
from grafana.png_compression import compress
from grafana.unit_format import format_value

SECONDS = {"s": 1, "m": 60, "h": 3600}


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
    """Return the series of one query: labels and points (seconds from the start, value). Raises QueryError."""
    times = (
        {"time": selection.end_s}
        if instant
        else {"start": selection.start_s, "end": selection.end_s, "step": selection.step_s}
    )
    query = urllib.parse.urlencode({"query": selection.fill_in(expr), **times})
    url = f"{selection.prometheus}/api/v1/{'query' if instant else 'query_range'}?{query}"
    try:
        with urllib.request.urlopen(url, timeout=30) as response:  # noqa: S310  # the user gives the address
            result = json.load(response)["data"]["result"]
    except OSError as error:
        raise QueryError(f"--prometheus {selection.prometheus}: {error}") from error
    return [
        {
            "labels": row["metric"],
            "points": [(float(at) - selection.start_s, float(y)) for at, y in row.get("values") or [row["value"]]],
        }
        for row in result
    ]


def legend(pattern: str, labels: dict[str, str]) -> str:
    """Replace `{{label}}` in a legend by the label's value, as Grafana does."""
    return re.sub(r"{{(\w+)}}", lambda match: labels.get(match[1], ""), pattern).strip()


def sort_key(labels: dict[str, str]) -> list[tuple[str, float, str]]:
    """Sort by label values; values that are numbers are sorted as numbers."""
    return [(name, float(value) if value.isdigit() else math.inf, value) for name, value in sorted(labels.items())]


def panel_series(selection: Selection, panel: dict[str, Any]) -> list[svg.Series]:
    """Return every line of a panel, in the order of its queries."""
    return [
        svg.Series(legend(target["legendFormat"], row["labels"]), row["points"], row["labels"].get("config", ""))
        for target in panel["targets"]
        for row in sorted(
            run_query(selection, target["expr"], instant=bool(target.get("instant"))),
            key=lambda row: sort_key(row["labels"]),
        )
    ]


def panel_table(selection: Selection, panel: dict[str, Any]) -> tuple[list[str], list[list[str]]]:
    """Return headings and rows: the results of the queries joined by their labels, as the panel's transformations define."""
    names = next(t["options"]["renameByName"] for t in panel["transformations"] if t["id"] == "organize")
    formats = {
        override["matcher"]["options"]: {prop["id"]: prop["value"] for prop in override["properties"]}
        for override in panel["fieldConfig"]["overrides"]
    }
    labels = [name for name in names if not name.startswith("Value #")]
    rows: dict[tuple[str, ...], dict[str, str]] = {}
    for target in panel["targets"]:
        column = target["legendFormat"]
        for row in run_query(selection, target["expr"], instant=True):
            key = tuple(row["labels"].get(label, "") for label in labels)
            value = row["points"][0][1]
            cell = format_value(value, formats[column]["unit"], formats[column].get("decimals"))
            rows.setdefault(key, {})[column] = cell
    columns = [target["legendFormat"] for target in panel["targets"]]
    body = [
        [*key, *(cells.get(column, "–") for column in columns)]
        for key, cells in sorted(rows.items(), key=lambda row: sort_key(dict(zip(labels, row[0], strict=True))))
    ]
    return [*(names[label] for label in labels), *columns], body


def find_boundaries(selection: Selection, dashboard: dict[str, Any]) -> list[float]:
    """Return the times, in seconds from the start, at which a run or a cell starts or ends, from the annotations."""
    times = set()
    for annotation in dashboard["annotations"]["list"]:
        for row in run_query(selection, annotation["expr"]):
            times |= {row["points"][0][0], row["points"][-1][0]}
    return sorted(times)


def panel_svg(selection: Selection, panel: dict[str, Any], boundaries: list[float], colors: svg.ColorMap) -> str:
    """Draw one panel at its position in the grid."""
    position = panel["gridPos"]
    column = (svg.WIDTH - svg.GAP) / 24
    x, y = svg.GAP + position["x"] * column, position["y"] * svg.ROW + 52
    w, h = position["w"] * column - svg.GAP, position["h"] * svg.ROW - svg.GAP
    if panel["type"] == "row":
        inner = svg.heading(panel["title"])
    elif panel["type"] == "table":
        inner = svg.table(w, h, panel["title"], *panel_table(selection, panel))
    elif panel["type"] == "stat":
        inner = svg.stat(w, h, panel, panel_series(selection, panel))
    elif panel["type"] == "bargauge":
        inner = svg.bar_gauge(w, h, panel, panel_series(selection, panel), colors)
    else:
        span_s = selection.end_s - selection.start_s
        series = panel_series(selection, panel)
        inner = svg.time_series(w, h, panel, series, span_s=span_s, boundaries=boundaries, colors=colors)
    return f'<g transform="translate({x:.1f} {y:.1f})">{inner}</g>'


def dashboard_svg(selection: Selection, dashboard: dict[str, Any]) -> str:
    """Draw the whole dashboard as SVG."""
    colors = svg.ColorMap()
    boundaries = find_boundaries(selection, dashboard)
    panels = dashboard["panels"]
    body = "".join(panel_svg(selection, panel, boundaries, colors) for panel in panels)
    height = max(p["gridPos"]["y"] + p["gridPos"]["h"] for p in panels) * svg.ROW + 60
    title = svg.text(svg.GAP + 2, 32, dashboard["title"], size=20, bold=True)
    note = svg.text(
        svg.WIDTH - svg.GAP,
        32,
        "drawn by grafana.render from Prometheus; not a Grafana screenshot",
        color=svg.DIM,
        anchor="end",
    )
    style = f'font-family="Liberation Sans, Arial, sans-serif" width="{svg.WIDTH}" height="{height}"'
    return f'<svg xmlns="http://www.w3.org/2000/svg" {style}><rect width="100%" height="100%" fill="#f4f5f6"/>{title}{note}{body}</svg>'


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


def parse_arguments() -> argparse.Namespace:
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
        "--board",
        action="append",
        choices=sorted(BOARDS),
        help="draw only this dashboard; can be repeated [all]",
    )
    parser.add_argument("--out", type=Path, default=Path("docs/dashboards"), help="output folder [%(default)s]")
    return parser.parse_args()


def main() -> int:
    """Draw the dashboards."""
    args = parse_arguments()
    import vl_convert  # noqa: PLC0415  # slow to import, and `--help` does not need it

    end_s = args.end or time.time()
    selection = Selection(end_s - args.last, end_s, args.prometheus.rstrip("/"), dict(args.set))
    args.out.mkdir(parents=True, exist_ok=True)
    drawn = []
    for path in (FOLDER / f"{name}.json" for name in args.board or BOARDS):
        try:
            picture = dashboard_svg(selection, json.loads(path.read_text()))
        except QueryError as error:
            print(error, file=sys.stderr)
            return 2
        target = args.out / f"{path.stem}.png"
        target.write_bytes(compress(vl_convert.svg_to_png(picture, scale=1.25)))
        drawn.append(str(target))
    print(json.dumps({"drawn": drawn}))
    return 0


if __name__ == "__main__":
    sys.exit(main())
