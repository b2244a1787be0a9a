"""The verbs of `python -m loadgen`: arguments in, one JSON line on stdout and an exit code out.

Rules: `run` is implied when the first word is no verb; people read stderr, programs the last line of stdout; an operator's
mistake is one line and exit code 2. What a verb needs is imported when it is called: `--help` stays fast.
"""

import argparse
import dataclasses
import sys
from collections.abc import Callable, Sequence
from typing import Any, NoReturn

from loadgen.option_types import LoadgenParser, count
from loadgen.options import RunOptions, UsageError, add_run_arguments, from_args

USAGE, SUSPECT, INVALID = 2, 3, 4
"""Exit codes: an operator's mistake; with `--strict`, a run that doubts or rejects itself."""

DESCRIPTION = """\
Load a server with mathematics problems under token budgets; write one record a request.

verbs: run (implied) · sweep · doctor URL · calibrate · gather DIRS       each has its own --help
"""
EXAMPLES = """\
examples:
  python -m loadgen                                    the server on port 8000, its first model, MATH500 at 1k and 4k tokens
  python -m loadgen --dataset sample --budgets 256,512 --concurrency 8
  python -m loadgen --rate 4 --arrival poisson --duration 2m --slo ttft=0.5,tpot=20ms
  python -m loadgen --budgets 1k,2k,4k,8k,16k --one-pass --concurrency 1
  python -m loadgen --budget-mode forced --prompt r1 --budgets 512,1024,2048
  python -m loadgen --samples 8 --sampling recommended --cache salt
  python -m loadgen --resume results/20261122T101500Z-tp2-r1-distill-qwen-14b
"""


def main(argv: Sequence[str]) -> int:
    """Run one verb; the exit code."""
    verb, rest = (argv[0], argv[1:]) if argv and not argv[0].startswith("-") else ("run", argv)
    try:
        return VERBS[verb](rest) if verb in VERBS else no_verb(verb)
    except UsageError as error:
        print(f"loadgen: {error}", file=sys.stderr)
        return USAGE


def no_verb(word: str) -> NoReturn:
    """Refuse the first word."""
    raise UsageError(f"{word!r} is no verb: write one of {', '.join(VERBS)} (see python -m loadgen --help)")


def _parser(verb: str, **texts: Any) -> LoadgenParser:
    prog = "python -m loadgen" + ("" if verb == "run" else f" {verb}")
    return LoadgenParser(
        prog=prog, formatter_class=argparse.RawDescriptionHelpFormatter, allow_abbrev=False, **texts
    )


def run(argv: Sequence[str]) -> int:
    """One run."""
    parser = _parser(
        "run", description=DESCRIPTION, epilog=EXAMPLES, usage="python -m loadgen [run] [options]"
    )
    add_run_arguments(parser)
    options = dataclasses.replace(from_args(parser.parse_args(argv)), argv=("loadgen", *argv))
    from loadgen.run import run as session  # noqa: PLC0415  imported when needed: --help stays fast

    info = session.execute(options)
    print(session.result_line(info, options))
    return _exit_code(options, info.verdict)


def sweep(argv: Sequence[str]) -> int:
    """Many cells, each with a server of its own."""
    from loadgen.sweep import command  # noqa: PLC0415  as above

    parser = _parser("sweep", description=command.__doc__, epilog=command.EXAMPLES)
    command.add_arguments(parser)
    words = command.expanded(argv)
    return command.main(parser.parse_args(words), words)


def doctor(argv: Sequence[str]) -> int:
    """What would spoil a run."""
    parser = _parser(
        "doctor",
        description="Tell before a run what will spoil it: the same options, one tiny request, nothing written.",
        epilog="examples:\n"
        "  python -m loadgen doctor\n"
        "  python -m loadgen doctor http://10.0.0.7:8000/v1 --dataset sample --concurrency 64\n",
        usage="python -m loadgen doctor [URL] [options]",
    )
    parser.add_argument("url", nargs="?", metavar="URL", help="same as --target")
    add_run_arguments(parser)
    args = parser.parse_args(argv)
    options = from_args(args)
    if args.url:
        options = dataclasses.replace(options, target=args.url)
    from loadgen.checks import doctor as examining  # noqa: PLC0415  as above

    return examining.main(options)


def calibrate(argv: Sequence[str]) -> int:
    """What this machine's client can carry."""
    parser = _parser(
        "calibrate",
        description="Find what this machine's client can carry, and keep it for the verdict of later runs.",
        epilog="examples:\n  python -m loadgen calibrate\n  python -m loadgen calibrate --most 256\n",
    )
    parser.add_argument("--most", type=count, default=2048, metavar="STREAMS", help="stop there [2048]")
    args = parser.parse_args(argv)
    from loadgen.checks import calibrate as calibrating  # noqa: PLC0415  as above

    return calibrating.main(args.most)


def gather(argv: Sequence[str]) -> int:
    """One run out of what Locust's workers wrote."""
    from loadgen.distributed import gather as gathering  # noqa: PLC0415  as above

    parser = _parser("gather", description=gathering.__doc__, epilog=gathering.EXAMPLES)
    gathering.add_arguments(parser)
    return gathering.main(parser.parse_args(argv))


def _exit_code(options: RunOptions, verdict: str | None) -> int:
    return {"SUSPECT": SUSPECT, "INVALID": INVALID}.get(verdict or "", 0) if options.strict else 0


VERBS: dict[str, Callable[[Sequence[str]], int]] = {
    "run": run,
    "sweep": sweep,
    "doctor": doctor,
    "calibrate": calibrate,
    "gather": gather,
}
