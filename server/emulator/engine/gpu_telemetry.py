"""Readings of the emulated GPUs under the names of the DCGM exporter, computed from the usage that the step model counts.

Activities are averages over the last second, as DCGM samples them. Energy is the integral of power since the start.
Power is the sum of idle power, base power while kernels run, link power if kernels use links, and memory and compute
power in proportion to their activity, capped at the power limit. The coefficients and their sources are in
`hardware.yaml`. This module does not know HTTP.
"""

import uuid
from collections import deque
from dataclasses import astuple, replace

from server.emulator.engine.hardware import Gpu
from server.emulator.engine.step_time import GIB, Usage
from server.gpu import GpuSample
from server.gpu.exporter import exposition

WINDOW_S = 1.0


class Telemetry:
    """Readings of a group of equal GPUs that share the work equally."""

    def __init__(self, gpu: Gpu, count: int, *, used_bytes: float, seed: int) -> None:
        self.gpu = gpu
        self._peak_bandwidth = gpu.peak_bandwidth_tb_s * 1e12
        self._used_mib = used_bytes / 2**20
        self._samples: deque[tuple[float, Usage]] = deque([(0.0, Usage())])
        """Usage up to some recent times."""
        self.uuids = [
            f"GPU-{uuid.uuid5(uuid.NAMESPACE_OID, f'thinkload emulated {gpu.name} {seed} {n}')}" for n in range(count)
        ]

    def record(self, now_s: float, usage: Usage) -> None:
        """Keep usage a few times per window. Call it whenever usage may have grown."""
        if now_s - self._samples[-1][0] >= WINDOW_S / 4:
            self._samples.append((now_s, replace(usage)))
            while len(self._samples) > 2 and self._samples[1][0] <= now_s - WINDOW_S:
                self._samples.popleft()

    def _recent(self, now_s: float, usage: Usage) -> tuple[float, Usage]:
        """Length and usage of the last window. Its beginning is interpolated linearly between two samples."""
        start_s = max(now_s - WINDOW_S, 0.0)
        points = [*self._samples, (now_s, usage)]
        after = next(n for n, sample in enumerate(points) if sample[0] > start_s or sample is points[-1])
        (late_s, late), (early_s, early) = points[after], points[max(after - 1, 0)]
        share = min(max((start_s - early_s) / max(late_s - early_s, 1e-9), 0.0), 1.0)
        then = [a + share * (b - a) for a, b in zip(astuple(early), astuple(late), strict=True)]
        return max(now_s - start_s, 1e-3), Usage(*(now - old for now, old in zip(astuple(usage), then, strict=True)))

    def power_w(self, span_s: float, usage: Usage) -> float:
        """Mean power of one GPU over a span of time with this usage."""
        gpu = self.gpu
        busy = min(usage.busy_s / span_s, 1.0)
        memory = usage.read_bytes / span_s / self._peak_bandwidth
        compute = usage.flops / span_s / (gpu.dense_tflops * 1e12)
        running_w = gpu.base_w + (gpu.link_w if usage.link_bytes else 0.0)
        return min(gpu.idle_w + running_w * busy + gpu.memory_w * memory + gpu.compute_w * compute, gpu.limit_w)

    def energy_j(self, now_s: float, usage: Usage) -> float:
        """Energy of one GPU since the start. Power is linear in usage, so the result is exact except for the power limit."""
        return self.power_w(max(now_s, 1e-9), usage) * now_s

    def readings(self, now_s: float, usage: Usage) -> dict[str, float]:
        """The current value of each field for one GPU."""
        span_s, recent = self._recent(now_s, usage)
        busy = min(recent.busy_s / span_s, 1.0)
        total_mib = self.gpu.memory_gib * GIB / 2**20
        link = recent.link_bytes / span_s
        return {
            "DCGM_FI_DEV_SM_CLOCK": self.gpu.sm_clock_mhz if busy > 0 else self.gpu.idle_clock_mhz,
            "DCGM_FI_DEV_POWER_USAGE": round(self.power_w(span_s, recent), 3),
            "DCGM_FI_DEV_TOTAL_ENERGY_CONSUMPTION": round(self.energy_j(now_s, usage) * 1e3),
            "DCGM_FI_DEV_GPU_UTIL": round(100 * busy),
            "DCGM_FI_DEV_FB_USED": round(self._used_mib),
            "DCGM_FI_DEV_FB_FREE": round(total_mib - self._used_mib),
            "DCGM_FI_PROF_SM_ACTIVE": round(busy, 6),
            "DCGM_FI_PROF_DRAM_ACTIVE": round(min(recent.read_bytes / span_s / self._peak_bandwidth, 1.0), 6),
            "DCGM_FI_PROF_NVLINK_TX_BYTES": round(link),
            "DCGM_FI_PROF_NVLINK_RX_BYTES": round(link),
        }

    def render(self, now_s: float, usage: Usage) -> bytes:
        """The page that dcgm-exporter would serve, with one sample per GPU and field."""
        values = self.readings(now_s, usage)
        name = f"{self.gpu.name} (emulated)"
        samples = (
            GpuSample(index, uuid_, f"00000000:{index + 1:02X}:00.0", name, "emulated", "emulated", values)
            for index, uuid_ in enumerate(self.uuids)
        )
        return exposition(samples).encode()
