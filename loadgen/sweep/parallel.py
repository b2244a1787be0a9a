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
from functools import partial
from itertools import combinations
from pathlib import Path
from typing import Any

from loadgen.errors import UsageError
from loadgen.options import RunOptions
from loadgen.record import RunInfo
from loadgen.sweep import pool
from loadgen.sweep.residents import Resident, Residents
from server.launch.spec import LaunchFailedError

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
        with pool.process() as worker:
            return worker.submit(execute, *args).result()

    return run


def servers_at_once(
    execute: Execute, options: RunOptions, residents: Residents, wanted: int, report: Callable[[str], None]
) -> int:
    """How many of the servers may be loaded at the same time: `wanted`, or 1 if two of them slow each other down.

    Also 1 where this cannot be measured, for example because a server has ended.
    """
    pairs = combinations(residents.members, 2)
    pair = next((p for p in pairs if not set(p[0].server.gpus) & set(p[1].server.gpus)), None)
    if pair is None:
        return 1
    try:
        alone, together = _tpots_s(execute, options, residents, pair)
        cost = max(after / before - 1 for before, after in zip(alone, together, strict=True))
    except (UsageError, LaunchFailedError) as error:
        report(f"sweep: the interference check failed: {error}: running one at a time")
        return 1
    shown = ", together ".join(", ".join(f"{s * 1e3:.2f} ms" for s in times) for times in (alone, together))
    report(f"sweep: interference check: time per token alone {shown}: {cost:+.1%}")
    if cost > LIMIT:
        report(f"sweep: this is above the limit of {LIMIT:.0%}: running one at a time")
    return 1 if cost > LIMIT else wanted


def _tpots_s(
    execute: Execute, options: RunOptions, residents: Residents, pair: tuple[Resident, Resident]
) -> tuple[list[float], list[float]]:
    """The times per token of two servers that are loaded one after the other, and together."""
    with tempfile.TemporaryDirectory() as temporary, ThreadPoolExecutor(2) as threads:

        def tpot_s(what: str, port: int) -> float:
            folder = Path(temporary) / f"{what}-{port}"
            target = f"http://127.0.0.1:{port}/v1"
            run = execute(dataclasses.replace(options, target=target, out=folder, **PROBE_OPTIONS))
            if (mean_s := run.summary.get("tpot_s", {}).get("mean")) is None:
                raise UsageError("no time per token was measured")
            return float(mean_s)

        try:
            ports = [residents.wake(member, "interference")[0].port for member in pair]
            alone = [tpot_s("alone", port) for port in ports]
            return alone, list(threads.map(partial(tpot_s, "both"), ports))
        finally:
            for member in pair:
                residents.rest(member)
