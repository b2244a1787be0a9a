"""Compute what each request cost: its share of the server's GPU-seconds and joules, and the arithmetic it needed.

GPU-seconds are computed in two ways. `gpu_s_paper` is the paper's num_gpus × e2e, which is correct only with one request in
flight. `gpu_s` divides num_gpus × wall time among the requests: at each instant the requests in flight share the server
equally, and idle time is distributed in proportion. The sum of `gpu_s` over a run is therefore exactly num_gpus × wall time,
and with one request in flight both ways agree. A derived record (one-pass) is charged like the request from which it was
derived, up to its budget, and does not add to the wall time.

This module does not know prices or grades.
"""

import re

import numpy as np
import pandas as pd
from numpy.typing import NDArray

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
    times = np.concatenate([start_s[timed], stop_s[timed]])
    steps = np.concatenate([np.ones(timed.sum()), -np.ones(timed.sum())])
    order = np.argsort(times, kind="stable")
    times, in_flight = times[order], np.cumsum(steps[order])[:-1]
    gaps = np.diff(times)
    shared = np.divide(gaps, in_flight, out=np.zeros_like(gaps), where=in_flight > 0.5)
    clock = np.concatenate([[0.0], np.cumsum(shared)])
    out[known] = np.interp(stop_s[known], times, clock) - np.interp(start_s[known], times, clock)
    busy = float(gaps[in_flight > 0.5].sum())
    return out * (float(times[-1] - times[0]) / busy if busy else 1.0)


def in_flight(start_s: Floats, stop_s: Floats, edges: Floats, weight: Floats | None = None) -> Floats:
    """Exact mean number of open intervals in each bin between `edges`, each interval counted `weight` times."""
    weights = np.ones(len(start_s)) if weight is None else weight
    times = np.concatenate([start_s, stop_s])
    steps = np.concatenate([weights, -weights])
    order = np.argsort(times, kind="stable")
    times, level = times[order], np.cumsum(steps[order])
    area = np.concatenate([[0.0], np.cumsum(level[:-1] * np.diff(times))])
    at_edges = np.interp(edges, times, area)
    means: Floats = np.diff(at_edges) / np.diff(edges)
    return means


def add_costs(frame: pd.DataFrame, joules: dict[str, float]) -> None:
    """Add the columns `gpu_s gpu_s_paper energy_j tflop`; `joules` holds the energy of each cell where it was measured."""
    stop = frame["end_s"].fillna(frame["last_token_s"]).to_numpy()
    derived = frame["derived"].to_numpy()
    # A derived record ends with the last token inside its budget.
    stop = np.where(derived, frame["last_token_s"].to_numpy(), stop)
    start, charged = frame["sent_s"].to_numpy(), np.zeros(len(frame))
    energy = np.full(len(frame), np.nan)
    counted = ~derived & ~frame["warmup"].to_numpy()
    for cell, rows in frame.groupby("cell", observed=True).indices.items():
        charged[rows] = shares(start[rows], stop[rows], ~derived[rows])
        total = charged[rows][counted[rows]].sum()
        if str(cell) in joules and total:
            energy[rows] = charged[rows] / total * joules[str(cell)]
    gpus = frame["num_gpus"].to_numpy()
    frame["gpu_s"] = charged * gpus
    frame["gpu_s_paper"] = frame["e2e_s"].to_numpy() * gpus
    frame["energy_j"] = energy
    tokens = frame["prompt_tokens"].fillna(0) + frame["completion_tokens"]
    frame["tflop"] = 2e-3 * frame["params_b"] * tokens  # 2 operations for each parameter and token


def parameters_b(*names: str | None) -> float:
    """Billions of parameters, read from a model's name ("…-Qwen-1.5B"); NaN where no name contains the size."""
    for name in names:
        if name and (found := _SIZE.search(name)):
            return float(found.group(1))
    return float("nan")
