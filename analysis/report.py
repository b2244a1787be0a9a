"""`python -m analysis report RESULTS`: from run folders to a page, its figures and its tables.

Rules: reads only files. An input that cannot support a figure yields a page without it and a line that says why, never a
traceback. The last line on stdout is one JSON object.

Does not know: how anything is computed or drawn; it says what stands where.
"""

import argparse
import json
import sys
import time
from pathlib import Path

import pandas as pd

from analysis import figures_budget, tables
from analysis.definitions import DEFINITIONS, SUMMARY
from analysis.figures import Figure
from analysis.frame import Study, read_study
from analysis.page import Answer, Notice, Page, Section, Shown, number, render

SECTIONS = [
    Section("front", "What is worth deploying"),
    Section("budget", "What a larger budget buys"),
]


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Options of `report`."""
    parser.add_argument("results", type=Path, help="a run's folder, or one that holds runs")
    parser.add_argument("--out", type=Path, help="where the report goes (default: RESULTS/report)")
    parser.add_argument(
        "--price-per-gpu-hour", type=float, default=3.5, metavar="USD", help="default: %(default)s, assumed"
    )


def main(args: argparse.Namespace) -> int:
    """Write the report and say where it is."""
    started = time.perf_counter()
    study = read_study(args.results)
    out = args.out or args.results / "report"
    out.mkdir(parents=True, exist_ok=True)
    table = tables.summary(study.frame, args.price_per_gpu_hour)
    page = build(study, table)
    path = out / "index.html"
    path.write_text(page, encoding="utf-8")
    for line in accuracy_lines(table):
        print(line, file=sys.stderr)
    print(f"report: {path}", file=sys.stderr)
    result = {
        "page": str(path),
        "runs": len(study.runs),
        "requests": len(study.frame),
        "accuracy": accuracies(table),
    }
    print(json.dumps(result | {"seconds": round(time.perf_counter() - started, 2)}))
    return 0


def build(study: Study, table: pd.DataFrame) -> str:
    """The page of one study."""
    figures: list[Figure] = figures_budget.figures(table) if len(table) else []
    shown = [
        Shown(
            "summary", "The table behind it", "One row for each configuration at each budget.", SUMMARY, table
        )
    ]
    runs = tables.runs_table(study.frame, study.runs)
    page = Page(
        answer=_answer(table),
        notices=_notices(study, runs),
        sections=SECTIONS,
        figures=figures,
        tables=shown if len(table) else [],
        definitions=DEFINITIONS,
    )
    return render(study, page)


def _answer(table: pd.DataFrame) -> Answer:
    if table.empty or table["accuracy"].isna().all():
        return Answer(
            "No graded answers in these results: latency and cost only."
            if len(table)
            else "No requests in these results."
        )
    best = max(tables.records(table), key=lambda row: (row["accuracy"] > 0, row["accuracy"]))
    where = f"{best['model']} on {best['config']} at {best['budget']:,.0f} tokens"
    return Answer(f"Highest accuracy: {number(best['accuracy'], '.1%')} with {where}.")


def _notices(study: Study, runs: pd.DataFrame) -> list[Notice]:
    notices = []
    invalid = runs[runs["verdict"] == "INVALID"] if len(runs) else runs
    if len(invalid):
        lines = [f"{row['cell']}: {row['reasons']}" for row in tables.records(invalid)]
        notices.append(Notice("These runs judged themselves INVALID; no conclusion uses them.", lines, "bad"))
    if study.notes:
        notices.append(Notice("Not everything could be read.", study.notes[:20]))
    return notices


def accuracies(table: pd.DataFrame) -> list[dict[str, object]]:
    """Accuracy by group, for machines."""
    rows = []
    for row in tables.records(table):
        known = {
            "model": row["model"],
            "config": row["config"],
            "load": row["load"],
            "budget": int(row["budget"]),
        }
        share = None if pd.isna(row["accuracy"]) else round(float(row["accuracy"]), 4)
        rows.append(
            known
            | {"mode": row["budget_mode"], "source": row["source"], "n": int(row["n"]), "accuracy": share}
        )
    return rows


def accuracy_lines(table: pd.DataFrame) -> list[str]:
    """Accuracy by group, for people."""
    lines = []
    for row in tables.records(table):
        ci = f"{number(row['accuracy_low'], '.1%')} to {number(row['accuracy_high'], '.1%')}"
        name = f"{row['model']} {row['config']} {row['load']}"
        lines.append(
            f"{name:<52} {row['budget']:>7,.0f} tokens  accuracy {number(row['accuracy'], '.1%'):>6}  ({ci}, n={row['n']}, {row['source']})"
        )
    return lines
