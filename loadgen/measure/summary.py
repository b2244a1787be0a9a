"""Computes the summary of a run for `run.json`: counts, latencies with intervals, throughput and goodput.

Measured requests count, which are neither warm-up requests nor derived records; derived records have rows of their own under
`budgets`. Every latency is given twice: over the successful requests, and over all requests with failed ones as infinity. A
percentile for which the sample is too small is null, with the reason beside it. The formulas are in docs/metrics.md.

This module does not know which figure is doubtful (see `verdict`) or whether an answer is right (see `analysis`).
"""

import math
from pathlib import Path
from typing import Any

from loadgen.measure.dependence import Load, described, kind_of, share_interval
from loadgen.measure.quantiles import CONFIDENCE
from loadgen.measure.run_facts import RunFacts, Totals
from loadgen.measure.steady_window import steady_window, summarize_window
from loadgen.measure.token_times import describe_token_times
from loadgen.record import RunInfo


def summarize(folder: Path, run: RunInfo, facts: RunFacts) -> None:
    """Set the duration, the steady window and the summary of the run in `folder`."""
    measured, load = facts.measured, kind_of(run.load)
    run.duration_s = max(facts.spans.end_s, default=0.0)
    run.window_s = steady_window(facts.spans)
    run.summary = {
        "requests": measured.n,
        "planned": run.load.get("requests"),
        "warmups": facts.warmups,
        "derived": facts.derived,
        "outcomes": dict(sorted(measured.outcomes.items())),
        "finish_reasons": dict(sorted(measured.finish.items())),
        "counted_by": dict(sorted(facts.token_sources.items())),
        "prompt_tokens": measured.prompt_tokens,
        "completion_tokens": measured.completion_tokens,
        "confidence": CONFIDENCE,
        **measured.described(load),
        **describe_token_times(folder, facts.mean_tokens, warmup=run.load.get("warmup") or 0, load=load),
        "with_failures": measured.with_failures(load),
        "budgets": _by_budget(facts, load),
        "throughput": _throughput(facts, run.num_gpus),
    }
    if run.window_s is not None:
        run.summary["steady"] = summarize_window(folder, run.window_s, run.slo, load)
    if facts.split:
        run.summary["server_split"] = {name: described(values, load) for name, values in facts.split.items()}
    if run.slo:
        run.summary["goodput"] = goodput(measured, run.slo, facts.spans.duration_s, load)


def _by_budget(facts: RunFacts, load: Load) -> dict[str, Any]:
    rows = [(budget, totals, False) for budget, totals in facts.budgets.items()]
    rows += [(budget, totals, True) for budget, totals in facts.derived_budgets.items()]
    return {
        f"{budget}{' derived' if derived else ''}": {
            "requests": totals.n,
            "outcomes": dict(totals.outcomes),
            "finish_reasons": dict(totals.finish),
            "completion_tokens_mean": round(totals.completion_tokens / totals.n, 2),
            **{name: described(totals.values[name], load) for name in ("ttft_s", "tpot_s", "e2e_s")},
        }
        for budget, totals, derived in sorted(rows, key=lambda row: (row[0], row[2]))
    }


def _throughput(facts: RunFacts, num_gpus: int) -> dict[str, float | None]:
    """Return rates from the first send to the last end, and GPU-seconds per token by both formulas."""
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


def goodput(totals: Totals, slo: dict[str, float], duration_s: float, load: Load = "alone") -> dict[str, Any]:
    """Return the share and the rate of the requests that succeeded and met every objective, among all sent."""
    return {
        "slo": slo,
        "good": totals.good,
        "share": round(totals.good / totals.n, 6) if totals.n else None,
        "interval": share_interval(totals.met, load, totals.and_failures("e2e_s")),
        "requests_per_s": round(totals.good / duration_s, 6) if duration_s else None,
    }
