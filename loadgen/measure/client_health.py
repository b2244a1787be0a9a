"""Is the generator itself fit? CPU, event-loop lag, garbage collection, open files, memory of this process.

Rules: costs less than a thousandth of a core. A late timer is the measure of lag: what was late for it was late for every
socket. uvloop's timers count whole ms, so a lag below 1 ms is noise.

Does not know: what is too much (`verdict` does), what the process is busy with.
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
"""50 looks a second: a lag of 5 ms in 1 % of the time shows in p99 after a few seconds."""
GENERATIONS = (2_000, 5, 1_000_000)
"""Garbage is looked for among young objects only. A look through the old ones, whole streams among them, stopped every
socket for up to 34 ms, and finds nothing: a request that has ended leaves no knot (`tests/loadgen/client/test_client.py`)."""
FILES_EVERY = 50
"""Open files and memory are counted once a second."""


class HealthReport(msgspec.Struct, kw_only=True):
    """What one process was like; `merge` joins several workers'. Lags are real seconds, not model ones."""

    wall_s: float
    cpu_s: float
    cpu_share: float
    """Of one core; of several workers the busiest."""
    loop_lags_s: list[float]
    gc_pauses: int
    gc_pause_max_s: float
    gc_pause_total_s: float
    open_files_max: int
    open_files_limit: int
    rss_max_mb: float
    workers: int = 1

    def summary(self) -> dict[str, Any]:
        """For `run.json`: the lags as percentiles, the rest as it is."""
        fields = msgspec.structs.asdict(self)
        lags = sorted(fields.pop("loop_lags_s"))
        for name, share in (("p50", 0.5), ("p99", 0.99), ("max", 1.0)):
            fields[f"loop_lag_{name}_s"] = lags[min(int(share * len(lags)), len(lags) - 1)] if lags else None
        return fields


def merge(reports: Sequence[HealthReport]) -> HealthReport:
    """One report over the workers of a run: the worst of each, the sums of what adds up, every lag."""
    return HealthReport(
        wall_s=max(report.wall_s for report in reports),
        cpu_s=sum(report.cpu_s for report in reports),
        cpu_share=max(report.cpu_share for report in reports),
        loop_lags_s=[lag for report in reports for lag in report.loop_lags_s],
        gc_pauses=sum(report.gc_pauses for report in reports),
        gc_pause_max_s=max(report.gc_pause_max_s for report in reports),
        gc_pause_total_s=sum(report.gc_pause_total_s for report in reports),
        open_files_max=max(report.open_files_max for report in reports),
        open_files_limit=min(report.open_files_limit for report in reports),
        rss_max_mb=sum(report.rss_max_mb for report in reports),
        workers=sum(report.workers for report in reports),
    )


class ClientHealth:
    """Watches this process from `start` to `stop`."""

    def __init__(self, on_lag: Callable[[float], None] | None = None) -> None:
        self._on_lag = on_lag
        self._lags_s = array("d")
        self._timer: asyncio.TimerHandle | None = None
        self._due_ns = 0
        self._started = (0, 0)
        self._gc_started_ns = 0
        self._gc_pauses_ns: list[int] = [0, 0, 0]
        """Number, longest, sum."""
        self._files_max = 0
        self._generations = gc.get_threshold()

    def start(self) -> None:
        """Begin. What the process holds already is left out of garbage collections from here on."""
        gc.collect()
        gc.freeze()
        self._generations = gc.get_threshold()
        gc.set_threshold(*GENERATIONS)
        gc.callbacks.append(self._collected)
        self._started = (perf_counter_ns(), process_time_ns())
        self._look_again()

    def stop(self) -> HealthReport:
        """End, and say how it was."""
        if self._timer is not None:
            self._timer.cancel()
        gc.callbacks.remove(self._collected)
        gc.set_threshold(*self._generations)
        gc.unfreeze()
        self._count_files()
        wall_s = (perf_counter_ns() - self._started[0]) / 1e9
        cpu_s = (process_time_ns() - self._started[1]) / 1e9
        return HealthReport(
            wall_s=wall_s,
            cpu_s=cpu_s,
            cpu_share=cpu_s / wall_s,
            loop_lags_s=list(self._lags_s),
            gc_pauses=self._gc_pauses_ns[0],
            gc_pause_max_s=self._gc_pauses_ns[1] / 1e9,
            gc_pause_total_s=self._gc_pauses_ns[2] / 1e9,
            open_files_max=self._files_max,
            open_files_limit=resource.getrlimit(resource.RLIMIT_NOFILE)[0],
            rss_max_mb=resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024,
        )

    def _look(self) -> None:
        lag_s = max(0, perf_counter_ns() - self._due_ns) / 1e9
        self._lags_s.append(lag_s)
        if self._on_lag is not None:
            self._on_lag(lag_s)
        if len(self._lags_s) % FILES_EVERY == 1:
            self._count_files()
        self._look_again()

    def _look_again(self) -> None:
        self._due_ns = perf_counter_ns() + round(PERIOD_S * 1e9)
        self._timer = asyncio.get_running_loop().call_later(PERIOD_S, self._look)

    def _count_files(self) -> None:
        self._files_max = max(self._files_max, len(os.listdir("/proc/self/fd")))  # noqa: PTH208 names, not paths

    def _collected(self, phase: str, _info: dict[str, int]) -> None:
        if phase == "start":
            self._gc_started_ns = perf_counter_ns()
            return
        pause_ns = perf_counter_ns() - self._gc_started_ns
        number, longest, total = self._gc_pauses_ns
        self._gc_pauses_ns = [number + 1, max(longest, pause_ns), total + pause_ns]
