"""Which GPUs this machine has, which are taken, and which a server gets.

Rules: a machine whose GPUs cannot be seen (no NVML) is not refused: then nobody allocates, and the engine itself says
what is missing. Does not know: what runs on a GPU.
"""

from typing import Any


def inventory() -> list[dict[str, Any]]:
    """A row a GPU: index, uuid, name, memory_mib, power_limit_w, driver, clocks. Empty where NVML is not there."""
    try:
        import pynvml as nvml  # noqa: PLC0415 - only the launcher of real servers needs it

        nvml.nvmlInit()
    except (ImportError, OSError, Exception):  # noqa: BLE001 - pynvml raises its own classes, made when it loads
        return []
    try:
        driver = nvml.nvmlSystemGetDriverVersion()
        return [_row(nvml, index, driver) for index in range(nvml.nvmlDeviceGetCount())]
    finally:
        nvml.nvmlShutdown()


def _row(nvml: Any, index: int, driver: str) -> dict[str, Any]:
    handle = nvml.nvmlDeviceGetHandleByIndex(index)
    return {
        "index": index,
        "uuid": nvml.nvmlDeviceGetUUID(handle),
        "name": nvml.nvmlDeviceGetName(handle),
        "memory_mib": nvml.nvmlDeviceGetMemoryInfo(handle).total // 2**20,
        "power_limit_w": nvml.nvmlDeviceGetPowerManagementLimit(handle) / 1000,
        "driver": driver,
        "clocks": {
            "sm_max_mhz": nvml.nvmlDeviceGetMaxClockInfo(handle, nvml.NVML_CLOCK_SM),
            "memory_max_mhz": nvml.nvmlDeviceGetMaxClockInfo(handle, nvml.NVML_CLOCK_MEM),
        },
    }


def allocate(wanted: int, present: int, taken: set[int]) -> tuple[int, ...] | None:
    """Lowest free indices, as a block aligned to its own size where one is free (NVLink pairs); None: too few free."""
    free = [index for index in range(present) if index not in taken]
    for start in range(0, present, wanted):
        block = range(start, start + wanted)
        if all(index in free for index in block):
            return tuple(block)
    return tuple(free[:wanted]) if len(free) >= wanted else None
