"""`python -m analysis compare BASE NEW… --gate latency=3%,accuracy=1pt,cost=3%`: find what became worse, beyond noise.

Each NEW is compared to BASE. With `--across config` or `--across load`, settings are compared that differ in it, also within BASE.

A short list for people is printed on stderr, and one JSON object on stdout unless that is a terminal. `--out` writes a table in
Markdown, with the limits and the noise. Exit status 1: there is a regression. 0: there is none. 2: the data cannot tell, or there
is nothing to compare.

This module does not know how a change is tested (tables/changes.py does).
"""

import argparse
import sys
import textwrap
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import replace
from itertools import groupby
from pathlib import Path
from typing import Any

import numpy as np

from analysis.data.frame import read_study
from analysis.data.setting import setting
from analysis.errors import InputError
from analysis.format import number, plain
from analysis.output import add_json, print_result, write_text
from analysis.stats import Z, t_quantile
from analysis.tables.changes import (
    COLUMN,
    MAX_LOST,
    MEASURES,
    Change,
    compare,
    regressions,
    status,
    together,
    unmatched,
)
from analysis.tables.measures import RATES
from loadgen.terminal import printable

DEFAULT_GATE = "latency=3%,accuracy=1pt,cost=3%"
NAMED_LENGTH = 0.01
"""A change in the length of answers from this share on is named."""
NOTHING = "The two results have no setting in common with at least five common problems. --across config compares different configurations."
WORDS = {0: "No regression", 1: "Regression", 2: "The data cannot tell"}
WIDTH = 80
LEGEND = (
    "Latency: mean seconds from send to last token over successful requests. Cost: GPU-seconds per request. Accuracy: "
    "correct answers / all requests. Throughput: successes per second of the steady load; goodput: those within the SLO. "
    "Changes of means are paired by problem and have 95 % intervals. ❌ worse than the gate "
    "(one-sided 95 % confidence, Holm's correction over all rows), ✅ not worse than the gate, ❔ the data cannot tell: the change "
    "is just over the gate, or a change of twice the gate might not have been detected."
)


def parse_gate(text: str) -> dict[str, float]:
    """Parse `latency=3%,accuracy=1pt` into shares by measure. Raises InputError."""
    gate = {}
    for part in text.split(","):
        name, _, value = part.partition("=")
        unit = "pt" if name == "accuracy" else "%"
        if name not in MEASURES or not value.endswith(unit):
            names = f"{', '.join((*COLUMN, *RATES))}, or a percentile such as ttft.p95"
            raise InputError(f"{part}: write for example {DEFAULT_GATE} (accuracy in pt, others in %; {names})")
        try:
            gate[name] = float(value.removesuffix(unit)) / 100
        except ValueError:
            gate[name] = float("nan")
        most = 1 if name in RATES else 10
        if not 0 < gate[name] < most:
            raise InputError(f"{part}: the value must be a number above 0 and below {most * 100} {unit}")
    return gate


def short_list(changes: list[Change], code: int, notes: Sequence[str] = ()) -> Iterator[str]:
    """Yield the comparison for people: a line for each measure below its setting, in at most WIDTH columns."""
    yield f"{WORDS[code]} (changes with 95 % intervals)" if changes else "Nothing to compare"
    if len({_title(change) for change in changes}) > 1:
        for measure in dict.fromkeys(change.measure for change in changes):
            words = Counter(change.word for change in changes if change.measure == measure)
            yield f"{measure}: {', '.join(f'{count} {word}' for word, count in words.most_common())}"
    for title, group in groupby(changes, _title):
        yield from textwrap.wrap(printable(title), WIDTH)
        for change in group:
            base, new, delta, gate, smallest, _ = _values(change)
            yield f"  {change.word:11}  {change.measure:10} {base} → {new}  {delta}"
            if change.word == "cannot tell":
                yield f"{'':15}the gate is {gate}; this data detects {smallest}"
    for note in (*(_remarks(changes) if changes else [NOTHING]), *notes):
        yield from textwrap.wrap(printable(note), WIDTH)


def _title(change: Change) -> str:
    """The setting in words, with the value that it is compared to and the side that it comes from, where there are several."""
    about = change.setting
    versus = f", compared to {about['versus']}" if "versus" in about else ""
    return setting(about) + versus + (f" [{about['side']}]" if "side" in about else "")


def markdown(changes: list[Change], code: int, notes: Sequence[str] = ()) -> str:
    """The comparison as Markdown, for example for a pull request."""
    if not changes:
        return "\n".join(["## Nothing to compare", "", NOTHING, *notes]) + "\n"
    lines = [
        f"## {WORDS[code]}",
        "",
        "| | model | configuration | load | asked | budget | source | measure | base | new | change | gate | smallest detectable change | noise floor | n |",
    ]
    lines.append("|---|---|---|---|---|--:|---|---|--:|--:|--:|--:|--:|--:|--:|")
    for change in sorted(changes, key=lambda change: (not change.regression, change.conclusive)):
        mark = "❌" if change.regression else "✅" if change.conclusive else "❔"
        s = change.setting
        config = f"{s['config']} ({s['versus']})" if "versus" in s else s["config"]
        names = [s["model"], config, s["load"], s["asked"], number(s["budget"], ",d"), s["source"]]
        shown = [mark, *names, change.measure, *_values(change), change.n]
        lines.append("| " + " | ".join(str(cell) for cell in shown) + " |")
    lines += ["", LEGEND, *_remarks(changes), *notes]
    return "\n".join(lines) + "\n"


def _values(change: Change) -> list[str]:
    """Both means, the change with its interval, the gate, the smallest detectable change, and the noise floor."""
    accuracy = change.measure == "accuracy"
    unit, form = (" pt", ".1%") if accuracy else (" %", ".4g")
    quantile = Z if accuracy else t_quantile(change.degrees)
    # A loss of accuracy or throughput is shown as a negative change.
    sign, worst = (-1, "−") if accuracy or change.measure in RATES else (1, "+")
    middle, low, high = (
        sign * change.on_gate_scale(change.worse + sign * side * quantile * change.error) * 100 for side in (0, -1, 1)
    )
    floor = f"{change.noise_floor * 100:.1f}{unit}" if np.isfinite(change.noise_floor) else "unknown"
    return [
        number(change.base, form),
        number(change.new, form),
        f"{middle:+.1f}{unit} " + (f"({low:+.1f} to {high:+.1f})" if np.isfinite(change.error) else "(no interval)"),
        f"{worst}{change.gate * 100:g}{unit}",
        f"{worst}{change.smallest_detectable * 100:.1f}{unit}",
        floor,
    ]


def _remarks(changes: list[Change]) -> list[str]:
    """What limits the comparison."""
    lines = [
        f"NEW failed {number(one.lost, '.1%')} of requests more than BASE: {setting(one.setting)}. Latency and cost of the other "
        "requests are therefore not conclusive."
        for one in changes
        if one.lost > MAX_LOST
    ]
    lines += [
        f"Answers of NEW have {number(one.longer, '+.1%')} tokens: {setting(one.setting)}. The changes of latency and cost contain "
        "this change in length."
        for one in changes
        if abs(one.longer) > NAMED_LENGTH and one.measure in ("latency", "cost") and "versus" not in one.setting
    ]
    if any(not np.isfinite(change.noise_floor) for change in changes):
        lines.append(
            "The noise floor is unknown where no setting was run more than once with the same problems. The intervals then include the noise between "
            "problems only."
        )
    return list(dict.fromkeys(lines))


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Options of `compare`."""
    parser.add_argument(
        "base", type=Path, help="results before the change; repeated runs of a setting give its noise floor"
    )
    parser.add_argument("new", type=Path, nargs="*", help="results after the change; each is compared to BASE")
    parser.add_argument(
        "--across",
        choices=["config", "load"],
        help="compare settings that differ in it, to the first one of BASE (without NEW: within BASE)",
    )
    parser.add_argument(
        "--gate",
        type=parse_gate,
        metavar="LIMITS",
        help=f"largest change that is not a regression (default: {DEFAULT_GATE.replace('%', '%%')}); measures: {', '.join((*COLUMN, *RATES))}, and "
        "percentiles such as ttft.p95",
    )
    parser.add_argument("--out", type=Path, help="also write a table in Markdown to this file")
    add_json(parser)
    parser.epilog = "example: python -m analysis compare results/main results/branch --gate latency=3%,accuracy=1pt --out comparison.md"


def main(args: argparse.Namespace) -> int:
    """Compare, print the result for people and for programs, and return the exit status."""
    if not args.new and not args.across:
        raise InputError("compare needs NEW, or --across config to compare the configurations within BASE")
    base = read_study(args.base)
    changes, notes, gate = [], [], args.gate or parse_gate(DEFAULT_GATE)
    for path in args.new or [args.base]:
        new = read_study(path) if args.new else base
        found = compare(base.frame, new.frame, gate, args.across, base.slo() or new.slo())
        side = {"side": path.name} if len(args.new) > 1 else {}
        changes += [replace(change, setting=change.setting | side) for change in found]
        notes += [] if args.across else unmatched(base.frame, new.frame)
    changes = together(changes)
    code = status(changes)
    compared = {change.measure for change in changes}
    missing = [name for name in gate if name not in compared]
    if changes and missing:
        notes.append(f"Not compared, because not both results can show it: {', '.join(missing)}.")
        if args.gate and code == 0:  # what was asked for cannot be told
            code = 2
    if args.out:
        write_text(markdown(changes, code, notes), args.out, "--out")
    print(*short_list(changes, code, notes), sep="\n", file=sys.stderr)
    if not sys.stdout.isatty():
        worse, all_changes = ([_brief(c) for c in found] for found in (regressions(changes), changes))
        result = {"exit": code, "regressions": worse, "changes": all_changes, "notes": notes}
        print_result(result, ("changes", "notes", "regressions"), args.json)
    return code


def _brief(change: Change) -> dict[str, Any]:
    values = {
        "measure": change.measure,
        "gate": change.gate,
        "base": change.base,
        "new": change.new,
        "worse_by": change.on_gate_scale(change.worse),
        "better": change.better,
        "smallest_seen": change.smallest_detectable,
        "noise_floor": change.noise_floor,
        "tokens": change.longer,
        "n": change.n,
        "telling": change.conclusive,
    }
    return {name: plain(value) for name, value in (change.setting | values).items()}
