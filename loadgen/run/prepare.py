"""Prepares a run: checks the options and decides everything that is fixed before the first request.

Rules: every mistake that can be found before the run is refused here, as one line. Nothing is written. No prompt is sent,
except the one request that checks whether the server supports `native` budgets.

This module does not know how the requests are sent (`loadgen.run.phases`) or how the run ends.
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
from loadgen.target import control_api, preflight, probe, prompt_sizes
from loadgen.target.control_api import ControlApi
from loadgen.target.server_info import ServerInfo

DEFAULT_CONCURRENCY = 16


@dataclass(frozen=True)
class Prepared:
    """A run whose requests can be sent."""

    options: RunOptions
    api: ControlApi
    server: ServerInfo
    dataset: Dataset
    workload: Workload
    schedule: Schedule
    planned: int | None
    """The number of measured requests, or None where a duration ends the run."""
    run_id: str
    previous: PreviousRun


def prepare(options: RunOptions) -> Prepared:
    """Check everything and prepare the run. Raises UsageError."""
    previous = PreviousRun()
    if options.resume is not None:
        options, previous = resume.restore(options, options.resume)
    elif options.out is not None and options.out.exists():
        out = options.out
        raise UsageError(f"--out {out} exists: give another folder, or continue with --resume {out}")
    control_api.api_key(options)
    api = ControlApi(options)
    dataset = datasets.load(options)
    server = preflight.inspect(options, api)
    name, style = style_of(server.model, options.prompt)
    budgets.check_style(options, name, style)
    options = dataclasses.replace(options, prompt=name)
    server = server if options.dry_run else probe.identify(options, server, api)
    if options.synthetic and not options.dry_run:
        dataset = prompt_sizes.fitted(dataset, options, style, server.model, api)
    run_id = previous.run.run_id if previous.run is not None else options.run_id or new_run_id(server)
    workload = Workload(dataset.problems, options, server.model, style, run_id, server.limit_field)
    schedule = make_schedule(options, workload.planned)
    planned = len(schedule.times_s) if isinstance(schedule, OpenLoop) else workload.planned
    resume.check_same(previous, dataset, server)
    probe.check_mode(options, workload, api)
    return Prepared(options, api, server, dataset, workload, schedule, planned, run_id, previous)


def make_schedule(options: RunOptions, planned: int | None) -> Schedule:
    """The schedule of the measured requests. Raises UsageError."""
    if not open_loop(options):
        return ClosedLoop(options.concurrency or DEFAULT_CONCURRENCY)
    try:
        if options.times:
            return replay(options.times)
        steps = [RateStep(rate, seconds) for rate, seconds in options.ramp] or [RateStep(options.rate or 1.0)]
        limit = options.requests or (None if options.ramp else planned)
        return arrivals(options.arrival, steps, seed=options.seed, requests=limit, duration_s=options.duration_s)
    except OSError as error:
        hint = "give a file with one time in seconds per line"
        raise UsageError(f"--times {options.times}: {error.strerror}: {hint}") from None
    except ValueError as error:
        raise UsageError(f"cannot make the schedule: {error}") from None


def config_name(server: ServerInfo) -> str:
    """The name of the serving configuration: as the server or the user gives it, or made of what is known of the server."""
    tp = f"tp{server.tensor_parallel_size}" if server.tensor_parallel_size else "server"
    sizes = {"pp": server.pipeline_parallel_size, "dp": max(server.data_parallel_size or 1, server.engines)}
    name = "-".join([tp, *(f"{kind}{size}" for kind, size in sizes.items() if size and size > 1)])
    return server.config or (f"{name}-{server.speculation}" if server.speculation else name)


def new_run_id(server: ServerInfo) -> str:
    """A new run's id, `<UTC time>-<configuration>-<model>`, which is also a valid folder name."""
    now = datetime.now(UTC).strftime("%Y%m%dT%H%M%SZ")
    name = f"{config_name(server)}-{server.model.rsplit('/', 1)[-1]}".lower()
    return f"{now}-{re.sub(r'[^a-z0-9._-]+', '-', name)}"
