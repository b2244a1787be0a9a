"""Assigns the requests of a run, by their numbers, to workers: each number once.

Rules: numbers are assigned in order, whichever worker asks. The numbers of a lost worker are not assigned again, because
nobody knows which of them were sent (docs/decisions/0032). The code is pure.

This module does not know Locust, clocks, or what a number stands for.
"""

import sys
from collections import Counter
from collections.abc import Collection


class Assignments:
    """The numbers of one run: `total` of them, or an unlimited amount (None) where a duration ends the run."""

    def __init__(self, total: int | None) -> None:
        self.end = sys.maxsize if total is None else total
        self.limit = 0
        """Numbers from here on cannot be assigned yet."""
        self.next = 0
        self._assigned: Counter[str] = Counter()
        self._finished: Counter[str] = Counter()

    def assign(self, worker: str, count: int) -> range:
        """Up to `count` numbers for a worker; none where `count` is not positive."""
        assigned = range(self.next, min(self.next + count, self.limit, self.end))
        self.next += len(assigned)
        self._assigned[worker] += len(assigned)
        return assigned

    def finish(self, worker: str, total: int) -> None:
        """Note that a worker has finished `total` of its numbers so far."""
        self._finished[worker] = total

    def close(self) -> None:
        """Assign no more numbers."""
        self.end = self.next

    def unfinished(self, alive: Collection[str]) -> int:
        """How many numbers these workers have not finished."""
        return sum(self._assigned[worker] - self._finished[worker] for worker in alive)

    @property
    def exhausted(self) -> bool:
        """Whether all numbers are assigned."""
        return self.next >= self.end

    def completed(self, alive: Collection[str]) -> bool:
        """Whether all numbers are assigned, and these workers have finished theirs."""
        return self.exhausted and not self.unfinished(alive)
