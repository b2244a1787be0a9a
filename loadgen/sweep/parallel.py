"""Loads servers on different GPUs at the same time. Each cell's client runs in a process of its own.

This is off by default, because servers on one machine can slow each other down. Before the cells of a group, two of its
servers are measured alone and together. If the time per token of either increases by more than LIMIT, the servers of the group
are loaded one after the other, and the sweep reports this.

This module does not know how a cell runs (see cells.py).
"""

import dataclasses
import tempfile
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from itertools import combinations
from pathlib import Path
from typing import Any

from loadgen.options import RunOptions
from loadgen.record import RunInfo
from loadgen.sweep import pool
from loadgen.sweep.residents import Resident, Residents
from server.launch import RunningServer

LIMIT = 0.03
"""The largest accepted increase of the time per token. Repeats of one cell differ by 1 to 2 % on an idle machine."""
PROBE_OPTIONS: dict[str, Any] = {
    "problems": 8,
    "budgets": (256,),
    "concurrency": 4,
    "rate": None,
    "requests": None,
    "one_pass": False,
    "samples": 1,
    "repeats": 1,
    "metrics_port": -1,
    "progress": "none",
}
"""The options of the short run that measures the time per token of a server."""
Execute = Callable[..., RunInfo]
"""Executes a run with its RunOptions, or a search where the load of a cell that is given too is one."""


def in_own_process(execute: Execute) -> Execute:
    """A function that executes a run in a process of its own, so that several runs do not share an interpreter."""

    def run(*args: Any) -> RunInfo:
        with pool.processes(1) as worker:
            return worker.submit(execute, *args).result()

    return run


def servers_at_once(
    execute: Execute, options: RunOptions, residents: Residents, wanted: int, report: Callable[[str], None]
) -> int:
    """How many of the servers may be loaded at the same time: `wanted`, or 1 if two of them slow each other down."""
    pairs = combinations(residents.members, 2)
    pair = next((p for p in pairs if not set(p[0].server.gpus) & set(p[1].server.gpus)), None)
    if pair is None:
        return 1
    cost = _interference(execute, options, residents, pair, report)
    if cost <= LIMIT:
        return wanted
    report(f"sweep: running servers at once costs {cost:.1%} of the time per token (limit {LIMIT:.0%}): running one at a time")  # fmt: skip
    return 1


def _interference(
    execute: Execute,
    options: RunOptions,
    residents: Residents,
    pair: tuple[Resident, Resident],
    report: Callable[[str], None],
) -> float:
    """The larger relative increase of the time per token of two servers that are loaded together."""
    with tempfile.TemporaryDirectory() as temporary, ThreadPoolExecutor(2) as threads:
        servers = [residents.wake(member, "interference")[0] for member in pair]

        def tpot_s(what: str, server: RunningServer) -> float:
            folder = Path(temporary) / f"{what}-{server.port}"
            target = f"http://127.0.0.1:{server.port}/v1"
            run = execute(dataclasses.replace(options, target=target, out=folder, **PROBE_OPTIONS))
            return float(run.summary["tpot_s"]["mean"])

        alone = [tpot_s("alone", server) for server in servers]
        together = list(threads.map(lambda server: tpot_s("both", server), servers))
        for member in pair:
            residents.rest(member)
    cost = max(after / before - 1 for before, after in zip(alone, together, strict=True))
    shown = ", together ".join(", ".join(f"{s * 1e3:.2f} ms" for s in times) for times in (alone, together))
    report(f"sweep: interference check: time per token alone {shown}: {cost:+.1%}")
    return cost
