"""Estimates the offset between the clocks of several hosts, and checks whether it changes during a run.

Rules: the time of a run is the monotonic clock of its master (docs/decisions/0076). A probe proves a lower and an upper bound
of the offset, however slow the network was in either direction, and only what such bounds prove is claimed. The code is pure,
except for `boot_id`.

This module does not know how a probe is sent.
"""

import platform
from collections.abc import Mapping, Sequence
from pathlib import Path

import msgspec


class ClockProbe(msgspec.Struct, array_like=True, tag="probe"):
    """A worker asked the master for the run's time: the master read it between two readings of the worker's clock."""

    sent_s: float
    master_s: float
    received_s: float

    @property
    def bounds_s(self) -> tuple[float, float]:
        """The start of the run is between these two times of the worker's clock."""
        return self.sent_s - self.master_s, self.received_s - self.master_s


def estimate_start_s(master_boot_id: str, master_start_s: float, probes: Sequence[ClockProbe]) -> tuple[float, float]:
    """The start of the run on this process's monotonic clock, and the largest possible error, from the bounds of all probes.

    Processes of the same boot share a clock, and then the master's own value is exact. A process in a time namespace has
    another clock, which shows because the master's value is outside the bounds.
    """
    lows, highs = zip(*(probe.bounds_s for probe in probes), strict=True)
    low_s, high_s = max(lows), min(highs)
    if master_boot_id == boot_id() and low_s <= master_start_s <= high_s:
        return master_start_s, 0.0
    return (low_s + high_s) / 2, abs(high_s - low_s) / 2


def drift_s(start_s: float, probes: Sequence[ClockProbe]) -> float:
    """The least drift between two clocks: how far the start that was used is outside the bounds of any probe."""
    outside = (max(low_s - start_s, start_s - high_s, 0.0) for low_s, high_s in (p.bounds_s for p in probes))
    return max(outside, default=0.0)


def wall_offset_s(master: Mapping[str, float], worker: Mapping[str, float], start_s: float) -> float:
    """The master's wall clock minus the worker's at the start of the run.

    Both clock anchors have `wall_s` and `perf_s`, read together; `start_s` is on the worker's monotonic clock.
    """
    return round(master["wall_s"] - (worker["wall_s"] + start_s - worker["perf_s"]), 6)


def boot_id() -> str:
    """What identifies the boot of this kernel, or the name of the host where the kernel does not tell."""
    path = Path("/proc/sys/kernel/random/boot_id")
    return path.read_text().strip() if path.exists() else platform.node()
