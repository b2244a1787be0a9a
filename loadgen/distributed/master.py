"""Locust's master: prepares the run, assigns its requests to workers by number, and knows when the run is over.

In a closed loop, a worker is assigned more numbers as its users become free. In an open loop, numbers are assigned to the
workers in turn shortly before they are due. Times are real seconds since the start of the run.

Rules: nothing is assigned before all connected workers are ready. A worker that connects later takes part once it is ready.
A run that is refused ends Locust with exit code 2 and one line on stderr, before anything was sent.

This module does not know how a request is sent (`sender_process`), which numbers are free (`assignment`), or how a run is
recorded and judged.
"""

import dataclasses
import logging
import math
import shutil
import sys
import time
from collections.abc import Callable
from contextlib import ExitStack, suppress
from pathlib import Path
from typing import Any

import msgspec
from locust.env import Environment
from locust.runners import WORKER_REPORT_INTERVAL, MasterRunner

from loadgen.distributed.assignment import Assignments
from loadgen.distributed.clock_sync import boot_id
from loadgen.distributed.messages import DISTRIBUTED, Distributed, RunSetup, parse_options
from loadgen.errors import DiskFullError, UsageError
from loadgen.files import private_files, write_json
from loadgen.lock import locked
from loadgen.options import open_loop
from loadgen.plan.schedule import WARMUP_CONCURRENCY, OpenLoop
from loadgen.record import SERVER_AFTER, SERVER_BEFORE
from loadgen.run.environment import clock_anchor
from loadgen.run.manifest import describe, make_folder, run_folder, write_problems
from loadgen.run.prepare import Prepared, prepare
from loadgen.target.server_metrics import snapshot
from loadgen.terminal import printable, say

LOG = logging.getLogger("loadgen")
AHEAD_S = 2.0
"""In an open loop, requests are assigned this long before they are due. The load shape calls `tick` once a second."""
KILLED = "Locust's master was killed"
LEAD_S = 0.5
"""From the first assignment until the first request is due, so that the request has reached its worker by then."""


class LocustMaster:
    """A Locust master, or a Locust process that is its own worker. It can do several runs, one after the other."""

    def __init__(self, environment: Environment, runner: Any) -> None:
        self.environment = environment
        self.runner = runner
        self.run: MasterRun | None = None
        self.failed = False
        """The last run was refused, and Locust has not stopped yet."""

    def start_run(self, argv: Callable[[], list[str]], users: int, out: str | None) -> None:
        """Prepare a run and make its folder, or show why it is refused."""
        self.environment.process_exit_code = None
        try:
            self.run = MasterRun(self, *prepare_run(argv(), users, out))
        except (UsageError, OSError) as error:
            self.failed = True
            self.environment.process_exit_code = 2
            self.show_error(str(error))
        else:
            LOG.info("thinkload: %s requests, %s", self.run.total, self.run.folder)

    def show_error(self, line: str) -> None:
        """Write a line to the terminal, or to the log that Locust's web page shows."""
        if getattr(self.environment.parsed_options, "headless", True):
            say(line)
        else:
            LOG.error("loadgen: %s", printable(line))

    def end_run(self) -> None:
        """Called when Locust has stopped."""
        run, self.run, self.failed = self.run, None, False
        if run is not None:
            if not run.completed():
                self.environment.process_exit_code = 1
            try:
                run.end()
            except (OSError, DiskFullError) as error:
                self.environment.process_exit_code = 1
                self.show_error(f"{error}: make room, then python -m loadgen gather {run.folder}")

    def tick(self) -> bool:
        """Called once a second. Returns False when the run is over."""
        if self.failed or not self.workers():
            return False
        if self.run is None:
            return True
        try:
            self.run.advance()
        except (OSError, DiskFullError) as error:
            self.run_failed("the master", str(error))
        return not self.failed and not self.run.can_end()

    def worker_failed(self, message: Any) -> None:
        """Called when a worker can record nothing more, because its disk is full."""
        self.run_failed(f"worker {message.data['name']}", str(message.data["reason"]))

    def run_failed(self, who: str, reason: str) -> None:
        """End the run at the next tick, for a reason that is shown and written."""
        if self.run is not None:
            self.run.stopped = self.run.stopped or f"{who}: {reason}"
            self.failed = True
            self.show_error(f"{self.run.stopped}: the run ends; every record before it is kept")
            with suppress(OSError):  # the process may end before the last description is written
                self.run.write_description(self.run.stopped)

    def workers(self) -> list[str]:
        """The ids of the live workers, or `local` for a process that is its own worker."""
        if not isinstance(self.runner, MasterRunner):
            return ["local"]
        return sorted(c.id for c in self.runner.clients.all if c.state not in {"missing", "stopped"})

    def answer_probe(self, message: Any) -> None:
        """Send the time and the setup of the run to a worker that asks for them."""
        if self.run is not None:
            setup = msgspec.to_builtins(self.run.setup)
            data = {"sent_s": message.data["sent_s"], "master_s": self.run.now_s(), "setup": setup}
            self.runner.send_message("thinkload-probe-answer", data, message.node_id)

    def worker_state(self, message: Any) -> None:
        """Called when a worker is ready, has another number of users, or has finished requests."""
        if self.run is not None and self.run.setup.run_id == message.data["run_id"]:
            try:
                self.run.worker_state(message.node_id, message.data)
            except OSError as error:
                self.run_failed("the master", str(error))


def prepare_run(argv: list[str], users: int, out: str | None) -> tuple[Prepared, Path]:
    """Prepare a run and make its folder. Raises UsageError."""
    options = parse_options(argv)
    if users < 1:
        raise UsageError("--users 0 would send nothing: give at least 1")
    if options.synthetic:
        raise UsageError("--dataset synthetic:… makes its prompts in one process: use python -m loadgen --workers auto")
    concurrency = None if open_loop(options) else users
    prepared = prepare(dataclasses.replace(options, concurrency=concurrency, argv=("locust", *argv)))
    with private_files():
        return prepared, make_folder(Path(out) if out else run_folder(options, prepared.run_id))


class MasterRun:
    """One run and the assignment of its requests."""

    def __init__(self, master: LocustMaster, prepared: Prepared, folder: Path) -> None:
        self.master = master
        self.prepared = prepared
        self.folder = folder
        self.total = None if prepared.planned is None else prepared.planned + prepared.options.warmup
        self.assignments = Assignments(self.total)
        scale, schedule = prepared.server.time_scale, prepared.schedule
        self.times_s = [time_s / scale for time_s in schedule.times_s] if isinstance(schedule, OpenLoop) else []
        self.duration_s = math.inf if self.total is not None else (prepared.options.duration_s or 0.0) / scale
        self.ready: dict[str, str] = {}
        """The names of the workers that can send, by id, in the order in which they became ready."""
        self.slots: dict[str, int] = {}
        """The users of each of them."""
        self.not_before_s = 0.0
        """The time from which requests of a closed loop and warm-ups may be sent."""
        self.measured_from_s = math.inf
        """The start of the measured part."""
        self.completed_s: float | None = None
        self.run = describe(prepared)
        self.run.clock = clock_anchor()
        self.run.load["generator"] = "locust"
        self.setup = RunSetup(
            argv=list(prepared.options.argv[1:]),
            run_id=prepared.run_id,
            folder=str(folder),
            dataset_sha256=prepared.dataset.sha256,
            server=msgspec.structs.asdict(prepared.server),
            open_loop=isinstance(schedule, OpenLoop),
            boot_id=boot_id(),
            start_s=self.run.clock["perf_s"],
        )
        self.stopped: str | None = None
        """Why the run ends early."""
        self.held = ExitStack()
        """The lock of the folder, which the sender processes share, and private files."""
        try:
            self.held.enter_context(private_files())
            self.held.enter_context(locked(folder, shared=True))
            write_problems(folder, prepared.dataset)
            self.write_description(KILLED)
        except BaseException:
            self.held.close()
            shutil.rmtree(folder, ignore_errors=True)
            raise

    def write_description(self, stopped: str | None) -> None:
        """Write distributed.json. `stopped` is the reason that holds if this process ends without writing the file again."""
        workers = list(self.ready.values())
        description = Distributed(run=self.run, total=self.total, stopped=stopped, workers=workers)
        write_json(self.folder / DISTRIBUTED, description)

    def end(self) -> None:
        """Take the last snapshot of the server and write the final description."""
        with self.held:
            snapshot(self.prepared.api, self.folder / SERVER_AFTER)
            self.write_description(self.stopped or (None if self.completed() else "Locust was stopped"))
        print(f"loadgen: python -m loadgen gather {self.folder}", file=sys.stderr)

    def now_s(self) -> float:
        """Real seconds since the start of the run."""
        return time.perf_counter() - self.setup.start_s

    def completed(self) -> bool:
        """Whether everything is assigned, and no live worker has unfinished requests."""
        return self.assignments.completed(self.master.workers())

    def can_end(self) -> bool:
        """Whether the run is completed, and Locust's workers have had time to report it to Locust's statistics."""
        if not self.completed():
            return False
        self.completed_s = self.completed_s or self.now_s()
        distributed = isinstance(self.master.runner, MasterRunner)
        return self.now_s() - self.completed_s >= (WORKER_REPORT_INTERVAL + 0.5 if distributed else 0.0)

    def advance(self) -> None:
        """Called once a second: start the next phase, assign what is due soon, and end after the duration."""
        if self.measured_from_s == math.inf:
            self._start_phase()
        if self.measured_from_s == math.inf:
            return
        if self.setup.open_loop:
            self._assign_due()
        else:
            self._close_after_duration()

    def _close_after_duration(self) -> None:
        if self.now_s() >= self.measured_from_s + self.duration_s:
            self.assignments.close()

    def _start_phase(self) -> None:
        """Start the warm-up when all workers are ready, and the measured part when the warm-up has ended."""
        workers, warmup = self.master.workers(), self.prepared.options.warmup
        if not self.ready.keys() >= set(workers):
            return
        if self.assignments.limit < warmup:
            self._allow(warmup)
        if self.assignments.next >= warmup and not self.assignments.unfinished(workers):
            snapshot(self.prepared.api, self.folder / SERVER_BEFORE)
            self.measured_from_s = self.now_s() + LEAD_S
            self._allow(sys.maxsize)

    def _allow(self, limit: int) -> None:
        """Allow numbers below `limit` to be assigned, and assign them to the workers that wait for some."""
        self.assignments.limit = limit
        self.not_before_s = self.now_s() + LEAD_S
        for worker in self._ready_workers():
            self._assign(worker)

    def worker_state(self, worker: str, state: dict[str, Any]) -> None:
        """Note the state of a worker, and assign what it needs. Raises OSError."""
        self.slots[worker] = state["slots"]
        self.assignments.finish(worker, state["finished"])
        if worker not in self.ready:
            self.ready[worker] = state["name"]
            self.write_description(self.stopped or KILLED)
        self._assign(worker)

    def _assign(self, worker: str) -> None:
        """Assign numbers of a closed loop to a worker, or those of the warm-up of an open loop to all.

        A worker of a closed loop has a few more than it has users, so that no user waits for the master.
        """
        self._close_after_duration()
        if self.setup.open_loop:
            self._assign_warmups()
            return
        slots = self.slots[worker]
        wanted = slots + max(2, slots // 4) if slots else 0
        numbers = self.assignments.assign(worker, wanted - self.assignments.unfinished([worker]))
        self._send_work(worker, [(seq, self.not_before_s) for seq in numbers])

    def _ready_workers(self) -> list[str]:
        """The live workers that can send."""
        return [worker for worker in self.master.workers() if worker in self.ready]

    def _assign_warmups(self) -> None:
        """Assign the warm-up requests of an open loop, of which at most WARMUP_CONCURRENCY are in flight over all workers."""
        workers, assignments = self._ready_workers(), self.assignments
        end = min(self.prepared.options.warmup, assignments.limit)
        while workers and assignments.next < end and assignments.unfinished(workers) < WARMUP_CONCURRENCY:
            worker = workers[assignments.next % len(workers)]
            self._send_work(worker, [(seq, self.not_before_s) for seq in assignments.assign(worker, 1)])

    def _assign_due(self) -> None:
        """Assign the requests of an open loop that are due soon to the workers in turn."""
        workers, assignments, first = self._ready_workers(), self.assignments, self.prepared.options.warmup
        batches: dict[str, list[tuple[int, float]]] = {worker: [] for worker in workers}
        until_s = self.now_s() + AHEAD_S - self.measured_from_s
        while workers and not assignments.exhausted:
            time_s = self.times_s[assignments.next - first]
            if time_s >= until_s:
                break
            worker = workers[assignments.next % len(workers)]
            batches[worker] += [(seq, self.measured_from_s + time_s) for seq in assignments.assign(worker, 1)]
        for worker, work in batches.items():
            self._send_work(worker, work)

    def _send_work(self, worker: str, work: list[tuple[int, float]]) -> None:
        if work:
            self.master.runner.send_message("thinkload-work", {"work": work}, worker)
