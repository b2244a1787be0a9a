"""The dashboard *GPU telemetry*: power, energy, memory and activity of the GPUs.

The metrics come from dcgm-exporter, from this project's NVML exporter or from the emulator.
"""

from grafana_foundation_sdk.models.dashboard import Dashboard

from grafana.panels import PanelOrRow, build_dashboard, time_series_panel
from grafana.queries import latest, or_zero, server_series

ENERGY = "DCGM_FI_DEV_TOTAL_ENERGY_CONSUMPTION"
"""A counter of the energy since boot, in millijoules."""
GPU = "GPU {{gpu}} {{config}}"
"""The legend of a line for one GPU."""


def dashboard() -> Dashboard:
    """Build the dashboard."""
    joules = f"max by (config) ({server_series('thinkload:joules_per_token')} and thinkload:busy)"
    used = f"sum by (config) (increase({server_series(ENERGY)}[$__range])) / 1000"
    contents: list[PanelOrRow] = [
        time_series_panel("Power", "watt", _per_gpu("DCGM_FI_DEV_POWER_USAGE")),
        time_series_panel("Energy per output token", "joule", (joules, "{{config}}")),
        time_series_panel("Energy used", "joule", (used, "{{config}}")),
        time_series_panel("DRAM active", "percentunit", _per_gpu("DCGM_FI_PROF_DRAM_ACTIVE")).max(1),
        time_series_panel("SM active", "percentunit", _per_gpu("DCGM_FI_PROF_SM_ACTIVE")).max(1),
        time_series_panel(
            "NVLink", "Bps", (_nvlink_bytes("TX"), "sent {{config}}"), (_nvlink_bytes("RX"), "received {{config}}")
        ),
        time_series_panel("Memory used", "mbytes", _per_gpu("DCGM_FI_DEV_FB_USED")),
        time_series_panel("SM clock", "hertz", _per_gpu("DCGM_FI_DEV_SM_CLOCK", " * 1e6")),
        time_series_panel("GPU utilization", "percent", _per_gpu("DCGM_FI_DEV_GPU_UTIL")).max(100),
        *_faults(),
    ]
    return build_dashboard("gpu", "Thinkload · GPU telemetry", contents, start="now-15m")


def _per_gpu(metric: str, scale: str = "") -> tuple[str, str]:
    return _of_each_gpu(metric) + scale, GPU


def _of_each_gpu(metric: str) -> str:
    return latest(metric, "gpu, config", "max")


def _nvlink_bytes(direction: str) -> str:
    return or_zero(latest(f"DCGM_FI_PROF_NVLINK_{direction}_BYTES"), latest("DCGM_FI_DEV_POWER_USAGE"))


def _per_gpu_or_zero(field: str) -> str:
    """The field of each GPU, or 0 from an exporter that does not have it."""
    return or_zero(_of_each_gpu(field), _of_each_gpu("DCGM_FI_DEV_POWER_USAGE"))


def _throttled(cause: str) -> str:
    """Fraction of the time in which the clocks were reduced. The counter is in nanoseconds."""
    throttled = server_series(f"DCGM_FI_DEV_{cause}_VIOLATION")
    seconds = f"max by (gpu, config) (rate({throttled}[$__rate_interval])) / 1e9"
    return or_zero(seconds, _of_each_gpu("DCGM_FI_DEV_POWER_USAGE"))


def _faults() -> list[PanelOrRow]:
    return [
        time_series_panel(
            "Temperature",
            "suffix: °C",
            (_per_gpu_or_zero("DCGM_FI_DEV_GPU_TEMP"), GPU),
            (_per_gpu_or_zero("DCGM_FI_DEV_MEMORY_TEMP"), f"memory of {GPU}"),
        ),
        time_series_panel("Last XID error", "short", (_per_gpu_or_zero("DCGM_FI_DEV_XID_ERRORS"), GPU)),
        time_series_panel(
            "Throttling",
            "percentunit",
            (_throttled("POWER"), f"power {GPU}"),
            (_throttled("THERMAL"), f"temperature {GPU}"),
        ).max(1),
    ]
