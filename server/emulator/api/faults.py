"""Faults on request: what a server does wrong, switched on by the operator or by one request's header.

`--fault error=0.1 --fault stall=2 --fault stall-rate=0.05 --fault cut=0.1 --fault crash-after=100 --fault slow-start=10`,
or on one request `x-thinkload-fault: cut` | `stall=2` | `error`. Seeded, so the same requests fail again.
"""

import random
from dataclasses import dataclass

from server.config import ConfigError

HEADER = "x-thinkload-fault"
KEYS = ("error", "stall", "stall-rate", "cut", "crash-after", "slow-start")


@dataclass(frozen=True, slots=True)
class InjectedFault:
    """What will go wrong with one request."""

    error: bool = False
    stall_s: float = 0.0
    """Nothing is written for so long, midway."""
    cut: bool = False
    """The connection breaks midway."""
    crash: bool = False
    """The engine dies under it, and with it the server."""

    @property
    def strikes(self) -> bool:
        """Something happens midway."""
        return self.cut or self.crash or self.stall_s > 0


class Faults:
    """Decides each request's fate."""

    def __init__(self, settings: dict[str, float], seed: int) -> None:
        self._settings = settings
        self._random = random.Random(seed)
        self._requests = 0
        self.slow_start_s = settings.get("slow-start", 0.0)

    def fate(self, header: str | None) -> InjectedFault:
        """The next request's."""
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


def read_faults(settings: list[str]) -> dict[str, float]:
    """`key=number` pairs."""
    found = {}
    for setting in settings:
        key, _, value = setting.partition("=")
        try:
            number = float(value)
        except ValueError:
            number = -1.0
        if key not in KEYS or number < 0:
            raise ConfigError(f"--fault {setting}: give KEY=NUMBER with KEY one of {', '.join(KEYS)}")
        found[key] = number
    return found
