"""Defines the commands of `python -m loadgen`.

`run` is the default command, so it can be left out. Messages for people go to stderr. The result for programs is one JSON line,
the last line on stdout, unless that is a terminal. A UsageError is printed as one line and ends the command with exit code 2;
Ctrl-C outside the load is one line and exit code 130. docs/ci.md has the table of exit codes. Each command imports what it needs
when it is called, so that `--help` is fast. The docstring of a command is the description that its `--help` shows.

This module does not know how a command works.
"""

import argparse
import dataclasses
import inspect
import os
import re
import signal
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import NoReturn

from loadgen.errors import FAILED, INVALID, NO_ROOM, USAGE, DiskFullError, UsageError
from loadgen.interrupts import INTERRUPTED, INTERRUPTS
from loadgen.option_types import LoadgenParser, count, load_points, meant
from loadgen.options import add_run_arguments, from_args
from loadgen.terminal import outlast_terminal, say

EXAMPLES = """\
examples:
  python -m loadgen run     # server on port 8000, its first model, MATH-500 at 1k and 4k tokens
  python -m loadgen --dataset sample --budgets 256,512 --concurrency 8
  python -m loadgen --rate 4 --arrival poisson --duration 2m --slo ttft=0.5,tpot=20ms
  python -m loadgen --requests 400 --require 'ttft.p95<200ms' --require 'failed<1%' --junit results.xml
  python -m loadgen --loads 1,8,32 --requests 10x --budgets 1024
  python -m loadgen --budgets 1k,2k,4k,8k,16k --one-pass --concurrency 1
  python -m loadgen --budget-mode forced --prompt r1 --budgets 512,1024,2048
  python -m loadgen --samples 8 --sampling recommended --cache salt
  python -m loadgen --resume results/20261122T101500Z-tp2-r1-distill-qwen-14b
"""
DOCTOR_EXAMPLES = """\
examples:
  python -m loadgen doctor
  python -m loadgen doctor http://10.0.0.7:8000/v1 --dataset sample --concurrency 64
"""
CALIBRATE_EXAMPLES = """\
examples:
  python -m loadgen calibrate
  python -m loadgen calibrate --most 256
"""


def start(argv: Sequence[str]) -> NoReturn:
    """Run one command as the whole of this process, which its terminal and its readers may leave."""
    outlast_terminal()
    INTERRUPTS.watch()
    status = main(argv)
    signal.signal(signal.SIGINT, signal.SIG_DFL)
    sys.stdout.flush()
    sys.stderr.flush()
    if INTERRUPTS.count > 1:
        os._exit(status)  # the interpreter would wait for a call in another thread
    sys.exit(status)


def main(argv: Sequence[str]) -> int:
    """Run one command and return its exit code."""
    if wrong := [number for number, word in enumerate(argv, start=1) if re.search("[\ud800-\udfff]", word)]:
        say(f"argument {wrong[0]} is not UTF-8, so that run.json could not hold it: write it in UTF-8")
        return USAGE
    command, rest = (argv[0], argv[1:]) if argv and not argv[0].startswith("-") else ("run", argv)
    if command not in COMMANDS:
        say(f"{command!r} is not a command{meant(command, COMMANDS)} (see python -m loadgen --help)")
        return USAGE
    try:
        return COMMANDS[command](rest)
    except UsageError as error:
        say(str(error))
        return USAGE
    except KeyboardInterrupt:
        say("interrupted")
        return INTERRUPTED
    except (DiskFullError, OSError) as error:
        if isinstance(error, OSError) and error.errno not in NO_ROOM:
            raise
        reason = f"{error.filename}: {error.strerror}" if isinstance(error, OSError) else str(error)
        say(f"{reason}: make room, then repeat the command; what was recorded is kept")
        return FAILED


def _parser(command: Callable[..., int], arguments: str, epilog: str) -> LoadgenParser:
    """Return the parser of a command; `arguments` is what its usage line shows after `python -m loadgen`."""
    return LoadgenParser(
        prog="python -m loadgen" + ("" if command is run else f" {command.__name__}"),
        usage=f"python -m loadgen {arguments}",
        description=inspect.getdoc(command),
        epilog=epilog,
        formatter_class=argparse.RawDescriptionHelpFormatter,
        allow_abbrev=False,
    )


def run(argv: Sequence[str]) -> int:
    """Send problems or prompts under token budgets to a server, and write one record for each request.

    Commands: run (can be left out), search, sweep, doctor, calibrate, gather. Each has its own --help.
    """
    parser = _parser(run, "run [options]", EXAMPLES)
    add_run_arguments(parser)
    group = parser.add_argument_group("result for programs")
    group.add_argument("--json", action="store_true", help="print the line of JSON on a terminal too")
    group.add_argument("--junit", type=Path, metavar="FILE", help="write the verdict and each --require as JUnit XML")
    loads_help = "do a run for each load, in one folder: 1,8,32 (concurrent streams) or 2/s,4/s (request rates)"
    parser.add_argument("--loads", type=load_points, metavar="L,…", help=loads_help)
    args = parser.parse_args(argv)
    options = dataclasses.replace(from_args(args), argv=("loadgen", *argv))
    from loadgen.live import announce  # noqa: PLC0415  The imports are here so that --help is fast.
    from loadgen.run.resume import check_given  # noqa: PLC0415
    from loadgen.run.run import execute, result_line  # noqa: PLC0415

    if options.resume is not None and not args.loads:
        check_given(vars(args))
    if args.loads:
        if args.junit:
            raise UsageError("--junit is the file of one run: leave out --loads")
        from loadgen.search.loads import run_loads  # noqa: PLC0415

        return announce.worst(run_loads(options, args.loads), strict=options.strict)
    junit = None if options.dry_run else args.junit
    if junit is not None:
        announce.prepare_junit(junit)
    info = execute(options)
    announce.print_result(result_line(info, options), always=args.json)
    code = announce.exit_code(info, strict=options.strict)
    try:
        if junit is not None:
            announce.write_junit(junit, info, strict=options.strict)
    except OSError as error:
        say(f"--junit {junit}: {error.strerror}: the result is in the folder of the run only")
        code = code if code in (INTERRUPTED, INVALID) else FAILED
    return code


def search(argv: Sequence[str]) -> int:
    """Find the highest load at which a running server meets the objectives (--slo).

    The load is doubled until the objectives are missed, and then bisected. Each test of a load is an ordinary run.
    """
    from loadgen.search import command  # noqa: PLC0415

    parser = _parser(search, "search --slo … [options]", command.EXAMPLES)
    command.add_arguments(parser)
    return command.main(parser.parse_args(argv), ("loadgen", "search", *argv))


def sweep(argv: Sequence[str]) -> int:
    """Run every combination (cell) of serving configurations, models and load points.

    `sweep status DIR` shows the state of a sweep that runs in another shell.
    The servers are started and stopped as needed. A sweep that was interrupted can be resumed.
    """
    from loadgen.sweep import command, screen  # noqa: PLC0415

    if argv[:1] == ["status"]:
        return screen.status(argv[1:])
    parser = _parser(sweep, "sweep [options]", command.EXAMPLES)
    command.add_arguments(parser)
    words = command.expanded(argv)
    return command.main(parser.parse_args(words), words)


def doctor(argv: Sequence[str]) -> int:
    """Check before a run what would make its results wrong.

    It takes the options of the run, sends one small request and writes nothing. Its result is always printed as JSON too.
    """
    parser = _parser(doctor, "doctor [URL] [options]", DOCTOR_EXAMPLES)
    parser.add_argument("url", nargs="?", metavar="URL", help="same as --target")
    add_run_arguments(parser)
    args = parser.parse_args(argv)
    options = from_args(args)
    if args.url:
        options = dataclasses.replace(options, target=args.url)
    from loadgen.checks.doctor import main as check  # noqa: PLC0415

    return check(options)


def calibrate(argv: Sequence[str]) -> int:
    """Measure how much load this machine can generate, and save it for the verdict of later runs."""
    parser = _parser(calibrate, "calibrate [--most STREAMS]", CALIBRATE_EXAMPLES)
    parser.add_argument("--most", type=count, default=2048, metavar="STREAMS", help="most streams to try [2048]")
    args = parser.parse_args(argv)
    from loadgen.checks.calibrate import main as measure  # noqa: PLC0415

    return measure(args.most)


def gather(argv: Sequence[str]) -> int:
    """Combine the files that Locust's workers wrote, on one host or several, into the results of one run."""
    from loadgen.distributed import gather as module  # noqa: PLC0415

    parser = _parser(gather, "gather [options] HOST_DIR …", module.EXAMPLES)
    module.add_arguments(parser)
    return module.main(parser.parse_args(argv))


COMMANDS: dict[str, Callable[[Sequence[str]], int]] = {
    command.__name__: command for command in (run, search, sweep, doctor, calibrate, gather)
}
