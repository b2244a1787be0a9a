"""Which request is sent next, and by whom: the plan's numbers, each dealt once.

Rules: pure. Numbers are drawn in order, whoever draws. What a lost worker holds is not drawn again: nobody knows what of it
was sent (docs/decisions/0032).

Does not know: Locust, clocks, what a number stands for.
"""

import sys
from collections import Counter
from collections.abc import Collection


class Assignments:
    """The numbers of one run: `total` of them, or no end of them where a duration ends it."""

    def __init__(self, total: int | None) -> None:
        self.last = sys.maxsize if total is None else total
        self.limit = 0
        """Numbers from here on can't be drawn yet."""
        self.next = 0
        self._held: Counter[str] = Counter()

    def draw(self, worker: str, count: int) -> range:
        """Up to `count` numbers for a worker."""
        drawn = range(self.next, min(self.next + count, self.limit, self.last))
        self.next += len(drawn)
        self._held[worker] += len(drawn)
        return drawn

    def ended(self, worker: str, count: int) -> None:
        """So many that a worker held are done."""
        self._held[worker] -= count

    def close(self) -> None:
        """Nothing more is drawn."""
        self.last = self.next

    def held(self, alive: Collection[str]) -> int:
        """Drawn by these workers, and not ended."""
        return sum(self._held[worker] for worker in alive)

    @property
    def empty(self) -> bool:
        """All are drawn."""
        return self.next >= self.last

    def over(self, alive: Collection[str]) -> bool:
        """All are drawn, and nobody who could end one holds any."""
        return self.empty and not self.held(alive)
