"""`python -m analysis report RESULTS`: write a page, its figures and its tables from run folders.

The command only reads files. Where the data is not sufficient for a figure, the page does not contain it, and a notice gives
the reason. The page is written first, then the files. The last line on stdout is one JSON object.

This module arranges the page. It does not know how tables are computed or figures are drawn.
"""

import argparse
import sys
import time
from pathlib import Path
from typing import Any

import pandas as pd

from analysis import noise
from analysis.advice import Recommendation, Requirements, unit_costs
from analysis.advice import result as result_of
from analysis.contents import Contents, compute
from analysis.data.frame import Study, read_study
from analysis.data.setting import in_flight
from analysis.errors import InputError
from analysis.figures.style import colours
from analysis.format import number, records
from analysis.output import print_result, write
from analysis.page import export
from analysis.page.chart_data import rows_of
from analysis.page.html import bundle_vega, render
from analysis.page.layout import DEFINITIONS, Answer, Heading, Notice, Page, Table
from analysis.recommend import add_price, recommend
from analysis.tables.optima import WITHIN, Optima
from loadgen.record import RunInfo
from loadgen.terminal import printable


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Options of `report`."""
    parser.add_argument("results", type=Path, help="folder of a run, or a folder that contains runs")
    parser.add_argument("--out", type=Path, help="folder of the report (default: RESULTS/report)")
    add_price(parser)
    noise.add_noise(parser)
    parser.add_argument(
        "--page-only",
        action="store_true",
        help="write the page, summary.md and summary.json, but no files of figures and tables",
    )
    parser.add_argument("--latex", action="store_true", help="write the tables of the page as LaTeX too (booktabs)")
    parser.epilog = "example: python -m analysis report results/study --out report"


def main(args: argparse.Namespace) -> int:
    """Write the report, and print its path and the main results."""
    started = time.perf_counter()
    vega = bundle_vega()
    study = read_study(args.results)
    if not study.runs:
        why = study.notes[0] if study.notes else "there are no runs in it"
        raise InputError(f"{args.results}: {why}; give the folder of a run, or one that contains runs")
    out = args.out or args.results / "report"
    try:
        out.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise InputError(f"--out {out}: {error.strerror}; give a folder that can be written") from error
    contents = compute(study, args.price_per_gpu_hour, args.noise)
    # The report has no requirements from the user: it recommends the least cost close to the best accuracy.
    advice = recommend(contents.summary, Requirements(near_best=True), contents.evidence)
    path, page = out / "index.html", _page(study, contents, advice)
    path.write_text(render(study, page, vega), encoding="utf-8")
    page_s = time.perf_counter() - started
    if args.latex:
        export.latex(page.tables, out / "tables")
    if not args.page_only:
        export.tables(contents.tables, out / "tables")
        export.figures(contents.figures, colours(study.frame["config"].unique()), out / "figures")
    (out / "summary.md").write_text(
        export.markdown(advice.headline, advice.sentences, contents.summary, contents.figures)
    )
    for line in (advice.headline, *study.notes, f"report: {path}"):
        print(printable(line), file=sys.stderr)
    result: dict[str, Any] = {"page": str(path), "runs": len(study.runs), "requests": len(study.frame)}
    result |= {"headline": advice.headline[:1000], "page_s": round(page_s, 2)}
    result |= {"seconds": round(time.perf_counter() - started, 2)}
    write(result | _summary(contents, advice), out / "summary.json", "--out")
    print_result(result, ("headline",))
    return 0


def _summary(contents: Contents, advice: Recommendation) -> dict[str, Any]:
    """What the page says, for programs."""
    return {
        "recommendation": result_of(advice) | {"others": [result_of(one) for one in advice.others]},
        "sentences": advice.sentences,
        "titles": {figure.name: figure.claim for figure in contents.figures},
        **{name: rows_of(contents.tables[name]) for name in ("claims", "summary", "runs")},
    }


def _page(study: Study, contents: Contents, advice: Recommendation) -> Page:
    answer, runs = _answer(contents, advice), contents.tables["runs"]
    answer.flags = _flags(runs, advice)
    sections = _sections(contents.summary)
    return Page(answer, _notices(study, runs), sections, contents.figures, _tables(contents.tables))


def _sections(table: pd.DataFrame) -> dict[str, Heading]:
    one_budget = {"budget": Heading("Latency and cost of each configuration")}
    return DEFINITIONS.sections | (one_budget if len(table["budget"].unique()) == 1 else {})


def _tables(computed: dict[str, pd.DataFrame]) -> list[Table]:
    """The tables that have rows."""
    return [Table(name, heading, computed[name]) for name, heading in DEFINITIONS.tables.items() if len(computed[name])]


def _answer(contents: Contents, advice: Recommendation) -> Answer:
    if advice.best is None:
        return Answer(advice.headline, [], advice.sentences)
    best: dict[str, Any] = advice.best
    p95 = best["e2e_p95_all_s"]
    correct = best["accuracy"] > 0
    per, *columns = unit_costs(of_pass=correct)
    gpu_s, usd, joules = (best[name] for name in columns)
    share = f"({number(best['accuracy_low'], '.0%')}–{number(best['accuracy_high'], '.0%')})"
    facts = [(number(best["accuracy"], ".1%"), f"correct answers {share}")] if correct else []
    late = f"; p95 {number(p95, '.3g')} s" if pd.notna(p95) else ""
    facts += [(f"{number(best['e2e_p50_s'], '.3g')} s", f"median latency{late}")]
    if pd.notna(gpu_s):
        price = f"at ${contents.price_per_gpu_hour:g} per GPU-hour"
        facts += [
            (number(gpu_s, ".3g"), f"GPU-seconds per {per}"),
            (f"${number(usd * 1000, '.3g')}", f"per 1,000 {per}s, {price}"),
        ]
    facts += [(f"{number(joules, '.3g')} J", f"per {per}")] if pd.notna(joules) else []
    if not correct or pd.isna(gpu_s):
        return Answer(advice.headline, facts, [advice.sentences[1], advice.sentences[0], *advice.sentences[3:]])
    why = f"It costs least per correct answer of the settings within {WITHIN * 100:.0f} points of the best accuracy. {advice.sentences[0]} These numbers are {best['source']}, and the run is {best['run_verdict']}."
    return Answer(advice.headline, facts, [why, *advice.sentences[3:], *_explain_optima(contents.optima)])


def _flags(runs: pd.DataFrame, advice: Recommendation) -> list[tuple[str, str]]:
    """The verdict on the recommended setting, and how many runs are not VALID."""
    best = str(advice.best["run_verdict"]) if advice.best else ""
    flags = [(best, f"its run is {best}")] if best else []
    counts = runs["verdict"].value_counts()
    bad = [verdict for verdict in ("INVALID", "SUSPECT") if counts.get(verdict)]
    return flags + [(verdict, f"{counts[verdict]} of {len(runs)} runs {verdict}") for verdict in bad]


def _explain_optima(found: list[Optima]) -> list[str]:
    """Explain with this study's numbers why the least arithmetic does not give the least latency."""
    if not found:
        return []
    optima = found[0]
    c, s = optima.compute, optima.system
    if not optima.differ:
        best = f"{_point(c)} has both the least arithmetic and the least median latency"
        return [f"Both optima are the same: {best} of all settings that reach {number(optima.target, '.0%')}."]
    where = in_flight(str(c["load"]))
    text = (
        f"The two optima differ: with {where}, {_point(c)} is compute-optimal. It needs the least arithmetic for an accuracy of "
        f"{number(optima.target, '.0%')} ({number(c['tflop_per_request'], '.3g')} TFLOP per request) and has a median latency of "
        f"{number(c['e2e_p50_s'], '.3g')} s. {_point(s)} is system-optimal: its median latency is {number(s['e2e_p50_s'], '.3g')} s, "
        f"with {number(s['tflop_per_request'], '.3g')} TFLOP per request. Tokens are generated one after another, so latency is the "
        f"number of tokens × time per token: {number(c['tokens_mean'], ',d')} tokens at {_ms_per_token(c)} ms, compared to "
        f"{number(s['tokens_mean'], ',d')} tokens at {_ms_per_token(s)} ms. The arithmetic of a token does not determine how long "
        "the server takes to generate it."
    )
    return [text]


def _ms_per_token(row: dict[str, Any]) -> str:
    return number(1e3 / row["tokens_per_s_user"], ".2g") if row["tokens_per_s_user"] else "–"


def _point(row: dict[str, Any]) -> str:
    return f"{row['model']} on {row['config']} at {row['budget']:,.0f} tokens"


def _notices(study: Study, runs: pd.DataFrame) -> list[Notice]:
    notices = []
    for verdict, text, kind in (
        ("INVALID", "These runs are INVALID. No conclusion uses them.", "bad"),
        ("SUSPECT", "These runs are SUSPECT. Their numbers may be wrong.", ""),
    ):
        lines = [f"{row['cell']}: {row['reasons']}" for row in records(runs) if row["verdict"] == verdict]
        notices += [Notice(text, lines, kind)] if lines else []
    errors = [f"{cell}: {line}" for cell, run in study.runs.items() for line in _frequent_errors(run)]
    if errors:
        notices.append(Notice("The most frequent errors of the failed requests.", _some(errors)))
    if study.notes:
        notices.append(Notice("Some files could not be read or graded completely.", _some(study.notes)))
    return notices


def _frequent_errors(run: RunInfo) -> list[str]:
    """What `loadgen` has found in the records of failed requests."""
    found = run.summary.get("errors")
    rows = [row for row in found if isinstance(row, dict)] if isinstance(found, list) else []
    return [f"{row.get('count')} × {row.get('outcome')}: {row.get('text') or '(no text)'}" for row in rows]


def _some(lines: list[str], most: int = 12) -> list[str]:
    return lines if len(lines) <= most else [*lines[:most], f"and {len(lines) - most} more"]
