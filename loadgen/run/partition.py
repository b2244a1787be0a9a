"""TODO docstring."""

from collections.abc import Iterator
from dataclasses import dataclass, field
from itertools import islice
from pathlib import Path

from loadgen.clock import RunClock
from loadgen.exchange import Request
from loadgen.options import RunOptions
from loadgen.plan.datasets import Problem
from loadgen.plan.prompts import style_of
from loadgen.plan.schedule import Schedule
from loadgen.plan.workload import Workload
from loadgen.target.server_info import ServerInfo


@dataclass(frozen=True)
class Partition:
    """Everything a process needs to carry its part; picklable."""

    options: RunOptions
    server: ServerInfo
    problems: list[Problem]
    run_id: str
    records: Path
    chunks: Path
    clock: RunClock
    schedule: Schedule
    first: int
    """`seq` of the first request: warm-ups come before the measured ones."""
    last: int | None
    """`seq` after the last; None where a duration ends the run."""
    start_ns: int
    duration_s: float | None = None
    done: frozenset[int] = field(default_factory=frozenset)
    worker: int = 0
    workers: int = 1

    @property
    def workload(self) -> Workload:
        """The plan of the whole run."""
        _, style = style_of(self.server.model, self.options.prompt)
        return Workload(
            self.problems, self.options, self.server.model, style, self.run_id, self.server.limit_field
        )

    def requests(self) -> Iterator[Request]:
        """The requests of this share that are not done yet, in order."""
        missing = (r for r in self.workload.requests(self.first, self.last) if r.seq not in self.done)
        return islice(missing, self.worker, None, self.workers)
