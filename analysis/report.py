"""`python -m analysis report RESULTS`: from run folders to a page, its figures and its tables.

Rules: reads only files. An input that cannot support a figure yields a page without it and a line that says why, never a
traceback. The page is written first, the files after it. The last line on stdout is one JSON object.

Does not know: how anything is computed or drawn; it says what stands where.
"""

import argparse
import json
import sys
import time
from pathlib import Path
from typing import Any

import pandas as pd

from analysis.contents import Conclusions, conclude
from analysis.data.frame import Study, read_study
from analysis.data.setting import in_flight
from analysis.errors import InputError
from analysis.figures.style import colours
from analysis.format import number, records
from analysis.page import export
from analysis.page.columns import CLAIMS, DEFINITIONS, PAIRS, RUNS, SUMMARY, VOTES
from analysis.page.html import Answer, Notice, Page, Section, Shown, bundle_vega, render
from analysis.recommend import Recommendation, Requirements, check_price, recommend
from analysis.tables.optima import WITHIN, Optima, candidates, default_target

SECTIONS = [
    Section("front", "What is worth deploying"),
    Section("budget", "What a larger budget buys"),
    Section(
        "serving",
        "What the serving configuration does",
        "Every comparison is paired: the same problems on both sides.",
    ),
    Section("parallel", "Longer answers or more of them"),
    Section("time", "Where the time goes"),
]


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Options of `report`."""
    parser.add_argument("results", type=Path, help="a run's folder, or one that holds runs")
    parser.add_argument("--out", type=Path, help="where the report goes (default: RESULTS/report)")
    parser.add_argument(
        "--price-per-gpu-hour", type=float, default=3.5, metavar="USD", help="default: %(default)s, assumed"
    )
    parser.add_argument("--page-only", action="store_true", help="no figure and table files beside the page")
    parser.epilog = "example: python -m analysis report results/study --out report"


def main(args: argparse.Namespace) -> int:
    """Write the report and say where it is."""
    started = time.perf_counter()
    check_price(args.price_per_gpu_hour)
    vega = bundle_vega()
    study = read_study(args.results)
    out = args.out or args.results / "report"
    try:
        out.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise InputError(f"--out {out}: {error.strerror}; name a folder that can be written") from error
    found = conclude(study, args.price_per_gpu_hour)
    advice = recommend(found.summary, _wish(found))
    path = out / "index.html"
    path.write_text(render(study, _page(study, found, advice), vega), encoding="utf-8")
    page_s = time.perf_counter() - started
    if not args.page_only:
        export.tables(found.tables, out / "tables")
        scheme = colours([str(config) for config in study.frame["config"].unique()])
        export.figures(found.figures, scheme, out / "figures")
    (out / "summary.md").write_text(
        export.markdown(advice.headline, advice.sentences, found.summary, found.figures)
    )
    print(*accuracy_lines(found.summary), advice.headline, f"report: {path}", sep="\n", file=sys.stderr)
    result: dict[str, Any] = {"page": str(path), "runs": len(study.runs), "requests": len(study.frame)}
    result |= {"headline": advice.headline, "accuracy": accuracies(found.summary), "page_s": round(page_s, 2)}
    print(json.dumps(result | {"seconds": round(time.perf_counter() - started, 2)}))
    return 0


def _wish(found: Conclusions) -> Requirements:
    """Nobody asked for anything here: near the best accuracy, at the least cost."""
    known = candidates(found.summary)
    return Requirements(default_target(known) if len(known) else None)


def _page(study: Study, found: Conclusions, advice: Recommendation) -> Page:
    return Page(
        answer=_answer(found, advice),
        notices=_notices(study, found.tables["runs"]),
        sections=SECTIONS,
        figures=found.figures,
        tables=_shown(found.tables),
        definitions=DEFINITIONS,
    )


def _shown(made: dict[str, pd.DataFrame]) -> list[Shown]:
    all_tables = [
        Shown(
            "claims",
            "The paper's findings, on this data",
            "arXiv 2509.19645, in kind rather than in number; held where the whole 95 % interval lies on the claim's side.",
            CLAIMS,
            made["claims"],
        ),
        Shown(
            "summary",
            "The table behind it",
            "One row for each configuration at each budget; small print: 95 % intervals. A click on a verdict opens the run's manifest.",
            SUMMARY,
            made["summary"],
        ),
        Shown(
            "speculation",
            "Speculation, paired by problem",
            "With speculation against without, at the same number of GPUs.",
            PAIRS,
            made["speculation"],
        ),
        Shown(
            "tensor_parallel",
            "Tensor parallelism, paired by problem",
            "More GPUs against the fewest, with the same speculation.",
            PAIRS,
            made["tensor_parallel"],
        ),
        Shown(
            "parallel_compute",
            "Votes, against one answer",
            "k answers a problem cost the sum and take as long as the slowest.",
            VOTES,
            made["parallel_compute"],
        ),
        Shown("runs_table", "Runs", "How each run judged itself.", RUNS, made["runs"]),
    ]
    return [shown for shown in all_tables if len(shown.table)]


def _answer(found: Conclusions, advice: Recommendation) -> Answer:
    if advice.best is None:
        return Answer(advice.headline, [], advice.sentences)
    best: dict[str, Any] = advice.best
    p95 = best["e2e_p95_s"]
    facts: list[tuple[str, str]] = [
        (
            number(best["accuracy"], ".1%"),
            f"right answers ({number(best['accuracy_low'], '.0%')}–{number(best['accuracy_high'], '.0%')})",
        ),
        (
            f"{number(best['e2e_p50_s'], '.3g')} s",
            "median latency" + (f"; p95 {number(p95, '.3g')} s" if pd.notna(p95) else ""),
        ),
        (number(best["cost_of_pass_gpu_s"], ".3g"), "GPU-seconds per right answer"),
        (
            f"${number(best['cost_of_pass_usd'] * 1000, '.3g')}",
            f"per 1,000 right answers, at ${found.price_per_gpu_hour:g} per GPU-hour",
        ),
    ]
    joules = best["cost_of_pass_j"]
    facts += [(f"{number(joules, '.3g')} J", "per right answer")] if pd.notna(joules) else []
    why = f"It comes within {WITHIN * 100:.0f} points of the best accuracy here and costs least per right answer. These numbers are {best['source']}; the run is {best['run_verdict']}."
    return Answer(advice.headline, facts, [why, *advice.sentences[2:], *_why_different(found.optima)])


def _why_different(found: list[Optima]) -> list[str]:
    """Why least arithmetic is not least waiting, from this study's own numbers."""
    if not found:
        return []
    optima = found[0]
    c, s = optima.compute, optima.system
    if not optima.differ:
        best = f"{_point(c)} has both the least arithmetic and the least median latency"
        return [
            f"Compute-optimal is system-optimal here: {best} of all that reach {number(optima.target, '.0%')}."
        ]
    where = in_flight(str(c["load"]))
    text = (
        f"Compute-optimal is not system-optimal: with {where}, {_point(c)} does the least arithmetic for "
        f"{number(optima.target, '.0%')} right answers ({number(c['tflop_per_answer'], '.3g')} TFLOP an answer), yet takes "
        f"{number(c['e2e_p50_s'], '.3g')} s; {_point(s)} takes {number(s['e2e_p50_s'], '.3g')} s with "
        f"{number(s['tflop_per_answer'], '.3g')} TFLOP. Tokens come one after another: "
        f"{number(c['tokens_mean'], ',d')} tokens at {_ms_a_token(c)} ms each there, "
        f"{number(s['tokens_mean'], ',d')} at {_ms_a_token(s)} ms here. Waiting is tokens × time per token: "
        "arithmetic sees what a token costs to compute, not how long the server takes to produce it."
    )
    return [text]


def _ms_a_token(row: dict[str, Any]) -> str:
    return number(1e3 / row["tokens_per_s_user"], ".2g") if row["tokens_per_s_user"] else "–"


def _point(row: dict[str, Any]) -> str:
    return f"{row['model']} on {row['config']} at {row['budget']:,.0f} tokens"


def _notices(study: Study, runs: pd.DataFrame) -> list[Notice]:
    notices = []
    for verdict, text, kind in (
        ("INVALID", "These runs judged themselves INVALID; no conclusion uses them.", "bad"),
        ("SUSPECT", "These runs judged themselves SUSPECT; read their numbers with care.", ""),
    ):
        lines = [f"{row['cell']}: {row['reasons']}" for row in records(runs) if row["verdict"] == verdict]
        notices += [Notice(text, lines, kind)] if lines else []
    if study.notes:
        notices.append(Notice("Not everything could be read or graded.", _some(study.notes)))
    return notices


def _some(lines: list[str], most: int = 12) -> list[str]:
    return lines if len(lines) <= most else [*lines[:most], f"and {len(lines) - most} more"]


def accuracies(table: pd.DataFrame) -> list[dict[str, object]]:
    """Accuracy by group, for machines."""
    rows = []
    for row in records(table):
        known = {
            "model": row["model"],
            "config": row["config"],
            "load": row["load"],
            "asked": row["asked"],
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
    for row in records(table):
        ci = f"{number(row['accuracy_low'], '.1%')} to {number(row['accuracy_high'], '.1%')}"
        name = f"{row['model']} {row['config']} {row['load']} {row['asked']}"
        lines.append(
            f"{name:<52} {row['budget']:>7,.0f} tokens  accuracy {number(row['accuracy'], '.1%'):>6}  ({ci}, n={row['n']}, {row['source']})"
        )
    return lines
