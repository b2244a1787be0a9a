"""Dashboard *GPU*: power, energy, memory and what the GPU is busy with, from dcgm-exporter, our NVML exporter or the emulator."""

from grafana_foundation_sdk.models.dashboard import Dashboard

from grafana.panels import About, Part, board, lines
from grafana.queries import or_zero, select

GPU = "GPU {{gpu}} {{config}}"
ENERGY = "DCGM_FI_DEV_TOTAL_ENERGY_CONSUMPTION"
"""Millijoules since boot, a counter."""


def dashboard() -> Dashboard:
    """Build the whole board."""
    look_for = (
        "What the GPUs do with their power. Utilisation is no load signal: it is near 100 % in any decode."
    )
    return board("gpu", "Thinkload · GPU", look_for, [*_energy(), *_activity(), *_state()], since="now-15m")


def _each(metric: str, scale: str = "") -> tuple[str, str]:
    return f"max by (gpu, config) ({select(metric)}){scale}", GPU


def _energy() -> list[Part]:
    joules = "thinkload:joules_per_token"
    return [
        lines(
            About(
                "Power",
                "A plateau. At the limit (700 W on an H200) clocks fall, and with them the step time's evenness.",
                "watt",
            ),
            _each("DCGM_FI_DEV_POWER_USAGE"),
        ),
        lines(
            About(
                "Energy per output token",
                "All GPUs of a configuration. Falls as the batch grows; a rise at constant load is throttling or a draining batch.",
                "joule",
            ),
            (f"max by (config) ({select(joules)} and thinkload:busy)", "{{config}}"),
        ),
        lines(
            About(
                "Energy used",
                "Within a window as long as the selected time. A straight line at constant load; its end is what the run cost.",
                "joule",
            ),
            (f"sum by (config) (increase({select(ENERGY)}[$__range])) / 1000", "{{config}}"),
        ),
    ]


def _activity() -> list[Part]:
    return [
        lines(
            About(
                "DRAM active",
                "Decoding lives here: 0.6 to 0.9 means weights and KV are read as fast as they can be. Low: host overhead or communication.",
                "percentunit",
            ),
            _each("DCGM_FI_PROF_DRAM_ACTIVE"),
            max_value=1,
        ),
        lines(
            About(
                "SM active",
                "High in prefill and on large batches. High DRAM with low SM is a memory-bound decode: speculation has room.",
                "percentunit",
            ),
            _each("DCGM_FI_PROF_SM_ACTIVE"),
            max_value=1,
        ),
        lines(
            About(
                "NVLink",
                "Only with tensor parallelism: two all-reduces a layer. Sent and received are alike. 0 where the exporter has no such field.",
                "Bps",
            ),
            (_nvlink("TX"), "sent {{config}}"),
            (_nvlink("RX"), "received {{config}}"),
        ),
    ]


def _nvlink(way: str) -> str:
    return or_zero(
        f"sum by (config) ({select(f'DCGM_FI_PROF_NVLINK_{way}_BYTES')})",
        f"sum by (config) ({select('DCGM_FI_DEV_POWER_USAGE')})",
    )


def _state() -> list[Part]:
    return [
        lines(
            About(
                "Memory used",
                "Flat from the first second: vLLM takes gpu-memory-utilization at start. A second process shows as a step.",
                "mbytes",
            ),
            _each("DCGM_FI_DEV_FB_USED"),
        ),
        lines(
            About(
                "SM clock",
                "Flat. A dip under load is a power or heat limit: the run is SUSPECT, compare it with none other.",
                "hertz",
            ),
            _each("DCGM_FI_DEV_SM_CLOCK", " * 1e6"),
        ),
        lines(
            About(
                "GPU utilisation",
                "Near 100 % in any decode, so no measure of load. 0 while requests run: the engine waits for its host.",
                "percent",
            ),
            _each("DCGM_FI_DEV_GPU_UTIL"),
            max_value=100,
        ),
    ]
