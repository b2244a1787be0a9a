"""Tests a load with one or more runs, until it is decided or the most requests have been sent.

Each run of a test is a run of its own, with its own folder and its own seed, and the requests of all of them are pooled. A run
that is continued would not do: its second part begins with an idle server too, and has the same arrival times.

This module does not know how a run is made, or which load is tested next.
"""

import math
from collections import Counter
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any, NamedTuple

import msgspec

from loadgen.measure.dependence import kind_of
from loadgen.measure.steady_window import enough_requests
from loadgen.option_types import LoadPoint
from loadgen.record import Record
from loadgen.search.bracket import Bracket, Over, Step, Stopped
from loadgen.search.decision import Cause, Decision, Evidence

FIRST = {"streams": 20, "rate": 100}
"""Least requests of the first run of a test."""
FURTHER = {"streams": 100, "rate": 200}
"""Least requests of a further run, which may decide the test (see `dependence.LEAST_EFFECTIVE`)."""
BRIEF_GENERATIONS = 6
"""Requests of the first run for each stream. The first generation does not count."""
MOST = 4000
"""Most requests of a test, if nothing else is asked for."""


class Goodput(msgspec.Struct):
    """The share of good requests among those that count."""

    share: float
    interval: tuple[float, float] | None
    requests: int


class Probe(msgspec.Struct):
    """One test of a load, as search.json contains it."""

    run: str
    """Folder of its first run."""
    load: float
    decision: Decision
    goodput: Goodput
    fails: Cause | None
    duration_s: float
    runs: list[str]


class Sent(NamedTuple):
    """One run that has ended."""

    name: str
    load: Mapping[str, Any]
    """`RunInfo.load`."""
    records: Iterable[Record]
    """The measured ones."""
    duration_s: float


Send = Callable[[LoadPoint, int, int], Sent]
"""Does a run at a load point: the number of the run at this load, from 0, and its requests. Raises SearchEndedError."""


def load_point(over: Over, load: float) -> LoadPoint:
    """Return the load of a run."""
    return LoadPoint("closed" if over == "streams" else "open", load)


class SearchEndedError(Exception):
    """The search was ended before it knew everything."""

    def __init__(self, why: Stopped) -> None:
        super().__init__(why)
        self.why = why
        self.probe: Probe | None = None
        """The test that was not finished."""


@dataclass
class Test:
    """The runs of one test so far."""

    evidence: Evidence
    runs: list[str] = field(default_factory=list)
    requests: int = 0
    duration_s: float = 0.0


@dataclass
class Tester:
    """Tests one load after another."""

    over: Over
    slo: dict[str, float]
    attain: float
    send: Send
    most: int = MOST
    _tests: dict[float, Test] = field(default_factory=dict)
    _runs: Counter[float] = field(default_factory=Counter)
    _e2e_s: float = 0.0
    """Mean latency in the latest run, which tells how many requests a rate will have in flight."""

    def test(self, step: Step) -> Probe:
        """Do a test. Raises SearchEndedError, with what is known of the test."""
        point = load_point(self.over, step.load)
        if step.fresh or step.load not in self._tests:
            self._tests[step.load] = Test(Evidence(kind_of({"kind": point.kind, "concurrency": point.value})))
        test = self._tests[step.load]
        try:
            while not self._done(step, test):
                self._run(point, test)
        except SearchEndedError as end:
            end.probe = self._probe(step.load, test) if test.runs else None
            raise
        return self._probe(step.load, test)

    def _done(self, step: Step, test: Test) -> bool:
        if not test.runs:
            return False
        most = max(self.most, 2 * self._first(step.load))
        decided = test.evidence.decide(self.attain) != "undecided"
        return decided or test.requests >= most or (not step.thorough and test.evidence.share >= self.attain)

    def _run(self, point: LoadPoint, test: Test) -> None:
        size = max(FURTHER[self.over], test.requests) if test.runs else self._first(point.value)
        sent = self.send(point, self._runs[point.value], size)
        self._runs[point.value] += 1
        test.evidence.add(sent.records, sent.load, self.slo)
        test.runs.append(sent.name)
        test.requests += size
        test.duration_s += sent.duration_s
        self._e2e_s = test.evidence.mean_e2e_s or self._e2e_s

    def _first(self, load: float) -> int:
        in_flight = load * self._e2e_s
        needed = BRIEF_GENERATIONS * load if self.over == "streams" else enough_requests(in_flight)
        return max(FIRST[self.over], math.ceil(needed))

    def _probe(self, load: float, test: Test) -> Probe:
        evidence = test.evidence
        decision = evidence.decide(self.attain)
        goodput = Goodput(round(evidence.share, 6), evidence.interval(), len(evidence.good))
        fails = evidence.cause() if decision == "fail" else None
        return Probe(test.runs[0], load, decision, goodput, fails, round(test.duration_s, 3), list(test.runs))


def search(bracket: Bracket, tester: Tester, on_probe: Callable[[Probe], None]) -> Stopped:
    """Test loads until the limit is found; return why the search stopped."""
    try:
        while (step := bracket.next()) is not None:
            probe = tester.test(step)
            bracket.add(step, probe.decision, probe.goodput.share, probe.goodput.requests)
            on_probe(probe)
    except SearchEndedError as end:
        if end.probe is not None:
            on_probe(end.probe)
        return end.why
    except KeyboardInterrupt:
        return "interrupted"
    return bracket.stopped()
