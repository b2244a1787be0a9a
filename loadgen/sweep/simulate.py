"""Backend `simulate`: runs every cell in the emulator's engine on a virtual clock, all cells of a model in one process.

The requests are those that a run over sockets would send. Everything that depends on the model alone is computed once for all
its cells. This module does not know how the engine steps (see server/emulator/simulated_cell.py), or what a record contains (see
simulated_records.py).
"""

import argparse
import contextlib
import dataclasses
import functools
import time
from collections.abc import Iterator, Sequence
from concurrent.futures import as_completed
from functools import partial
from itertools import islice
from pathlib import Path

from loadgen.errors import UsageError
from loadgen.exchange import Request
from loadgen.option_types import LoadPoint
from loadgen.options import RunOptions, greedy
from loadgen.plan import datasets
from loadgen.plan.schedule import RateStep, arrivals
from loadgen.plan.workload import Workload
from loadgen.record import RunInfo
from loadgen.run import environment
from loadgen.search.runs import capacity, folder_name
from loadgen.sweep import pool, simulated_records
from loadgen.sweep.manifest import Manifest
from loadgen.sweep.plan import Cell, CellResult, outcome
from loadgen.sweep.searches import SearchedLoad
from loadgen.sweep.simulated_records import SimulatedReply
from loadgen.sweep.study import PlannedSweep
from server.emulator.simulated_cell import ModelOutputs, PreparedRequest, simulate_requests

outputs_of = functools.lru_cache(maxsize=1)(ModelOutputs)
"""The outputs of a model, which a process computes once for all its cells."""


def run(planned: PlannedSweep, order: list[Cell], manifest: Manifest) -> Iterator[CellResult]:
    """Simulates all cells and returns them in the order in which they end."""
    models = list(dict.fromkeys(cell.model for cell in order))
    cores = environment.host()["cpus"] or 1
    task = partial(simulate, planned.options, Path(manifest.folder), args=planned.args)
    with contextlib.ExitStack() as stack:
        workers = [stack.enter_context(pool.process()) for _ in models[:cores]]
        jobs = {
            workers[number % len(workers)].submit(task, cell): cell
            for number, model in enumerate(models)
            for cell in order
            if cell.model == model
        }
        try:
            for job in as_completed(jobs):
                cell = jobs[job]
                if error := job.exception():  # no failure of one cell, not even a bug, may stop the others
                    found = f"{type(error).__name__}: {error}"
                    manifest.failed(cell.name, found)
                else:
                    run_info, wall_s = job.result()
                    manifest.done(cell.name, run_info, wall_s)
                    found = outcome(run_info)
                yield cell, found
        except BaseException:  # Ctrl-C
            pool.terminate_all()
            raise


def check(planned: PlannedSweep) -> None:
    """Refuses options that need a running server. Raises UsageError."""
    for options in (cell.applied(planned.options) for cell in planned.cells):
        if options.budget_mode != "cut" or not greedy(options) or options.path != "chat":
            raise UsageError(
                "--backend simulate supports only greedy chat requests with --budget-mode cut: use --backend emulator"
            )
        if options.synthetic:
            raise UsageError("--backend simulate has no tokenizer for synthetic prompts: use --backend emulator")
        if options.duration_s or options.ramp or options.times:
            raise UsageError("--backend simulate always runs the whole plan: remove --duration, --ramp and --times")


def simulate(options: RunOptions, out: Path, cell: Cell, *, args: argparse.Namespace) -> tuple[RunInfo, float]:
    """Simulates one cell; returns its run and the seconds that this took."""
    started_s = time.monotonic()
    outputs = outputs_of(cell.model, datasets.emulator_file(options))
    dataset = datasets.load(options)
    simulated = partial(simulate_cell, cell=cell, outputs=outputs, dataset=dataset, version=args.engine_version)
    folder, of_cell = out / cell.name, cell.applied(options)
    if isinstance(cell.load, SearchedLoad):
        of_search = dataclasses.replace(of_cell, target="simulated", out=folder)
        run_info = _search(of_search, cell.load, args.limit_s, simulated)
    else:
        run_info = simulated(of_cell, folder=folder)
    return run_info, time.monotonic() - started_s


def _search(options: RunOptions, load: SearchedLoad, limit_s: float, simulated: partial[RunInfo]) -> RunInfo:
    """Searches with simulated runs. Virtual time costs no waiting, so each run has all its requests, whatever they take."""

    def one(options: RunOptions, out: Path, point: LoadPoint, number: int) -> RunInfo:
        changed = dataclasses.replace(point.applied(options), seed=options.seed + number, duration_s=None)
        return simulated(changed, folder=out / folder_name(point, number))

    return capacity(load.file(options), options, limit_s, one, scale=1.0)


def simulate_cell(
    options: RunOptions, cell: Cell, outputs: ModelOutputs, dataset: datasets.Dataset, *, folder: Path, version: str
) -> RunInfo:
    """Simulates one run on the server of a cell, writes its folder and returns it."""
    run_id = f"{folder.parent.name}.{folder.name}"
    workload = simulated_records.workload(dataclasses.replace(options, repeats=1), dataset, outputs.model.id, run_id)
    requests = list(islice(workload.requests(0, workload.planned_with_warmup), workload.planned_with_warmup))
    longest = max(options.budgets)
    prepared = [outputs.prepare(request.body["messages"], request.budget, longest) for request in requests]
    due_s = _due_s(options, len(requests))
    result = simulate_requests(
        cell.config,
        outputs.model,
        prepared,
        overrides=cell.overrides,
        environment=cell.environment,
        gpu=options.gpu or "h200",
        engine_version=version,
        concurrency=None if due_s else options.concurrency,
        due_s=due_s,
        phases=_phases(workload, len(requests)),
    )
    records = []
    for request, response, times in zip(requests, prepared, result.responses, strict=True):
        reply = SimulatedReply(
            times.sent_s,
            times.times_s,
            times.tokens,
            response.stopped,
            len(response.output.prompt),
            _thinking_end(response),
            outputs.has_reasoning_parser,
        )
        for record in simulated_records.with_derived(request, reply, run_id, options, workload.planned_with_warmup):
            record.reasoning, record.text = outputs.excerpt(response.output, record.completion_tokens or 0)
            records.append(record)
    facts = result.server_info | {"config": cell.config_name, "load": _load(options, requests, due_s)}
    run = simulated_records.run_info(options, facts, dataset, run_id)
    return simulated_records.write(folder, records, run, dataset, result.energy)


def _due_s(options: RunOptions, requests: int) -> Sequence[float]:
    """The time at which each request is due in an open loop; empty in a closed loop."""
    if not options.rate:
        return ()
    return arrivals(options.arrival, [RateStep(options.rate)], seed=options.seed, requests=requests).times_s


def _phases(workload: Workload, requests: int) -> list[tuple[int, int]]:
    """The parts of the load; warm-up requests belong to the first part."""
    parts = workload.phases(workload.planned)
    return [(first if number else 0, last or requests) for number, (first, last) in enumerate(parts)]


def _thinking_end(response: PreparedRequest) -> int | None:
    end = response.output.thinking_end
    return end if end is not None and end <= response.tokens else None


def _load(options: RunOptions, requests: list[Request], due_s: Sequence[float]) -> dict[str, object]:
    facts: dict[str, object] = {"requests": len(requests) - options.warmup, "warmup": options.warmup, "repeats": 1}
    if due_s:
        return facts | {"kind": "open", "rate": options.rate, "arrival": options.arrival}
    return facts | {"kind": "closed", "concurrency": options.concurrency}
