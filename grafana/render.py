"""Draw the dashboards from a running Prometheus, where there is no Grafana to look at.

    python -m grafana.render --prometheus http://127.0.0.1:9090 --last 5m --out docs/dashboards

The queries are those of `grafana/dashboards/*.json`, the layout is theirs too; the picture is ours (`draw`), not Grafana's.
Does not know: what the queries mean.
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

from grafana import draw
from grafana.generate import BOARDS, FOLDER
from grafana.slim import slim
from grafana.units import number

SECONDS = {"s": 1, "m": 60, "h": 3600}


@dataclass(frozen=True)
class Span:
    """The selected time, in Unix seconds, and what Grafana derives from it."""

    start_s: float
    end_s: float
    address: str
    chosen: dict[str, str]

    @property
    def step_s(self) -> int:
        """A point for every third pixel of a panel, and no more than one for each two scrapes."""
        return max(2, math.ceil((self.end_s - self.start_s) / 240))

    def filled(self, expr: str) -> str:
        """Fill the variables in: all configurations, models and runs, unless chosen."""
        known = {
            "__rate_interval": f"{max(self.step_s + 2, 8)}s",
            "__range": f"{self.end_s - self.start_s:.0f}s",
            "price": "3",
            **self.chosen,
        }
        return re.sub(r"\$(\w+)", lambda found: known.get(found[1], ".*"), expr)


class NoAnswerError(Exception):
    """Prometheus is not there, or refuses: one line."""


def ask(span: Span, expr: str, *, instant: bool = False) -> list[dict[str, Any]]:
    """Series of one query: labels and (seconds from the start, value) points."""
    times = (
        {"time": span.end_s} if instant else {"start": span.start_s, "end": span.end_s, "step": span.step_s}
    )
    query = urllib.parse.urlencode({"query": span.filled(expr), **times})
    url = f"{span.address}/api/v1/{'query' if instant else 'query_range'}?{query}"
    try:
        with urllib.request.urlopen(url, timeout=30) as answer:  # noqa: S310 - the operator's own http address
            found = json.load(answer)["data"]["result"]
    except OSError as error:
        raise NoAnswerError(f"--prometheus {span.address}: {error}") from error
    return [
        {
            "labels": row["metric"],
            "points": [(float(at) - span.start_s, float(y)) for at, y in row.get("values") or [row["value"]]],
        }
        for row in found
    ]


def legend(pattern: str, labels: dict[str, str]) -> str:
    """Fill `{{label}}` in, as Grafana does."""
    return re.sub(r"{{(\w+)}}", lambda found: labels.get(found[1], ""), pattern).strip()


def order(labels: dict[str, str]) -> list[tuple[str, float, str]]:
    """Sort by labels, numbers as numbers."""
    return [
        (name, float(value) if value.isdigit() else math.inf, value) for name, value in sorted(labels.items())
    ]


def series(span: Span, panel: dict[str, Any]) -> list[draw.Series]:
    """Every line of a panel, in the order of its queries."""
    return [
        draw.Series(
            legend(target["legendFormat"], row["labels"]), row["points"], row["labels"].get("config", "")
        )
        for target in panel["targets"]
        for row in sorted(
            ask(span, target["expr"], instant=bool(target.get("instant"))),
            key=lambda row: order(row["labels"]),
        )
    ]


def table(span: Span, panel: dict[str, Any]) -> tuple[list[str], list[list[str]]]:
    """Headings and rows: the queries merged by their labels, as the panel's transformations say."""
    names = next(t["options"]["renameByName"] for t in panel["transformations"] if t["id"] == "organize")
    units = {
        o["matcher"]["options"]: {p["id"]: p["value"] for p in o["properties"]}
        for o in panel["fieldConfig"]["overrides"]
    }
    labels = [name for name in names if not name.startswith("Value #")]
    rows: dict[tuple[str, ...], dict[str, str]] = {}
    for target in panel["targets"]:
        title = target["legendFormat"]
        for row in ask(span, target["expr"], instant=True):
            key = tuple(row["labels"].get(label, "") for label in labels)
            cell = number(row["points"][0][1], units[title]["unit"], units[title].get("decimals"))
            rows.setdefault(key, {})[title] = cell
    heads = [target["legendFormat"] for target in panel["targets"]]
    body = [
        [*key, *(cells.get(head, "–") for head in heads)]
        for key, cells in sorted(rows.items(), key=lambda row: order(dict(zip(labels, row[0], strict=True))))
    ]
    return [*(names[label] for label in labels), *heads], body


def marks(span: Span, board: dict[str, Any]) -> list[float]:
    """Seconds at which a run or a cell starts or ends: the edges of the annotations' regions."""
    edges = set()
    for mark in board["annotations"]["list"]:
        for row in ask(span, mark["expr"]):
            times = [at for at, _ in row["points"]]
            edges |= {times[0], times[-1]}
    return sorted(edges)


def panel_svg(span: Span, panel: dict[str, Any], at: list[float], paints: draw.Paints) -> str:
    """One panel at its place in the grid."""
    place = panel["gridPos"]
    column = (draw.WIDTH - draw.GAP) / 24
    x, y = draw.GAP + place["x"] * column, place["y"] * draw.ROW + 52
    w, h = place["w"] * column - draw.GAP, place["h"] * draw.ROW - draw.GAP
    if panel["type"] == "row":
        inner = draw.heading(panel["title"])
    elif panel["type"] == "table":
        inner = draw.grid(w, h, panel["title"], *table(span, panel))
    elif panel["type"] == "stat":
        inner = draw.stat(w, h, panel, series(span, panel))
    elif panel["type"] == "bargauge":
        inner = draw.bars(w, h, panel, series(span, panel), paints)
    else:
        inner = draw.lines(
            w, h, panel, series(span, panel), span_s=span.end_s - span.start_s, marks=at, paints=paints
        )
    return f'<g transform="translate({x:.1f} {y:.1f})">{inner}</g>'


def svg(span: Span, board: dict[str, Any]) -> str:
    """Return the whole dashboard as one picture."""
    paints = draw.Paints()
    at = marks(span, board)
    body = "".join(panel_svg(span, panel, at, paints) for panel in board["panels"])
    height = max(p["gridPos"]["y"] + p["gridPos"]["h"] for p in board["panels"]) * draw.ROW + 60
    title = draw.text(draw.GAP + 2, 32, board["title"], size=20, bold=True)
    note = draw.text(
        draw.WIDTH - draw.GAP,
        32,
        "drawn by grafana.render from Prometheus; not a Grafana screenshot",
        color=draw.DIM,
        anchor="end",
    )
    style = f'font-family="Liberation Sans, Arial, sans-serif" width="{draw.WIDTH}" height="{height}"'
    return f'<svg xmlns="http://www.w3.org/2000/svg" {style}><rect width="100%" height="100%" fill="#f4f5f6"/>{title}{note}{body}</svg>'


def seconds(words: str) -> float:
    """`90s`, `5m` or `2h` as seconds."""
    found = re.fullmatch(r"(\d+)([smh])", words)
    if not found:
        raise argparse.ArgumentTypeError(f"{words} is no time: write 90s, 5m or 2h")
    return int(found[1]) * SECONDS[found[2]]


def choice(words: str) -> tuple[str, str]:
    """`config=tp1` as a pair."""
    name, equals, value = words.partition("=")
    if not equals:
        raise argparse.ArgumentTypeError(f"{words} chooses nothing: write NAME=VALUE")
    return name, value


def main() -> int:
    """Draw every dashboard."""
    import vl_convert  # noqa: PLC0415 - heavy; `--help` does without

    parser = argparse.ArgumentParser(
        prog="grafana.render", formatter_class=argparse.RawDescriptionHelpFormatter, description=__doc__
    )
    parser.add_argument("--prometheus", default="http://127.0.0.1:9090", help="address [%(default)s]")
    parser.add_argument("--last", type=seconds, default="5m", help="how far back [%(default)s]")
    parser.add_argument("--end", type=float, default=None, help="Unix time at which to end [now]")
    parser.add_argument(
        "--set",
        type=choice,
        action="append",
        default=[],
        metavar="NAME=VALUE",
        help="choose a variable, as config=tp2-ngram",
    )
    parser.add_argument(
        "--board", action="append", choices=sorted(BOARDS), help="this dashboard only; repeatable [all]"
    )
    parser.add_argument("--out", type=Path, default=Path("docs/dashboards"), help="folder [%(default)s]")
    args = parser.parse_args()
    end_s = args.end or time.time()
    span = Span(end_s - args.last, end_s, args.prometheus.rstrip("/"), dict(args.set))
    args.out.mkdir(parents=True, exist_ok=True)
    drawn = []
    for path in (FOLDER / f"{name}.json" for name in args.board or BOARDS):
        try:
            picture = svg(span, json.loads(path.read_text()))
        except NoAnswerError as error:
            print(error, file=sys.stderr)
            return 2
        target = args.out / f"{path.stem}.png"
        target.write_bytes(slim(vl_convert.svg_to_png(picture, scale=1.25)))
        drawn.append(str(target))
    print(json.dumps({"drawn": drawn}))
    return 0


if __name__ == "__main__":
    sys.exit(main())
