"""Fault injection: errors, stalls, broken connections and crashes, enabled by option or by a request header.

`--fault error=0.1 --fault stall=2 --fault stall-rate=0.05 --fault cut=0.1 --fault crash-after=100 --fault slow-start=10`,
or for one request the header `x-thinkload-fault: error | cut | crash | stall=2`. Faults are drawn with a seed, so the same
requests fail again. This module does not know how a fault is carried out.
"""

import random
from dataclasses import dataclass

from server.config import ConfigError

HEADER = "x-thinkload-fault"
SHARES = ("error", "stall-rate", "cut")
OTHERS = ("stall", "crash-after", "slow-start")


@dataclass(frozen=True, slots=True)
class InjectedFault:
    """The fault of one request; by default there is none."""

    error: bool = False
    """The response is an error 500."""
    stall_s: float = 0.0
    """Model seconds during which nothing is written, in the middle of the response."""
    cut: bool = False
    """The connection is closed in the middle of the response."""
    crash: bool = False
    """The engine fails in the middle of the response, and the server exits."""

    @property
    def interrupts(self) -> bool:
        """Whether the fault occurs in the middle of the response."""
        return self.cut or self.crash or self.stall_s > 0


class FaultInjector:
    """Decides which fault each request gets."""

    def __init__(self, settings: dict[str, float], seed: int) -> None:
        self._settings = settings
        self._random = random.Random(seed)
        self._requests = 0
        self.slow_start_s = settings.get("slow-start", 0.0)

    def next_fault(self, header: str | None) -> InjectedFault:
        """The fault of the next request. `header` is its fault header, which replaces the options."""
        self._requests += 1
        if header is not None:
            name, _, value = header.partition("=")
            return InjectedFault(
                error=name == "error",
                cut=name == "cut",
                crash=name == "crash",
                stall_s=float(value or 1) if name == "stall" else 0.0,
            )
        get = self._settings.get
        stalls = self._random.random() < get("stall-rate", 1.0 if "stall" in self._settings else 0.0)
        return InjectedFault(
            error=self._random.random() < get("error", 0.0),
            cut=self._random.random() < get("cut", 0.0),
            stall_s=get("stall", 1.0) if stalls else 0.0,
            crash="crash-after" in self._settings and self._requests > get("crash-after", 0),
        )


def read_faults(options: list[str]) -> dict[str, float]:
    """Parse `--fault KEY=NUMBER` options. Raises ConfigError."""
    found = {}
    for option in options:
        key, _, value = option.partition("=")
        try:
            number = float(value)
        except ValueError:
            number = -1.0
        most = 1 if key in SHARES else 1e6
        if key not in SHARES + OTHERS or not 0 <= number <= most:
            keys = f"{', '.join(SHARES)} (shares up to 1), {', '.join(OTHERS)}"
            raise ConfigError(f"--fault {option}: give KEY=NUMBER with KEY one of {keys}")
        found[key] = number
    return found
