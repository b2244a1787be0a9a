"""Decides from the requests of one or more runs at one load whether the load meets the objectives.

Only requests that were sent after the first generation of their run had ended count, because before that the load was not
reached. A request that failed is not good. A load passes or fails when the interval of its share of good requests lies on one
side of the share to attain, or when the server is saturated. The same requests may be looked at several times, each time with
more of them: the k-th look uses the share 1 / (k (k + 1)) of the permitted error, so that all looks together err in at most
5 % of the tests.

Requests depend on each other (`loadgen.measure.dependence`), and a run that saw no slow period says little about how often they
come. A pass therefore also needs enough independent requests, judged by the latencies that can come to miss their objective:

- In a closed loop the number of requests in flight is fixed. The requests with the highest latencies miss their objective
  first, so it is their dependence that counts. The others may well vary slowly, as those of a steady server do.
- In an open loop a queue can grow from nothing, so every latency counts, unless it is far below its objective in proportion to
  the slow variation that the runs have shown.

This module does not know which load is tested, or how the requests were sent. Where slow periods last longer than the test, it
passes a load wrongly in more than 5 % of the tests.
"""

import math
from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from statistics import NormalDist, fmean
from typing import Any, Literal

from loadgen.measure.dependence import Load, share_interval, slow_deviation
from loadgen.measure.formulas import meets
from loadgen.measure.saturation import achieved_rate
from loadgen.measure.steady_window import after_first_generation
from loadgen.record import Record

Decision = Literal["pass", "fail", "undecided"]
Cause = str
"""What a load fails on: the name of an objective, `errors` or `saturation`."""
ERROR = 0.05
"""Permitted chance that a test passes or fails wrongly."""

RELEVANT = 0.5
"""In a closed loop, variations of latencies below this share of their objective do not matter."""
HIGHEST = (1, 2, 4)
"""The requests with the highest latencies in a closed loop, as multiples of the share that may be bad."""
FAR = 10.0
"""In an open loop, variations of latencies do not matter that are further below the objective than this multiple of their slow
deviation. Both are measured in logarithms, because a queue multiplies latencies."""
BOUNDS = 1e-3, 1e3
"""Ratios of a latency to its objective beyond these are not told apart."""
LEAST_FOR_PASS = {"alone": 0, "closed": 100, "open": 400}
"""Effective number of requests from which a load can pass: a run that happened to see no slow period looks independent."""
LEAST_FOR_FAIL = {"alone": 1, "closed": 1, "open": 20}
"""Effective number of requests from which a load can fail. One slow period alone does not show how often they come."""


@dataclass
class Evidence:
    """The requests that count at one load."""

    load: Load
    good: list[bool] = field(default_factory=list)
    ratios: list[float] = field(default_factory=list)
    """The largest ratio of a latency to its objective of each request; infinite for a failure and a missing latency."""
    e2e_s: list[float] = field(default_factory=list)
    """Latencies of the successful requests."""
    causes: Counter[Cause] = field(default_factory=Counter)
    """The objectives that were missed."""
    saturated: bool = False
    looks: int = 0
    """The number of runs, after each of which the test may be decided."""

    def add(self, records: Iterable[Record], load: Mapping[str, Any], slo: dict[str, float]) -> None:
        """Add the measured records of one run."""
        rows = sorted(records, key=_sent_s)
        spans = [(_sent_s(row), row.end_s or _sent_s(row), row.outcome == "ok") for row in rows]
        since_s, until_s = after_first_generation(spans) or (-math.inf, math.inf)
        for row in rows:
            if since_s <= _sent_s(row) <= until_s:
                self._add(row, slo)
        found = achieved_rate(spans, load)
        self.saturated |= found is not None and found.saturated
        self.looks += 1

    def _add(self, record: Record, slo: dict[str, float]) -> None:
        good = meets(record, slo)
        self.good.append(good)
        if record.outcome != "ok" or record.e2e_s is None:
            self.ratios.append(math.inf)
            self.causes["errors"] += 1
            return
        self.e2e_s.append(record.e2e_s)
        ratios = {name: _ratio(record, name, limit_s, good) for name, limit_s in slo.items()}
        self.ratios.append(max(ratios.values()))
        self.causes.update(name for name in slo if not meets(record, {name: slo[name]}))

    @property
    def share(self) -> float:
        """The share of good requests; 0 where there is no request."""
        return sum(self.good) / len(self.good) if self.good else 0.0

    @property
    def mean_e2e_s(self) -> float | None:
        """Mean end-to-end latency of the successful requests."""
        return fmean(self.e2e_s) if self.e2e_s else None

    def interval(self) -> tuple[float, float] | None:
        """The 95 % interval of the share, or None where the runs do not show it."""
        whole = share_interval(self.good, self.load, self._relevant())
        return whole or share_interval(self.good, self.load, least=LEAST_FOR_FAIL[self.load])

    def decide(self, attain: float) -> Decision:
        """Return what the requests show."""
        if self.saturated:
            return "fail"
        z = NormalDist().inv_cdf(1 - ERROR / 2 / (self.looks * (self.looks + 1)))
        above = share_interval(self.good, self.load, z=z, least=LEAST_FOR_FAIL[self.load])
        if above is not None and above[1] < attain:
            return "fail"
        highest = [multiple * (1 - attain) for multiple in HIGHEST] if self.load == "closed" else []
        least = LEAST_FOR_PASS[self.load]
        below = share_interval(self.good, self.load, self._relevant(), z=z, least=least, highest=highest)
        return "pass" if below is not None and below[0] >= attain else "undecided"

    def _relevant(self) -> list[float]:
        """Return the ratios, of which those that do not matter are set to one level, so that their dependence does not count."""
        if self.load != "open" or not self.ratios:
            return [max(ratio, RELEVANT) for ratio in self.ratios]
        low, high = BOUNDS
        level = math.exp(-FAR * slow_deviation([math.log(min(max(ratio, low), high)) for ratio in self.ratios]))
        return [max(ratio, level) for ratio in self.ratios]

    def cause(self) -> Cause | None:
        """What most requests that are not good fail on."""
        if self.saturated:
            return "saturation"
        return self.causes.most_common(1)[0][0] if self.causes else None


def _sent_s(record: Record) -> float:
    return record.due_s if record.sent_s is None else record.sent_s


def _ratio(record: Record, name: str, limit_s: float, good: bool) -> float:
    """Return a latency divided by its objective. It is 0 where the objective does not apply to a good answer."""
    value = getattr(record, f"{name}_s")
    return value / limit_s if value is not None else 0.0 if good else math.inf
