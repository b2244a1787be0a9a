"""Runs several servers at the same time, where there are enough GPUs. Each cell's client runs in a process of its own.

This is off by default, because servers on one machine can slow each other down. Before the sweep, two of its servers are
measured alone and together. If the time per token of either increases by more than LIMIT, the sweep runs its servers one after
the other and reports this. A cell whose GPUs are in use waits until another cell has ended.

This module does not know how a cell runs (see cells.py).
"""

import dataclasses
import tempfile
import time
from collections.abc import Iterator
from concurrent.futures import Future, ProcessPoolExecutor, ThreadPoolExecutor, as_completed
from contextlib import ExitStack
from pathlib import Path
from typing import Any

from loadgen.record import RunInfo
from loadgen.sweep.cells import CellRunner, report
from loadgen.sweep.plan import Cell, CellResult, by_server
from loadgen.sweep.pool import processes
from server.launch import Launcher, LaunchFailedError, RunningServer

LIMIT = 0.03
"""The largest accepted increase of the time per token. Repeats of one cell differ by 1 to 2 % on an idle machine."""
PROBE_OPTIONS: dict[str, Any] = {
    "problems": 8,
    "budgets": (256,),
    "concurrency": 4,
    "rate": None,
    "one_pass": False,
    "samples": 1,
}
"""The options of the short run that measures the time per token of a server."""
RETRY_S = 5.0
"""The time between two attempts to start a server whose GPUs are in use."""


def run(runner: CellRunner, order: list[Cell], servers: int) -> Iterator[CellResult]:
    """Runs all cells, on at most `servers` servers at once, and returns them in the order in which their servers end."""
    groups = [group for _, group in by_server(order)]
    with processes(servers) as pool, Launcher(report) as launcher:
        cost = interference(runner, groups[:2], pool, launcher) if len(groups) > 1 else 0.0
        if cost > LIMIT:
            report(
                f"sweep: running servers at once costs {cost:.1%} of the time per token (limit {LIMIT:.0%}): running one at a time"
            )
            servers = 1
        in_pool = dataclasses.replace(
            runner, execute=lambda options: pool.submit(runner.execute, options).result()
        )
        with ThreadPoolExecutor(servers) as threads:
            futures = [threads.submit(_run_group, in_pool, launcher, group) for group in groups]
            try:
                for future in as_completed(futures):
                    yield from future.result()
            except BaseException:  # Ctrl-C: groups that have not started are canceled
                threads.shutdown(wait=False, cancel_futures=True)
                raise


def _run_group(runner: CellRunner, launcher: Launcher, group: list[Cell]) -> list[CellResult]:
    while True:
        results = list(runner.run_group(launcher, group))
        if not all(failure and "GPUs wanted" in failure for _, failure in results):
            return results
        time.sleep(RETRY_S)


def interference(
    runner: CellRunner, groups: list[list[Cell]], pool: ProcessPoolExecutor, launcher: Launcher
) -> float:
    """The larger relative increase of the time per token of two servers that run together; 0 if they cannot run together."""
    with ExitStack() as stack:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory()))
        try:
            pair = [stack.enter_context(launcher.launched(runner.server_spec(group[0]))) for group in groups]
        except LaunchFailedError as error:
            report(f"sweep: no interference check, because two servers did not start together: {error}")
            return 0.0
        alone = [
            _tpot_s(_probe(runner, server, folder / f"alone-{n}", pool)) for n, server in enumerate(pair)
        ]
        futures = [_probe(runner, server, folder / f"both-{n}", pool) for n, server in enumerate(pair)]
        together = [_tpot_s(future) for future in futures]
    cost = max(after / before - 1 for before, after in zip(alone, together, strict=True))
    report(
        f"sweep: interference check: time per token alone {_ms(alone)}, together {_ms(together)}: {cost:+.1%}"
    )
    return cost


def _probe(
    runner: CellRunner, server: RunningServer, folder: Path, pool: ProcessPoolExecutor
) -> "Future[RunInfo]":
    target = f"http://127.0.0.1:{server.port}/v1"
    options = dataclasses.replace(
        runner.options,
        target=target,
        out=folder,
        repeats=1,
        metrics_port=-1,
        progress="none",
        **PROBE_OPTIONS,
    )
    return pool.submit(runner.execute, options)


def _tpot_s(future: "Future[RunInfo]") -> float:
    return float(future.result().summary["tpot_s"]["mean"])


def _ms(values: list[float]) -> str:
    return ", ".join(f"{value * 1e3:.2f} ms" for value in values)
