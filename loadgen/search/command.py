"""`python -m loadgen search`: the highest load at which a running server meets the objectives.

Everything that can be refused is refused before the first request. Then each test of a load is one run or several, in folders
of their own. Ctrl-C and `--limit` end the search with what is known, and `--resume` goes on: runs that are complete are read,
and the search takes the same decisions again.

This module does not know how a load is chosen (`bracket`) or decided (`decision`).
"""

import argparse
import dataclasses
import json
from pathlib import Path

from loadgen.errors import FAILED, INVALID, UsageError
from loadgen.interrupts import INTERRUPTED
from loadgen.lock import locked
from loadgen.option_types import budgets, synthetic
from loadgen.options import DEFAULTS, RunOptions, add_run_arguments, from_args, hide
from loadgen.record import RUN
from loadgen.run.resume import read_options
from loadgen.search import result
from loadgen.search.arguments import add_search_arguments, check
from loadgen.search.loads import new_folder, run_point
from loadgen.search.probes import load_point
from loadgen.search.result import SearchFile
from loadgen.search.runs import SearchRuns, conduct, time_scale
from loadgen.terminal import duration_text, say

EXAMPLES = """\
examples:
  python -m loadgen search --target http://10.0.0.7:8000/v1 --slo ttft=500ms,tpot=20ms
  python -m loadgen search --slo e2e=60s --over rate --from 0.5 --to 32 --budget 4096 --limit 1h
  python -m loadgen search --resume results/20261122T101500Z-search
"""


REFUSED = ("concurrency", "rate", "ramp", "times", "requests", "duration_s", "one_pass", "check_budget", "repeats")
"""Options of a run that a search sets itself."""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the arguments of a search, and all options of a run."""
    group = parser.add_argument_group("what to search for")
    add_search_arguments(group.add_argument)
    group.add_argument("--budget", dest="budgets", type=budgets, default=argparse.SUPPRESS, metavar="B",
                       help="token budget, or several like --budgets [1024]")  # fmt: skip
    add_run_arguments(parser)
    hide(parser, *REFUSED)


def main(args: argparse.Namespace, argv: tuple[str, ...]) -> int:
    """Search, and return the exit code: 0 found, 1 not met at any load, 4 a run is INVALID, 130 interrupted."""
    if not hasattr(args, "budgets") and synthetic(getattr(args, "dataset", "")) is None:
        args.budgets = (1024,)
    options = dataclasses.replace(from_args(args), argv=argv, quiet=True, expect_failures=True)
    if options.resume:
        file, options = _resumed(options.resume, options)
    else:
        check(args, options)
        file = SearchFile(
            target=options.target, over=args.over, slo=options.slo, attain=args.attain,
            first=args.lowest, last=args.highest, most=args.most,
        )  # fmt: skip
    scale = time_scale(file, options)
    _say_plan(file, args.limit_s, options.drain_s / scale)
    if options.dry_run:
        return 0
    out = options.resume or new_folder(options, "search")
    with locked(out):
        stopped = conduct(file, out, SearchRuns(file, options, out, args.limit_s, scale=scale, one=run_point), say)
    if stopped in ("interrupted", "time limit"):
        say(f"go on with --resume {out}")
    limit = None if file.limit is None else {"load": file.limit.load, "interval": file.limit.interval}
    print(json.dumps({"search": str(out), "stopped": stopped, "limit": limit}))
    if stopped == "interrupted":
        return INTERRUPTED
    return INVALID if file.invalid else 0 if file.limit is not None else FAILED


def _resumed(folder: Path, options: RunOptions) -> tuple[SearchFile, RunOptions]:
    """Return what the search was for and the options of its runs. Raises UsageError."""
    file = SearchFile.read(folder)
    first = folder / load_point(file.over, file.first).name
    if not (first / RUN).is_file():
        raise UsageError(f"--resume {folder}: the search ended before its first run: start a new one")
    restored, _ = read_options(options, first)
    fixed = ("concurrency", "rate", "requests", "duration_s", "run_id")
    defaults = {name: getattr(DEFAULTS, name) for name in fixed}
    file.probes, file.limit, file.stopped, file.invalid = [], None, None, []
    return file, dataclasses.replace(restored, resume=folder, **defaults)


def _say_plan(file: SearchFile, limit_s: float, drain_s: float) -> None:
    first, last = (result.named(load, file.over) for load in (file.first, file.last))
    say(
        f"search from {first} to {last}: at most {duration_text(limit_s)} (--limit), and then at most {duration_text(drain_s)} (--drain) "
        f"until the replies in flight have ended; a test of one load has about {file.most:,} requests at most (--most)"
    )
