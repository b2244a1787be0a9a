"""How far apart the clocks of several hosts are: where a run's zero lies on each, and whether it stays there.

Rules: pure but for `boot`. A run's time is its master's monotonic clock (docs/decisions/0076). A probe proves two bounds,
whichever way the network was slow, and nothing more is claimed than bounds prove.

Does not know: how a probe travels, what is done at which time.
"""

import platform
from collections.abc import Mapping, Sequence
from pathlib import Path

import msgspec


class Probe(msgspec.Struct, array_like=True, tag="probe"):
    """The master was asked for the time: the run's `master_s` was read between two stamps of the asker's own clock."""

    sent_s: float
    master_s: float
    received_s: float

    @property
    def bounds_s(self) -> tuple[float, float]:
        """Between these stamps of the asker's clock lies the run's zero."""
        return self.sent_s - self.master_s, self.received_s - self.master_s


def zero_of(master_boot: str, master_zero_s: float, probes: Sequence[Probe]) -> tuple[float, float]:
    """Zero of the run on this process's clock, and what it may be off by: where the bounds of all probes overlap.

    Processes of one boot share a clock, unless one is in a time namespace; then the master's own zero is out of bounds.
    """
    lows, highs = zip(*(probe.bounds_s for probe in probes), strict=True)
    low_s, high_s = max(lows), min(highs)
    if master_boot == boot() and low_s <= master_zero_s <= high_s:
        return master_zero_s, 0.0
    return (low_s + high_s) / 2, abs(high_s - low_s) / 2


def drift_s(zero_s: float, probes: Sequence[Probe]) -> float:
    """What the clocks ran apart, at the least: how far the zero that was used lies outside the bounds of any probe."""
    outside = (max(low_s - zero_s, zero_s - high_s, 0.0) for low_s, high_s in (p.bounds_s for p in probes))
    return max(outside, default=0.0)


def wall_offset_s(master: Mapping[str, float], own: Mapping[str, float], zero_s: float) -> float:
    """The master's wall clock against a host's at the run's zero, through both anchors (`wall_s` and `perf_s` together)."""
    return round(master["wall_s"] - (own["wall_s"] + zero_s - own["perf_s"]), 6)


def boot() -> str:
    """Identity of this kernel's boot; the host's name where there is none."""
    path = Path("/proc/sys/kernel/random/boot_id")
    return path.read_text().strip() if path.exists() else platform.node()
