"""Runs at several load points on one server: `run --loads 1,8,32`, and the runs of a search.

Each run has a folder of its own in the folder of the command, named after its load. A failure of the server does not stop the
next load; Ctrl-C does. This module does not know which loads are needed.
"""

import dataclasses
import json
import sys
from collections.abc import Iterator, Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from loadgen.errors import UsageError
from loadgen.files import private_files
from loadgen.option_types import LoadPoint
from loadgen.options import RunOptions, check_combinations, open_loop
from loadgen.record import RUN, RunInfo
from loadgen.run.manifest import make_folder
from loadgen.run.run import execute
from loadgen.search.result import figures
from loadgen.search.runs import folder_name

TITLES = ("load", "requests/s", "tokens/s", "p95 TTFT", "p95 TPOT", "p95 e2e", "SLO met")
WIDTHS = (8, 10, 8, 8, 8, 8, 7)


def new_folder(options: RunOptions, command: str) -> Path:
    """Make the folder for the runs of a command. Raises UsageError where it exists."""
    out = options.out or Path("results") / f"{datetime.now(UTC):%Y%m%dT%H%M%SZ}-{command}"
    with private_files():
        return make_folder(out)


def run_point(options: RunOptions, out: Path, point: LoadPoint, number: int = 0) -> RunInfo:
    """Do the run with this number, from 0, at a load. A folder that has the beginning of the run is completed.

    Every number has its own seed, so that two runs at one load differ in the order of their requests and their arrival times.
    """
    name = folder_name(point, number)
    fields: dict[str, Any] = {"run_id": f"{out.name}.{name}", "seed": options.seed + number}
    begun = (out / name / RUN).is_file()
    fields |= {"resume": out / name, "out": None} if begun else {"resume": None, "out": out / name}
    return execute(dataclasses.replace(point.applied(options), **fields))


def run_loads(options: RunOptions, points: Sequence[LoadPoint]) -> list[RunInfo]:
    """Do a run for each load, print a table of them and a line of JSON. Raises UsageError before the first request."""
    _check(options, points)
    if options.dry_run:
        return [execute(point.applied(options)) for point in points]
    out = new_folder(options, "loads")
    runs: list[RunInfo] = []
    for point in points:
        runs.append(run_point(options, out, point))
        if runs[-1].interrupted:
            break
    for line in table(runs):
        print(line, file=sys.stderr)
    verdicts = {point.name: run.verdict for point, run in zip(points, runs, strict=False)}
    print(json.dumps({"loads": str(out), "runs": verdicts}))
    return runs


def _check(options: RunOptions, points: Sequence[LoadPoint]) -> None:
    if options.concurrency or open_loop(options):
        raise UsageError("--loads sets the load: leave out --concurrency, --rate, --ramp, --times and burst")
    if options.resume:
        raise UsageError("--loads starts new runs: to complete one, use --resume with its own folder alone")
    if len({point.name for point in points}) < len(points):
        raise UsageError("--loads must not name a load twice")
    for point in points:
        check_combinations(point.applied(options))


def table(runs: Sequence[RunInfo]) -> Iterator[str]:
    """Yield one line for each run. Rates are those of the steady window, where the run has one."""
    yield "latencies in ms"
    yield _line(TITLES)
    for run in runs:
        summary, load, rates = run.summary, run.load, figures(run)
        share = summary.get("goodput", {}).get("share")
        cells = (
            f"{load['rate']:g}/s" if load["kind"] == "open" else str(load["concurrency"]),
            _number(rates["requests_per_s"]),
            _number(rates["completion_tokens_per_s"]),
            *(_number(summary[metric]["p95"], 1e3) for metric in ("ttft_s", "tpot_s", "e2e_s")),
            "–" if share is None else f"{share:.1%}",
        )
        yield _line(cells) + ("" if run.verdict == "VALID" else f"  {run.verdict}")


def _line(cells: Sequence[str]) -> str:
    return "  ".join(f"{cell:>{width}}" for cell, width in zip(cells, WIDTHS, strict=True))


def _number(value: float | None, factor: float = 1.0) -> str:
    if value is None:
        return "–"
    return f"{value * factor:,.0f}" if value * factor >= 100 else f"{value * factor:.3g}"
