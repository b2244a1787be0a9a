"""How long the rest of a sweep takes, and which cells still fit before its deadline.

The forecast of each cell is multiplied by the ratio of measured and expected times of the cells that have ended.

This module does not know how a cell runs.
"""

import time
from collections.abc import Container, Sequence
from dataclasses import dataclass, field

from loadgen.sweep.manifest import Entry

STOP_S = 20.0
"""The time before the deadline at which everything stops, because requests in flight and servers need time to end."""


@dataclass
class Pace:
    """What is expected, and what was measured."""

    cells: Sequence[Entry]
    """The cells of the sweep, whose entries have the expected and the measured times."""
    deadline_s: float | None = None
    """Seconds from the beginning of the sweep; None for no deadline."""
    began_s: float = field(default_factory=time.monotonic)
    starts_s: list[float] = field(default_factory=list)
    """The measured times of starting a group of servers."""

    @property
    def ratio(self) -> float:
        """Measured by expected time so far; 1 before the first cell has ended."""
        ended = [cell for cell in self.cells if cell.state == "done" and cell.forecast_s]
        expected_s = sum(cell.forecast_s or 0.0 for cell in ended)
        return sum(cell.wall_s or 0.0 for cell in ended) / expected_s if expected_s else 1.0

    @property
    def stop_s(self) -> float | None:
        """Seconds from now until the sweep stops; None without a deadline."""
        if self.deadline_s is None:
            return None
        return self.began_s + self.deadline_s - min(STOP_S, 0.1 * self.deadline_s) - time.monotonic()

    def left_s(self, names: Container[str], starts: int = 0) -> float:
        """The expected time of these cells and of starting so many groups of servers."""
        expected_s = sum(cell.forecast_s or 0.0 for cell in self.cells if cell.name in names)
        start_s = sum(self.starts_s) / len(self.starts_s) if self.starts_s else 0.0
        return self.ratio * expected_s + starts * start_s

    def fits(self, name: str, starts: int = 0) -> bool:
        """Whether the cell would end in time."""
        return self.stop_s is None or self.left_s([name], starts) < self.stop_s
