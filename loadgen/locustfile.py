"""The workload on Locust's distributed engine: `locust -f loadgen/locustfile.py [--master | --worker | --processes N]`.

This file contains what Locust requires of a locustfile: options, a user class, a load shape, and listeners for its events.
The master prepares the run and assigns its requests (`loadgen.distributed.master`). Each worker passes the requests that it
is assigned to a sender process (`loadgen.distributed.worker`).

Rules: the web page listens on the loopback interface unless --web-host is given. It can change the options in PAGE_OPTIONS;
all others have the values of the command line, whatever a form contains (`loadgen.distributed.web_page`).

This module does not know how requests are assigned, sent or recorded.
"""

import shlex
from dataclasses import dataclass
from typing import Any

from locust import LoadTestShape, User, constant, events, task
from locust.argument_parser import LocustArgumentParser
from locust.env import Environment
from locust.runners import STATE_INIT, LocalRunner, MasterRunner, WorkerRunner

from loadgen.distributed.master import LocustMaster
from loadgen.distributed.web_page import PAGE_OPTIONS, protect
from loadgen.distributed.worker import LocustWorker
from loadgen.errors import UsageError
from loadgen.options import RunOptions
from loadgen.run.prepare import DEFAULT_CONCURRENCY

OPTIONS = {
    "target": (RunOptions.target, "OpenAI-compatible base URL, with /v1"),
    "model": ("", "id of a served model; if empty, the first that the server lists"),
    "dataset": (RunOptions.dataset, "as of python -m loadgen (docs/datasets.md); a file must be on every host"),
    "problems": ("", "number of problems; if empty, all"),
    "budgets": (",".join(map(str, RunOptions.budgets)), "token budgets, separated by commas"),
    "budget-mode": (RunOptions.budget_mode, "cut, forced, native or prompt"),
    "samples": ("", "requests for each problem; if empty, one"),
    "requests": ("", "number of requests; if empty, each problem at each budget once"),
    "rate": ("", "requests per second of server time in an open loop; if empty, a closed loop"),
    "arrival": ("", "arrivals for a rate: poisson, constant, gamma:B or burst:N"),
    "seed": ("", "seed for the order, the arrivals and the sampling; if empty, 0"),
    "out": ("", "results folder on every host; if empty, results/<run>"),
    "more": ("", "more options of python -m loadgen, as one string"),
}
"""The options on Locust's command line, with their defaults and help texts."""
LOOPBACK = "127.0.0.1"


@dataclass
class ProcessRoles:
    """What this process does in a run: it is the master, a worker, or both."""

    master: LocustMaster | None = None
    worker: LocustWorker | None = None
    users: int = 0


ROLES = ProcessRoles()


@events.init_command_line_parser.add_listener  # type: ignore[untyped-decorator]
def add_options(parser: LocustArgumentParser) -> None:
    """Add this suite's options to Locust's own."""
    group = parser.add_argument_group("thinkload", "See python -m loadgen --help; --users is the concurrency")
    for name, (default, text) in OPTIONS.items():
        variable = f"THINKLOAD_{name.upper().replace('-', '_')}"
        option: Any = group.add_argument(f"--{name}", default=default, metavar="…", help=text, env_var=variable)
        # Only the add_argument of the parser itself would set this.
        option.include_in_web_ui = name in PAGE_OPTIONS
    parser.set_defaults(web_host=LOOPBACK)


def command_line(parsed: Any) -> dict[str, str]:
    """The options that only the command line can set, as it has set them."""
    return {name: _text(parsed, name) for name in OPTIONS if name not in PAGE_OPTIONS}


def _text(parsed: Any, name: str) -> str:
    return str(getattr(parsed, name.replace("-", "_")) or "")


def argv_of(parsed: Any, fixed: dict[str, str]) -> list[str]:
    """The given options as a command line of `python -m loadgen`; `fixed` is what only the command line can set.

    Raises UsageError.
    """
    given = fixed | {name: _text(parsed, name) for name in PAGE_OPTIONS}
    argv = [f"--{name}={text}" for name, text in given.items() if text and name not in {"more", "out"}]
    if parsed.run_time:
        argv.append(f"--duration={parsed.run_time}")
    try:
        return argv + shlex.split(given["more"])
    except ValueError as error:
        raise UsageError(f"--more {given['more']!r}: {error}") from None


def change_users(change: int) -> None:
    """Count the users that run in this process, whether or not its worker exists yet."""
    ROLES.users += change
    if ROLES.worker is not None:
        ROLES.worker.set_users(ROLES.users)


class StreamUser(User):
    """One request in flight in a closed loop, for as long as the user exists. In an open loop it has no effect."""

    wait_time = constant(1)

    def on_start(self) -> None:
        """Called by Locust when it has started this user."""
        change_users(1)

    def on_stop(self) -> None:
        """Called by Locust when it stops this user. The user's request in flight may end."""
        change_users(-1)

    @task
    def wait_only(self) -> None:
        """Do nothing: the sender process sends the requests, and Locust receives them as events."""


class LoadShape(LoadTestShape):
    """Starts all users at once, and lets them run until the run is over."""

    use_common_options = True

    def tick(self) -> tuple[int, float] | None:
        """Called by Locust once a second on the master. Returns None at the end of the run."""
        master = ROLES.master
        if master is None or not master.tick():
            return None
        parsed: Any = master.environment.parsed_options
        rate = float(parsed.spawn_rate or 0)
        return parsed.num_users, rate if rate > 1 else parsed.num_users  # 1 is Locust's default


@events.init.add_listener  # type: ignore[untyped-decorator]
def set_up(environment: Environment, runner: Any, **_: Any) -> None:
    """Make this process a master or a worker. Without a master, one process is both."""
    if isinstance(runner, MasterRunner | LocalRunner):
        ROLES.master = LocustMaster(environment, runner)
        connect_master(environment, runner, ROLES.master)
    if isinstance(runner, WorkerRunner | LocalRunner):
        ROLES.worker = LocustWorker(environment, runner)
        connect_worker(environment, runner, ROLES.worker)


def connect_master(environment: Environment, runner: Any, master: LocustMaster) -> None:
    """Call the master for Locust's events and for messages of the workers."""
    on: Any = environment.events
    parsed: Any = environment.parsed_options
    parsed.num_users = parsed.num_users or DEFAULT_CONCURRENCY
    fixed = command_line(parsed)
    if environment.web_ui is not None:
        protect(environment.web_ui.app, parsed.web_host or "")
    on.test_start.add_listener(
        lambda **_: master.start_run(lambda: argv_of(parsed, fixed), parsed.num_users, fixed["out"])
    )
    on.test_stop.add_listener(lambda **_: master.end_run())
    for name, listener in {
        "probe": master.answer_probe,
        "state": master.worker_state,
        "failed": master.worker_failed,
    }.items():
        runner.register_message(f"thinkload-{name}", lambda msg, listener=listener, **_: listener(msg))


def connect_worker(environment: Environment, runner: Any, worker: LocustWorker) -> None:
    """Call the worker for Locust's events and for messages of the master."""
    on: Any = environment.events
    on.test_start.add_listener(lambda **_: worker.start_run())
    on.test_stop.add_listener(lambda **_: worker.run.close())
    on.quit.add_listener(lambda **_: worker.run.wait())
    runner.register_message("thinkload-probe-answer", lambda msg, **_: worker.run.probe_answered(msg.data))
    runner.register_message("thinkload-work", lambda msg, **_: worker.run.work_assigned(msg.data["work"]))
    if isinstance(runner, WorkerRunner) and runner.worker_state != STATE_INIT:
        worker.set_users(ROLES.users)  # this worker joined a running test before Locust's init event
        worker.start_run()
