"""Compute what each request cost: its share of the server's GPU-seconds and joules, and the arithmetic it needed.

GPU-seconds are computed in three ways. `gpu_s_paper` is the paper's num_gpus × e2e, which is correct only with one request in
flight. `gpu_s_whole` divides num_gpus × wall time among the requests: at each instant the requests in flight share the server
equally, and idle time is distributed in proportion. The sum of `gpu_s_whole` over a run is therefore exactly num_gpus × wall
time, and with one request in flight both ways agree. It contains the beginning and the end of a run, when fewer requests were
in flight than were asked for.

`gpu_s` is the cost under the steady load. It is shared in the same way in the steady window of the run, where a request that
was in flight outside the window is charged at the mean rate of the window. It is then scaled so that, for each budget, the sum
over the requests divided by the sum of their tokens is the cost per token in the window. A run without a steady window has no
such figure: there, `gpu_s` is `gpu_s_whole`, and `steady` is false. A derived record (one-pass) is charged like the request from
which it was derived, up to its budget, and does not add to the wall time.

This module does not know prices or grades.
"""

import re
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from loadgen.measure.steady_window import steady_window
from loadgen.record import RunInfo

Floats = NDArray[np.float64]
_SIZE = re.compile(r"(\d+(?:\.\d+)?)[bB](?![a-zA-Z])")


def shares(start_s: Floats, stop_s: Floats, real: NDArray[np.bool_]) -> Floats:
    """Seconds of the whole server that each interval is charged.

    The sum over the `real` intervals is their wall time, including idle time.
    """
    out = np.zeros(len(start_s))
    known = np.isfinite(start_s) & np.isfinite(stop_s) & (stop_s > start_s)
    timed = known & real
    if not timed.any():
        return out
    times, level = _levels(start_s[timed], stop_s[timed], np.ones(timed.sum()))
    gaps, open_now = np.diff(times), level[:-1]
    shared = np.divide(gaps, open_now, out=np.zeros_like(gaps), where=open_now > 0.5)
    clock = np.concatenate([[0.0], np.cumsum(shared)])
    out[known] = np.interp(stop_s[known], times, clock) - np.interp(start_s[known], times, clock)
    busy = float(gaps[open_now > 0.5].sum())
    return out * (float(times[-1] - times[0]) / busy if busy else 1.0)


def _levels(start_s: Floats, stop_s: Floats, weight: Floats) -> tuple[Floats, Floats]:
    """The times at which intervals begin or end, and the weight of the open intervals after each of them."""
    times, steps = np.concatenate([start_s, stop_s]), np.concatenate([weight, -weight])
    order = np.argsort(times, kind="stable")
    return times[order], np.cumsum(steps[order])


def in_flight(start_s: Floats, stop_s: Floats, edges: Floats, weight: Floats | None = None) -> Floats:
    """Exact mean number of open intervals in each bin between `edges`, each interval counted `weight` times."""
    times, level = _levels(start_s, stop_s, np.ones(len(start_s)) if weight is None else weight)
    area = np.concatenate([[0.0], np.cumsum(level[:-1] * np.diff(times))])
    at_edges = np.interp(edges, times, area)
    means: Floats = np.diff(at_edges) / np.diff(edges)
    return means


def add_costs(frame: pd.DataFrame, runs: dict[str, RunInfo]) -> None:
    """Add the columns `server_s gpu_s gpu_s_whole gpu_s_paper energy_j steady steady_share tflop`."""
    # A derived record ends with the last token inside its budget.
    last, derived = frame["last_token_s"].to_numpy(), frame["derived"].to_numpy()
    frame["stop_s"] = np.where(derived, last, frame["end_s"].fillna(frame["last_token_s"]).to_numpy())
    n = len(frame)
    whole, steady, energy = np.zeros(n), np.full(n, np.nan), np.full(n, np.nan)
    share = np.full(n, np.nan)
    for cell, rows in frame.groupby("cell", observed=True).indices.items():
        run, part = runs[str(cell)], frame.iloc[rows]
        real = ~part["derived"].to_numpy()
        whole[rows] = shares(part["sent_s"].to_numpy(), part["stop_s"].to_numpy(), real)
        counted = part[~(part["derived"] | part["warmup"] | part["check"]).to_numpy()]
        window = _window(counted, run)
        joules, seconds = run.energy.get("joules"), whole[rows][part.index.isin(counted.index)].sum()
        if window is not None:
            steady[rows] = _steady_shares(part, counted, window)
            share[rows] = (window[1] - window[0]) / (counted["stop_s"].max() - counted["sent_s"].min())
            if in_window := (run.energy.get("steady") or {}).get("joules"):
                joules, seconds = in_window, window[1] - window[0]
        charged = np.where(np.isfinite(steady[rows]), steady[rows], whole[rows])
        if isinstance(joules, int | float) and joules > 0 and seconds > 0:
            energy[rows] = charged * joules / seconds
    gpus = frame["num_gpus"].to_numpy()
    frame["steady"], frame["steady_share"] = np.isfinite(steady), share
    frame["gpu_s_whole"] = whole * gpus
    frame["server_s"] = np.where(np.isfinite(steady), steady, whole)
    frame["gpu_s"] = frame["server_s"] * gpus
    frame["gpu_s_paper"] = frame["e2e_s"].to_numpy() * gpus
    frame["energy_j"] = energy
    tokens = frame["prompt_tokens"].fillna(0) + frame["completion_tokens"]
    frame["tflop"] = 2e-3 * frame["params_b"] * tokens  # 2 operations for each parameter and token
    del frame["stop_s"]


def _window(counted: pd.DataFrame, run: RunInfo) -> tuple[float, float] | None:
    """The steady window of a run, found in its records, so that runs of earlier versions have one too.

    A run in which no request takes any time has none. A request that ends before it was sent does not count.
    """
    if not counted["stop_s"].gt(counted["sent_s"]).any():
        return None
    known = counted[counted["end_s"].ge(counted["sent_s"])]
    spans = zip(known["sent_s"].tolist(), known["end_s"].tolist(), known["ok"].tolist(), strict=True)
    return steady_window(spans, run.load, [part["offset_s"] for part in run.segments])


def _steady_shares(part: pd.DataFrame, counted: pd.DataFrame, window: tuple[float, float]) -> Floats:
    """Seconds of the whole server that each request is charged under the steady load; NaN for a budget without tokens."""
    start, stop = part["sent_s"].to_numpy(), part["stop_s"].to_numpy()
    times, clock = _steady_clock(counted, window)
    within = [np.clip(edge, *window) for edge in (start, stop)]
    raw, inside = (
        np.where(stop > start, np.diff(np.interp(edges, times, clock), axis=0)[0], 0.0)
        for edges in ([start, stop], within)
    )
    tokens = {"tokens": part["completion_tokens"].to_numpy(), "steady_tokens": _tokens_within(part, window)}
    table = pd.DataFrame({"raw": raw, "inside": inside} | tokens)
    sums: Any = table.groupby([part["budget"].to_numpy(), part["derived"].to_numpy()]).transform("sum")
    with np.errstate(divide="ignore", invalid="ignore"):
        scale = sums["inside"] / sums["steady_tokens"] * sums["tokens"] / sums["raw"]
    charged: Floats = np.where(sums["steady_tokens"] > 0, table["raw"] * scale, np.nan)
    return charged


def _steady_clock(counted: pd.DataFrame, window: tuple[float, float]) -> tuple[Floats, Floats]:
    """Times, and the seconds of the server that one request has been charged until then, at the mean rate outside the window."""
    since_s, until_s = window
    known = counted[counted["stop_s"].gt(counted["sent_s"])]
    start, stop = known["sent_s"].to_numpy(), known["stop_s"].to_numpy()
    edges = np.unique(np.clip(np.concatenate([start, stop, [since_s, until_s]]), since_s, until_s))
    gaps = np.diff(edges)
    begun, ended = (np.searchsorted(np.sort(at), edges[:-1], side="right") for at in (start, stop))
    open_now = begun - ended
    each = np.divide(gaps, open_now, out=np.zeros_like(gaps), where=open_now > 0)
    each *= (until_s - since_s) / gaps[open_now > 0].sum()  # idle time is distributed in proportion
    clock = np.concatenate([[0.0], np.cumsum(each)])
    mean = clock[-1] / (until_s - since_s)
    first_s, last_s = min(since_s, start.min()), max(until_s, stop.max())
    times = np.concatenate([[first_s - 1], edges, [last_s + 1]])
    before, after = mean * (since_s - first_s + 1), mean * (last_s + 1 - until_s)
    return times, np.concatenate([[-before], clock, [clock[-1] + after]])


def _tokens_within(part: pd.DataFrame, window: tuple[float, float]) -> Floats:
    """`loadgen.measure.steady_window.tokens_within` over arrays (a test holds that they agree)."""
    since_s, until_s = window
    first, last = part["first_token_s"].to_numpy(), part["last_token_s"].to_numpy()
    tokens = part["completion_tokens"].to_numpy()
    with np.errstate(divide="ignore", invalid="ignore"):
        share = np.clip(np.minimum(last, until_s) - np.maximum(first, since_s), 0.0, None) / (last - first)
    at_once = ((since_s < last) & (last <= until_s)).astype(np.float64)
    inside: Floats = np.nan_to_num(tokens * np.where(last > first, share, at_once))
    return inside


def parameters_b(*names: str | None) -> float:
    """Billions of parameters, read from a model's name ("…-Qwen-1.5B"); NaN where no name contains the size."""
    for name in names:
        if name and (found := _SIZE.search(name)):
            return float(found.group(1))
    return float("nan")
