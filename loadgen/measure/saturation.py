"""Tells whether a server kept up with the request rate of an open loop.

Beyond its capacity a server answers fewer requests than are sent, so the requests in flight grow as long as the load lasts,
and every latency depends on the length of the run. The time between the end of the first generation of requests and the last
send is divided into BLOCKS parts. The growth in a part varies by chance with the arrivals and the service times; the server is
saturated if the mean growth is significantly above zero and a relevant share of the requests sent. A queue that is nearly full
and not overloaded grows and shrinks slowly, so its growth is seldom significant:
`python -m benchmarks.capacity_search --saturation` prints how often each is called saturated.

A run that ends before the server can answer much of what was sent shows neither, and that is said too. Ramps, bursts and
replayed times have no single rate, so they are not judged. This module does not know what a good latency is.
"""

import math
from bisect import bisect_right
from collections.abc import Mapping, Sequence
from itertools import pairwise
from typing import Any, NamedTuple

from loadgen.measure.dependence import BLOCKS
from loadgen.measure.steady_window import Span, after_first_generation, enough_requests

SIGNIFICANT = 3.0
"""Least ratio of the mean growth in a part to its standard error."""
LEAST_GROWTH = 0.05
"""Least growth of the requests in flight, as a share of the requests sent meanwhile."""
LEAST_SENT = 50
"""With fewer requests after the first generation, growth cannot be told from chance."""
LEAST_ANSWERED = 0.75
"""Where less than this share of the requests ended before the last one was sent, the run is too short for its rate."""


class AchievedRate(NamedTuple):
    """How a server kept up with a rate."""

    asked_per_s: float
    achieved_per_s: float
    """Requests that ended per second while requests were sent."""
    in_flight: tuple[int, int]
    """After the first generation of requests, and when the last request was sent."""
    saturated: bool
    enough: int | None = None
    """For a run that is too short: about how many requests would show it."""

    @property
    def reason(self) -> str | None:
        """What the verdict says about it, or None."""
        first, last = self.in_flight
        numbers = f"{self.asked_per_s:.3g} requests/s were asked and {self.achieved_per_s:.3g} achieved"
        if self.saturated:
            return (
                f"saturated: {numbers}, and the requests in flight grew from {first} to {last} while requests were sent"
            )
        if self.enough:
            return (
                f"{numbers} while requests were sent, with {last} in flight at the end: the run is too short to show "
                f"whether the server keeps up: send about {self.enough} requests"
            )
        return None


def achieved_rate(spans: Sequence[Span], load: Mapping[str, Any]) -> AchievedRate | None:
    """Return how the server kept up with the rate, or None where the load has no single rate. `load` is `RunInfo.load`."""
    single = load.get("kind") == "open" and not load.get("ramp") and load.get("arrival") not in ("burst", "replay")
    bounds = after_first_generation(spans) if single else None
    if bounds is None or not load.get("rate"):
        return None
    sent_s, end_s = sorted(span[0] for span in spans), sorted(span[1] for span in spans)
    since_s, until_s = bounds
    last = len(spans) - bisect_right(end_s, until_s)
    levels = _in_flight(sent_s, end_s, since_s, until_s)
    arrived = len(spans) - bisect_right(sent_s, since_s)
    saturated = arrived >= LEAST_SENT and grows(levels) and levels[-1] - levels[0] > LEAST_GROWTH * arrived
    begin_s = since_s if saturated else sent_s[0]
    ended = bisect_right(end_s, until_s) - bisect_right(end_s, begin_s)
    achieved = ended / (until_s - begin_s) if until_s > begin_s else 0.0
    short = not saturated and len(spans) - last < LEAST_ANSWERED * len(spans)
    return AchievedRate(load["rate"], achieved, (levels[0], last), saturated, enough_requests(last) if short else None)


def _in_flight(sent_s: Sequence[float], end_s: Sequence[float], since_s: float, until_s: float) -> list[int]:
    """Return the number of requests in flight at the edges of the blocks; both sequences are in ascending order."""
    edges_s = (since_s + (until_s - since_s) * index / BLOCKS for index in range(BLOCKS + 1))
    return [bisect_right(sent_s, edge_s) - bisect_right(end_s, edge_s) for edge_s in edges_s]


def grows(levels: Sequence[float]) -> bool:
    """Tell whether a level grows from block to block by more than chance, as far as its steps are independent."""
    steps = [after - before for before, after in pairwise(levels)]
    mean = math.fsum(steps) / len(steps)
    variance = math.fsum((step - mean) ** 2 for step in steps) / (len(steps) - 1)
    return mean > SIGNIFICANT * math.sqrt(variance / len(steps))
