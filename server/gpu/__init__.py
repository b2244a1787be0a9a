"""GPU telemetry of this machine: nvml.py reads the GPUs, exporter.py serves the values to Prometheus."""

from dataclasses import dataclass


@dataclass(frozen=True)
class GpuSample:
    """The values of one GPU at one time, in the units of DCGM."""

    index: int
    uuid: str
    pci_bus_id: str
    name: str
    hostname: str
    driver: str
    values: dict[str, float]
