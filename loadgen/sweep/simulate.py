"""Backend `simulate`: every cell played by the emulator's engine on a virtual clock, models spread over the cores.

Rules: the requests are those that a run over sockets would send. What depends on the model alone is worked out once for
all its cells. Does not know: how an engine steps (server/emulator/simulated_cell.py), or what a record holds (records).
"""

import contextlib
import dataclasses
import os
import queue
import time
from collections.abc import Iterator, Sequence
from concurrent.futures import Future
from itertools import islice
from pathlib import Path

from loadgen.exchange import Request
from loadgen.options import RunOptions, UsageError, greedy
from loadgen.plan import datasets
from loadgen.plan.schedule import RateStep, arrivals
from loadgen.record import RunInfo
from loadgen.sweep import pool, simulated_records
from loadgen.sweep.manifest import Manifest
from loadgen.sweep.plan import Cell
from loadgen.sweep.simulated_records import SimulatedReply
from server.emulator.simulated_cell import ModelOutputs, PreparedRequest, SimulatedRun, simulate_requests

Result = tuple[Cell, RunInfo | None, str | None, float]
Results = queue.Queue[Result]


def run(options: RunOptions, order: list[Cell], manifest: Manifest) -> Iterator[tuple[Cell, str | None]]:
    """Each cell with why it failed, or None, in the order they end."""
    models = sorted({cell.model for cell in order}, key=[cell.model for cell in order].index)
    out = Path(manifest.folder)
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    with pool.manager() as manager, pool.processes(max(min(cores, len(models)), 1)) as workers:
        results: Results = manager.Queue()
        jobs = [
            workers.submit(play_model, options, [c for c in order if c.model == m], out, results)
            for m in models
        ]
        try:
            for cell, run_info, failure, wall_s in arriving(results, jobs):
                if run_info is None:
                    manifest.failed(cell.name, failure or "?")
                else:
                    manifest.done(cell.name, run_info, wall_s)
                yield cell, failure
        except BaseException:  # Ctrl-C
            pool.end_all()
            raise


def arriving(results: "Results", jobs: "list[Future[None]]") -> "Iterator[Result]":
    """Results as they come, until every job has ended. Raises what a job raised."""
    while not results.empty() or not all(job.done() for job in jobs):
        with contextlib.suppress(queue.Empty):
            yield results.get(timeout=0.2)
    for job in jobs:
        job.result()


def check(options: RunOptions) -> None:
    """What depends on a live server cannot be simulated. Raises UsageError."""
    if options.budget_mode != "cut" or not greedy(options) or options.path != "chat":
        raise UsageError(
            "--backend simulate plays greedy chat at --budget-mode cut: use --backend emulator for the rest"
        )
    if options.duration_s or options.ramp or options.times:
        raise UsageError("--backend simulate plays a plan whole: leave --duration, --ramp and --times out")


def play_model(options: RunOptions, cells: list[Cell], out: Path, results: "Results") -> None:
    """All cells of one model; a cell that fails does not cost the others."""
    dataset = datasets.load(options.dataset, options.problems, options.seed)
    outputs = ModelOutputs(cells[0].model, dataset.path)
    for cell in cells:
        began = time.monotonic()
        try:
            run_info = play(cell.load.applied(options), cell, outputs, dataset, out)
            results.put((cell, run_info, None, time.monotonic() - began))
        except Exception as error:  # noqa: BLE001 - as in cells.py
            results.put((cell, None, f"{type(error).__name__}: {error}", 0.0))


def play(
    options: RunOptions, cell: Cell, outputs: ModelOutputs, dataset: datasets.Dataset, out: Path
) -> RunInfo:
    """One cell, into its folder."""
    run_id = f"{out.name}.{cell.name}"
    plan = simulated_records.workload(
        dataclasses.replace(options, repeats=1), dataset, outputs.model.id, run_id
    )
    requests = list(islice(plan.requests(0, plan.planned_with_warmup), plan.planned_with_warmup))
    longest = max(options.budgets)
    prepared = [outputs.prepare(request.body["messages"], request.budget, longest) for request in requests]
    due_s: Sequence[float] = ()
    if options.rate:
        due_s = arrivals(
            options.arrival, [RateStep(options.rate)], seed=options.seed, requests=len(requests)
        ).times_s
    simulated = simulate_requests(
        cell.config,
        outputs.model,
        prepared,
        gpu=options.gpu or "h200",
        concurrency=None if due_s else options.concurrency,
        due_s=due_s,
    )
    made = []
    for request, wanted, response in zip(requests, prepared, simulated.responses, strict=True):
        reply = SimulatedReply(
            response.sent_s,
            response.times_s,
            response.tokens,
            wanted.stopped,
            len(wanted.output.prompt),
            _thinking_end(wanted),
            outputs.has_reasoning_parser,
        )
        for record in simulated_records.with_derived(
            request, reply, run_id, options, plan.planned_with_warmup
        ):
            record.reasoning, record.text = outputs.excerpt(wanted.output, record.completion_tokens or 0)
            made.append(record)
    said = simulated.server_info | {"load": _load(options, requests, due_s), "energy": _energy(simulated)}
    return simulated_records.write(
        out / cell.name, made, simulated_records.run_info(options, said, dataset, run_id), dataset
    )


def _thinking_end(wanted: PreparedRequest) -> int | None:
    end = wanted.output.thinking_end
    return end if end is not None and end <= wanted.tokens else None


def _load(options: RunOptions, requests: list[Request], due_s: Sequence[float]) -> dict[str, object]:
    facts: dict[str, object] = {
        "requests": len(requests) - options.warmup,
        "warmup": options.warmup,
        "repeats": 1,
    }
    if due_s:
        return facts | {"kind": "open", "rate": options.rate, "arrival": options.arrival}
    return facts | {"kind": "closed", "concurrency": options.concurrency}


def _energy(simulated: SimulatedRun) -> dict[str, float]:
    return {"joules": simulated.energy_j, "mean_w": simulated.energy_j / simulated.duration_s}
