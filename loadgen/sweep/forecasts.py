"""Prints the plan of a sweep before it starts: each cell with its expected requests, tokens and time, and each group of servers.

Tokens and times come from a dozen texts and the emulator's step model. This module does not know how a cell runs.
"""

import argparse
from collections.abc import Callable, Sequence

from loadgen.measure.steady_window import enough_requests
from loadgen.options import RunOptions
from loadgen.plan import datasets
from loadgen.plan.budgets import sent_budgets
from loadgen.sweep.groups import Group, Machine
from loadgen.sweep.plan import EMULATED, Cell
from loadgen.terminal import duration_text
from server.emulator.forecast import Forecast, forecast

CELL_S = 2.0
"""The time of a cell beside its requests: questions to the server, closing the run, and writing its files."""
START_S = 150.0
"""The time in which a group of real servers starts. Eleven servers on two H200 took 150 s, twelve on four took 191 s."""


def expected(cell: Cell, options: RunOptions, gpu: str, engine_version: str) -> Forecast | None:
    """What the cell will need, with its warm-up; None if its model, speculation method or GPU is not emulated."""
    dataset = datasets.load(options)
    options = cell.applied(options)
    found = forecast(
        cell.config,
        cell.model,
        datasets.emulator_file(options),
        len(dataset.problems),
        sent_budgets(options) * options.samples,
        gpu=gpu,
        engine_version=engine_version,
        overrides=cell.overrides,
        environment=cell.environment,
        concurrency=options.concurrency,
        rate=options.rate,
        whole_budget=bool(options.extra_body.get("ignore_eos")),
    )
    if found is None:
        return None
    requests = options.requests or found.requests
    return found.scaled((requests + options.warmup) / found.requests)


def print_cells(
    cells: Sequence[Cell], options: RunOptions, forecasts: dict[str, Forecast | None], report: Callable[[str], None]
) -> None:
    """One line for each cell, and one for each load that is too short for a steady window."""
    advice: dict[str, str] = {}
    problems = len(datasets.load(options).problems)
    for cell in cells:
        if (found := forecasts[cell.name]) is None:
            report(f"  {cell.name}: no forecast (its model, speculation method or GPU is not emulated)")
            continue
        report(
            f"  {cell.name}: {found.requests} requests, {found.tokens / 1e6:.2f} M tokens, {duration_text(found.seconds)}"
        )
        if too_few := _too_few(cell.applied(options), problems):
            advice.setdefault(too_few, cell.load.name)
    for too_few, load in advice.items():
        report(f"  {load}: {too_few}")


def print_groups(groups: Sequence[Group], machine: Machine, report: Callable[[str], None]) -> None:
    """One line for each group that has several servers."""
    for number, group in enumerate(groups, 1):
        if len(group.servers) > 1:
            used = {gpu: machine.memory_gib - free for gpu, free in group.free_gib.items()}
            where = ", ".join(f"GPU {gpu} {gib:.0f} of {machine.memory_gib:.0f} GiB" for gpu, gib in used.items())
            names = ", ".join(server.name for server in group.servers)
            report(f"  group {number}: {len(group.servers)} servers ({names}): {where}")


def total_line(forecasts: Sequence[Forecast | None], groups: int, args: argparse.Namespace) -> str:
    """The line with the sums."""
    known = [found for found in forecasts if found is not None]
    seconds = sum(found.seconds for found in known)
    line = f"sweep: about {sum(found.tokens for found in known) / 1e6:.1f} M tokens, {duration_text(seconds)} of server time without start-ups"  # fmt: skip
    if args.speed:
        line += f", {duration_text(seconds / args.speed)} at --speed {args.speed:g}"
    if args.backend not in EMULATED:
        whole_s = seconds + CELL_S * len(forecasts) + START_S * groups
        line += f"; with {groups} start-ups of {duration_text(START_S)} about {duration_text(whole_s)}"
    return line + (f"; deadline {duration_text(args.deadline)}" if args.deadline else "")


def _too_few(options: RunOptions, problems: int) -> str | None:
    """A proposal where a closed loop is too short for a steady window; None where it is long enough or ends by time.

    With --one-pass, the steady window is that of the largest budget.
    """
    if options.duration_s or options.concurrency is None:
        return None
    planned = problems * options.samples * (1 if options.one_pass else len(options.budgets))
    sent, enough = options.requests or planned, enough_requests(options.concurrency)
    if sent >= enough:
        return None
    more = f"--problems {enough}" if options.one_pass else f"--requests {enough}"
    return (
        f"{sent} requests are too few for a steady window with {options.concurrency} in flight, so its cost, energy and "
        f"throughput would contain the beginning and the end of the run: use {more} or more"
    )
