"""What Locust's master, its workers, the processes that send for them and `gather` agree on.

Rules: plain values that survive msgpack and JSON. Times of the plan are Unix seconds of the master's clock; a worker adds
its own clock's offset before it uses one.

Does not know: Locust, asyncio, how anything is sent.
"""

import argparse
import platform
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import msgspec

from loadgen.health import Report
from loadgen.options import RunOptions, add_run_arguments, from_args
from loadgen.record import RunInfo
from loadgen.values import Parser, UsageError

PLAN = "distributed.json"
"""In the master's folder: what was to be run. `gather` makes run.json of it."""
READY = b"ready\n"
WARNINGS = "worker."


class Plan(msgspec.Struct, kw_only=True):
    """What a worker has to know of the run. Its options it knows itself: Locust sends those."""

    run_id: str
    folder: str
    sha256: str
    """Of the data set: every host must have the same."""
    start_wall_s: float
    """Zero of the run."""
    server: dict[str, Any]


class SenderPlan(msgspec.Struct, kw_only=True):
    """First line to a sending process."""

    plan: Plan
    argv: list[str]
    name: str
    """`HOST-INDEX`, part of file names."""
    start_ns: int
    """Zero of the run on this host's monotonic clock."""
    clock: dict[str, Any]


class Work(msgspec.Struct, array_like=True, tag="work"):
    """Send request `seq`, due at a stamp of this host's monotonic clock, or as soon as a slot is free."""

    seq: int
    due_ns: int | None = None


class Slots(msgspec.Struct, array_like=True, tag="slots"):
    """Send so many at a time: the users that Locust runs here."""

    count: int


class Told(msgspec.Struct, omit_defaults=True):
    """What Locust is told of a request that ended."""

    seq: int
    budget: int
    outcome: str
    seconds: float
    """Due to last token, or to the failure."""
    tokens: int = 0
    ttft_s: float | None = None
    tpot_s: float | None = None
    error: str | None = None


class Worker(msgspec.Struct, kw_only=True):
    """`worker.NAME.json`: who wrote the records of that name."""

    name: str
    host: str
    boot: str
    """Processes of one boot share a clock."""
    clock: dict[str, Any]
    """`wall_s` and `perf_s` read together; `offset_s` of the master's wall clock against ours, known to `error_s`."""
    report: Report | None = None
    """None where the process was killed."""


class Distributed(msgspec.Struct, kw_only=True):
    """`distributed.json`."""

    run: RunInfo
    total: int | None
    """Requests in all, warm-ups included; None where a duration ends the run."""
    planned: int | None
    cache: str | None
    percentile: str
    stopped: str | None = None


def options_of(argv: Sequence[str]) -> RunOptions:
    """Options as `python -m loadgen` reads them, less what Locust can't do. Raises UsageError."""
    parser = Parser(
        prog="python -m loadgen", formatter_class=argparse.RawDescriptionHelpFormatter, allow_abbrev=False
    )
    add_run_arguments(parser)
    options = from_args(parser.parse_args(argv))
    if options.one_pass:
        raise UsageError("--one-pass is for one machine: use python -m loadgen")
    if options.resume:
        raise UsageError("--resume is for gathered runs: use python -m loadgen --resume")
    return options


def boot() -> str:
    """Identity of this kernel's boot; the host's name where there is none."""
    path = Path("/proc/sys/kernel/random/boot_id")
    return path.read_text().strip() if path.exists() else platform.node()
