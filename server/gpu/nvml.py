"""Reads GPUs through NVML without privileges: one GpuSample for each GPU, in the units of DCGM.

A value that this GPU or driver does not report is left out, never zero. GPU Performance Monitoring (GPM, on Hopper and later)
needs two samples: its values are averages since the previous read, and the first read has none.

This module does not know Prometheus. Tests cannot run it without a GPU; they test only what exporter.py makes of its samples.
"""

import socket
from collections.abc import Callable
from typing import Any

import pynvml as nvml

from server.gpu import GpuSample

NVML_FIELDS: dict[str, Callable[[Any], float]] = {
    "DCGM_FI_DEV_SM_CLOCK": lambda h: nvml.nvmlDeviceGetClockInfo(h, nvml.NVML_CLOCK_SM),
    "DCGM_FI_DEV_MEM_CLOCK": lambda h: nvml.nvmlDeviceGetClockInfo(h, nvml.NVML_CLOCK_MEM),
    "DCGM_FI_DEV_GPU_TEMP": lambda h: nvml.nvmlDeviceGetTemperature(h, nvml.NVML_TEMPERATURE_GPU),
    "DCGM_FI_DEV_POWER_USAGE": lambda h: nvml.nvmlDeviceGetPowerUsage(h) / 1000,  # mW
    "DCGM_FI_DEV_TOTAL_ENERGY_CONSUMPTION": nvml.nvmlDeviceGetTotalEnergyConsumption,  # mJ, as DCGM
    "DCGM_FI_DEV_GPU_UTIL": lambda h: nvml.nvmlDeviceGetUtilizationRates(h).gpu,
    "DCGM_FI_DEV_MEM_COPY_UTIL": lambda h: nvml.nvmlDeviceGetUtilizationRates(h).memory,
    "DCGM_FI_DEV_FB_USED": lambda h: nvml.nvmlDeviceGetMemoryInfo(h).used / 2**20,
    "DCGM_FI_DEV_FB_FREE": lambda h: nvml.nvmlDeviceGetMemoryInfo(h).free / 2**20,
    "DCGM_FI_DEV_POWER_VIOLATION": lambda h: (
        nvml.nvmlDeviceGetViolationStatus(h, nvml.NVML_PERF_POLICY_POWER).violationTime
    ),
    "DCGM_FI_DEV_THERMAL_VIOLATION": lambda h: (
        nvml.nvmlDeviceGetViolationStatus(h, nvml.NVML_PERF_POLICY_THERMAL).violationTime
    ),
}
MIB = 2.0**20
GPM_FIELDS: dict[str, tuple[int, float]] = {  # the GPM id, and the factor to DCGM's unit: percent → ratio, MiB/s → B/s
    "DCGM_FI_PROF_GR_ENGINE_ACTIVE": (nvml.NVML_GPM_METRIC_GRAPHICS_UTIL, 0.01),
    "DCGM_FI_PROF_SM_ACTIVE": (nvml.NVML_GPM_METRIC_SM_UTIL, 0.01),
    "DCGM_FI_PROF_SM_OCCUPANCY": (nvml.NVML_GPM_METRIC_SM_OCCUPANCY, 0.01),
    "DCGM_FI_PROF_PIPE_TENSOR_ACTIVE": (nvml.NVML_GPM_METRIC_ANY_TENSOR_UTIL, 0.01),
    "DCGM_FI_PROF_DRAM_ACTIVE": (nvml.NVML_GPM_METRIC_DRAM_BW_UTIL, 0.01),
    "DCGM_FI_PROF_PCIE_TX_BYTES": (nvml.NVML_GPM_METRIC_PCIE_TX_PER_SEC, MIB),
    "DCGM_FI_PROF_PCIE_RX_BYTES": (nvml.NVML_GPM_METRIC_PCIE_RX_PER_SEC, MIB),
    "DCGM_FI_PROF_NVLINK_TX_BYTES": (nvml.NVML_GPM_METRIC_NVLINK_TOTAL_TX_PER_SEC, MIB),
    "DCGM_FI_PROF_NVLINK_RX_BYTES": (nvml.NVML_GPM_METRIC_NVLINK_TOTAL_RX_PER_SEC, MIB),
}


class GpuReader:
    """Reads all GPUs of this machine, or those with the given indices."""

    def __init__(self, indices: tuple[int, ...] | None = None) -> None:
        nvml.nvmlInit()
        self._driver = str(nvml.nvmlSystemGetDriverVersion())
        self._host = socket.gethostname()
        chosen = range(nvml.nvmlDeviceGetCount()) if indices is None else indices
        self._handles = {index: nvml.nvmlDeviceGetHandleByIndex(index) for index in chosen}
        self._before: dict[int, Any] = {}

    def read(self) -> list[GpuSample]:
        """Returns one sample for each GPU."""
        return [self._sample(index, handle) for index, handle in self._handles.items()]

    def _sample(self, index: int, handle: Any) -> GpuSample:
        return GpuSample(
            index=index,
            uuid=str(nvml.nvmlDeviceGetUUID(handle)),
            pci_bus_id=str(nvml.nvmlDeviceGetPciInfo(handle).busId),
            name=str(nvml.nvmlDeviceGetName(handle)),
            hostname=self._host,
            driver=self._driver,
            values=self._nvml_values(handle) | self._gpm_values(index, handle),
        )

    def _nvml_values(self, handle: Any) -> dict[str, float]:
        values = {}
        for name, get in NVML_FIELDS.items():
            try:
                values[name] = float(get(handle))
            except nvml.NVMLError:  # not available on this GPU or to this user
                continue
        return values

    def _gpm_values(self, index: int, handle: Any) -> dict[str, float]:
        """GPM values for the time since the previous read."""
        try:
            if not nvml.nvmlGpmQueryDeviceSupport(handle).isSupportedDevice:
                return {}
            now = nvml.nvmlGpmSampleAlloc()
            nvml.nvmlGpmSampleGet(handle, now)
            before, self._before[index] = self._before.get(index), now
            return _gpm_averages(before, now) if before is not None else {}
        except nvml.NVMLError:
            return {}


def _gpm_averages(before: Any, now: Any) -> dict[str, float]:
    query = nvml.c_nvmlGpmMetricsGet_t()
    query.version, query.numMetrics = nvml.NVML_GPM_METRICS_GET_VERSION, len(GPM_FIELDS)
    query.sample1, query.sample2 = before, now
    for slot, (metric, _) in enumerate(GPM_FIELDS.values()):
        query.metrics[slot].metricId = metric
    nvml.nvmlGpmMetricsGet(query)
    nvml.nvmlGpmSampleFree(before)
    pairs = zip(GPM_FIELDS.items(), query.metrics, strict=False)
    return {name: slot.value * factor for (name, (_, factor)), slot in pairs if slot.nvmlReturn == nvml.NVML_SUCCESS}
