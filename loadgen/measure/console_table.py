"""Makes the block that shows people the result of a run: its verdict, requests, rates, objectives and latencies.

Rules: it fits 80 columns; from WIDE columns on it has the interval of each percentile. A latency has one line for each budget,
because a percentile over several budgets describes none of them. A percentile that the sample does not allow is `–`. Words
carry the meaning, and colors repeat it. Whatever comes from outside is printed without control characters or markup.

This module does not know how a figure was computed; it reads `RunInfo`.
"""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

from loadgen.measure import one_pass_check
from loadgen.measure.error_texts import error_lines
from loadgen.measure.quantiles import LEVELS, least_sample
from loadgen.measure.requirements import value_text
from loadgen.record import RunInfo
from loadgen.terminal import latency_text, printable

METRICS = ("ttft_s", "tpot_s", "itl_s", "inter_chunk_s", "e2e_s", "e2e_due_s", "send_lag_s")
"""The metrics of the result line."""
SHOWN = ("p50", "p95", "p99")
NAMES = {"ttft_s": "TTFT", "tpot_s": "TPOT", "itl_s": "ITL", "e2e_s": "E2E", "e2e_due_s": "E2E from due"}
CLIENT = {"inter_chunk_s": "raw gaps", "send_lag_s": "send lag"}
"""Shown only if asked for: they judge the measurement, not the server."""
WIDE = 130
COLORS = {"VALID": "green", "SUSPECT": "yellow", "INVALID": "red"}
Row = tuple[str, str, str]
"""A label, a text and the style of the text."""
LatencyRow = tuple[str, str, dict[str, Any]]
"""The name of a metric, the budget and the distribution."""


def final_block(run: RunInfo, folder: Path, width: int, *, verbose: bool = False) -> Any:
    """Return the block as something that rich can print."""
    from rich.console import Group  # noqa: PLC0415  this import takes 50 ms, and a run needs it only at its end
    from rich.table import Table  # noqa: PLC0415
    from rich.text import Text  # noqa: PLC0415

    facts = Table.grid(padding=(0, 2, 0, 0))
    for label, text, style in (*facts_rows(run, verbose=verbose), ("results", str(folder), "")):
        facts.add_row(Text(label, style="bold"), Text(printable(text), style=style, overflow="fold"))
    rows = list(latency_rows(run, verbose=verbose))
    if not rows:
        return facts
    latencies = Table(box=None, padding=(0, 2, 0, 0), pad_edge=False)
    budget = any(budget for _, budget, _ in rows)
    cells = [latency_cells(row, budget=budget, intervals=width >= WIDE) for row in rows]
    for index, name in enumerate(cells[0]):
        latencies.add_column(name, justify="right" if index else "left", no_wrap=True)
    for row in cells:
        latencies.add_row(*row.values())
    return Group(facts, Text(), latencies, *(Text(note, style="dim") for note in _notes(run, rows)))


def facts_rows(run: RunInfo, *, verbose: bool) -> Iterator[Row]:
    """Yield the rows above the latencies; a row without a label continues the one before."""
    mark = f" · emulated, {run.time_scale:g} x" if run.emulated else ""
    yield run.verdict or "", f"{run.config} · {run.model}{mark}", COLORS.get(run.verdict or "", "")
    yield from (("", f"- {reason}", "") for reason in run.reasons)
    yield from _requests(run)
    yield from _rates(run)
    yield from _objectives(run)
    for index, row in enumerate(run.requirements):
        yield "" if index else "required", *_required(row)
    if found := run.summary.get("speculation"):
        yield ("drafts", f"{found['accepted_tokens']:,.0f} of {found['draft_tokens']:,.0f} drafted tokens accepted", "")
        each = found.get("tokens_per_step")
        gain = "" if each is None else f", {each:.2f} tokens a step"
        yield "", f"{found['drafts']:,.0f} drafts in {found['steps']:,.0f} steps of the server{gain}", ""
    if check := run.summary.get("one_pass_check"):
        yield from (("" if i else "one pass", line, "") for i, line in enumerate(one_pass_check.lines(check)))
    lag_s = run.client.get("loop_lag_p99_s")
    if verbose and lag_s is not None:
        share = run.client.get("cpu_share") or 0
        yield "client", f"loop lag p99 {latency_text(lag_s)}, {share:.0%} of a core", ""


def _required(row: dict[str, Any]) -> tuple[str, str]:
    if row["value"] is None:
        return f"NOT MET  {row['text']}: {row['why']}", "red"
    text = f"{row['text']}: {value_text(row['text'], row['value'])}"
    return (f"met      {text}", "green") if row["met"] else (f"NOT MET  {text}", "red")


def _requests(run: RunInfo) -> Iterator[Row]:
    n, planned, outcomes = run.summary["requests"], run.summary["planned"], run.summary["outcomes"]
    failed = n - outcomes.get("ok", 0)
    kinds = ", ".join(f"{name} {count}" for name, count in outcomes.items() if name != "ok")
    share = f" ({failed / n:.1%}: {kinds})" if failed else ""
    total = f" of {planned:,}" if planned not in (None, n) else ""
    rate, streams = run.load.get("rate"), run.load.get("concurrency")
    load = f", {rate:.3g}/s asked for" if rate else f", {streams} in flight" if streams else ""
    time = f" in {run.summary['throughput']['duration_s'] or 0:,.4g} s" if n else ""
    yield "requests", f"{n:,}{total}{time}{load}; {failed} failed{share}", "red" if failed else ""
    for index, line in enumerate(error_lines(run)):
        yield "" if index else "errors", line.removeprefix("failed: "), "red"


def _rates(run: RunInfo) -> Iterator[Row]:
    """Yield the rates and the cost of the whole run and of the steady window."""
    whole, steady = run.summary["throughput"], run.summary["steady"]
    requests, tokens = whole["requests_per_s"], whole["completion_tokens_per_s"]
    cost = _cost(run, whole["gpu_seconds_per_token_wall"])
    yield "whole run", f"{_number(requests)} requests/s, {_number(tokens)} tokens/s{cost}", ""
    if "why" in steady:
        yield "steady", str(steady["why"]), ""
        return
    since_s, until_s = steady["window_s"]
    tokens, cost = steady["completion_tokens_per_s"], _cost(run, steady["gpu_seconds_per_token"])
    window = f"{since_s:.4g} to {until_s:.4g} s, {steady['share']:.0%} of the run"
    yield "steady", f"{window}: {_number(tokens)} tokens/s{cost}", ""


def _cost(run: RunInfo, gpu_seconds_per_token: float | None) -> str:
    if gpu_seconds_per_token is None:
        return ""
    price = run.price_per_gpu_hour
    dollars = f", ${price * gpu_seconds_per_token / 3600 * 1e6:,.3g} per million tokens" if price else ""
    return f", {gpu_seconds_per_token * 1000:.3g} GPU-seconds per 1,000 tokens{dollars}"


def _objectives(run: RunInfo) -> Iterator[Row]:
    goodput = run.summary.get("goodput")
    if goodput and goodput["share"] is not None:
        limits = ", ".join(f"{name} {latency_text(limit_s)}" for name, limit_s in goodput["slo"].items())
        interval = "" if goodput["interval"] else " (no interval: too few independent requests)"
        share = share_text(goodput["share"], goodput["interval"])
        yield "SLO", f"{share} of the requests within {limits}{interval}", ""


def share_text(share: float, interval: tuple[float, float] | None) -> str:
    """Return a share with its interval, where there is one."""
    return f"{share:.1%}" + (f" [{interval[0]:.1%}, {interval[1]:.1%}]" if interval else "")


def latency_rows(run: RunInfo, *, verbose: bool) -> Iterator[LatencyRow]:
    """Yield a row for each metric, and for each budget where there are several."""
    budgets = run.summary["budgets"]
    for name, title in (NAMES | (CLIENT if verbose else {})).items():
        if name == "e2e_due_s" and run.load.get("kind") != "open":
            continue
        found = [("", run.summary.get(name))]
        if len(budgets) > 1 and name != "send_lag_s":
            found = [(_budget(budget), row.get(name)) for budget, row in budgets.items()]
        yield from ((title, budget, row) for budget, row in found if row and row["n"])


def _budget(key: str) -> str:
    tokens, _, derived = key.partition(" ")
    return f"{int(tokens):,} {derived}".rstrip()


def latency_cells(row: LatencyRow, *, budget: bool, intervals: bool) -> dict[str, str]:
    """Return the cells of a row by the title of their column."""
    name, budget_text, values = row
    cells = {"latency": name, **({"budget": budget_text} if budget else {}), "n": f"{values['n']:,}"}
    for level in SHOWN:
        cells[level] = "–" if values[level] is None else latency_text(values[level])
        if intervals:
            bounds = values["interval"].get(level)
            cells[f"interval of {level}"] = f"[{', '.join(map(latency_text, bounds))}]" if bounds else ""
    return cells


def _notes(run: RunInfo, rows: list[LatencyRow]) -> Iterator[str]:
    missing = [level for level in SHOWN if any(row[level] is None for _, _, row in rows)]
    if missing:
        needs = ", ".join(f"{least_sample(LEVELS[level])} for {level}" for level in missing)
        yield f"– too few requests on this line: it takes {needs}"
    if run.summary["outcomes"].get("ok", 0) < run.summary["requests"]:
        yield "Latencies are those of the successful requests."


def _number(value: float | None) -> str:
    return "unknown" if value is None else f"{value:,.0f}" if value >= 1000 else f"{value:.4g}"
