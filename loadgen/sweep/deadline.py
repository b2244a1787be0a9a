"""How long the rest of a sweep takes, and which cells still fit before its deadline.

The forecast of each cell is multiplied by the ratio of measured and expected times of the cells that have ended.

This module does not know what a cell is, except for its name and its expected time.
"""

import time
from collections.abc import Iterable
from dataclasses import dataclass, field

STOP_S = 20.0
"""The time before the deadline at which everything stops, because requests in flight and servers need time to end."""


@dataclass
class Pace:
    """What is expected, and what was measured."""

    expected_s: dict[str, float]
    """The expected time of each cell, without the start of its server."""
    deadline_s: float | None = None
    """Seconds from the beginning of the sweep; None for no deadline."""
    began_s: float = field(default_factory=time.monotonic)
    starts_s: list[float] = field(default_factory=list)
    """The measured times of starting a group of servers."""
    _measured_s: float = 0.0
    _expected_s: float = 0.0

    def ended(self, name: str, wall_s: float) -> None:
        """Takes the measured time of a cell into account."""
        if name in self.expected_s:
            self._measured_s += wall_s
            self._expected_s += self.expected_s[name]

    @property
    def ratio(self) -> float:
        """Measured by expected time so far; 1 before the first cell has ended."""
        return self._measured_s / self._expected_s if self._expected_s else 1.0

    @property
    def stop_s(self) -> float | None:
        """Seconds from now until the sweep stops; None without a deadline."""
        if self.deadline_s is None:
            return None
        return self.began_s + self.deadline_s - min(STOP_S, 0.1 * self.deadline_s) - time.monotonic()

    def left_s(self, names: Iterable[str], starts: int = 0) -> float:
        """The expected time of these cells and of starting so many groups of servers."""
        start_s = sum(self.starts_s) / len(self.starts_s) if self.starts_s else 0.0
        return self.ratio * sum(self.expected_s.get(name, 0.0) for name in names) + starts * start_s

    def fits(self, name: str, starts: int = 0) -> bool:
        """Whether the cell would end in time."""
        return self.stop_s is None or self.left_s([name], starts) < self.stop_s
