"""Scrapes GPU telemetry during a run into gpu.csv, and computes energy from it.

The metrics are read under the DCGM_FI_* names that dcgm-exporter, the NVML exporter of this suite and the emulator use. A
reading that fails is a gap, and the number of gaps is printed at the end.

This module does not know what energy costs.
"""

import asyncio
import re
from collections import defaultdict
from collections.abc import Callable, Iterable, Iterator
from contextlib import suppress
from dataclasses import dataclass, field
from itertools import pairwise
from pathlib import Path
from typing import Any

from prometheus_client.samples import Sample

from loadgen.target.control_api import ControlApi
from loadgen.target.server_metrics import parse
from loadgen.terminal import printable, say

DCGM = {
    "DCGM_FI_DEV_POWER_USAGE": ("power_w", 1.0),
    "DCGM_FI_DEV_TOTAL_ENERGY_CONSUMPTION": ("energy_j", 1e-3),  # mJ since boot
    "DCGM_FI_DEV_GPU_UTIL": ("util", 1.0),
    "DCGM_FI_DEV_FB_USED": ("memory_mib", 1.0),
    "DCGM_FI_DEV_SM_CLOCK": ("sm_clock_mhz", 1.0),
    "DCGM_FI_PROF_DRAM_ACTIVE": ("dram_active", 1.0),
    "DCGM_FI_PROF_SM_ACTIVE": ("sm_active", 1.0),
}
GPU_COLUMNS = ("t_s", "gpu", *(column for column, _ in DCGM.values()))
GPU_INDEX = r"[\w.:-]{1,64}"
"""Of another form would be a text that forges cells of gpu.csv."""
BUSY_UTIL = 50.0
"""In percent. Below this a GPU may lower its clocks although nothing is wrong."""


def _samples(text: str) -> Iterator[Sample]:
    """Yield the samples of GPUs."""
    for sample in parse(text, tuple(DCGM)):
        if sample.name in DCGM and re.fullmatch(GPU_INDEX, sample.labels.get("gpu", ""), re.ASCII):
            yield sample


def gpu_rows(text: str) -> dict[str, dict[str, float]]:
    """Return the values of one scrape: GPU index → column → value."""
    rows: dict[str, dict[str, float]] = defaultdict(dict)
    for sample in _samples(text):
        column, factor = DCGM[sample.name]
        rows[sample.labels["gpu"]][column] = sample.value * factor
    return dict(rows)


def gpu_inventory(text: str) -> list[dict[str, Any]]:
    """Return one row for each GPU with its index, UUID and name."""
    labels = {sample.labels["gpu"]: sample.labels for sample in _samples(text)}
    return [
        {"index": gpu, "uuid": _plain(labels[gpu].get("UUID")), "name": _plain(labels[gpu].get("modelName"))}
        for gpu in sorted(labels)
    ]


def _plain(label: str | None) -> str | None:
    return None if label is None else printable(label, 200)


@dataclass
class GpuLog:
    """Scrapes telemetry into gpu.csv until it is stopped. Without a URL it does nothing."""

    api: ControlApi
    url: str | None
    path: Path
    now_s: Callable[[], float]
    every_s: float
    inventory: list[dict[str, Any]] = field(default_factory=list)
    energy: list[tuple[float, float]] = field(default_factory=list)
    """(t_s, joules of all GPUs since boot) of each scrape."""
    clocks_mhz: list[float] = field(default_factory=list)
    """SM clock of every busy GPU in each scrape."""
    _scrapes: int = 0
    _gaps: list[str] = field(default_factory=list)
    """The reason of each scrape that failed."""
    _stop: asyncio.Event = field(default_factory=asyncio.Event)
    _task: asyncio.Task[None] | None = None

    def start(self) -> None:
        """Start scraping."""
        if self.url is None:
            return
        if not self.path.exists():
            self.path.write_text(",".join(GPU_COLUMNS) + "\n")
        self._task = asyncio.create_task(self._loop(self.url))

    async def stop(self) -> None:
        """Scrape once more, then end."""
        self._stop.set()
        if self._task is not None:
            await self._task
        if self._gaps:
            say(
                f"{len(self._gaps)} of {self._scrapes} readings of {self.url} failed (the last: {self._gaps[-1]}): "
                "the energy between the others is interpolated"
            )

    async def _loop(self, url: str) -> None:
        await self._scrape(url)
        while not self._stop.is_set():
            with suppress(TimeoutError):
                await asyncio.wait_for(self._stop.wait(), self.every_s)
            await self._scrape(url)

    async def _scrape(self, url: str) -> None:
        t_s = self.now_s()
        response = await self.api.fetch(url, every_time=True)
        self._scrapes += 1
        rows = gpu_rows(response.text())
        if not rows:
            no_rows = "no metrics of a GPU" if response.status == 200 else f"HTTP {response.status}"
            self._gaps.append(response.error or no_rows)
            return
        self.inventory = self.inventory or gpu_inventory(response.text())
        if all("energy_j" in row for row in rows.values()):
            self.energy.append((t_s, sum(row["energy_j"] for row in rows.values())))
        self.clocks_mhz += [
            row["sm_clock_mhz"] for row in rows.values() if "sm_clock_mhz" in row and row.get("util", 0) > BUSY_UTIL
        ]
        try:
            with self.path.open("a") as file:
                file.writelines(csv_lines(t_s, rows))
        except OSError:
            self._stop.set()  # the disk is full; the record writer reports this


def csv_lines(t_s: float, rows: dict[str, dict[str, float]]) -> Iterator[str]:
    """Yield the lines of gpu.csv for one scrape; a column that the exporter lacks stays empty."""
    for gpu in sorted(rows):
        values = (f"{rows[gpu][name]:.10g}" if name in rows[gpu] else "" for name in GPU_COLUMNS[2:])
        yield ",".join((f"{t_s:.6f}", gpu, *values)) + "\n"


def energy_between(samples: Iterable[tuple[float, float]], since_s: float, until_s: float) -> dict[str, float] | None:
    """Return joules and mean watts between two times, or None where the samples do not cover them.

    `samples` are (time, joules since boot). Between two samples the energy is interpolated linearly.
    """
    points = sorted(samples)
    if len(points) < 2 or until_s <= since_s:
        return None
    begin_s, end_s = max(since_s, points[0][0]), min(until_s, points[-1][0])
    if end_s <= begin_s:
        return None
    joules = _at(points, end_s) - _at(points, begin_s)
    return {"joules": joules * (until_s - since_s) / (end_s - begin_s), "mean_w": joules / (end_s - begin_s)}


def _at(points: list[tuple[float, float]], t_s: float) -> float:
    for (t0, v0), (t1, v1) in pairwise(points):
        if t0 <= t_s <= t1:
            return v0 + (v1 - v0) * ((t_s - t0) / (t1 - t0) if t1 > t0 else 0.0)
    return points[-1][1]
