"""records.jsonl → what a run says of itself: counts, latencies with intervals, throughput, goodput, energy.

Rules: taken from the file, so that a resumed or merged run is summed up like any other. Measured requests only: no
warm-ups, no derived records (those have their own rows under `budgets`). Every latency twice: over successes, and over
all requests with failures as +inf. A percentile that the sample can't carry is null with a reason. Formulas: docs/metrics.md.

Does not know: which of it is doubtful (verdict), whether an answer is right (analysis).
"""

import math
from array import array
from bisect import bisect_left, bisect_right
from collections import Counter, defaultdict
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from operator import sub, truediv
from pathlib import Path
from typing import Any

from loadgen.chunks import CHUNKS, Chunks, read_chunks
from loadgen.measure.formulas import meets
from loadgen.measure.quantiles import (
    CONFIDENCE,
    Cluster,
    _weighted_median,
    describe,
    describe_clusters,
    wilson,
)
from loadgen.record import RECORDS, Record, RunInfo, read_records

PER_REQUEST = ("ttft_s", "tpot_s", "e2e_s", "e2e_due_s", "send_lag_s", "ttft_due_s", "ttfot_s")
METRICS = ("ttft_s", "tpot_s", "itl_s", "inter_chunk_s", "e2e_s", "e2e_due_s", "send_lag_s")
"""Those on the result line."""


@dataclass
class Sums:
    """What one pass over some records adds up."""

    n: int = 0
    outcomes: Counter[str] = field(default_factory=Counter)
    finish: Counter[str] = field(default_factory=Counter)
    completion_tokens: int = 0
    prompt_tokens: int = 0
    good: int = 0
    values: dict[str, "array[float]"] = field(default_factory=lambda: defaultdict(lambda: array("d")))

    def add(self, record: Record, slo: dict[str, float]) -> None:
        """One more record."""
        self.n += 1
        self.outcomes[record.outcome] += 1
        self.completion_tokens += record.completion_tokens or 0
        self.prompt_tokens += record.prompt_tokens or 0
        self.good += bool(slo) and meets(record, slo)
        if record.outcome != "ok":
            return
        self.finish[record.finish_reason or "none"] += 1
        for name in PER_REQUEST:
            value = getattr(record, name)
            if value is not None:
                self.values[name].append(value)

    @property
    def failed(self) -> int:
        """Requests that did not succeed."""
        return self.n - self.outcomes["ok"]

    def described(self) -> dict[str, Any]:
        """Every latency over the successes."""
        return {name: describe(self.values[name]) for name in PER_REQUEST}

    def with_failures(self) -> dict[str, Any]:
        """Every latency over all requests, failures being infinite."""
        lost = [math.inf] * self.failed
        return {name: describe([*self.values[name], *lost]) for name in PER_REQUEST}


class Spans:
    """(sent_s, end_s) of many requests, in 16 bytes each."""

    def __init__(self) -> None:
        self.sent_s = array("d")
        self.end_s = array("d")

    def add(self, sent_s: float, end_s: float) -> None:
        """One more."""
        self.sent_s.append(sent_s)
        self.end_s.append(end_s)

    def __len__(self) -> int:
        return len(self.sent_s)

    def __iter__(self) -> Iterator[tuple[float, float]]:
        return zip(self.sent_s, self.end_s, strict=True)

    @property
    def duration_s(self) -> float:
        """From the first send to the last end."""
        return max(self.end_s) - min(self.sent_s) if self.sent_s else 0.0


@dataclass
class RunFacts:
    """What the summary and the verdict need of the records."""

    measured: Sums = field(default_factory=Sums)
    derived: int = 0
    warmups: int = 0
    budgets: dict[int, Sums] = field(default_factory=lambda: defaultdict(Sums))
    derived_budgets: dict[int, Sums] = field(default_factory=lambda: defaultdict(Sums))
    spans: Spans = field(default_factory=Spans)
    client_faults: int = 0
    cached_tokens: int = 0
    continued_tokens: int = 0
    """Prompt tokens of second calls, which a prefix cache is meant to serve."""
    sources: Counter[str] = field(default_factory=Counter)
    chunks: int = 0
    split: dict[str, "array[float]"] = field(default_factory=lambda: defaultdict(lambda: array("d")))
    """Where the server times each request: `queue_s prefill_s decode_s outside_s`."""
    tokens_a_chunk: dict[int, float] = field(default_factory=dict)
    """`seq` → mean, where the server counted tokens at the end only."""

    def add(self, record: Record, slo: dict[str, float]) -> None:
        """One more measured record."""
        self.measured.add(record, slo)
        self.budgets[record.budget].add(record, slo)
        self.client_faults += (record.error or "").startswith("client:")
        self.sources[record.token_source or "none"] += 1
        self.chunks += record.chunks
        for name, value in server_split(record).items():
            self.split[name].append(value)
        at_the_end = record.token_source == "usage"  # noqa: S105  a source of counts, no secret
        if at_the_end and record.chunks > 1 and record.completion_tokens:
            self.tokens_a_chunk[record.seq] = (record.completion_tokens - 1) / (record.chunks - 1)
        self.cached_tokens += record.cached_tokens or 0
        self.continued_tokens += sum(phase.get("prompt_tokens") or 0 for phase in (record.phases or [])[1:])
        if record.sent_s is not None and record.end_s is not None:
            self.spans.add(record.sent_s, record.end_s)


def server_split(record: Record) -> dict[str, float]:
    """e2e as the server's own timings split it; `outside_s` is the rest: network, HTTP on both sides, the client."""
    timings = record.server_timings or {}
    names = {
        "queue_s": "queue_time_ms",
        "prefill_s": "time_to_first_token_ms",
        "decode_s": "generation_time_ms",
    }
    parts = {ours: timings.get(theirs) for ours, theirs in names.items()}
    known = {name: ms / 1e3 for name, ms in parts.items() if isinstance(ms, int | float)}
    if len(known) < len(names) or record.e2e_s is None:
        return {}
    return known | {"outside_s": record.e2e_s - sum(known.values())}


def read(folder: Path, slo: dict[str, float]) -> RunFacts:
    """One pass over a run's records."""
    facts = RunFacts()
    for record in read_records(folder / RECORDS):
        if record.warmup:
            facts.warmups += 1
        elif record.derived:
            facts.derived += 1
            facts.derived_budgets[record.budget].add(record, slo)
        else:
            facts.add(record, slo)
    return facts


def token_times(folder: Path, facts: RunFacts, warmup: int) -> dict[str, Any]:
    """`itl_s` (one value a token) and `inter_chunk_s` (one a chunk) over the run, from chunks.bin."""

    def clusters() -> Iterator[tuple[Cluster, Cluster]]:
        for chunks in frames(folder, warmup):
            gaps_us = list(map(sub, chunks.arrival_us[1:], chunks.arrival_us))
            counts: list[float] = [*chunks.tokens[1:]]
            if (mean := facts.tokens_a_chunk.get(chunks.seq)) is not None:
                counts = [mean] * len(counts)
            gaps = Cluster(gaps_us)
            if counts.count(1) == len(counts):
                yield gaps, gaps
            else:
                yield Cluster(list(map(truediv, gaps_us, counts)), counts), gaps

    itl, inter_chunk = describe_clusters(clusters, 1e-6) or (describe([]), describe([]))
    return {"itl_s": itl, "inter_chunk_s": inter_chunk}


def frames(folder: Path, warmup: int) -> Iterator[Chunks]:
    """Chunk timings of the measured requests."""
    path = folder / CHUNKS
    return (chunks for chunks in (read_chunks(path) if path.exists() else ()) if chunks.seq >= warmup)


def summarise(folder: Path, run: RunInfo, facts: RunFacts) -> dict[str, Any]:
    """`RunInfo.summary`."""
    measured = facts.measured
    warmup = int(run.load.get("warmup") or 0)
    window = steady_window(facts.spans)
    found: dict[str, Any] = {
        "requests": measured.n,
        "planned": run.load.get("requests"),
        "warmups": facts.warmups,
        "derived": facts.derived,
        "outcomes": dict(sorted(measured.outcomes.items())),
        "finish_reasons": dict(sorted(measured.finish.items())),
        "counted_by": dict(sorted(facts.sources.items())),
        "prompt_tokens": measured.prompt_tokens,
        "completion_tokens": measured.completion_tokens,
        "confidence": CONFIDENCE,
        **measured.described(),
        **token_times(folder, facts, warmup),
        "with_failures": measured.with_failures(),
        "budgets": _by_budget(facts),
        "throughput": throughput(facts, run.num_gpus),
    }
    if window is not None:
        found["steady"] = {"window_s": list(window)} | _steady(folder, window, run)
    if facts.split:
        found["server_split"] = {name: describe(values) for name, values in facts.split.items()}
    if run.slo:
        found["goodput"] = goodput(measured, run.slo, facts.spans.duration_s)
    return found


def _by_budget(facts: RunFacts) -> dict[str, Any]:
    rows = [(b, sums, False) for b, sums in facts.budgets.items()]
    rows += [(b, sums, True) for b, sums in facts.derived_budgets.items()]
    return {
        f"{budget}{' derived' if derived else ''}": {
            "requests": sums.n,
            "outcomes": dict(sums.outcomes),
            "finish_reasons": dict(sums.finish),
            "completion_tokens_mean": round(sums.completion_tokens / sums.n, 2),
            **{name: describe(sums.values[name]) for name in ("ttft_s", "tpot_s", "e2e_s")},
        }
        for budget, sums, derived in sorted(rows, key=lambda row: (row[0], row[2]))
    }


def throughput(facts: RunFacts, num_gpus: int) -> dict[str, float | None]:
    """Rates from the first send to the last end, and the paper's and the wall's GPU-seconds a token."""
    measured = facts.measured
    duration_s = facts.spans.duration_s
    tokens = measured.completion_tokens
    latencies = measured.values["e2e_s"]
    return {
        "duration_s": round(duration_s, 6),
        "requests_per_s": round(measured.outcomes["ok"] / duration_s, 6) if duration_s else None,
        "completion_tokens_per_s": round(tokens / duration_s, 3) if duration_s else None,
        "chunks_per_s": round(facts.chunks / duration_s, 3) if duration_s else None,
        "gpu_seconds_per_token_paper": num_gpus * math.fsum(latencies) / tokens if tokens else None,
        "gpu_seconds_per_token_wall": num_gpus * duration_s / tokens if tokens else None,
    }


def _steady(folder: Path, window: tuple[float, float], run: RunInfo) -> dict[str, Any]:
    """The same latencies over requests sent inside the steady window, and the token rate inside it."""
    since_s, until_s = window
    sums = Sums()
    for record in read_records(folder / RECORDS):
        sent_s = record.sent_s
        if record.warmup or record.derived or sent_s is None or not since_s <= sent_s <= until_s:
            continue
        sums.add(record, run.slo)
    tokens = tokens_between(folder, since_s, until_s)
    return {
        "requests": sums.n,
        "completion_tokens_per_s": round(tokens / (until_s - since_s), 3),
        **{name: describe(sums.values[name]) for name in ("ttft_s", "tpot_s", "e2e_s", "e2e_due_s")},
    }


def tokens_between(folder: Path, since_s: float, until_s: float) -> int:
    """Tokens that arrived in a window, whichever request they belong to."""
    total = 0
    for chunks in frames(folder, 0):
        first = bisect_left(chunks.arrival_us, since_s * 1e6)
        total += sum(chunks.tokens[first : bisect_right(chunks.arrival_us, until_s * 1e6)])
    return total


def goodput(sums: Sums, slo: dict[str, float], duration_s: float) -> dict[str, Any]:
    """Requests that succeeded within every objective: their share of all sent, and their rate."""
    return {
        "slo": slo,
        "good": sums.good,
        "share": round(sums.good / sums.n, 6) if sums.n else None,
        "interval": wilson(sums.good, sums.n),
        "requests_per_s": round(sums.good / duration_s, 6) if duration_s else None,
    }


def table(run: RunInfo) -> Iterator[str]:
    """The summary as lines for people: value and interval of every percentile, in seconds."""
    names = ("p50", "p90", "p95", "p99")
    yield "  ".join([f"{'':13}", f"{'n':>7}", *(f"{name:^25}" for name in names), "mean"])
    for metric in METRICS:
        row = run.summary.get(metric)
        if row and row.get("n"):
            cells = (f"{_cell(row, name):25}" for name in names)
            yield "  ".join([f"{metric:13}", f"{row['n']:>7}", *cells, _value(row["mean"])])
    if found := run.summary.get("speculation"):
        yield (
            f"speculation: {found['drafts']:,.0f} drafts in {found['steps']:,.0f} steps of the server, "
            f"{found['accepted_tokens']:,.0f} of {found['draft_tokens']:,.0f} drafted tokens accepted"
        )


def _cell(row: dict[str, Any], name: str) -> str:
    if row[name] is None:
        return str(row["why"][name])
    low, high = row["interval"][name]
    return f"{_value(row[name])} [{_value(low)}, {_value(high)}]"


def _value(seconds: float | None) -> str:
    return "inf" if seconds is None else f"{seconds:.3g}"


def steady_window(spans: Iterable[tuple[float, float]]) -> tuple[float, float] | None:
    """When the load was steady: from first reaching 90 % of the plateau until the last request was sent.

    `spans` are (sent_s, end_s) of the requests that count. The plateau is the median, over time, of the requests in
    flight between the first and the last send: what ramps up before it and drains after it is not the load asked for.
    None where that leaves no time at all.
    """
    sent = array("d", sorted(sent_s for sent_s, _ in spans))
    ended = array("d", sorted(end_s for _, end_s in spans))
    held_s: defaultdict[float, float] = defaultdict(float)
    for _, level, seconds in _levels(sent, ended):
        held_s[level] += seconds
    plateau = _weighted_median(list(held_s.items()))
    if plateau is None:
        return None
    start_s = next(since_s for since_s, level, _ in _levels(sent, ended) if level >= 0.9 * plateau)
    return (start_s, sent[-1]) if start_s < sent[-1] else None


def _levels(sent: Sequence[float], ended: Sequence[float]) -> Iterator[tuple[float, int, float]]:
    """(since, requests in flight, for how long) from the first send to the last; both sequences in order."""
    begun = over = 0
    while begun < len(sent):
        since_s = sent[begun]
        if over < len(ended) and ended[over] <= since_s:
            since_s = ended[over]
            over += 1
        else:
            begun += 1
        next_s = min([*sent[begun : begun + 1], *ended[over : over + 1]], default=since_s)
        next_s = min(next_s, sent[-1])
        if next_s > since_s:
            yield since_s, begun - over, next_s - since_s
