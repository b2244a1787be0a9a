"""What a run observed besides the records: the client's health, the server's metrics and the GPUs.

This module does not know how the values were obtained.
"""

from dataclasses import dataclass, field
from typing import Any

from loadgen.measure.client_health import HealthReport

REPLICAS = "thinkload_replicas"
"""Name in the server's metrics for the number of servers that answered, where it is not one."""
WAITING = "vllm:num_requests_waiting"
"""Name of the gauge of the requests that wait in the server's queue."""


@dataclass
class Observations:
    """Everything that is known of a run beyond its files."""

    reports: list[HealthReport] = field(default_factory=list)
    """One report for each client process."""
    before: dict[str, float] = field(default_factory=dict)
    after: dict[str, float] = field(default_factory=dict)
    """The server's metrics before and after the load, summed over their labels; empty where it has none."""
    energy: list[tuple[float, float]] = field(default_factory=list)
    """(model seconds since the start of the run, joules) of each reading."""
    clocks_mhz: list[float] = field(default_factory=list)
    gpus: list[dict[str, Any]] = field(default_factory=list)
    stopped: str | None = None
    """Why the run ended early, or None."""
    waiting: float | None = None
    """Requests in the server's own queue when the last request of an open loop was due; None where the server does not say."""
