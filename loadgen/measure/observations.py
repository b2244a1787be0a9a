"""TODO docstring."""

from dataclasses import dataclass, field
from typing import Any

from loadgen.measure.client_health import HealthReport


@dataclass
class Observations:
    """What a load left behind besides its files."""

    reports: list[HealthReport] = field(default_factory=list)
    before: dict[str, float] = field(default_factory=dict)
    after: dict[str, float] = field(default_factory=dict)
    energy: list[tuple[float, float]] = field(default_factory=list)
    clocks_mhz: list[float] = field(default_factory=list)
    gpus: list[dict[str, Any]] = field(default_factory=list)
    stopped: str | None = None
    """Why the run ended early, if it did."""
