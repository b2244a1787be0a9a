"""The arguments of a search, for `search` and `sweep --search`: which loads are tested, and when one is good enough.

This module does not know what is searched.
"""

import argparse
from collections.abc import Callable
from typing import Any

from loadgen.errors import check_rules
from loadgen.option_types import count, positive, seconds, share
from loadgen.options import RunOptions, open_loop
from loadgen.search.probes import MOST


def add_search_arguments(add: Callable[..., Any]) -> None:
    """Add the arguments that say which loads are searched, and when a load is good enough."""
    add("--over", choices=("streams", "rate"), default="streams",
        help="vary the streams of a closed loop or the rate of an open one [streams]")  # fmt: skip
    for name, dest, parse, default, metavar, text in (
        ("--attain", "attain", share, 0.95, "SHARE", "share of the requests that must meet --slo [0.95]"),
        ("--from", "lowest", positive, 1.0, "LOAD", "lowest load [1]"),
        ("--to", "highest", positive, 256.0, "LOAD", "highest load [256]"),
        ("--limit", "limit_s", seconds, 1200.0, "T", "time after which the search ends with what it knows [20m]"),
        ("--most", "most", count, MOST, "N", f"most requests of a test of one load [{MOST}]"),
    ):  # fmt: skip
        add(name, dest=dest, type=parse, default=default, metavar=metavar, help=text)


def check(args: argparse.Namespace, options: RunOptions) -> None:
    """Refuse options that cannot be used in a search. Raises UsageError."""
    whole = all(load == int(load) for load in (args.lowest, args.highest))
    fixed = ("requests", "requests_per_load", "duration_s")
    rules = [
        (not options.slo, "a search needs objectives: --slo ttft=500ms,tpot=20ms"),
        (args.lowest > args.highest, f"--from {args.lowest:g} is above --to {args.highest:g}"),
        (args.over == "streams" and not whole, "--from and --to are whole numbers of streams: use --over rate for rates"),
        (args.attain >= 1, "--attain must be below 1: no number of requests shows that all others are good too"),
        (any(getattr(options, name) for name in fixed), "a search chooses the number of requests: use --most or --limit"),
        (options.concurrency or open_loop(options), "a search sets the load: leave out --concurrency, --rate, --ramp, --times and burst"),
        (options.one_pass or options.repeats > 1, "--one-pass and --repeats have a fixed number of requests: leave them out"),
    ]  # fmt: skip
    check_rules(rules)
