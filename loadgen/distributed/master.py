"""Locust's master: plans the run, hands out its requests by number, and knows when it is over.

A closed loop's workers ask for numbers as their users become free; an open loop's numbers are dealt out shortly before they
are due, one worker after the other. Times are seconds since the run's zero.

Rules: nothing is dealt before every worker that is there is ready; a worker that joins later takes part once it is. A
refusal is one line and ends Locust with 2, nothing sent.

Does not know: who sends (hand), how a number is drawn (deck), HTTP, records, verdicts.
"""

import dataclasses
import logging
import math
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import msgspec
from locust.env import Environment
from locust.runners import WORKER_REPORT_INTERVAL, MasterRunner

from loadgen.distributed.assignment import Assignments
from loadgen.distributed.clock_sync import boot
from loadgen.distributed.messages import PLAN, Distributed, RunSetup, options_of
from loadgen.errors import UsageError
from loadgen.files import write_atomically
from loadgen.options import open_loop
from loadgen.plan.schedule import WARMUP_CONCURRENCY, OpenLoop
from loadgen.record import SERVER_AFTER, SERVER_BEFORE
from loadgen.run.manifest import describe, write_problems
from loadgen.run.prepare import Prepared, prepare
from loadgen.target.server_metrics import snapshot

LOG = logging.getLogger("loadgen")
AHEAD_S = 2.0
"""Open loop: requests are dealt out this long before they are due; the shape ticks once a second."""
KILLED = "Locust's master was killed"
LEAD_S = 0.5
"""From the first dealing to when the first request is due, for it to be with its worker by then."""


class LocustMaster:
    """Of one Locust master, or of a Locust that is its own worker; a run after the other."""

    def __init__(self, environment: Environment, runner: Any) -> None:
        self.environment = environment
        self.runner = runner
        self.run: MasterRun | None = None
        self.failed = False
        """The last run was refused, and is not stopped yet."""

    def begin(self, argv: Callable[[], list[str]], users: int, out: str | None) -> None:
        """Plan a run and make its folder, or say why not."""
        self.environment.process_exit_code = None
        try:
            self.run = MasterRun(self, *plan(argv(), users, out))
        except UsageError as error:
            self.failed = True
            self.environment.process_exit_code = 2
            self.complain(f"loadgen: {error}")
        else:
            LOG.info("thinkload: %s requests, %s", self.run.total, self.run.folder)

    def complain(self, line: str) -> None:
        """Where the operator looks: the terminal, or the log of the web page."""
        if getattr(self.environment.parsed_options, "headless", True):
            print(line, file=sys.stderr)
        else:
            LOG.error(line)

    def end(self) -> None:
        """Locust has stopped."""
        if self.run is not None:
            self.run.end()
            if not self.run.over():
                self.environment.process_exit_code = 1
        self.run, self.failed = None, False

    def tick(self) -> bool:
        """Once a second: go on; False when it is over."""
        if self.failed or not self.workers():
            return False
        if self.run is not None:
            self.run.advance()
            return not self.run.done()
        return True

    def workers(self) -> list[str]:
        """Live workers; `local` where there is no master."""
        if not isinstance(self.runner, MasterRunner):
            return ["local"]
        return sorted(c.id for c in self.runner.clients.all if c.state not in {"missing", "stopped"})

    def ping(self, message: Any) -> None:
        """A worker asks for the time, and for the plan."""
        if self.run is not None:
            plan = msgspec.to_builtins(self.run.plan)
            said = {"sent_s": message.data["sent_s"], "master_s": self.run.now_s(), "plan": plan}
            self.runner.send_message("thinkload-pong", said, message.node_id)

    def ready(self, message: Any) -> None:
        """A worker could send."""
        if self.run is not None:
            self.run.ready[message.node_id] = message.data["name"]
            self.run.write(KILLED)

    def take(self, message: Any) -> None:
        """A worker of a closed loop asks for more."""
        if self.run is not None:
            self.run.take(message.node_id, message.data["count"])

    def ended(self, message: Any) -> None:
        """A worker has ended some."""
        if self.run is not None and self.run.plan.run_id == message.data["run_id"]:
            self.run.ended(message.node_id, message.data["count"])


def plan(argv: list[str], users: int, out: str | None) -> tuple[Prepared, Path]:
    """What is to be run, and the folder for it. Raises UsageError."""
    options = options_of(argv)
    if users < 1:
        raise UsageError("--users 0 sends nothing: give at least 1")
    concurrency = None if open_loop(options) else users
    prepared = prepare(dataclasses.replace(options, concurrency=concurrency, argv=("locust", *argv)))
    folder = Path(out) if out else Path("results") / prepared.run_id
    try:
        folder.mkdir(parents=True)
    except FileExistsError:
        raise UsageError(f"{folder} exists: give another --out") from None
    except OSError as error:
        raise UsageError(f"--out {folder}: {error.strerror}") from None
    return prepared, folder


class MasterRun:
    """One run: what is dealt to whom."""

    def __init__(self, dealer: LocustMaster, prepared: Prepared, folder: Path) -> None:
        self.dealer = dealer
        self.prepared = prepared
        self.folder = folder
        self.total = None if prepared.planned is None else prepared.planned + prepared.options.warmup
        self.deck = Assignments(self.total)
        scale, schedule = prepared.server.time_scale, prepared.schedule
        self.times_s = (
            [time_s / scale for time_s in schedule.times_s] if isinstance(schedule, OpenLoop) else []
        )
        self.lasts_s = math.inf if self.total is not None else (prepared.options.duration_s or 0.0) / scale
        self.ready: dict[str, str] = {}
        """Names of the workers that can send, in the order they came."""
        self.waiting: list[tuple[str, int]] = []
        """Workers that asked for more than there was."""
        self.allowed_s = 0.0
        """From when on what is dealt may be sent."""
        self.started_s = math.inf
        """Zero of the measured part."""
        self.over_s: float | None = None
        self.run = describe(prepared)
        self.run.clock = {"wall_s": time.time(), "perf_s": time.perf_counter()}
        self.run.load["generator"] = "locust"
        self.plan = RunSetup(
            argv=list(prepared.options.argv[1:]),
            run_id=prepared.run_id,
            folder=str(folder),
            sha256=prepared.dataset.sha256,
            server=dataclasses.asdict(prepared.server),
            open=isinstance(schedule, OpenLoop),
            boot=boot(),
            zero_s=self.run.clock["perf_s"],
        )
        write_problems(folder, prepared.dataset)
        self.write(KILLED)

    def write(self, stopped: str | None) -> None:
        """distributed.json, as it stands should nothing more be written."""
        found = Distributed(
            run=self.run,
            total=self.total,
            planned=self.prepared.planned,
            cache=self.prepared.options.cache,
            percentile=self.prepared.options.percentile,
            stopped=stopped,
            workers=list(self.ready.values()),
        )
        write_atomically(self.folder / PLAN, msgspec.json.format(msgspec.json.encode(found), indent=1))

    def end(self) -> None:
        """The last look at the server."""
        snapshot(self.prepared.ask, self.folder / SERVER_AFTER)
        self.write(None if self.over() else "Locust was stopped")
        print(f"loadgen: python -m loadgen gather {self.folder}", file=sys.stderr)

    def now_s(self) -> float:
        """Seconds since the run's zero."""
        return time.perf_counter() - self.plan.zero_s

    def over(self) -> bool:
        """Everything was dealt, and no live worker holds any of it."""
        return self.deck.over(self.dealer.workers())

    def done(self) -> bool:
        """It is over, and Locust's workers have had the time to report it to its statistics."""
        if not self.over():
            return False
        self.over_s = self.over_s or self.now_s()
        distributed = isinstance(self.dealer.runner, MasterRunner)
        return self.now_s() - self.over_s >= (WORKER_REPORT_INTERVAL + 0.5 if distributed else 0.0)

    def advance(self) -> None:
        """Once a second: warm up, begin, deal what comes due, end."""
        if self.started_s == math.inf:
            self._begin()
        if self.started_s == math.inf:
            return
        if self.plan.open:
            self._deal_due()
        elif self.now_s() >= self.started_s + self.lasts_s:
            self.deck.close()

    def _begin(self) -> None:
        """Warm-ups when all workers are ready; the measured part when these have ended."""
        workers, warmup = self.dealer.workers(), self.prepared.options.warmup
        if not self.ready.keys() >= set(workers):
            return
        if self.deck.limit < warmup:
            self._allow(warmup)
        if self.deck.next >= warmup and not self.deck.held(workers):
            snapshot(self.prepared.ask, self.folder / SERVER_BEFORE)
            self.started_s = self.now_s() + LEAD_S
            self._allow(sys.maxsize)

    def _allow(self, limit: int) -> None:
        """Numbers below `limit` may go out, to those who wait for them first."""
        self.deck.limit = limit
        self.allowed_s = self.now_s() + LEAD_S
        waiting, self.waiting = self.waiting, []
        for worker, count in waiting:
            if worker in self.dealer.workers():
                self.take(worker, count)
        if self.plan.open:
            self._deal_warmups()

    def take(self, worker: str, count: int) -> None:
        """A closed loop's worker gets what it asks for, or waits."""
        if self.now_s() >= self.started_s + self.lasts_s:
            self.deck.close()
        drawn = self.deck.draw(worker, count)
        if drawn or self.deck.empty:
            self._give(worker, [(seq, self.allowed_s) for seq in drawn])
        else:
            self.waiting.append((worker, count))

    def ended(self, worker: str, count: int) -> None:
        """A worker has ended some."""
        self.deck.ended(worker, count)
        if self.plan.open:
            self._deal_warmups()

    def _senders(self) -> list[str]:
        """Live workers that can send."""
        return [worker for worker in self.dealer.workers() if worker in self.ready]

    def _deal_warmups(self) -> None:
        """An open loop's, a few at a time."""
        workers, last = self._senders(), min(self.prepared.options.warmup, self.deck.limit)
        while workers and self.deck.next < last and self.deck.held(workers) < WARMUP_CONCURRENCY:
            worker = workers[self.deck.next % len(workers)]
            self._give(worker, [(seq, self.allowed_s) for seq in self.deck.draw(worker, 1)])

    def _deal_due(self) -> None:
        """An open loop's requests that are due soon, one worker after the other."""
        workers, first = self._senders(), self.prepared.options.warmup
        hands: dict[str, list[tuple[int, float]]] = {worker: [] for worker in workers}
        until_s = self.now_s() + AHEAD_S - self.started_s
        while workers and not self.deck.empty and (time_s := self.times_s[self.deck.next - first]) < until_s:
            worker = workers[self.deck.next % len(workers)]
            hands[worker] += [(seq, self.started_s + time_s) for seq in self.deck.draw(worker, 1)]
        for worker, work in hands.items():
            if work:
                self._give(worker, work)

    def _give(self, worker: str, work: list[tuple[int, float]]) -> None:
        no_more = not self.plan.open and self.deck.empty
        self.dealer.runner.send_message("thinkload-work", {"work": work, "no_more": no_more}, worker)
