"""Our workload on Locust's own distributed engine: `locust -f loadgen/locustfile.py [--master | --worker | --processes N]`.

The master plans the run and hands out requests by `seq`, each once; a worker's users take them (closed loop), or the
shape deals them out as they come due (open loop); a process beside each worker sends and records (`bridge`). Each request
fires Locust's `request` event; TTFT and TPOT are rows of their own that the totals leave out.

Rules: nothing here touches a token. What a worker held when it was lost is not dealt out again: `gather` names it.

Does not know: HTTP, streams, records, verdicts.
"""

import dataclasses
import logging
import platform
import shlex
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import gevent
import msgspec
from gevent.event import Event
from locust import LoadTestShape, User, constant, events, task
from locust.argument_parser import LocustArgumentParser
from locust.env import Environment
from locust.runners import WORKER_REPORT_INTERVAL, LocalRunner, MasterRunner, WorkerRunner

from loadgen.distributed import (
    PLAN,
    READY,
    Distributed,
    Plan,
    SenderPlan,
    Slots,
    Told,
    Work,
    boot,
    options_of,
)
from loadgen.options import RunOptions, open_loop
from loadgen.prepare import DEFAULT_CONCURRENCY, Prepared, prepare
from loadgen.runinfo import describe, write_problems
from loadgen.schedule import Open
from loadgen.scrape import snapshot
from loadgen.values import UsageError

LOG = logging.getLogger("loadgen")
AHEAD_S = 2.0
"""Open loop: requests are dealt out this long before they are due; the shape ticks once a second."""
PINGS = 7
GIVEN = {
    "target": "http://127.0.0.1:8000/v1", "model": "", "dataset": "math500", "problems": "", "budgets": "1024,4096",
    "budget-mode": "cut", "samples": "", "requests": "", "rate": "", "arrival": "", "seed": "", "out": "", "more": "",
}  # fmt: skip
"""Options on Locust's command line and in its web UI; `--more` takes every other option of `python -m loadgen`."""


@events.init_command_line_parser.add_listener  # type: ignore[untyped-decorator]
def add_options(parser: LocustArgumentParser) -> None:
    """Ours, beside Locust's own."""
    group = parser.add_argument_group("thinkload", "As in python -m loadgen --help; users are --users")
    for name, default in GIVEN.items():
        text = (
            "further options of python -m loadgen, in one string"
            if name == "more"
            else f"see loadgen [{default}]"
        )
        group.add_argument(
            f"--{name}", default=default, metavar="…", help=text, env_var=f"THINKLOAD_{name.upper()}"
        )


def argv_of(parsed: Any) -> list[str]:
    """Our options as a command line."""
    given = {name: str(getattr(parsed, name.replace("-", "_"), "") or "") for name in GIVEN}
    argv = [f"--{name}={text}" for name, text in given.items() if text and name not in {"more", "out"}]
    return argv + shlex.split(given["more"])


class Dealer:
    """On the master: the plan, and who holds which request."""

    def __init__(self, environment: Environment, runner: Any) -> None:
        self.environment = environment
        self.runner = runner
        self.options: RunOptions = RunOptions()
        self.prepared: Prepared | None = None
        self.plan: Plan | None = None
        self.folder = Path()
        self.next = 0
        self.total: int | None = None
        self.held: dict[str, int] = {}
        """Requests that a worker was given and has not ended."""
        self.ready: set[str] = set()
        self.started_s: float | None = None
        """Unix time from which on requests are dealt out."""
        self.over_s: float | None = None
        self.failed = False
        self.waiting: list[tuple[str, int]] = []

    def begin(self) -> None:
        """Plan a run and make its folder. A refusal stops Locust."""
        try:
            self._begin()
        except UsageError as error:
            print(f"loadgen: {error}", file=sys.stderr)
            self.failed = True
            self.environment.process_exit_code = 2

    def _begin(self) -> None:
        parsed: Any = self.environment.parsed_options
        argv = argv_of(parsed)
        options = options_of(argv)
        if not open_loop(options):
            users = int(parsed.num_users or 0) if parsed else 0
            options = dataclasses.replace(options, concurrency=users or options.concurrency)
        self.options = dataclasses.replace(options, argv=("locust", *argv))
        prepared = prepare(self.options)
        self.folder = Path(parsed.out) if parsed and parsed.out else Path("results") / prepared.run_id
        try:
            self.folder.mkdir(parents=True)
        except FileExistsError:
            raise UsageError(f"{self.folder} exists: give another --out") from None
        self.prepared = prepared
        self.total = None if prepared.planned is None else prepared.planned + self.options.warmup
        self.next, self.started_s, self.over_s, self.failed = 0, None, None, False
        self.held, self.ready, self.waiting = {}, set(), []
        now = time.time()
        self.plan = Plan(
            run_id=prepared.run_id,
            folder=str(self.folder),
            sha256=prepared.dataset.sha256,
            start_wall_s=now,
            server=dataclasses.asdict(prepared.server),
        )
        write_problems(self.folder, prepared.dataset)
        self.write()
        snapshot(prepared.ask, self.folder / "server-before.prom")
        LOG.info("thinkload: %s requests, %s", self.total, self.folder)

    def write(self, stopped: str | None = None) -> None:
        """distributed.json."""
        assert self.prepared is not None and self.plan is not None  # noqa: S101, PT018  only called after _begin
        run = describe(self.prepared)
        run.clock = {"wall_s": self.plan.start_wall_s, "perf_s": 0.0}
        run.load["generator"] = "locust"
        found = Distributed(
            run=run,
            total=self.total,
            planned=self.prepared.planned,
            cache=self.options.cache,
            percentile=self.options.percentile,
            stopped=stopped,
        )
        (self.folder / PLAN).write_bytes(msgspec.json.format(msgspec.json.encode(found), indent=1))

    def end(self) -> None:
        """The last look at the server."""
        if self.prepared is not None and self.plan is not None:
            snapshot(self.prepared.ask, self.folder / "server-after.prom")
            self.write(None if self.over() else "Locust was stopped")
            print(f"loadgen: python -m loadgen gather {self.folder}", file=sys.stderr)
            self.plan = None

    def workers(self) -> list[str]:
        """Live workers; `local` where there is no master."""
        if not isinstance(self.runner, MasterRunner):
            return ["local"]
        return [c.id for c in self.runner.clients.all if c.state not in {"missing", "stopped"}]

    def over(self) -> bool:
        """Everything was dealt out, and no live worker holds any of it."""
        if self.failed:
            return True
        alive = set(self.workers())
        return (
            self.total is not None
            and self.next >= self.total
            and not any(count for worker, count in self.held.items() if worker in alive)
        )

    def done(self) -> bool:
        """It is over, and Locust's workers have had the time to report it to its statistics."""
        if not self.over():
            return False
        self.over_s = self.over_s or time.time()
        linger_s = WORKER_REPORT_INTERVAL + 0.5 if isinstance(self.runner, MasterRunner) else 0.0
        return time.time() - self.over_s >= linger_s

    def pong(self, message: Any) -> None:
        """A worker asks for the time, and for the plan."""
        plan = None if self.plan is None else msgspec.to_builtins(self.plan)
        said = {"sent_s": message.data["sent_s"], "master_s": time.time(), "boot": boot(), "plan": plan}
        self.runner.send_message("thinkload-pong", said, message.node_id)

    def may_start(self) -> bool:
        """All workers that are here are ready to send."""
        if self.started_s is None and self.workers() and self.ready >= set(self.workers()):
            self.started_s = time.time() + (1.0 if self.open() else 0.0)
            for worker, count in self.waiting:
                self.take(worker, count)
            self.waiting = []
        return self.started_s is not None

    def open(self) -> bool:
        """The schedule says when."""
        return self.prepared is not None and isinstance(self.prepared.schedule, Open)

    def take(self, worker: str, count: int) -> None:
        """A closed loop's worker asks for more."""
        if self.started_s is None:
            self.waiting.append((worker, count))
            return
        last = self.next + count if self.total is None else min(self.next + count, self.total)
        given = [(seq, 0.0) for seq in range(self.next, last)]
        self.next = last
        self._give(worker, given)

    def deal(self) -> None:
        """An open loop's requests that are due soon, one worker after the other."""
        if self.prepared is None or not isinstance(self.prepared.schedule, Open) or self.started_s is None:
            return
        scale, times_s = self.prepared.server.time_scale, self.prepared.schedule.times_s
        workers = sorted(self.workers())
        hands: dict[str, list[tuple[int, float]]] = {worker: [] for worker in workers}
        until_s = time.time() + AHEAD_S
        while workers and self.next < len(times_s) and self.started_s + times_s[self.next] / scale < until_s:
            due_s = self.started_s + times_s[self.next] / scale
            hands[workers[self.next % len(workers)]].append((self.next, due_s))
            self.next += 1
        for worker, given in hands.items():
            if given:
                self._give(worker, given)

    def _give(self, worker: str, given: list[tuple[int, float]]) -> None:
        self.held[worker] = self.held.get(worker, 0) + len(given)
        over = not self.open() and self.total is not None and self.next >= self.total
        self.runner.send_message("thinkload-work", {"work": given, "over": over}, worker)

    def ended(self, worker: str, count: int) -> None:
        """A worker has ended some."""
        self.held[worker] = self.held.get(worker, 0) - count


class Hand:
    """On a worker: the requests it holds, and the process that sends them."""

    def __init__(self, environment: Environment, runner: Any) -> None:
        self.environment = environment
        self.runner = runner
        self.offset_s = 0.0
        self.slots = 0
        """Users here."""
        self.sender: subprocess.Popen[bytes] | None = None
        self.clear()

    def clear(self) -> None:
        """Before a run."""
        self.sender = None
        self.held = 0
        """Requests given to the sender that have not ended."""
        self.ready = Event()
        self.asked = 0
        self.over = False
        self.ended = 0
        self.pings: list[tuple[float, float]] = []
        """(round trip, offset of the master's wall clock against ours), seconds."""

    def begin(self) -> None:
        """Tell the master that we are here, and learn how far our clocks are apart."""
        self.wait()
        self.clear()
        self.ping()

    def ping(self) -> None:
        """Ask the master for the time."""
        self.runner.send_message("thinkload-ping", {"sent_s": time.time(), "boot": boot()})

    def ponged(self, said: dict[str, Any]) -> None:
        """The master's answer."""
        now = time.time()
        trip_s = now - said["sent_s"]
        same = said["boot"] == boot()
        self.pings.append((0.0, 0.0) if same else (trip_s, said["master_s"] + trip_s / 2 - now))
        if len(self.pings) < PINGS and not same:
            self.ping()
        elif self.sender is None and said.get("plan"):
            self._start(msgspec.convert(said["plan"], Plan))

    def _start(self, plan: Plan) -> None:
        trip_s, offset_s = min(self.pings)
        wall_s, perf_ns = time.time(), time.perf_counter_ns()
        clock = {"wall_s": wall_s, "perf_s": perf_ns / 1e9, "offset_s": offset_s, "error_s": trip_s / 2}
        self.offset_s = offset_s
        index = getattr(self.runner, "worker_index", 0)
        sender = SenderPlan(
            plan=plan,
            argv=argv_of(self.environment.parsed_options),
            name=f"{platform.node()}-{max(index, 0)}".replace("/", "-"),
            start_ns=perf_ns + round((plan.start_wall_s - offset_s - wall_s) * 1e9),
            clock=clock,
        )
        self.sender = subprocess.Popen(
            [sys.executable, "-m", "loadgen.bridge"], stdin=subprocess.PIPE, stdout=subprocess.PIPE
        )
        self._write(sender)
        gevent.spawn(self._listen, self.sender)

    def _write(self, line: msgspec.Struct) -> None:
        if self.sender is not None and self.sender.stdin is not None and not self.sender.stdin.closed:
            self.sender.stdin.write(msgspec.json.encode(line) + b"\n")
            self.sender.stdin.flush()

    def _listen(self, sender: "subprocess.Popen[bytes]") -> None:
        """Until the sender ends: what it says of each request."""
        assert sender.stdout is not None  # noqa: S101  Popen was given PIPE
        decode = msgspec.json.Decoder(Told).decode
        for line in sender.stdout:
            if line == READY:
                self.ready.set()
                self.users(0)
                self.runner.send_message("thinkload-ready", {})
                continue
            told = decode(line)
            self.report(told)
            self.held -= 1
            self.ended += 1
            self.refill()
            self.tell()
        if sender.wait() != 0:
            LOG.error(
                "thinkload: the sending process ended with %s; this worker sends no more", sender.returncode
            )
            self.environment.process_exit_code = 1
            self.runner.quit()

    def tell(self) -> None:
        """Let the master know what ended, soon and in one message."""
        if self.ended == 1:
            gevent.spawn_later(0.1, self._tell)

    def _tell(self) -> None:
        count, self.ended = self.ended, 0
        self.runner.send_message("thinkload-ended", {"count": count})

    def report(self, told: Told) -> None:
        """Locust's event for the request; TTFT and TPOT in rows that no total counts."""
        name = f"budget {told.budget}"
        error = (
            None if told.outcome == "ok" else RuntimeError(f"{told.outcome}: {told.error or ''}".strip(": "))
        )
        fire: Any = self.environment.events.request.fire
        fire(
            request_type="POST", name=name, response_time=told.seconds * 1e3, response_length=told.tokens,
            exception=error, context={"seq": told.seq}, response=None, url=None, start_time=None,
        )  # fmt: skip
        for kind, seconds in (("TTFT", told.ttft_s), ("TPOT", told.tpot_s)):
            if seconds is not None:
                self.environment.stats.get(name, kind).log(round(seconds * 1e3, 3), 0)  # type: ignore[arg-type]  # as Locust does itself

    def given(self, said: dict[str, Any]) -> None:
        """Work from the master, on to the sender: it sends when the time has come, or a slot is free."""
        self.over = self.over or said["over"]
        for seq, due_s in said["work"]:
            due_ns = (
                time.perf_counter_ns() + round((due_s - self.offset_s - time.time()) * 1e9) if due_s else None
            )
            self._write(Work(seq, due_ns))
        self.held += len(said["work"])
        self.asked = 0

    def users(self, change: int) -> None:
        """A user has come or gone: the sender has as many slots."""
        self.slots += change
        if self.ready.is_set() and not HERE.open:
            self._write(Slots(self.slots))
            self.refill()

    def refill(self) -> None:
        """Hold a little more than is in flight, so that no slot waits for the master."""
        wanted = self.slots + max(2, self.slots // 4)
        if self.slots and not self.asked and not self.over and self.held < wanted:
            self.asked = wanted - self.held
            self.runner.send_message("thinkload-take", {"count": self.asked})

    def end(self) -> None:
        """No more comes; the sender ends what it has. Not waited for here: Locust's last report must be in time."""
        if self.sender is not None and self.sender.stdin is not None:
            self.sender.stdin.close()

    def wait(self) -> None:
        """Until the sender has ended."""
        if self.sender is not None:
            self.end()
            try:
                self.sender.wait(timeout=8)
            except subprocess.TimeoutExpired:
                self.sender.kill()


@dataclasses.dataclass
class Here:
    """What this process does in the run: plan it, carry it out, or both."""

    dealer: Dealer | None = None
    hand: Hand | None = None
    open: bool = False


HERE = Here()


class Problem(User):
    """One stream of a closed loop: a slot of the sender, for as long as Locust wants it. In an open loop, a spectator."""

    wait_time = constant(1)

    def on_start(self) -> None:
        """One slot more."""
        if HERE.hand is not None:
            HERE.hand.users(1)

    def on_stop(self) -> None:
        """One slot less; what it sends may end."""
        if HERE.hand is not None:
            HERE.hand.users(-1)

    @task
    def be_there(self) -> None:
        """The sender does the work, and Locust hears of it by events."""


class Course(LoadTestShape):
    """All users at once, for as long as there is something to send; an open loop's requests as they come due."""

    use_common_options = True

    def tick(self) -> tuple[int, float] | None:
        """Once a second, on the master."""
        dealer = HERE.dealer
        if dealer is None or dealer.failed or (dealer.plan is None and dealer.next):
            return None
        if dealer.plan is not None:
            if dealer.may_start():
                dealer.deal()
            if dealer.done():
                return None
        parsed: Any = dealer.environment.parsed_options
        users = int(parsed.num_users or 0) or (
            len(dealer.workers()) if dealer.open() else DEFAULT_CONCURRENCY
        )
        rate = float(parsed.spawn_rate or 0)
        return users, rate if rate > 1 else users  # 1 is Locust's default; a closed loop starts whole


@events.init.add_listener  # type: ignore[untyped-decorator]
def set_up(environment: Environment, runner: Any, **_: Any) -> None:
    """A dealer where the run is planned, a hand where it is sent; both in one process without a master."""
    on: Any = environment.events
    if isinstance(runner, MasterRunner | LocalRunner):
        dealer = HERE.dealer = Dealer(environment, runner)
        runner.register_message("thinkload-ping", lambda msg, **_: dealer.pong(msg))
        runner.register_message("thinkload-ready", lambda msg, **_: dealer.ready.add(msg.node_id))
        runner.register_message(
            "thinkload-take", lambda msg, **_: dealer.take(msg.node_id, msg.data["count"])
        )
        runner.register_message(
            "thinkload-ended", lambda msg, **_: dealer.ended(msg.node_id, msg.data["count"])
        )
        on.test_start.add_listener(lambda **_: dealer.begin())
        on.test_stop.add_listener(lambda **_: dealer.end())
    if isinstance(runner, WorkerRunner | LocalRunner):
        hand = HERE.hand = Hand(environment, runner)
        runner.register_message("thinkload-pong", lambda msg, **_: hand.ponged(msg.data))
        runner.register_message("thinkload-work", lambda msg, **_: hand.given(msg.data))
        on.test_start.add_listener(lambda **_: _start(environment, hand))
        on.test_stop.add_listener(lambda **_: hand.end())
        on.quit.add_listener(lambda **_: hand.wait())


def _start(environment: Environment, hand: Hand) -> None:
    options = options_of(argv_of(environment.parsed_options))
    HERE.open = open_loop(options)
    hand.begin()
