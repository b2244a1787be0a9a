"""Computes the summary of a run for `run.json`: counts, latencies with intervals, throughput and goodput.

Measured requests count, which are neither warm-up requests nor derived records nor the check of derived budgets; derived
records have rows of their own under `budgets`. Every latency is given twice: over the successful requests, and over all requests with failed ones as infinity. A
percentile for which the sample is too small is null, with the reason beside it. The formulas are in docs/metrics.md.

This module does not know which figure is doubtful (see `verdict`) or whether an answer is right (see `analysis`).
"""

import math
from pathlib import Path
from typing import Any

from loadgen.measure.dependence import Load, described, kind_of, share_interval
from loadgen.measure.quantiles import CONFIDENCE
from loadgen.measure.run_facts import RequestTotals, RunFacts
from loadgen.measure.steady_window import steady_window, tokens_within, why_no_window
from loadgen.measure.token_times import describe_token_times
from loadgen.record import RECORDS, RunInfo, read_records

BY_PART = ("ttft_s", "tpot_s", "e2e_s", "e2e_due_s")
"""The latencies that are described for each budget and for the steady window too."""


def summarize(folder: Path, run: RunInfo, facts: RunFacts) -> None:
    """Set the duration, the steady window and the summary of the run in `folder`."""
    measured, load = facts.measured, kind_of(run.load)
    run.duration_s = facts.whole_s[1] if facts.spans else None
    run.window_s = steady_window(facts.spans, run.load, [part["offset_s"] for part in run.segments])
    itl, itl_with_failures, inter_chunk = describe_token_times(folder, run, facts, load)
    run.summary = {
        "requests": measured.n,
        "planned": run.load.get("requests"),
        "warmups": facts.warmups,
        "derived": sum(totals.n for totals in facts.derived_budgets.values()),
        "checks": facts.checks.n,
        "outcomes": dict(sorted(measured.outcomes.items())),
        "finish_reasons": dict(sorted(measured.finish.items())),
        "counted_by": dict(sorted(facts.token_sources.items())),
        "prompt_tokens": measured.prompt_tokens,
        "completion_tokens": measured.completion_tokens,
        "confidence": CONFIDENCE,
        **measured.described(load),
        "itl_s": itl,
        "inter_chunk_s": inter_chunk,
        "with_failures": measured.with_failures(load) | {"itl_s": itl_with_failures},
        "budgets": _by_budget(facts, load),
        "throughput": _throughput(facts, run.num_gpus),
        "steady": _steady(folder, run, facts, load),
    }
    if facts.split:
        run.summary["server_split"] = {name: described(values, load) for name, values in facts.split.items()}
    if run.slo:
        run.summary["goodput"] = goodput(measured, run.slo, facts.duration_s, load)


def _steady(folder: Path, run: RunInfo, facts: RunFacts, load: Load) -> dict[str, Any]:
    """Describe the measured requests sent in the steady window, and the rate and cost of the tokens produced in it."""
    if run.window_s is None:
        return {"why": why_no_window(facts.spans, run.load)}
    since_s, until_s = run.window_s
    totals, tokens = RequestTotals(), 0.0
    for record in read_records(folder / RECORDS):
        if record.warmup or record.derived or run.checks(record):
            continue
        tokens += tokens_within(record.first_token_s, record.last_token_s, record.completion_tokens, run.window_s)
        if record.sent_s is not None and since_s <= record.sent_s <= until_s:
            totals.add(record, run.slo)
    duration_s = until_s - since_s
    return {
        "window_s": [since_s, until_s],
        "share": round(duration_s / facts.duration_s, 6),
        "requests": totals.n,
        "completion_tokens_per_s": round(tokens / duration_s, 3) if tokens else None,
        "gpu_seconds_per_token": run.num_gpus * duration_s / tokens if run.num_gpus and tokens else None,
        **{name: described(totals.values(name), load) for name in BY_PART},
    }


def _by_budget(facts: RunFacts, load: Load) -> dict[str, Any]:
    rows = [(budget, totals, False) for budget, totals in facts.budgets.items()]
    rows += [(budget, totals, True) for budget, totals in facts.derived_budgets.items()]
    return {
        f"{budget}{' derived' if derived else ''}": {
            "requests": totals.n,
            "outcomes": dict(totals.outcomes),
            "finish_reasons": dict(totals.finish),
            "completion_tokens_mean": round(totals.completion_tokens / totals.counted, 2) if totals.counted else None,
            **{name: described(totals.values(name), load) for name in BY_PART},
        }
        for budget, totals, derived in sorted(rows, key=lambda row: (row[0], row[2]))
    }


def _throughput(facts: RunFacts, num_gpus: int | None) -> dict[str, float | None]:
    """Return rates from the first send to the last end, and GPU-seconds per token by both formulas.

    The paper's formula is over the successful requests alone, both above and below the line. Where the number of GPUs is
    unknown, so are GPU-seconds.
    """
    measured = facts.measured
    duration_s = facts.duration_s
    tokens, ok_tokens = measured.completion_tokens, measured.ok_tokens
    latencies = measured.values("e2e_s")
    return {
        "duration_s": round(duration_s, 6) if facts.spans else None,
        "requests_per_s": round(measured.outcomes["ok"] / duration_s, 6) if duration_s else None,
        "completion_tokens_per_s": round(tokens / duration_s, 3) if duration_s and measured.counted else None,
        "chunks_per_s": round(facts.chunks / duration_s, 3) if duration_s else None,
        "gpu_seconds_per_token_paper": num_gpus * math.fsum(latencies) / ok_tokens if num_gpus and ok_tokens else None,
        "gpu_seconds_per_token_wall": num_gpus * duration_s / tokens if num_gpus and tokens else None,
    }


def goodput(totals: RequestTotals, slo: dict[str, float], duration_s: float, load: Load = "alone") -> dict[str, Any]:
    """Return the share and the rate of the requests that succeeded and met every objective, among all sent."""
    good = sum(totals.met)
    return {
        "slo": slo,
        "good": good,
        "share": round(good / totals.n, 6) if totals.n else None,
        "interval": share_interval(totals.met, load, totals.and_failures("e2e_s")),
        "requests_per_s": round(good / duration_s, 6) if duration_s else None,
    }
