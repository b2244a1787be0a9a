"""Our workload on Locust's own distributed engine: `locust -f loadgen/locustfile.py [--master | --worker | --processes N]`.

What Locust wants of a locustfile: options, a user, a shape, and who listens to its events. The master plans the run and
deals its requests out (`dealer`); each worker takes some (`hand`) and has them sent by a process beside it (`bridge`).

Does not know: what is dealt to whom, how it is sent, what is recorded.
"""

import shlex
from dataclasses import dataclass
from typing import Any

from locust import LoadTestShape, User, constant, events, task
from locust.argument_parser import LocustArgumentParser
from locust.env import Environment
from locust.runners import STATE_INIT, LocalRunner, MasterRunner, WorkerRunner

from loadgen.distributed.master import LocustMaster
from loadgen.distributed.worker import LocustWorker
from loadgen.errors import UsageError
from loadgen.options import RunOptions
from loadgen.run.prepare import DEFAULT_CONCURRENCY

OPTIONS = {
    "target": (RunOptions.target, "OpenAI-compatible base URL, with /v1"),
    "model": ("", "served model id; empty: the first the server lists"),
    "dataset": (RunOptions.dataset, "math500, sample, gsm8k, aime, or a JSONL file that is on every host"),
    "problems": ("", "ask so many of them; empty: all"),
    "budgets": (",".join(map(str, RunOptions.budgets)), "token budgets"),
    "budget-mode": (RunOptions.budget_mode, "cut, forced, native or prompt"),
    "samples": ("", "ask each problem so often; empty: once"),
    "requests": ("", "requests in all; empty: the plan once"),
    "rate": ("", "open loop, requests a second of server time; empty: closed loop, a stream a user"),
    "arrival": ("", "with a rate: poisson, constant, gamma:B, burst:N"),
    "seed": ("", "order, arrivals and sampling follow from it; empty: 0"),
    "out": ("", "folder to write, on every host; empty: results/<run>"),
    "more": ("", "further options of python -m loadgen, in one string"),
}
"""On Locust's command line and in its web page, by default and help."""


@dataclass
class ProcessRoles:
    """What this process does in a run: deal it, send it, or both."""

    dealer: LocustMaster | None = None
    hand: LocustWorker | None = None
    users: int = 0


HERE = ProcessRoles()


@events.init_command_line_parser.add_listener  # type: ignore[untyped-decorator]
def add_options(parser: LocustArgumentParser) -> None:
    """Ours, beside Locust's own."""
    group = parser.add_argument_group("thinkload", "As in python -m loadgen --help; streams are --users")
    for name, (default, text) in OPTIONS.items():
        variable = f"THINKLOAD_{name.upper().replace('-', '_')}"
        option: Any = group.add_argument(
            f"--{name}", default=default, metavar="…", help=text, env_var=variable
        )
        option.include_in_web_ui = True  # the parser's own add_argument would say so; a group's does not


def argv_of(parsed: Any) -> list[str]:
    """What was given, as a command line of `python -m loadgen`. Raises UsageError."""
    given = {name: str(getattr(parsed, name.replace("-", "_")) or "") for name in OPTIONS}
    argv = [f"--{name}={text}" for name, text in given.items() if text and name not in {"more", "out"}]
    if parsed.run_time:
        argv.append(f"--duration={parsed.run_time}")
    try:
        return argv + shlex.split(given["more"])
    except ValueError as error:
        raise UsageError(f"--more {given['more']!r}: {error}") from None


def count(change: int) -> None:
    """Users that run here, whether or not there is a hand yet."""
    HERE.users += change
    if HERE.hand is not None:
        HERE.hand.users(HERE.users)


class StreamUser(User):
    """One stream of a closed loop, for as long as Locust wants it. In an open loop, a spectator."""

    wait_time = constant(1)

    def on_start(self) -> None:
        """One more."""
        count(1)

    def on_stop(self) -> None:
        """One less; what it sends may end."""
        count(-1)

    @task
    def be_there(self) -> None:
        """Others send; Locust hears of it by events."""


class LoadShape(LoadTestShape):
    """All users at once for as long as there is something to send; an open loop's requests as they come due."""

    use_common_options = True

    def tick(self) -> tuple[int, float] | None:
        """Once a second, on the master."""
        dealer = HERE.dealer
        if dealer is None or not dealer.tick():
            return None
        parsed: Any = dealer.environment.parsed_options
        rate = float(parsed.spawn_rate or 0)
        return parsed.num_users, rate if rate > 1 else parsed.num_users  # 1 is Locust's default


@events.init.add_listener  # type: ignore[untyped-decorator]
def set_up(environment: Environment, runner: Any, **_: Any) -> None:
    """A dealer where the run is planned, a hand where it is sent; both in one process without a master."""
    if isinstance(runner, MasterRunner | LocalRunner):
        HERE.dealer = LocustMaster(environment, runner)
        deal(environment, runner, HERE.dealer)
    if isinstance(runner, WorkerRunner | LocalRunner):
        HERE.hand = LocustWorker(environment, runner)
        lend_hand(environment, runner, HERE.hand)


def deal(environment: Environment, runner: Any, dealer: LocustMaster) -> None:
    """Have the dealer hear of everything."""
    on: Any = environment.events
    parsed: Any = environment.parsed_options
    parsed.num_users = parsed.num_users or DEFAULT_CONCURRENCY
    on.test_start.add_listener(
        lambda **_: dealer.begin(lambda: argv_of(parsed), parsed.num_users, parsed.out)
    )
    on.test_stop.add_listener(lambda **_: dealer.end())
    for name, listener in {
        "ping": dealer.ping, "ready": dealer.ready, "take": dealer.take, "ended": dealer.ended,
    }.items():  # fmt: skip
        runner.register_message(f"thinkload-{name}", lambda msg, listener=listener, **_: listener(msg))


def lend_hand(environment: Environment, runner: Any, hand: LocustWorker) -> None:
    """Have the hand hear of everything."""
    on: Any = environment.events
    on.test_start.add_listener(lambda **_: hand.begin())
    on.test_stop.add_listener(lambda **_: hand.end())
    on.quit.add_listener(lambda **_: hand.wait())
    runner.register_message("thinkload-pong", lambda msg, **_: hand.pong(msg.data))
    runner.register_message("thinkload-work", lambda msg, **_: hand.work(msg.data))
    if isinstance(runner, WorkerRunner) and runner.worker_state != STATE_INIT:
        hand.users(HERE.users)  # it joined a run, and was told so before Locust's init event
        hand.begin()
