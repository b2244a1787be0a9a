"""Compares the limits that a search finds with those of servers whose capacity is known.

    python -m benchmarks.capacity_search               # 20 seeds of each kind of server, about two minutes
    python -m benchmarks.capacity_search --saturation  # how often a run is called saturated, by how busy the server is

The servers have a queue on a virtual clock (tests/fixtures/queues.py), so that a search takes seconds; everything that decides
is what `python -m loadgen search` uses. The exit code is 1 if a limit is further than one stream or 5 % from the true one.
"""

import argparse
import random
import sys
import time
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from typing import NamedTuple

from loadgen.measure.saturation import pace
from loadgen.option_types import LoadPoint
from loadgen.record import Record
from loadgen.search.bracket import Bracket, Over
from loadgen.search.probes import Probe, Sent, Tester, search
from tests.fixtures.queues import (
    Server,
    exponential,
    fixed,
    limit_rate,
    limit_streams,
    waits_closed,
    waits_md1,
    waits_mmc,
)

ATTAIN = 0.95
ACCURATE = 16_000
"""Most requests of a test. 5 % of the rate of a queue are 1.5 percentage points of its share of good requests, and these
requests depend on each other."""
CLIFF = 23
FAST_S = 60.0


class Kind(NamedTuple):
    """A kind of server, what is searched on it, and the truth (None: the lowest load fails)."""

    make: Callable[[], Server]
    over: Over
    slo: dict[str, float]
    truth: float | None
    first: float = 1


def fast_at_first(rng: random.Random, age_s: float, _in_flight: int) -> float:
    """Service that takes 0.4 s on average for a minute, and then 1 s."""
    return rng.expovariate(1.0) * (0.4 if age_s < FAST_S else 1.0)


def cliff(rng: random.Random, _age_s: float, in_flight: int) -> float:
    """Service that grows slowly up to CLIFF requests in flight, and is many times slower beyond."""
    mean_s = 0.7 + 0.1 * in_flight / CLIFF if in_flight <= CLIFF else 22.4
    return mean_s * rng.uniform(0.9, 1.1)


STREAMS = float(limit_streams(lambda streams: waits_closed(8, streams, 1.0), ATTAIN))
KINDS = {
    "queue, exponential service, streams": Kind(lambda: Server(8, exponential()), "streams", {"ttft": 1.0}, STREAMS),
    "queue, exponential service, rate": Kind(
        lambda: Server(8, exponential()), "rate", {"ttft": 0.5}, limit_rate(lambda rate: waits_mmc(8, rate, 0.5), ATTAIN, 8)
    ),
    "queue, fixed service, rate": Kind(
        lambda: Server(1, fixed(0.1)), "rate", {"ttft": 0.5}, limit_rate(lambda rate: waits_md1(rate, 0.5, 0.1), ATTAIN, 10)
    ),
    "faster for the first minute": Kind(lambda: Server(8, fast_at_first), "streams", {"ttft": 1.0}, STREAMS),
    "cliff at 23": Kind(lambda: Server(256, cliff), "streams", {"e2e": 1.0}, CLIFF),
    "fails at once": Kind(lambda: Server(256, fixed(), refuses_above=0), "streams", {"e2e": 1.5}, None),
    "never fails": Kind(lambda: Server(256, fixed()), "streams", {"e2e": 1.5}, 256),
}  # fmt: skip


@dataclass
class Result:
    """One search."""

    kind: str
    found: float | None
    low: float | None
    high: float | None
    probes: list[Probe]
    wall_s: float

    @property
    def right(self) -> bool:
        """Whether the limit is within one stream or 5 % of the true one."""
        kind = KINDS[self.kind]
        if self.found is None or kind.truth is None:
            return self.found == kind.truth
        return abs(self.found - kind.truth) <= (1 if kind.over == "streams" else 0.05 * kind.truth)


def searched(name: str, seed: int, most: int = ACCURATE) -> Result:
    """Search on a new server."""
    kind, began_s, runs = KINDS[name], time.perf_counter(), iter(range(seed * 1000, sys.maxsize))
    server, probes = kind.make(), list[Probe]()

    def send(point: LoadPoint, number: int, requests: int) -> Sent:
        run_seed = next(runs)
        if kind.over == "streams":
            load: dict[str, object] = {"kind": "closed", "concurrency": int(point.value)}
            records = server.closed_loop(int(point.value), requests, run_seed)
        else:
            load = {"kind": "open", "rate": point.value, "arrival": "poisson"}
            records = server.open_loop(point.value, requests, run_seed)
        return Sent(f"{point.name}_{number}", load, records, max(record.end_s or 0.0 for record in records))

    bracket = Bracket(kind.over, kind.first, 256, ATTAIN)
    search(bracket, Tester(kind.over, kind.slo, ATTAIN, send, most), probes.append)
    wall_s = time.perf_counter() - began_s
    return Result(name, bracket.best(), bracket.passed, bracket.failed, probes, wall_s)


def waits(records: Iterable[Record], within_s: float) -> float:
    """The share of requests that waited at most this long for a slot."""
    ttfts = [record.ttft_s for record in records if record.ttft_s is not None]
    return sum(ttft <= within_s for ttft in ttfts) / len(ttfts)


def table(seeds: int, most: int) -> Iterator[tuple[str, bool]]:
    """The lines of the table, and whether each holds."""
    for name, kind in KINDS.items():
        for seed in range(seeds):
            one = searched(name, seed, most)
            requests = sum(probe.goodput.requests for probe in one.probes)
            cells = (
                name, str(seed), _load(kind.truth), _load(one.found), f"{_load(one.low)} to {_load(one.high)}",
                str(len(one.probes)), str(requests), f"{sum(probe.duration_s for probe in one.probes):.0f}",
                f"{one.wall_s:.1f}", "" if one.right else "✗",
            )  # fmt: skip
            yield f"| {' | '.join(cells)} |", one.right


def _load(value: float | None) -> str:
    return "–" if value is None else f"{value:.4g}"


def alarms(seeds: int) -> Iterator[str]:
    """How often runs are called saturated."""
    services = {"exponential": exponential(), "fixed": fixed()}
    for name, service in services.items():
        for busy in (0.5, 0.8, 0.9, 0.95, 1.1, 1.3, 1.6):
            cells = []
            for requests in (100, 200, 500, 2000):
                load = {"kind": "open", "rate": 8 * busy, "arrival": "poisson"}
                found = (
                    pace([(r.sent_s or 0.0, r.end_s or 0.0, True) for r in records], load)
                    for records in (Server(8, service).open_loop(8 * busy, requests, n) for n in range(seeds))
                )
                cells.append(f"{sum(one is not None and one.saturated for one in found) / seeds:.1%}")
            yield f"| {name} | {busy:.0%} | {' | '.join(cells)} |"


def main() -> int:
    """Print a table."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.capacity_search", description=__doc__)
    parser.add_argument("--seeds", type=int, default=20, metavar="N", help="searches of each kind [20]")
    parser.add_argument("--most", type=int, default=ACCURATE, metavar="N", help="as in search [%(default)s]")
    parser.add_argument("--saturation", action="store_true", help="print how often a run is called saturated")
    args = parser.parse_args()
    if args.saturation:
        print("| service | busy | 100 requests | 200 | 500 | 2000 |\n|---|--:|--:|--:|--:|--:|")
        print(*alarms(10 * args.seeds), sep="\n")
        return 0
    titles = (
        "server",
        "seed",
        "true limit",
        "found",
        "certain",
        "tests",
        "requests",
        "server s",
        "wall s",
        "",
    )
    print(f"| {' | '.join(titles)} |\n|---|{'--:|' * 8}---|")
    good = True
    for line, holds in table(args.seeds, args.most):
        print(line, flush=True)
        good &= holds
    return 0 if good else 1


if __name__ == "__main__":
    sys.exit(main())
