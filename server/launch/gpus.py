"""Lists the GPUs of this machine and chooses those that a server gets.

A machine whose GPUs cannot be seen (because NVML is missing) is not refused. No GPUs are allocated there, and the engine itself
reports what is missing. This module does not know what runs on a GPU.
"""

from collections.abc import Callable
from typing import Any


def inventory() -> list[dict[str, Any]]:
    """One row for each GPU: index, uuid, name, memory_mib, power_limit_w, driver, clocks. Empty if NVML is missing."""
    return _rows(_row)


def usage() -> list[dict[str, Any]]:
    """One row for each GPU with what it uses now: index, used_gib, power_w. Empty if NVML is missing."""
    return _rows(_usage_row)


def _rows(row: Callable[[Any, Any], dict[str, Any]]) -> list[dict[str, Any]]:
    try:
        import pynvml as nvml  # noqa: PLC0415 - only real servers need it

        nvml.nvmlInit()
    except Exception:  # noqa: BLE001 - pynvml defines its exceptions when it is loaded
        return []
    try:
        handles = map(nvml.nvmlDeviceGetHandleByIndex, range(nvml.nvmlDeviceGetCount()))
        return [{"index": index, **row(nvml, handle)} for index, handle in enumerate(handles)]
    finally:
        nvml.nvmlShutdown()


def _usage_row(nvml: Any, handle: Any) -> dict[str, Any]:
    used = nvml.nvmlDeviceGetMemoryInfo(handle).used / 2**30
    return {"used_gib": used, "power_w": nvml.nvmlDeviceGetPowerUsage(handle) / 1000}


def _row(nvml: Any, handle: Any) -> dict[str, Any]:
    return {
        "uuid": nvml.nvmlDeviceGetUUID(handle),
        "name": nvml.nvmlDeviceGetName(handle),
        "memory_mib": nvml.nvmlDeviceGetMemoryInfo(handle).total // 2**20,
        "power_limit_w": nvml.nvmlDeviceGetPowerManagementLimit(handle) / 1000,
        "driver": nvml.nvmlSystemGetDriverVersion(),
        "clocks": {
            "sm_max_mhz": nvml.nvmlDeviceGetMaxClockInfo(handle, nvml.NVML_CLOCK_SM),
            "memory_max_mhz": nvml.nvmlDeviceGetMaxClockInfo(handle, nvml.NVML_CLOCK_MEM),
        },
    }


def allocate(wanted: int, free: set[int]) -> tuple[int, ...] | None:
    """The lowest `wanted` of the free GPUs, or None if there are fewer.

    A block that is aligned to its own size is preferred, because such GPUs are often connected by NVLink.
    """
    if len(free) < wanted:
        return None
    for start in range(0, max(free) + 1, wanted):
        block = range(start, start + wanted)
        if free.issuperset(block):
            return tuple(block)
    return tuple(sorted(free)[:wanted])
