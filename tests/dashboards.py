"""Every query of the committed dashboards, as Grafana would send it, and what a good answer to it is.

Knows the JSON that Grafana is provisioned with, not the code that writes it.
"""

import json
import math
import re
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tests.prometheus import Prometheus

FOLDER = Path(__file__).parent.parent / "grafana" / "dashboards"
FILES = sorted(FOLDER.glob("*.json"))
SLOW_S = 1.0


@dataclass(frozen=True)
class Query:
    """One query with where it stands: `run › TTFT, client › A`."""

    where: str
    expr: str
    kind: str
    """range | instant | labels"""


def read(path: Path) -> dict[str, Any]:
    """One dashboard."""
    return dict(json.loads(path.read_text()))


def queries(path: Path) -> Iterator[Query]:
    """Panels', variables' and annotations' queries of one dashboard."""
    board = read(path)
    for panel in board["panels"]:
        for target in panel.get("targets") or []:
            kind = "instant" if target.get("instant") else "range"
            yield Query(f"{path.stem} › {panel['title']} › {target['refId']}", target["expr"], kind)
    for variable in board["templating"]["list"]:
        if variable["type"] == "query":
            yield Query(f"{path.stem} › ${variable['name']}", variable["query"]["query"], "labels")
    for mark in board["annotations"]["list"]:
        yield Query(f"{path.stem} › annotation {mark['name']}", mark["expr"], "range")


def every_query() -> list[Query]:
    """Of all dashboards."""
    return [query for path in FILES for query in queries(path)]


def filled(expr: str, *, range_s: float, chosen: dict[str, str] | None = None) -> str:
    """Fill the variables in as Grafana does: All unless chosen, a 2 s step, the selected time."""
    values = {"__rate_interval": "8s", "__range": f"{range_s:.0f}s", "price": "3", **(chosen or {})}
    return re.sub(r"\$(\w+)", lambda found: values.get(found[1], ".*"), expr)


@dataclass(frozen=True)
class Answer:
    """What Prometheus said to one query."""

    query: Query
    series: int
    numbers: int
    """Samples that are no NaN."""
    took_s: float

    def fault(self) -> str | None:
        """What is wrong with it, naming the panel."""
        if not self.series:
            return f"{self.query.where}: no data"
        if not self.numbers:
            return f"{self.query.where}: only NaN"
        if self.took_s >= SLOW_S:
            return f"{self.query.where}: took {self.took_s:.2f} s"
        return None


def ask(
    server: Prometheus, query: Query, start_s: float, end_s: float, chosen: dict[str, str] | None = None
) -> Answer:
    """Send one query as its panel would, over the time from start to end.

    A query is slow if it is so three times: an answer that waited for the machine says nothing of the query.
    """
    answers: list[Answer] = []
    while len(answers) < 3 and (not answers or answers[-1].took_s >= SLOW_S):
        answers.append(_ask(server, query, start_s, end_s, chosen))
    return answers[-1]


def _ask(
    server: Prometheus, query: Query, start_s: float, end_s: float, chosen: dict[str, str] | None
) -> Answer:
    expr = filled(query.expr, range_s=end_s - start_s, chosen=chosen)
    began = time.perf_counter()
    if query.kind == "labels":
        values = _label_values(server, expr, start_s, end_s)
        return Answer(query, len(values), len(values), time.perf_counter() - began)
    if query.kind == "instant":
        found = server.instant(expr, end_s)
        samples = [[row["value"]] for row in found]
    else:
        samples = [row["values"] for row in server.range(expr, start_s, end_s, 2)]
    took_s = time.perf_counter() - began
    numbers = sum(not math.isnan(float(value)) for rows in samples for _, value in rows)
    return Answer(query, len(samples), numbers, took_s)


def _label_values(server: Prometheus, expr: str, start_s: float, end_s: float) -> list[str]:
    found = re.fullmatch(r"label_values\((.+), (\w+)\)", expr)
    assert found, expr
    matching = {"match[]": found[1], "start": str(start_s), "end": str(end_s)}
    return list(server.get(f"label/{found[2]}/values", **matching))
