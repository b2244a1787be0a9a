"""The messages and files that are shared by Locust's master, its workers, their sender processes, and `gather`.

Rules: the values can be encoded in msgpack and JSON. Times in messages are real seconds since the start of the run, by the
master's monotonic clock. Each worker stores when that start was on its own clock. No time depends on a wall clock.

This module does not know Locust, asyncio, or how anything is sent.
"""

import argparse
from collections.abc import Sequence
from typing import Any

import msgspec

from loadgen.distributed.clock_sync import ClockProbe
from loadgen.errors import UsageError
from loadgen.measure.client_health import HealthReport
from loadgen.option_types import LoadgenParser
from loadgen.options import RunOptions, add_run_arguments, from_args
from loadgen.record import RunInfo

DISTRIBUTED = "distributed.json"
"""A file in the master's folder that describes the run. `gather` makes run.json from it."""


class RunSetup(msgspec.Struct, kw_only=True):
    """What a worker must know of the run."""

    argv: list[str]
    run_id: str
    folder: str
    dataset_sha256: str
    """Every host must have the same data set."""
    server: dict[str, Any]
    open_loop: bool
    boot_id: str
    start_s: float
    """The start of the run on the master's monotonic clock, which its workers share if they are of the same boot."""


class SenderSetup(msgspec.Struct, kw_only=True):
    """The first message to a sender process."""

    run: RunSetup
    name: str
    """`HOST-INDEX`, which is a part of the file names."""
    start_s: float
    """The start of the run on this host's monotonic clock."""
    error_s: float
    probes: list[ClockProbe]


class Work(msgspec.Struct, array_like=True, tag="work"):
    """Send request `seq` when it is due. In a closed loop, send it as soon as a slot is free after that time."""

    seq: int
    due_s: float


class Slots(msgspec.Struct, array_like=True, tag="slots"):
    """The number of requests that are in flight at a time in a closed loop: the users that Locust runs in this worker."""

    count: int


class WorkerInfo(msgspec.Struct, kw_only=True):
    """`worker.NAME.json`, which describes the worker that wrote `records.NAME.jsonl`."""

    name: str
    host: str
    run_id: str
    clock: dict[str, float]
    """`wall_s` and `perf_s` of this host, read together."""
    zero_s: float
    """The start of the run as a value of `perf_s`. Every time in the records counts from it."""
    error_s: float
    """The largest possible error of `zero_s` when the worker began."""
    probes: list[ClockProbe]
    """Probes of the master's clock before and during the run."""
    report: HealthReport | None = None
    """None if the sender process was killed."""


class Distributed(msgspec.Struct, kw_only=True):
    """`distributed.json`."""

    run: RunInfo
    total: int | None
    """The number of requests including warm-ups, or None where a duration ends the run."""
    stopped: str | None = None
    """Why the run ended early."""
    workers: list[str] = []
    """The names of the workers that were ready to send."""


REFUSED = {
    "one_pass": "--one-pass is not supported with Locust: use python -m loadgen",
    "abort_after": "--abort-after is not supported with Locust: use python -m loadgen",
    "resume": "--resume continues a gathered run: use python -m loadgen --resume",
    "dry_run": "--dry-run is not supported with Locust: use python -m loadgen",
    "out": "--out cannot be a part of --more: give it to Locust itself",
}


def parse_options(argv: Sequence[str]) -> RunOptions:
    """Parse the options of `python -m loadgen`. Raises UsageError, also for options that are not supported with Locust."""
    parser = LoadgenParser(
        prog="python -m loadgen", formatter_class=argparse.RawDescriptionHelpFormatter, allow_abbrev=False
    )
    add_run_arguments(parser)
    options = from_args(parser.parse_args(argv))
    for name, message in REFUSED.items():
        if getattr(options, name):
            raise UsageError(message)
    if options.workers != 1:
        raise UsageError("--workers is not supported with Locust: use its own --processes N or --worker")
    return options
