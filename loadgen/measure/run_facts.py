"""Reads the records of a run once and counts what the summary and the verdict need.

Everything is taken from `records.jsonl`, so that a resumed or merged run is treated like any other. Measured requests are
those that are neither warm-up requests nor derived records nor the check of derived budgets (`--one-pass`).

This module does not know percentiles or limits.
"""

import math
from array import array
from collections import Counter, defaultdict
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from loadgen.measure.dependence import Load, described
from loadgen.measure.formulas import AT_END, meets
from loadgen.measure.steady_window import Span
from loadgen.measure.stream_faults import StreamFaults
from loadgen.record import RECORDS, Record, RunInfo, read_records

LATENCIES = ("ttft_s", "tpot_s", "e2e_s", "e2e_due_s", "send_lag_s", "ttft_due_s", "ttfot_s")
"""The latencies that a record has at most one value of."""
OPTIONAL_LATENCIES = ("tpot_s", "ttfot_s")
"""The latencies that a complete reply need not have."""


@dataclass
class RequestTotals:
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
    in_time: dict[str, "array[float]"] = field(default_factory=lambda: defaultdict(lambda: array("d")))
    """Latencies of all requests in model seconds, in the order of time: infinite for a failure, and NaN where a success has none."""

    def add(self, record: Record, slo: dict[str, float]) -> None:
        """Add one record."""
        self.n += 1
        self.outcomes[record.outcome] += 1
        self.completion_tokens += record.completion_tokens or 0
        self.counted += record.completion_tokens is not None
        self.prompt_tokens += record.prompt_tokens or 0
        self.met.append(bool(slo) and meets(record, slo))
        ok = record.outcome == "ok"
        for name in LATENCIES:
            value = getattr(record, name) if ok else math.inf
            self.in_time[name].append(math.nan if value is None else value)
        if not ok:
            return
        self.finish[record.finish_reason or "none"] += 1
        self.ok_tokens += (record.completion_tokens or 0) if record.e2e_s is not None else 0

    @property
    def failed(self) -> int:
        """Number of requests that did not succeed."""
        return self.n - self.outcomes["ok"]

    def described(self, load: Load = "alone") -> dict[str, Any]:
        """Describe every latency over the successful requests."""
        return {name: described(self.values(name), load) for name in LATENCIES}

    def with_failures(self, load: Load = "alone") -> dict[str, Any]:
        """Describe every latency over all requests, with failed requests as infinity.

        A successful request without a token has no latency either, so it counts as infinity where every reply should have
        one. Not every reply has a time per token, or an answer after its reasoning.
        """
        rows = {name: self.and_failures(name) for name in OPTIONAL_LATENCIES}
        for name in set(LATENCIES) - rows.keys():
            rows[name] = [math.inf if math.isnan(value) else value for value in self.in_time[name]]
        largest = {name: max(values, default=math.inf) for name, values in rows.items()}
        return {
            name: described(rows[name], load) | {"max": largest[name] if math.isfinite(largest[name]) else None}
            for name in LATENCIES
        }

    def values(self, name: str) -> list[float]:
        """Return the values of a latency of the successful requests, in the order of time."""
        return [value for value in self.in_time[name] if math.isfinite(value)]

    def and_failures(self, name: str) -> list[float]:
        """Return the values of a latency with an infinity for each failure, in the order of time."""
        return [value for value in self.in_time[name] if not math.isnan(value)]


@dataclass
class RunFacts:
    """What the summary and the verdict need to know about the records of a run."""

    measured: RequestTotals = field(default_factory=RequestTotals)
    warmups: int = 0
    checks: RequestTotals = field(default_factory=RequestTotals)
    """The requests that check derived budgets. They are sent after the measured requests have ended."""
    first_check: float = math.inf
    """The lowest `seq` of the check."""
    budgets: dict[int, RequestTotals] = field(default_factory=lambda: defaultdict(RequestTotals))
    derived_budgets: dict[int, RequestTotals] = field(default_factory=lambda: defaultdict(RequestTotals))
    spans: list[Span] = field(default_factory=list)
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
            self.spans.append((record.sent_s, record.end_s, record.outcome == "ok"))

    @property
    def whole_s(self) -> tuple[float, float]:
        """The first send and the last end, in model seconds."""
        return min((s[0] for s in self.spans), default=0.0), max((s[1] for s in self.spans), default=0.0)

    @property
    def duration_s(self) -> float:
        """Model seconds from the first send to the last end."""
        return self.whole_s[1] - self.whole_s[0]


def server_split(record: Record) -> dict[str, float]:
    """Split the end-to-end latency by the server's own timings, in seconds; empty where the server reports none.

    `outside_s` is the rest: the network, HTTP on both sides, and the client.
    """
    timings = record.server_timings or {}
    names = {"queue_s": "queue_time_ms", "prefill_s": "time_to_first_token_ms", "decode_s": "generation_time_ms"}
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
            facts.derived_budgets[record.budget].add(record, slo)
        else:
            facts.add(record, slo)
    return facts
