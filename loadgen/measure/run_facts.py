"""Reads the records of a run once and counts what the summary and the verdict need.

Everything is taken from `records.jsonl`, so that a resumed or merged run is treated like any other. Measured requests are
those that are neither warm-up requests nor derived records nor the check of derived budgets (`--one-pass`).

This module does not know percentiles or limits.
"""

import math
from array import array
from collections import Counter, defaultdict
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from loadgen.measure.dependence import Load, described
from loadgen.measure.formulas import AT_END, meets
from loadgen.measure.stream_faults import StreamFaults
from loadgen.record import RECORDS, Record, RunInfo, read_records

LATENCIES = ("ttft_s", "tpot_s", "e2e_s", "e2e_due_s", "send_lag_s", "ttft_due_s", "ttfot_s")
"""The latencies that a record has at most one value of."""
OPTIONAL_LATENCIES = ("tpot_s", "ttfot_s")
"""The latencies that a complete reply need not have."""


@dataclass
class Totals:
    """Counts and latencies of a set of records."""

    n: int = 0
    outcomes: Counter[str] = field(default_factory=Counter)
    finish: Counter[str] = field(default_factory=Counter)
    completion_tokens: int = 0
    counted: int = 0
    """Requests with a known number of tokens."""
    ok_tokens: int = 0
    """Completion tokens of the successful requests that have a latency."""
    prompt_tokens: int = 0
    met: bytearray = field(default_factory=bytearray)
    """For each request whether it succeeded and met every objective, in the order of time."""
    failed_after: "array[int]" = field(default_factory=lambda: array("q"))
    """For each failure, the number of successful requests before it."""
    values: dict[str, "array[float]"] = field(default_factory=lambda: defaultdict(lambda: array("d")))
    """Latencies of the successful requests, in model seconds."""

    def add(self, record: Record, slo: dict[str, float]) -> None:
        """Add one record."""
        self.n += 1
        self.outcomes[record.outcome] += 1
        self.completion_tokens += record.completion_tokens or 0
        self.counted += record.completion_tokens is not None
        self.prompt_tokens += record.prompt_tokens or 0
        self.met.append(bool(slo) and meets(record, slo))
        if record.outcome != "ok":
            self.failed_after.append(self.outcomes["ok"])
            return
        self.finish[record.finish_reason or "none"] += 1
        self.ok_tokens += (record.completion_tokens or 0) if record.e2e_s is not None else 0
        for name in LATENCIES:
            value = getattr(record, name)
            if value is not None:
                self.values[name].append(value)

    @property
    def failed(self) -> int:
        """Number of requests that did not succeed."""
        return self.n - self.outcomes["ok"]

    @property
    def good(self) -> int:
        """Number of requests that succeeded and met every objective."""
        return sum(self.met)

    def described(self, load: Load = "alone") -> dict[str, Any]:
        """Describe every latency over the successful requests."""
        return {name: described(self.values[name], load) for name in LATENCIES}

    def with_failures(self, load: Load = "alone") -> dict[str, Any]:
        """Describe every latency over all requests, with failed requests as infinity.

        A successful request without a token has no latency either, so it counts as infinity where every reply should have
        one. Not every reply has a time per token, or an answer after its reasoning.
        """
        rows = {}
        for name in LATENCIES:
            values = self.and_failures(name)
            missing = 0 if name in OPTIONAL_LATENCIES else self.n - len(values)
            values += [math.inf] * missing
            largest = max(values, default=math.inf)
            rows[name] = described(values, load) | {"max": largest if math.isfinite(largest) else None}
        return rows

    def and_failures(self, name: str) -> list[float]:
        """Return the values of a latency with an infinity for each failure, in the order of time."""
        values = self.values[name]
        merged: list[float] = []
        before = 0
        for index in self.failed_after:
            merged += [*values[before:index], math.inf]
            before = index
        return [*merged, *values[before:]]


class Spans:
    """(sent_s, end_s, succeeded) of many requests, in 17 bytes each."""

    def __init__(self) -> None:
        self.sent_s = array("d")
        self.end_s = array("d")
        self._ok = bytearray()

    def add(self, sent_s: float, end_s: float, *, ok: bool) -> None:
        """Add one request."""
        self.sent_s.append(sent_s)
        self.end_s.append(end_s)
        self._ok.append(ok)

    def __len__(self) -> int:
        return len(self.sent_s)

    def __iter__(self) -> Iterator[tuple[float, float, bool]]:
        return zip(self.sent_s, self.end_s, map(bool, self._ok), strict=True)

    @property
    def duration_s(self) -> float:
        """Model seconds from the first send to the last end."""
        return max(self.end_s) - min(self.sent_s) if self.sent_s else 0.0


@dataclass
class RunFacts:
    """What the summary and the verdict need to know about the records of a run."""

    measured: Totals = field(default_factory=Totals)
    derived: int = 0
    warmups: int = 0
    checks: Totals = field(default_factory=Totals)
    """The requests that check derived budgets. They are sent after the measured requests have ended."""
    first_check: float = math.inf
    """The lowest `seq` of the check."""
    budgets: dict[int, Totals] = field(default_factory=lambda: defaultdict(Totals))
    derived_budgets: dict[int, Totals] = field(default_factory=lambda: defaultdict(Totals))
    spans: Spans = field(default_factory=Spans)
    client_faults: int = 0
    """Requests that failed because of a limit of the client's machine."""
    continued_tokens: int = 0
    """Prompt tokens of second calls (budget mode `forced`). The prefix cache is meant to serve them."""
    token_sources: Counter[str] = field(default_factory=Counter)
    chunks: int = 0
    split: dict[str, "array[float]"] = field(default_factory=lambda: defaultdict(lambda: array("d")))
    """`queue_s prefill_s decode_s outside_s` of each request, where the server reports them."""
    mean_tokens: dict[int, float] = field(default_factory=dict)
    """Mean number of tokens in a chunk by `seq`, for requests whose tokens the server counted only at the end."""

    streams: StreamFaults = field(default_factory=StreamFaults)
    """What was wrong with the streams of successful requests."""

    def add(self, record: Record, slo: dict[str, float]) -> None:
        """Add one measured record."""
        self.measured.add(record, slo)
        self.budgets[record.budget].add(record, slo)
        self.client_faults += (record.error or "").startswith("client:")
        self.token_sources[record.token_source or "none"] += 1
        self.chunks += record.chunks
        for name, value in server_split(record).items():
            self.split[name].append(value)
        self.streams.add(record)
        if record.token_source in AT_END and record.chunks > 1 and record.completion_tokens:
            later = record.completion_tokens - (record.hidden_tokens or 0) - 1
            self.mean_tokens[record.seq] = max(later, 1) / (record.chunks - 1)
        self.continued_tokens += sum(phase.get("prompt_tokens") or 0 for phase in (record.phases or [])[1:])
        if record.sent_s is not None and record.end_s is not None:
            self.spans.add(record.sent_s, record.end_s, ok=record.outcome == "ok")


def server_split(record: Record) -> dict[str, float]:
    """Split the end-to-end latency by the server's own timings, in seconds; empty where the server reports none.

    `outside_s` is the rest: the network, HTTP on both sides, and the client.
    """
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


def read_facts(folder: Path, run: RunInfo) -> RunFacts:
    """Read the records of the run in `folder`."""
    facts, slo = RunFacts(), run.slo
    for record in read_records(folder / RECORDS):
        if record.warmup:
            facts.warmups += 1
        elif run.checks(record):
            facts.checks.add(record, slo)
            facts.first_check = min(facts.first_check, record.seq)
        elif record.derived:
            facts.derived += 1
            facts.derived_budgets[record.budget].add(record, slo)
        else:
            facts.add(record, slo)
    return facts
