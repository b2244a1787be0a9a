"""Finds the time in which the load was steady, and counts the tokens that were produced in it.

Throughput, cost and energy of a whole run contain its beginning and its end, when fewer requests are in flight than were
asked for. The steady window leaves both out. It begins when one generation of requests has ended: every request that was sent
before any request succeeded. It ends when the last request is sent. A window in which fewer than two further generations
end is too short, and there is none then. The tokens of a request are spread evenly between its first and its last token, so
that the same formula applies with and without the times of single chunks.

This module does not know records, GPUs or prices.
"""

import math
from collections.abc import Iterable, Mapping, Sequence
from itertools import pairwise
from typing import Any

GENERATIONS = 2
"""Least number of requests that must end in the window, as a multiple of the requests in flight. With it, the cost per token
agrees within 1 % with that of a long run (docs/measurements.md has the table)."""
REQUESTS_PER_STREAM = 10
"""Number of requests to ask for, as a multiple of the requests in flight. The first generation lasts as long as its longest
request, in which time several shorter ones end in each other stream."""

Span = tuple[float, float, bool]
"""When a request was sent, when it ended (seconds), and whether it succeeded."""


def steady_window(
    spans: Iterable[Span], load: Mapping[str, Any], parts_s: Sequence[float] = ()
) -> tuple[float, float] | None:
    """Return when the steady load began and ended, or None where the run has no such time.

    `load` is `RunInfo.load`. `parts_s` are the times at which the run was resumed: each part has a beginning and an end of
    its own, and the longest window of a part is taken.
    """
    rows = list(spans)
    if not rows or load.get("ramp"):
        return None
    streams = requests_in_flight(rows, load)
    bounds = [-math.inf, *parts_s, math.inf]
    parts = ([row for row in rows if since <= row[0] < until] for since, until in pairwise(bounds))
    found = [window for part in parts if (window := _of_part(part, streams)) is not None]
    return max(found, key=lambda window: window[1] - window[0], default=None)


def why_no_window(spans: Sequence[Span], load: Mapping[str, Any]) -> str:
    """Return why a run has no steady window, and how many requests to ask for."""
    if load.get("ramp"):
        return "no steady window: the rate changes during the run"
    if not any(ok for _, _, ok in spans):
        return "no steady window: no request succeeded"
    streams = requests_in_flight(spans, load)
    enough = enough_requests(streams) if len(spans) < enough_requests(streams) else 2 * len(spans)
    return (
        f"no steady window: {len(spans)} requests are too few with {streams:.3g} in flight, so throughput, cost and energy "
        f"contain the beginning and the end of the run: send about {enough} requests (--problems, --repeats or --requests)"
    )


def requests_in_flight(spans: Sequence[Span], load: Mapping[str, Any]) -> float:
    """Return the streams of a closed loop; of an open loop the mean number of requests in flight, at least 1."""
    if load.get("concurrency"):
        return float(load["concurrency"])
    duration_s = max((span[1] for span in spans), default=0.0) - min((span[0] for span in spans), default=0.0)
    return max(1.0, math.fsum(end_s - sent_s for sent_s, end_s, _ in spans) / duration_s) if duration_s > 0 else 1.0


def after_first_generation(rows: Sequence[Span]) -> tuple[float, float] | None:
    """Return when the first generation of requests had ended and when the last request was sent; None without a success."""
    first_success_s = min((end_s for _, end_s, ok in rows if ok), default=None)
    if first_success_s is None:
        return None
    since_s = max((end_s for sent_s, end_s, _ in rows if sent_s < first_success_s), default=first_success_s)
    return since_s, max(sent_s for sent_s, _, _ in rows)


def _of_part(rows: list[Span], streams: float) -> tuple[float, float] | None:
    bounds = after_first_generation(rows)
    if bounds is None:
        return None
    since_s, until_s = bounds
    ended = sum(since_s < end_s <= until_s for _, end_s, _ in rows)
    return (since_s, until_s) if ended and ended >= GENERATIONS * streams else None


def enough_requests(streams: float) -> int:
    """Return how many requests to ask for, so that the run has a steady window."""
    return math.ceil(REQUESTS_PER_STREAM * streams)


def tokens_within(
    first_s: float | None, last_s: float | None, tokens: int | None, window: tuple[float, float]
) -> float:
    """Return how many of a request's tokens were produced in the window, spread evenly from its first to its last token."""
    if first_s is None or last_s is None or not tokens:
        return 0.0
    since_s, until_s = window
    if last_s <= first_s:
        return float(tokens) if since_s < last_s <= until_s else 0.0
    return tokens * max(0.0, min(last_s, until_s) - max(first_s, since_s)) / (last_s - first_s)
