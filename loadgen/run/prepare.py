"""Options → everything that is settled before the first request, or the one line that refuses them.

Rules: whatever can be refused is refused here; nothing is written, and no prompt is sent but the probe that `native`
budgets need.

Does not know: how the plan is carried out (load), or what came of it.
"""

import dataclasses
import re
from dataclasses import dataclass
from datetime import UTC, datetime

from loadgen.errors import UsageError
from loadgen.options import RunOptions, open_loop
from loadgen.plan import budgets, datasets
from loadgen.plan.datasets import Dataset
from loadgen.plan.prompts import style_of
from loadgen.plan.schedule import ClosedLoop, OpenLoop, RateStep, Schedule, arrivals, replay
from loadgen.plan.workload import Workload
from loadgen.run import resume
from loadgen.run.resume import PreviousRun
from loadgen.target import control_api as ask
from loadgen.target import preflight, probe
from loadgen.target.control_api import ControlApi
from loadgen.target.server_info import ServerInfo

DEFAULT_CONCURRENCY = 16


@dataclass(frozen=True)
class Prepared:
    """One run, ready to be carried out."""

    options: RunOptions
    ask: ControlApi
    server: ServerInfo
    dataset: Dataset
    workload: Workload
    schedule: Schedule
    planned: int | None
    """Measured requests in all; None where a duration ends the run."""
    run_id: str
    before: PreviousRun


def prepare(options: RunOptions) -> Prepared:
    """Check everything and plan the run. Raises UsageError."""
    before = PreviousRun()
    if options.resume is not None:
        options, before = resume.restore(options)
    elif options.out is not None and options.out.exists():
        raise UsageError(f"--out {options.out} exists: choose another, or go on with --resume {options.out}")
    ask.api_key(options)
    asker = ControlApi(options)
    dataset = datasets.load(options.dataset, options.problems, options.seed)
    server = preflight.inspect(options, asker)
    name, style = style_of(server.model, options.prompt)
    budgets.check_style(options, name, style)
    options = dataclasses.replace(options, prompt=name)
    server = server if options.dry_run else probe.identify(options, server, asker)
    run_id = before.run.run_id if before.run is not None else options.run_id or new_run_id(server)
    workload = Workload(dataset.problems, options, server.model, style, run_id, server.limit_field)
    schedule = schedule_of(options, workload.planned)
    planned = len(schedule.times_s) if isinstance(schedule, OpenLoop) else workload.planned
    resume.check_same(before, dataset, server)
    preflight.check_mode(options, workload, asker)
    return Prepared(options, asker, server, dataset, workload, schedule, planned, run_id, before)


def schedule_of(options: RunOptions, planned: int | None) -> Schedule:
    """When the measured requests are due. Raises UsageError."""
    if not open_loop(options):
        return ClosedLoop(options.concurrency or DEFAULT_CONCURRENCY)
    try:
        if options.times:
            return replay(options.times)
        steps = [RateStep(rate, seconds) for rate, seconds in options.ramp] or [RateStep(options.rate or 1.0)]
        limit = None if options.ramp and not options.requests else planned
        return arrivals(
            options.arrival, steps, seed=options.seed, requests=limit, duration_s=options.duration_s
        )
    except OSError as error:
        raise UsageError(
            f"--times {options.times}: {error.strerror}: give a file of seconds, one a line"
        ) from None
    except ValueError as error:
        raise UsageError(f"the schedule can't be made: {error}") from None


def config_name(server: ServerInfo) -> str:
    """As the server or the operator calls it, else by what is known of its parallelism and speculation."""
    tp = f"tp{server.tensor_parallel_size}" if server.tensor_parallel_size else "server"
    sizes = {"pp": server.pipeline_parallel_size, "dp": max(server.data_parallel_size or 1, server.engines)}
    name = "-".join([tp, *(f"{kind}{size}" for kind, size in sizes.items() if size and size > 1)])
    return server.config or (f"{name}-{server.speculation}" if server.speculation else name)


def new_run_id(server: ServerInfo) -> str:
    """`<utc>-<config>-<model>`, fit for a folder's name."""
    now = datetime.now(UTC).strftime("%Y%m%dT%H%M%SZ")
    name = f"{config_name(server)}-{server.model.rsplit('/', 1)[-1]}".lower()
    return f"{now}-{re.sub(r'[^a-z0-9._-]+', '-', name)}"
