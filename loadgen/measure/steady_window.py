"""Finds the time in which the load was steady, without ramp-up and drain, and summarizes the requests sent in it.

This module does not know what load was asked for; it finds the plateau in the requests that were in flight.
"""

from array import array
from collections import defaultdict
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any

from loadgen.measure.dependence import Load, described
from loadgen.measure.quantiles import weighted_median
from loadgen.measure.run_facts import Totals
from loadgen.measure.token_times import tokens_between
from loadgen.record import RECORDS, read_records


def steady_window(spans: Iterable[tuple[float, float]]) -> tuple[float, float] | None:
    """Return when the steady load began and ended, or None where there is no such time.

    `spans` are the (sent_s, end_s) pairs of the requests. The plateau is the median over time of the number of requests in
    flight, between the first and the last send. The window begins when 90 % of the plateau is first reached and ends when
    the last request is sent.
    """
    sent = array("d", sorted(sent_s for sent_s, _ in spans))
    ended = array("d", sorted(end_s for _, end_s in spans))
    seconds_at: defaultdict[float, float] = defaultdict(float)
    for _, in_flight, seconds in _levels(sent, ended):
        seconds_at[in_flight] += seconds
    plateau = weighted_median(seconds_at.items())
    if plateau is None:
        return None
    start_s = next(since_s for since_s, in_flight, _ in _levels(sent, ended) if in_flight >= 0.9 * plateau)
    return (start_s, sent[-1]) if start_s < sent[-1] else None


def _levels(sent: Sequence[float], ended: Sequence[float]) -> Iterator[tuple[float, int, float]]:
    """Yield (since, requests in flight, seconds) from the first send to the last; both sequences are ascending."""
    started = finished = 0
    while started < len(sent):
        since_s = sent[started]
        if finished < len(ended) and ended[finished] <= since_s:
            since_s = ended[finished]
            finished += 1
        else:
            started += 1
        next_s = min([*sent[started : started + 1], *ended[finished : finished + 1]], default=since_s)
        next_s = min(next_s, sent[-1])
        if next_s > since_s:
            yield since_s, started - finished, next_s - since_s


def summarize_window(
    folder: Path, window: tuple[float, float], slo: dict[str, float], load: Load = "alone"
) -> dict[str, Any]:
    """Describe the measured requests that were sent inside the window, and the token rate in it."""
    since_s, until_s = window
    totals = Totals()
    for record in read_records(folder / RECORDS):
        sent_s = record.sent_s
        if record.warmup or record.derived or sent_s is None or not since_s <= sent_s <= until_s:
            continue
        totals.add(record, slo)
    return {
        "window_s": list(window),
        "requests": totals.n,
        "completion_tokens_per_s": round(tokens_between(folder, since_s, until_s) / (until_s - since_s), 3),
        **{name: described(totals.values[name], load) for name in ("ttft_s", "tpot_s", "e2e_s", "e2e_due_s")},
    }
