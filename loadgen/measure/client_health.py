"""Measures the client process itself: CPU, event-loop lag, garbage collection, open files and memory.

The lag of the event loop is how late a timer runs, because the loop handles every socket equally late. uvloop's timers count
whole milliseconds, so a lag below 1 ms means nothing. The measurement uses less than 0.1 % of a core.

This module does not know which values are too high (see `verdict`) or what the process is busy with.
"""

import asyncio
import gc
import os
import resource
from array import array
from collections.abc import Callable, Sequence
from time import perf_counter_ns, process_time_ns
from typing import Any

import msgspec

PERIOD_S = 0.02
"""With 50 samples per second, a lag of 5 ms in 1 % of the time shows in p99 after a few seconds."""
GENERATIONS = (2_000, 5, 1_000_000)
"""Only young objects are searched for garbage. A full collection stopped the event loop for up to 34 ms and would find nothing,
because a finished request leaves no reference cycle (`tests/loadgen/client/test_client.py` checks this)."""
FILES_EVERY = 50
"""Open files are counted once per this number of samples, which is once per second."""


class HealthReport(msgspec.Struct, kw_only=True):
    """The health of one process, or after `merge` of several workers. Times are real seconds, not model seconds."""

    wall_s: float
    cpu_s: float
    cpu_share: float
    """Share of one core; of several workers, that of the busiest."""
    loop_lags_s: list[float]
    gc_pauses: int
    gc_pause_max_s: float
    gc_pause_total_s: float
    open_files_max: int
    open_files_limit: int
    rss_max_mb: float
    workers: int = 1

    def summary(self) -> dict[str, Any]:
        """Return the report for `run.json`, with percentiles in place of the single lags."""
        fields = msgspec.structs.asdict(self)
        lags = sorted(fields.pop("loop_lags_s"))
        for name, share in (("p50", 0.5), ("p99", 0.99), ("max", 1.0)):
            fields[f"loop_lag_{name}_s"] = lags[min(int(share * len(lags)), len(lags) - 1)] if lags else None
        return fields


WORST: dict[str, Callable[[list[Any]], Any]] = {
    **dict.fromkeys(("wall_s", "cpu_share", "gc_pause_max_s", "open_files_max"), max),
    "open_files_limit": min,
}
"""The fields of which a sum means nothing."""


def merge(reports: Sequence[HealthReport]) -> HealthReport:
    """Return one report for all workers of a run: sums, the worst value where a sum means nothing, and every lag."""
    lags_s = [lag for report in reports for lag in report.loop_lags_s]
    columns = {name: [getattr(report, name) for report in reports] for name in HealthReport.__struct_fields__}
    merged = {name: WORST.get(name, sum)(values) for name, values in columns.items() if name != "loop_lags_s"}
    return HealthReport(**merged, loop_lags_s=lags_s)


class ClientHealth:
    """Measures this process from `start` to `stop`. It needs a running event loop."""

    report: HealthReport
    """Known from `stop` on."""

    def __init__(self, on_lag: Callable[[float], None] | None = None) -> None:
        self._on_lag = on_lag
        self._lags_s = array("d")
        self._timer: asyncio.TimerHandle | None = None
        self._due_ns = 0
        self._started = (0, 0)
        self._gc_started_ns = 0
        self._gc_pauses_ns = array("q")
        self._files_max = 0
        self._generations = gc.get_threshold()

    def start(self) -> None:
        """Start measuring. From here on, garbage collections leave out the objects that exist already."""
        gc.collect()
        gc.freeze()
        self._generations = gc.get_threshold()
        gc.set_threshold(*GENERATIONS)
        gc.callbacks.append(self._collected)
        self._started = (perf_counter_ns(), process_time_ns())
        self._schedule()

    def stop(self) -> HealthReport:
        """Stop measuring and return the report."""
        if self._timer is not None:
            self._timer.cancel()
        gc.callbacks.remove(self._collected)
        gc.set_threshold(*self._generations)
        gc.unfreeze()
        self._count_files()
        wall_s = (perf_counter_ns() - self._started[0]) / 1e9
        cpu_s = (process_time_ns() - self._started[1]) / 1e9
        self.report = HealthReport(
            wall_s=wall_s,
            cpu_s=cpu_s,
            cpu_share=cpu_s / wall_s,
            loop_lags_s=list(self._lags_s),
            gc_pauses=len(self._gc_pauses_ns),
            gc_pause_max_s=max(self._gc_pauses_ns, default=0) / 1e9,
            gc_pause_total_s=sum(self._gc_pauses_ns) / 1e9,
            open_files_max=self._files_max,
            open_files_limit=resource.getrlimit(resource.RLIMIT_NOFILE)[0],
            rss_max_mb=resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024,
        )
        return self.report

    def _sample(self) -> None:
        lag_s = max(0, perf_counter_ns() - self._due_ns) / 1e9
        self._lags_s.append(lag_s)
        if self._on_lag is not None:
            self._on_lag(lag_s)
        if len(self._lags_s) % FILES_EVERY == 1:
            self._count_files()
        self._schedule()

    def _schedule(self) -> None:
        self._due_ns = perf_counter_ns() + round(PERIOD_S * 1e9)
        self._timer = asyncio.get_running_loop().call_later(PERIOD_S, self._sample)

    def _count_files(self) -> None:
        self._files_max = max(self._files_max, len(os.listdir("/proc/self/fd")))  # noqa: PTH208  Only the number of names is needed.

    def _collected(self, phase: str, _info: dict[str, int]) -> None:
        if phase == "start":
            self._gc_started_ns = perf_counter_ns()
        else:
            self._gc_pauses_ns.append(perf_counter_ns() - self._gc_started_ns)
