"""Compares the limits that a search finds with those of servers whose capacity is known.

    python -m benchmarks.capacity_search               # 20 seeds of each kind of server, about two minutes
    python -m benchmarks.capacity_search --saturation  # how often a run is called saturated, by how busy the server is

The servers have a queue on a virtual clock (tests/fixtures/queues.py), so that a search takes seconds; everything that decides
is what `python -m loadgen search` uses. The exit code is 1 if a limit is further than one stream or 5 % from the true one.
"""

import argparse
import sys
from collections.abc import Iterator

from loadgen.measure.saturation import achieved_rate
from loadgen.search.probes import MOST
from tests.fixtures.known_limits import KINDS, searched
from tests.fixtures.queues import Server, exponential, fixed

FIRST_SEED, FIRST_SATURATION_SEED = 100, 1000
"""The constants of the search and of the test of saturation were chosen with seeds below these."""


def table(seeds: int, most: int) -> Iterator[tuple[str, bool]]:
    """The lines of the table, and whether each holds."""
    for name, kind in KINDS.items():
        for seed in range(FIRST_SEED, FIRST_SEED + seeds):
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
    for name, service in (("exponential", exponential()), ("fixed", fixed())):
        for busy in (0.5, 0.8, 0.9, 0.95, 1.1, 1.3, 1.6):
            cells = []
            for requests in (100, 200, 500, 2000):
                load = {"kind": "open", "rate": 8 * busy, "arrival": "poisson"}
                found = (
                    achieved_rate([(r.sent_s or 0.0, r.end_s or 0.0, True) for r in records], load)
                    for records in (
                        Server(8, service).open_loop(8 * busy, requests, n)
                        for n in range(FIRST_SATURATION_SEED, FIRST_SATURATION_SEED + seeds)
                    )
                )
                cells.append(f"{sum(one is not None and one.saturated for one in found) / seeds:.1%}")
            yield f"| {name} | {busy:.0%} | {' | '.join(cells)} |"


def main() -> int:
    """Print a table."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.capacity_search", description=__doc__)
    parser.add_argument("--seeds", type=int, default=20, metavar="N", help="searches of each kind [20]")
    parser.add_argument("--most", type=int, default=MOST, metavar="N", help="as in search [%(default)s]")
    parser.add_argument("--saturation", action="store_true", help="print how often a run is called saturated")
    args = parser.parse_args()
    if args.saturation:
        print("| service | busy | 100 requests | 200 | 500 | 2000 |\n|---|--:|--:|--:|--:|--:|")
        print(*alarms(10 * args.seeds), sep="\n")
        return 0
    print(
        f"| server | seed | true limit | found | certain | tests | requests | server s | wall s |  |\n|---|{'--:|' * 8}---|"
    )
    good = True
    for line, holds in table(args.seeds, args.most):
        print(line, flush=True)
        good &= holds
    return 0 if good else 1


if __name__ == "__main__":
    sys.exit(main())
