"""Prints the summary of a run as a table for people.

This module does not know how a figure was computed; it reads `RunInfo.summary`.
"""

from collections.abc import Iterator
from typing import Any

from loadgen.measure import one_pass_check
from loadgen.measure.quantiles import LEVELS
from loadgen.record import RunInfo

METRICS = ("ttft_s", "tpot_s", "itl_s", "inter_chunk_s", "e2e_s", "e2e_due_s", "send_lag_s")
"""The rows of the table, which are also the metrics of the result line."""


def table(run: RunInfo) -> Iterator[str]:
    """Yield the lines of the table: each percentile with its interval, in seconds."""
    yield "  ".join([f"{'':13}", f"{'n':>7}", *(f"{name:^25}" for name in LEVELS), "mean"])
    for metric in METRICS:
        row = run.summary.get(metric)
        if row and row.get("n"):
            cells = (f"{_cell(row, name):25}" for name in LEVELS)
            yield "  ".join([f"{metric:13}", f"{row['n']:>7}", *cells, _value(row["mean"])])
    yield _steady(run)
    if check := run.summary.get("one_pass_check"):
        yield from one_pass_check.lines(check)
    if found := run.summary.get("speculation"):
        yield (
            f"speculation: {found['drafts']:,.0f} drafts in {found['steps']:,.0f} steps of the server, "
            f"{found['accepted_tokens']:,.0f} of {found['draft_tokens']:,.0f} drafted tokens accepted"
        )


def _steady(run: RunInfo) -> str:
    """Return a line on the steady window, with the figures of the whole run beside those of the window."""
    steady, whole = run.summary["steady"], run.summary["throughput"]
    if "why" in steady:
        return str(steady["why"])
    since_s, until_s = steady["window_s"]
    return (
        f"steady window: {since_s:.4g} to {until_s:.4g} s, {steady['share']:.0%} of the run: "
        f"{_number(steady['completion_tokens_per_s'])} tokens/s, {_number(steady['gpu_seconds_per_token'])} GPU-seconds per token "
        f"(whole run: {_number(whole['completion_tokens_per_s'])} tokens/s, {_number(whole['gpu_seconds_per_token_wall'])})"
    )


def _number(value: float | None) -> str:
    return "unknown" if value is None else f"{value:,.4g}"


def _cell(row: dict[str, Any], name: str) -> str:
    if row[name] is None:
        return str(row["why"][name])
    if name not in row["interval"]:
        return f"{_value(row[name])} [repeat the run]"
    low, high = row["interval"][name]
    return f"{_value(row[name])} [{_value(low)}, {_value(high)}]"


def _value(seconds: float | None) -> str:
    return "inf" if seconds is None else f"{seconds:.3g}"
