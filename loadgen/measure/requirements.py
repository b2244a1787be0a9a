"""Checks what a run is required to hold at its end (`--require`).

Rules: latencies are over all requests, with a failure as infinitely slow. Where nothing was measured, or too little for the
percentile, a requirement does not hold: missing data never passes. A limit that allows large values (`ttft.p95>1s`) is not met
by an infinite one.

This module does not know how a requirement is written (see `loadgen.option_types`) or which exit code follows.
"""

import operator
from typing import Any

from loadgen.errors import UsageError
from loadgen.measure.quantiles import LEVELS, least_sample
from loadgen.option_types import LATENCIES, SHARES, Requirement, parse_requirement
from loadgen.record import RunInfo
from loadgen.terminal import latency_text

COMPARE = {"<": operator.lt, "<=": operator.le, ">": operator.gt, ">=": operator.ge}


def check(text: str, run: RunInfo) -> dict[str, Any]:
    """Return `text value met why` of a requirement, from the summary of the run."""
    try:
        required = parse_requirement(text)
    except UsageError as error:  # run.json was changed before the run was resumed
        return {"text": text, "value": None, "met": False, "why": str(error)}
    value, why = _measured(required, run.summary)
    met = value is not None and bool(COMPARE[required.comparison](value, required.limit))
    if value is not None and not met:
        why = f"measured: {value_text(text, value)}"
    return {"text": text, "value": value, "met": met, "why": why}


def _measured(required: Requirement, summary: dict[str, Any]) -> tuple[float | None, str | None]:
    """Return the value that is compared with the limit, or None and the reason why there is none."""
    ok, n = summary["outcomes"].get("ok", 0), summary["requests"]
    if not n:
        return None, "no data: no request was measured"
    if required.metric in LATENCIES:
        return _latency(required, summary["with_failures"][f"{required.metric}_s"], n, n - ok)
    values = {
        "failed": (n - ok) / n,
        "goodput": summary.get("goodput", {}).get("share"),
        "requests_per_s": summary["throughput"]["requests_per_s"] or None,
        "tokens_per_s": summary["throughput"]["completion_tokens_per_s"] or None,
    }
    value = values[required.metric]
    return value, None if value is not None else "no data: nothing of this was measured"


def _latency(required: Requirement, row: dict[str, Any], requests: int, failed: int) -> tuple[float | None, str | None]:
    name = required.statistic
    if (value := row.get(name)) is not None:
        return value, None
    if not row["n"]:
        return None, f"no data: no request has a measured {required.metric}"
    if str(row.get("why", {}).get(name)).startswith("n too small"):
        needed, n = ("more", requests) if required.metric == "itl" else (least_sample(LEVELS[name]), row["n"])
        return None, f"not decided: {name} needs {needed} requests, and there are {n}"
    return None, f"infinite: it is among the requests without a {required.metric} ({failed} of them failed)"


def value_text(text: str, value: float) -> str:
    """Return a value with the unit of its requirement."""
    metric = parse_requirement(text).metric
    if metric in SHARES:
        return f"{value:.2%}"
    return latency_text(value) if metric in LATENCIES else f"{value:,.4g}/s"
