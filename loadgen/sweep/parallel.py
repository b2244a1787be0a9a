"""Several servers at once, where GPUs allow: each cell's client in a process of its own.

Off unless asked for, and given up where it falsifies: before the sweep, two of its servers are probed alone and together;
if together costs either more than LIMIT of its time per token, the sweep runs one by one and says so. Rules: a cell whose
GPUs are taken waits for another to end.

Does not know: what a cell is made of (cells).
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
from loadgen.sweep.cells import Cells, execute, say
from loadgen.sweep.plan import Cell, by_server
from loadgen.sweep.pool import processes
from server.launch import Launcher, LaunchFailedError, RunningServer

LIMIT = 0.03
"""Of the time per token: what a neighbour may cost. Repeats of one cell differ by 1 to 2 % on a quiet machine."""
PROBE: dict[str, Any] = {
    "problems": 8,
    "budgets": (256,),
    "concurrency": 4,
    "rate": None,
    "one_pass": False,
    "samples": 1,
}
RETRY_S = 5.0


def run(cells: Cells, order: list[Cell], servers: int) -> Iterator[tuple[Cell, str | None]]:
    """Each cell with why it failed, or None, in the order they end."""
    groups = [group for _, group in by_server(order)]
    with processes(servers) as pool, Launcher(say) as launcher:
        cost = interference(cells, groups[:2], pool, launcher) if len(groups) > 1 else 0.0
        if cost > LIMIT:
            say(
                f"sweep: side by side costs {cost:.1%} of the time per token (limit {LIMIT:.0%}): running one by one"
            )
            servers = 1
        away = dataclasses.replace(cells, execute=lambda options: pool.submit(execute, options).result())
        with ThreadPoolExecutor(servers) as threads:
            futures = [threads.submit(_group, away, launcher, group) for group in groups]
            try:
                for future in as_completed(futures):
                    yield from future.result()
            except BaseException:  # Ctrl-C: what has not begun does not begin
                threads.shutdown(wait=False, cancel_futures=True)
                raise


def _group(cells: Cells, launcher: Launcher, group: list[Cell]) -> list[tuple[Cell, str | None]]:
    while True:
        results = list(cells.group(launcher, group))
        if not all(failure and "GPUs wanted" in failure for _, failure in results):
            return results
        time.sleep(RETRY_S)


def interference(
    cells: Cells, groups: list[list[Cell]], pool: ProcessPoolExecutor, launcher: Launcher
) -> float:
    """The share by which the slower of two servers is slowed by the other; 0 where they cannot run at once anyway."""
    with ExitStack() as stack:
        scratch = Path(stack.enter_context(tempfile.TemporaryDirectory()))
        try:
            pair = [stack.enter_context(launcher.launched(cells.spec(group[0]))) for group in groups]
        except LaunchFailedError:
            return 0.0
        alone = [
            _tpot_s(_probe(cells, server, scratch / f"alone-{n}", pool)) for n, server in enumerate(pair)
        ]
        both = [_probe(cells, server, scratch / f"both-{n}", pool) for n, server in enumerate(pair)]
        together = [_tpot_s(future) for future in both]
    cost = max(after / before - 1 for before, after in zip(alone, together, strict=True))
    say(
        f"sweep: interference check: time per token alone {_ms(alone)}, side by side {_ms(together)}: {cost:+.1%}"
    )
    return cost


def _probe(cells: Cells, server: RunningServer, folder: Path, pool: ProcessPoolExecutor) -> "Future[RunInfo]":
    target = f"http://127.0.0.1:{server.port}/v1"
    options = dataclasses.replace(
        cells.options, target=target, out=folder, repeats=1, metrics_port=-1, progress="none", **PROBE
    )
    return pool.submit(execute, options)


def _tpot_s(future: "Future[RunInfo]") -> float:
    return float(future.result().summary["tpot_s"]["mean"])


def _ms(values: list[float]) -> str:
    return ", ".join(f"{value * 1e3:.2f} ms" for value in values)
