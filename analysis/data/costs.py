"""What a request cost: its share of the server's GPU-seconds, of the joules, and the arithmetic it needed.

Rules: both ways of design.md stand side by side. `gpu_s_paper` = num_gpus × e2e, the paper's, right only with one
request in flight. `gpu_s` divides num_gpus × wall among the requests: at each instant those in flight share the server
equally, and idle time is spread in proportion; so the sum over a run is num_gpus × wall exactly, and with one request
in flight it is the paper's. A derived record (one-pass) is charged like the request it was cut from, and counted once.

Does not know: prices (they multiply a table, later), grading.
"""

import re

import numpy as np
import pandas as pd
from numpy.typing import NDArray

Floats = NDArray[np.float64]
_SIZE = re.compile(r"(\d+(?:\.\d+)?)[bB](?![a-zA-Z])")


def shares(start_s: Floats, stop_s: Floats, real: NDArray[np.bool_]) -> Floats:
    """Seconds of the whole server each interval is charged: Σ over `real` intervals = their wall, idle time included."""
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
    """Mean number of intervals open in each bin (each counted `weight` times): exact, without a loop over bins."""
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
    """Add `gpu_s gpu_s_paper energy_j tflop` to a frame with one row a request; `joules` by cell, where measured."""
    stop = frame["end_s"].fillna(frame["last_token_s"]).to_numpy()
    cut = frame["derived"].to_numpy()
    stop = np.where(
        cut, frame["last_token_s"].to_numpy(), stop
    )  # a derived record ends where its text was cut
    start, charged = frame["sent_s"].to_numpy(), np.zeros(len(frame))
    energy = np.full(len(frame), np.nan)
    counted = ~cut & ~frame["warmup"].to_numpy()
    for cell, rows in frame.groupby("cell", observed=True).indices.items():
        charged[rows] = shares(start[rows], stop[rows], ~cut[rows])
        total = charged[rows][counted[rows]].sum()
        if str(cell) in joules and total:
            energy[rows] = charged[rows] / total * joules[str(cell)]
    gpus = frame["num_gpus"].to_numpy()
    frame["gpu_s"] = charged * gpus
    frame["gpu_s_paper"] = frame["e2e_s"].to_numpy() * gpus
    frame["energy_j"] = energy
    tokens = frame["prompt_tokens"].fillna(0) + frame["completion_tokens"]
    frame["tflop"] = 2e-3 * frame["params_b"] * tokens  # 2 operations a parameter a token


def parameters_b(*names: str | None) -> float:
    """Billions of parameters, read from a model's name ("…-Qwen-1.5B"); NaN where no name tells."""
    for name in names:
        if name and (found := _SIZE.search(name)):
            return float(found.group(1))
    return float("nan")
