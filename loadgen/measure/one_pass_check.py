"""Compares derived budgets with real requests at the same budgets, to show whether load has distorted the derived figures.

With many requests in flight, a derived latency is that of a server which was busy with longer replies: their contexts are
larger, and they end less often. `--one-pass` therefore sends real requests at some of the derived budgets, after the requests
at the largest budget have ended. Latency, throughput and cost are compared in the steady windows of both parts. The check
holds where both agree within LIMIT at every checked budget, and it cannot hold where a part has no steady window.

The server's time is shared equally by the requests that are in flight at each instant, as in `analysis`, so that the tokens of
a derived budget have a cost of their own. This module does not know whether an answer is right.
"""

from bisect import bisect_right
from collections import defaultdict
from collections.abc import Iterable, Iterator, Sequence
from itertools import accumulate, pairwise
from pathlib import Path
from typing import Any, NamedTuple

from loadgen.measure.steady_window import Span, steady_window, tokens_within
from loadgen.record import RECORDS, Record, RunInfo, read_records

LIMIT = 0.03
"""The largest difference of latency and of cost with which the derived rows may be used."""
NAMED = 20
"""At most this many problems with different texts are named."""

Key = tuple[str, int]
"""A problem and a pass over the problems."""


class Reply(NamedTuple):
    """A record without its texts, of which the hash is compared."""

    record: Record
    span: Span
    """The time in which the request was in flight."""
    text: int


class Part:
    """The requests that were sent together, and how they shared the server."""

    def __init__(self, spans: Sequence[Span], run: RunInfo) -> None:
        self.window = steady_window(spans, run.load)
        self._whole = (min(span[0] for span in spans), max(span[1] for span in spans))
        changes = sorted([(span[0], 1) for span in spans] + [(span[1], -1) for span in spans])
        self._times = [time_s for time_s, _ in changes]
        levels = list(accumulate(change for _, change in changes))
        gaps = [(after - before, level) for (before, after), level in zip(pairwise(self._times), levels, strict=False)]
        self._shared = [0.0, *accumulate(gap / level if level else 0.0 for gap, level in gaps)]
        self._busy = [0.0, *accumulate(gap if level else 0.0 for gap, level in gaps)]

    def steady(self, reply: Reply) -> bool:
        """Tell whether a request was sent in the steady window; without one, every request counts."""
        return self.window is None or self.window[0] <= reply.span[0] <= self.window[1]

    def seconds_per_token(self, replies: Iterable[Reply]) -> float | None:
        """Return the seconds of the whole server per token of these replies, idle time included, in the window."""
        since_s, until_s = window = self.window or self._whole
        seconds = tokens = 0.0
        for record, span, _ in replies:
            tokens += tokens_within(record.first_token_s, record.last_token_s, record.completion_tokens, window)
            start_s, end_s = max(span[0], since_s), min(span[1], until_s)
            if end_s > start_s:
                seconds += self._at(self._shared, end_s) - self._at(self._shared, start_s)
        busy_s = self._at(self._busy, until_s) - self._at(self._busy, since_s)
        return seconds * (until_s - since_s) / busy_s / tokens if tokens and busy_s else None

    def _at(self, cumulated: Sequence[float], time_s: float) -> float:
        index = min(max(bisect_right(self._times, time_s) - 1, 0), len(self._times) - 2)
        before, after = self._times[index], self._times[index + 1]
        share = min(max((time_s - before) / (after - before), 0.0), 1.0) if after > before else 0.0
        return cumulated[index] + share * (cumulated[index + 1] - cumulated[index])


def check(folder: Path, run: RunInfo) -> dict[str, Any] | None:
    """Return the comparison at each checked budget and whether the check holds; None where nothing was checked."""
    spans: list[Span] = []
    derived: defaultdict[int, dict[Key, Reply]] = defaultdict(dict)
    real: defaultdict[int, dict[Key, Reply]] = defaultdict(dict)
    for record in read_records(folder / RECORDS):
        if record.warmup or record.sent_s is None or record.end_s is None:
            continue
        span = (record.sent_s, record.end_s, record.outcome == "ok")
        if record.derived or run.checks(record):
            text = hash((record.reasoning or "", record.text or ""))
            replies = derived if record.derived else real
            replies[record.budget][record.problem_id, record.repeat] = Reply(record.without_texts(), span, text)
        else:
            spans.append(span)
    checked = sorted(derived.keys() & real.keys())
    if not checked or not spans:
        return None
    main = Part(spans, run)
    rows = [_compare(budget, derived[budget], real[budget], main, run) for budget in checked]
    return {"holds": all(row["holds"] for row in rows), "limit": LIMIT, "checks": rows}


def _compare(
    budget: int, derived: dict[Key, Reply], real: dict[Key, Reply], main: Part, run: RunInfo
) -> dict[str, Any]:
    part = Part([reply.span for reply in real.values()], run)
    keys = sorted(derived.keys() & real.keys())
    both = [key for key in keys if derived[key].record.outcome == real[key].record.outcome == "ok"]
    pairs = [(derived[key], real[key]) for key in both]
    steady = [(a, b) for a, b in pairs if main.steady(a) and part.steady(b) and a.record.e2e_s and b.record.e2e_s]
    of_derived = _figures([a for a, _ in steady], derived.values(), main, run.num_gpus)
    of_real = _figures([b for _, b in steady], real.values(), part, run.num_gpus)
    ratio = {name: _over(of_derived[name], of_real[name]) for name in of_derived}
    judged = [name for name in ratio if run.num_gpus or name != "gpu_seconds_per_token"]
    agree = all((value := ratio[name]) is not None and abs(value - 1) <= LIMIT for name in judged)
    windows = main.window is not None and part.window is not None
    return {
        "budget": budget,
        "problems": len(pairs),
        "same_text": sum(a.text == b.text for a, b in pairs),
        "different": [key[0] for key in both if derived[key].text != real[key].text][:NAMED],
        "cut_at_chunk": sum(a.record.cut_at == "chunk" for a, _ in pairs),
        "compared": len(steady),
        "steady": windows,
        "derived": of_derived,
        "real": of_real,
        "ratio": ratio,
        "holds": windows and agree,
    }


def _figures(
    pairs: Sequence[Reply], replies: Iterable[Reply], part: Part, num_gpus: int | None
) -> dict[str, float | None]:
    """Return mean latency, and rate and cost of the tokens of one budget."""
    seconds = part.seconds_per_token(replies)
    latencies = [reply.record.e2e_s for reply in pairs if reply.record.e2e_s is not None]
    return {
        "e2e_s_mean": sum(latencies) / len(latencies) if latencies else None,
        "tokens_per_s": 1 / seconds if seconds else None,
        "gpu_seconds_per_token": seconds * num_gpus if seconds and num_gpus else None,
    }


def _over(top: float | None, bottom: float | None) -> float | None:
    return top / bottom if top is not None and bottom else None


def lines(found: dict[str, Any]) -> Iterator[str]:
    """Yield the comparison for people."""
    for row in found["checks"]:
        parts = ", ".join(
            f"{word} {_value(row['derived'][name])} / {_value(row['real'][name])} = {_value(row['ratio'][name])}"
            for name, word in WORDS.items()
        )
        yield (
            f"budget {row['budget']}, derived / real: {parts}; {row['same_text']} of {row['problems']} texts are equal"
            + ("" if row["steady"] else "; a part has no steady window")
        )
    limit = f"{found['limit']:.0%}"
    yield (
        f"the derived budgets agree with the real ones within {limit}"
        if found["holds"]
        else f"the derived budgets are not shown to agree within {limit}: do not use their latency and cost with several requests in flight"
    )


WORDS = {"e2e_s_mean": "e2e", "tokens_per_s": "tokens/s", "gpu_seconds_per_token": "GPU-seconds per token"}


def _value(value: float | None) -> str:
    return "unknown" if value is None else f"{value:.4g}"
