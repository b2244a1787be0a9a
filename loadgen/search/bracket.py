"""Chooses the next load to test: doubling until the objectives are missed, then bisection.

Rules: on the way up a load is tested briefly, and one that looks good is enough to go on, because a higher load that passes
decides it too. The ends of the result are always decided thoroughly, and each of them once more with new requests, because a
server can be faster or slower for a while; the newer test counts. Where a test stays undecided, both sides of its load are
tested; the certain result is then the interval from the highest load that passed to the lowest that failed, and a line through
the shares between them estimates the limit.

This module does not know how a load is tested.
"""

import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Literal, NamedTuple

from loadgen.search.decision import Decision

Over = Literal["streams", "rate"]
Stopped = Literal["resolved", "time limit", "interrupted", "never failed", "failed at the lowest load", "undecided"]
RATIO = 1.05
"""Rates are bisected until the lowest that fails is at most this multiple of the highest that passes."""
NEAR = 0.02
"""Where loads are undecided, a rate at most this share from the estimated limit is tested."""
FEW = 5.0
"""Shares of misses up to this multiple of the permitted share take part in the estimate of the limit."""
DIGITS = 3
"""Of a rate between two others."""


class Step(NamedTuple):
    """A test to do. `thorough`: until it is decided. `fresh`: without the requests of earlier tests."""

    load: float
    thorough: bool = True
    fresh: bool = False


@dataclass
class Bracket:
    """What is known about the loads between `first` and `last`."""

    over: Over
    first: float
    last: float
    attain: float
    """Share of good requests from which a load meets the objectives."""
    decisions: dict[float, Decision] = field(default_factory=dict)
    """The latest decision at each load."""
    brief: set[float] = field(default_factory=set)
    """Loads that were only tested briefly, and are not decided."""
    repeated: set[float] = field(default_factory=set)
    shares: dict[float, tuple[float, int]] = field(default_factory=dict)
    """The share of good requests at each load, and of how many."""

    def add(self, step: Step, decision: Decision, share: float, requests: int) -> None:
        """Add the result of a test. A repetition that stays undecided does not undo a decision that its share agrees with."""
        agreeing = "pass" if share >= self.attain else "fail"
        if not step.fresh or decision != "undecided" or self.decisions[step.load] != agreeing:
            self.decisions[step.load] = decision
        self.shares[step.load] = share, requests
        self.brief.discard(step.load)
        if decision == "undecided" and not step.thorough:
            self.brief.add(step.load)
        if step.fresh:
            self.repeated.add(step.load)

    @property
    def failed(self) -> float | None:
        """The lowest load that fails."""
        return min(self._with("fail"), default=None)

    @property
    def passed(self) -> float | None:
        """The highest load below it that passes."""
        return max(self._below(self._with("pass")), default=None)

    def best(self) -> float | None:
        """Return the best estimate of the limit among the loads tested; None where no load passes."""
        passed, estimate = self.passed, self._estimate()
        if passed is None or estimate is None:
            return passed
        if self.over == "streams":
            return max(load for load in (passed, *self._stuck()) if load <= max(estimate, passed))
        return min((passed, *self._stuck()), key=lambda load: abs(load - estimate))

    def next(self) -> Step | None:
        """Return the next test, or None where nothing more can be found out."""
        low = max(self._below([*self._with("pass"), *self.brief]), default=None)
        if self.failed is None and (up := self._up()) is not None:
            return up
        if (middle := self._middle(low)) is not None:
            return Step(middle)
        if low is not None and low in self.brief:
            return Step(low)
        ends = (low, self.failed)
        again = next((end for end in ends if end is not None and end not in self.repeated), None)
        return None if again is None else Step(again, fresh=True)

    def stopped(self) -> Stopped:
        """Return why there is no next test."""
        if self.failed == self.first:
            return "failed at the lowest load"
        if self.passed is None or self._stuck():
            return "undecided"
        return "never failed" if self.failed is None else "resolved"

    def _with(self, decision: Decision) -> list[float]:
        return [load for load, found in self.decisions.items() if found == decision]

    def _below(self, loads: list[float]) -> list[float]:
        return [load for load in loads if self.failed is None or load < self.failed]

    def _stuck(self) -> list[float]:
        """Return the loads between both ends that a thorough test could not decide."""
        loads = [load for load in self._below(self._with("undecided")) if load not in self.brief]
        return sorted(load for load in loads if self.passed is None or load > self.passed)

    def _up(self) -> Step | None:
        """Return the next step of the doubling. At the highest load, a brief test is not enough."""
        highest = max(self.decisions, default=None)
        if highest is None:
            return Step(self.first, thorough=self.first == self.last)
        if highest < self.last:
            load = min(2 * highest, self.last)
            return Step(load, thorough=load == self.last)
        return None

    def _middle(self, low: float | None) -> float | None:
        """Return a load that narrows one end of the bracket."""
        stuck = [load for load in self._stuck() if low is None or load > low]
        edges = [load for load in (low, *stuck, self.failed) if load is not None]
        sides = [edges[:2], edges[-2:]] if len(edges) > 1 else []
        middles = [self._between(*side) for side in sides] + [self._untested_estimate()]
        return next((middle for middle in middles if middle is not None), None)

    def _estimate(self) -> float | None:
        """Return the load at which the share is estimated to be `attain`, where loads between both ends are undecided."""
        if not self._stuck() or self.passed is None or self.failed is None:
            return None
        between = {x: self.shares[x] for x in (self.passed, *self._stuck(), self.failed)}
        found = crossing(between, self.attain)
        return None if found is None else min(max(found, self.passed), self.failed)

    def _untested_estimate(self) -> float | None:
        """Return the estimated rate, where no rate near it has been tested."""
        estimate = self._estimate() if self.over == "rate" else None
        if estimate is None or any(abs(load / estimate - 1) < NEAR for load in self.decisions):
            return None
        return _rounded(estimate)

    def _between(self, low: float, high: float) -> float | None:
        if self.over == "streams":
            return (low + high) // 2 if high - low > 1 else None
        rounded = _rounded(math.sqrt(low * high))
        return rounded if high > low * RATIO and low < rounded < high else None


def _rounded(rate: float) -> float:
    return round(rate, DIGITS - 1 - math.floor(math.log10(rate)))


def crossing(shares: Mapping[float, tuple[float, int]], attain: float) -> float | None:
    """Return the load at which the share falls to `attain`; None where the shares do not fall.

    The logarithm of the share of misses is fitted as a line over the load, which the tail of a queue nearly is where misses
    are not too many. Each load has the weight of its misses, because their number varies as a Poisson variable does.
    """
    rows = [(load, share, n) for load, (share, n) in shares.items() if 1 - share <= FEW * (1 - attain)]
    if len(rows) < 2:
        return None
    points = [(load, (1 - share) * n + 0.5, n + 1.0) for load, share, n in rows]
    total = sum(misses for _, misses, _ in points)
    mean_x = sum(misses * load for load, misses, _ in points) / total
    mean_y = sum(misses * math.log(misses / n) for _, misses, n in points) / total
    spread = sum(misses * (load - mean_x) ** 2 for load, misses, _ in points)
    slope = sum(misses * (load - mean_x) * math.log(misses / n) for load, misses, n in points)
    return mean_x + (math.log(1 - attain) - mean_y) * spread / slope if slope > 0 else None
