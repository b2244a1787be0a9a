"""The part of a run that one process sends. A run without worker processes has a single partition.

This module does not know how a request is sent or what is recorded of it.
"""

from dataclasses import dataclass, field
from pathlib import Path

from loadgen.clock import RunClock
from loadgen.options import RunOptions
from loadgen.plan.problems import Problem
from loadgen.plan.schedule import Schedule
from loadgen.target.server_info import ServerInfo


@dataclass(frozen=True)
class Partition:
    """Everything that a process needs to send its part of the run. It can be pickled."""

    options: RunOptions
    server: ServerInfo
    problems: list[Problem]
    run_id: str
    records: Path
    chunks: Path
    clock: RunClock
    schedule: Schedule
    first: int = 0
    """`seq` of the first request. Warm-up requests have lower numbers than measured requests."""
    last: int | None = None
    """`seq` after that of the last request, or None where a duration ends the run."""
    start_ns: int = 0
    duration_s: float | None = None
    done: frozenset[int] = field(default_factory=frozenset)
    """`seq` of the requests that are recorded already, in a resumed run."""
    stride: int = 0
    """With `--one-pass`, the distance in `seq` between a record and the records that are derived from it."""
    worker: int = 0
    workers: int = 1
