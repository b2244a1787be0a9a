"""`python -m loadgen search`: the highest load at which a running server meets the objectives.

Everything that can be refused is refused before the first request. Then each test of a load is one run or several, in folders
of their own. Ctrl-C and `--limit` end the search with what is known, and `--resume` goes on: runs that are complete are read,
and the search takes the same decisions again.

This module does not know how a load is chosen (`bracket`) or decided (`decision`).
"""

import argparse
import dataclasses
import json
import time
from pathlib import Path
from typing import Any

from loadgen.errors import UsageError, say
from loadgen.interrupts import INTERRUPTED
from loadgen.live.progress import human
from loadgen.lock import locked
from loadgen.option_types import LoadPoint, budgets, count, positive, seconds, share
from loadgen.options import DEFAULTS, RunOptions, add_run_arguments, from_args, open_loop
from loadgen.record import RECORDS, RUN, RunInfo, read_records, read_run
from loadgen.run.prepare import prepare
from loadgen.run.resume import read_options
from loadgen.search import result
from loadgen.search.bracket import Bracket
from loadgen.search.loads import folder_name, interrupted, new_folder, run_point
from loadgen.search.probes import MOST, Probe, SearchEndedError, Sent, Tester, load_point, search
from loadgen.search.result import SearchFile

EXAMPLES = """\
examples:
  python -m loadgen search --target http://10.0.0.7:8000/v1 --slo ttft=500ms,tpot=20ms
  python -m loadgen search --slo e2e=60s --over rate --from 0.5 --to 32 --budget 4096 --limit 1h
  python -m loadgen search --resume results/20261122T101500Z-search
"""
NOT_FOUND, INVALID = 1, 4
NO_REQUESTS = "no request succeeded"
"""The reason that makes a run INVALID although it shows what the search wants to know."""

NOTHING_SENT = "no request was measured"
DISTURBED = ("client:", "the emulated server")
"""Beginnings of reasons that make the result of a run doubtful, beyond those that a load near the limit always has."""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the arguments of a search, and all options of a run."""
    add = parser.add_argument_group("what to search for").add_argument
    add(
        "--attain",
        type=share,
        default=0.95,
        metavar="SHARE",
        help="share of the requests that must meet --slo [0.95]",
    )
    add(
        "--over",
        choices=("streams", "rate"),
        default="streams",
        help="vary the streams of a closed loop or the rate of an open one [streams]",
    )
    add("--from", dest="first", type=positive, default=1.0, metavar="LOAD", help="lowest load [1]")
    add("--to", dest="last", type=positive, default=256.0, metavar="LOAD", help="highest load [256]")
    add(
        "--budget",
        dest="budgets",
        type=budgets,
        default=(1024,),
        metavar="B",
        help="token budget, or several like --budgets [1024]",
    )
    add(
        "--limit",
        dest="limit_s",
        type=seconds,
        default=1200.0,
        metavar="T",
        help="time after which the search ends with what it knows [20m]",
    )
    add("--most", type=count, default=MOST, metavar="N", help=f"most requests of a test of one load [{MOST}]")
    add_run_arguments(parser)


def main(args: argparse.Namespace, argv: tuple[str, ...]) -> int:
    """Search, and return the exit code: 0 found, 1 not met at any load, 4 a run is INVALID, 130 interrupted."""
    options = dataclasses.replace(from_args(args), argv=argv, quiet=True, expect_failures=True)
    if options.resume:
        file, options = _resumed(options.resume, options)
    else:
        _check(args, options)
        file = SearchFile(
            target=options.target, over=args.over, slo=options.slo, attain=args.attain,
            first=args.first, last=args.last, most=args.most,
        )  # fmt: skip
    lowest = load_point(file.over, file.first).applied(options)
    scale = prepare(dataclasses.replace(lowest, dry_run=True, resume=None)).server.time_scale
    _say_plan(file, args.limit_s, options.drain_s / scale)
    if options.dry_run:
        return 0
    out = options.resume or new_folder(options, "search")
    with locked(out):
        return _search(file, out, Runs(file, options, out, args.limit_s, scale))


def _check(args: argparse.Namespace, options: RunOptions) -> None:
    """Refuse options that cannot be used in a search. Raises UsageError."""
    whole = all(load == int(load) for load in (args.first, args.last))
    fixed = ("requests", "requests_x", "duration_s")
    rules = [
        (not options.slo, "a search needs objectives: --slo ttft=500ms,tpot=20ms"),
        (args.first > args.last, f"--from {args.first:g} is above --to {args.last:g}"),
        (args.over == "streams" and not whole, "--from and --to are whole numbers of streams: use --over rate for rates"),
        (args.attain >= 1, "--attain must be below 1: no number of requests shows that all others are good too"),
        (options.concurrency or open_loop(options), "a search sets the load: leave out --concurrency, --rate, --ramp, --times and burst"),
        (any(getattr(options, name) for name in fixed), "a search chooses the number of requests: use --most or --limit"),
        (options.one_pass or options.repeats > 1, "--one-pass and --repeats have a fixed number of requests: leave them out"),
    ]  # fmt: skip
    for wrong, message in rules:
        if wrong:
            raise UsageError(message)


def _resumed(folder: Path, options: RunOptions) -> tuple[SearchFile, RunOptions]:
    """Return what the search was for and the options of its runs. Raises UsageError."""
    file = SearchFile.read(folder)
    first = folder / load_point(file.over, file.first).name
    restored, _ = read_options(options, first)
    fixed = ("concurrency", "rate", "requests", "duration_s", "run_id")
    defaults = {name: getattr(DEFAULTS, name) for name in fixed}
    file.probes, file.limit, file.stopped, file.invalid = [], None, None, []
    return file, dataclasses.replace(restored, resume=folder, **defaults)


def _say_plan(file: SearchFile, limit_s: float, drain_s: float) -> None:
    first, last = (result.named(load, file.over) for load in (file.first, file.last))
    say(
        f"search from {first} to {last}: at most {human(limit_s)} (--limit), and then at most {human(drain_s)} (--drain) "
        f"until the replies in flight have ended; a test of one load has about {file.most:,} requests at most (--most)"
    )


class Runs:
    """Does the runs of a search, or reads those that an earlier part of it has done."""

    def __init__(
        self, file: SearchFile, options: RunOptions, out: Path, limit_s: float, scale: float
    ) -> None:
        self._file, self._options, self._out, self._scale = file, options, out, scale
        self._end_s = time.monotonic() + limit_s

    def send(self, point: LoadPoint, number: int, requests: int) -> Sent:
        """Do one run. Raises SearchEndedError where it shows nothing, or where there is no time for it."""
        name = folder_name(point, number)
        run = self._finished(self._out / name) or self._new(point, number, requests)
        if interrupted(run):
            raise SearchEndedError("interrupted")
        if NOTHING_SENT in run.reasons:
            raise SearchEndedError("time limit")
        if run.verdict == "INVALID" and not all(reason.startswith(NO_REQUESTS) for reason in run.reasons[:1]):
            self._file.invalid.append(name)
            say(f"{self._out / name}: INVALID: {run.reasons[0]}")
            raise SearchEndedError("undecided")
        for reason in run.reasons:
            if reason.startswith(DISTURBED):
                say(f"{name}: {run.verdict}: {reason}")
        records = read_records(self._out / name / RECORDS)
        measured = (record for record in records if not record.warmup)
        return Sent(name, run.load, measured, run.duration_s or 0.0)

    def _finished(self, folder: Path) -> RunInfo | None:
        if not (folder / RUN).is_file():
            return None
        run = read_run(folder)
        return None if run.verdict is None or interrupted(run) else run

    def _new(self, point: LoadPoint, number: int, requests: int) -> RunInfo:
        left_s = self._end_s - time.monotonic()
        if left_s <= 0:
            raise SearchEndedError("time limit")
        limits: dict[str, Any] = {"requests": requests, "duration_s": left_s * self._scale}
        return run_point(dataclasses.replace(self._options, **limits), self._out, point, number)


def _search(file: SearchFile, out: Path, runs: Runs) -> int:
    bracket = Bracket(file.over, file.first, file.last, file.attain)
    file.write(out)

    def on_probe(probe: Probe) -> None:
        file.probes.append(probe)
        file.write(out)
        say(result.probe_line(probe, file.over))

    stopped = search(bracket, Tester(file.over, file.slo, file.attain, runs.send, file.most), on_probe)
    file.finish(out, bracket, stopped)
    for line in result.lines(file):
        say(line)
    if stopped in ("interrupted", "time limit"):
        say(f"go on with --resume {out}")
    limit = None if file.limit is None else {"load": file.limit.load, "interval": file.limit.interval}
    print(json.dumps({"search": str(out), "stopped": stopped, "limit": limit}))
    if stopped == "interrupted":
        return INTERRUPTED
    return INVALID if file.invalid else 0 if file.limit is not None else NOT_FOUND
