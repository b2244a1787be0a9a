"""What Locust's master, its workers, the processes that send for them and `gather` agree on.

Rules: plain values that survive msgpack and JSON. Times between processes are seconds of the run: since its zero, by the
master's monotonic clock. A worker keeps where that zero lies on its own, and nothing hangs on anyone's wall clock.

Does not know: Locust, asyncio, how anything is sent.
"""

import argparse
from collections.abc import Sequence
from typing import Any

import msgspec

from loadgen.distributed.clock_sync import Probe
from loadgen.errors import UsageError
from loadgen.measure.client_health import HealthReport
from loadgen.option_types import LoadgenParser
from loadgen.options import RunOptions, add_run_arguments, from_args
from loadgen.record import RunInfo

PLAN = "distributed.json"
"""In the master's folder: what was to be run. `gather` makes run.json of it."""
READY = b"ready\n"


class RunSetup(msgspec.Struct, kw_only=True):
    """What a worker has to know of the run."""

    argv: list[str]
    run_id: str
    folder: str
    sha256: str
    """Of the data set: every host must have the same."""
    server: dict[str, Any]
    open: bool
    """The schedule says when, not a free slot."""
    boot: str
    zero_s: float
    """Zero of the run on the master's monotonic clock, which is its workers' too where the boot is the same."""


class SenderSetup(msgspec.Struct, kw_only=True):
    """First line to a sending process."""

    plan: RunSetup
    name: str
    """`HOST-INDEX`, part of file names."""
    zero_s: float
    """Zero of the run on this host's monotonic clock."""
    error_s: float
    probes: list[Probe]


class Work(msgspec.Struct, array_like=True, tag="work"):
    """Send request `seq`, due then; in a closed loop, as soon as a slot is free from then on."""

    seq: int
    due_s: float
    """Real seconds after the run's zero."""


class Slots(msgspec.Struct, array_like=True, tag="slots"):
    """Send so many at a time: the users that Locust runs here."""

    count: int


class FinishedRequest(msgspec.Struct, omit_defaults=True):
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


class WorkerInfo(msgspec.Struct, kw_only=True):
    """`worker.NAME.json`: who wrote the records of that name."""

    name: str
    host: str
    run_id: str
    clock: dict[str, float]
    """`wall_s` and `perf_s` of this host, read together."""
    zero_s: float
    """Zero of the run in `perf_s`; every stamp of the records counts from it."""
    error_s: float
    """What that was off by, at the most, when the worker began."""
    probes: list[Probe]
    """Before and during the run."""
    report: HealthReport | None = None
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
    workers: list[str] = []
    """Names of those who were ready to send."""


REFUSED = {
    "one_pass": "--one-pass is for one machine: use python -m loadgen",
    "resume": "--resume is for gathered runs: use python -m loadgen --resume",
    "dry_run": "--dry-run is for one machine: use python -m loadgen",
    "out": "--out in --more: give it to Locust itself",
}


def options_of(argv: Sequence[str]) -> RunOptions:
    """Options as `python -m loadgen` reads them, less what Locust can't do. Raises UsageError."""
    parser = LoadgenParser(
        prog="python -m loadgen", formatter_class=argparse.RawDescriptionHelpFormatter, allow_abbrev=False
    )
    add_run_arguments(parser)
    options = from_args(parser.parse_args(argv))
    for name, message in REFUSED.items():
        if getattr(options, name):
            raise UsageError(message)
    if options.workers != 1:
        raise UsageError("--workers: Locust has its own: --processes N, or more hosts with --worker")
    return options
