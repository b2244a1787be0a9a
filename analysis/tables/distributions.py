"""Compute distributions: latency quantiles, parts of latency, grades of answers, and timelines.

All quantiles use one grid, so that about forty points represent a million requests. Means of server times cover the requests
for which the server reported times. Derived requests were not sent and are therefore in no timeline.

This module does not know figures.
"""

from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from analysis.data.costs import in_flight
from analysis.data.frame import Study
from analysis.data.setting import CONDITIONS, SETTING
from analysis.format import first
from analysis.tables.summary import KEY, judged, ordered, requests
from loadgen.measure.quantiles import least_sample
from loadgen.record import GPU_LOG

GRID = np.round(np.concatenate([[0.001, 0.01], np.arange(0.025, 1.0, 0.025), [0.99, 0.999]]), 3)
PARTS = {"queue_s": "queue", "prefill_s": "prefill", "decode_s": "decode", "network_client_s": "network + client"}
TIMELINE_POINTS = 120  # for each run and series: more cannot be seen in a panel
ABOUT = ["params_b", "tp", "speculation"]


def usable(frame: pd.DataFrame, *columns: str) -> pd.DataFrame:
    """All requests except warm-up, with their setting, ABOUT, `judged` and `columns`: a copy of all columns takes memory."""
    names = (*SETTING, *ABOUT, "run_verdict", "warmup", "check", *columns)
    rows = requests(frame[[name for name in dict.fromkeys(names) if name in frame]])
    return rows.assign(judged=judged(rows))


def about(key: tuple[Any, ...], group: pd.DataFrame) -> dict[str, Any]:
    """The columns that describe a setting: its key, and ABOUT from its requests."""
    return dict(zip(KEY, key, strict=True)) | first(group, ABOUT)


def distributions(frame: pd.DataFrame) -> pd.DataFrame:
    """Quantiles of e2e and TTFT over successful requests: columns `share seconds metric`.

    A quantile is left out where the group has fewer than `least_sample` values.
    """
    rows = usable(frame, "ok", "e2e_s", "ttft_s")
    rows = rows[rows["ok"].to_numpy()]
    out = []
    for key, group in rows.groupby(KEY, observed=True, sort=False):
        for metric in ("e2e_s", "ttft_s"):
            values = group[metric].dropna()
            grid = [share for share in GRID.tolist() if len(values) >= least_sample(share)]
            if grid:
                points = np.quantile(values, grid, method="inverted_cdf")
                columns = {"metric": metric, "share": grid, "seconds": points, "n": len(group)}
                out.append(pd.DataFrame(about(key, group) | columns))
    empty = pd.DataFrame(columns=[*KEY, *ABOUT, "metric", "share", "seconds"])
    return ordered(pd.concat(out, ignore_index=True) if out else empty)


def decomposition(frame: pd.DataFrame) -> pd.DataFrame:
    """Mean seconds of each part of e2e, where the server reported its times: columns `part seconds share`."""
    rows = usable(frame, "ok", "e2e_s", *PARTS)
    rows = rows[rows["ok"] & rows["decode_s"].notna() & rows["e2e_s"].notna()]
    out = []
    for key, group in rows.groupby(KEY, observed=True, sort=False):
        setting = about(key, group) | {"n": len(group)}
        whole = group["e2e_s"].mean()
        for column, mean in group[[*PARTS]].mean().dropna().items():  # the server did not report the others
            share = mean / whole if whole else np.nan
            out.append(setting | {"part": PARTS[str(column)], "seconds": mean, "share": share})
    empty = [*KEY, *ABOUT, "part", "seconds", "share"]
    return ordered(pd.DataFrame(out, columns=None if out else empty))


def endings(frame: pd.DataFrame) -> pd.DataFrame:
    """How answers end: the count of each grade in each setting."""
    rows = usable(frame, "grade")
    groups = rows.groupby([*KEY, "grade"], observed=True, sort=False)
    counts = groups.size().rename("count").to_frame().join(groups[ABOUT].first()).reset_index()
    totals = counts.groupby(KEY, observed=True)["count"].transform("sum")
    return ordered(counts.assign(share=counts["count"] / totals))


def timelines(study: Study) -> pd.DataFrame:
    """Each run over time: requests in flight, tokens per second, power of all GPUs; columns `series t_s value`."""
    out = []
    for cell, rows in study.frame.groupby("cell", observed=True, sort=False):
        sent = rows[~rows["derived"].to_numpy()]
        series = [*_load_series(sent), *_gpu_series(study.folder(str(cell)) / GPU_LOG)]
        names = first(rows, ["cell", "model", "config", *CONDITIONS, "source", "run_verdict"])
        out += [pd.DataFrame(names | part) for part in series]
    empty = pd.DataFrame(columns=["cell", "series", "t_s", "value"])
    return pd.concat(out, ignore_index=True) if out else empty


def _load_series(rows: pd.DataFrame) -> list[dict[str, Any]]:
    start, stop = rows["sent_s"].to_numpy(), rows["end_s"].fillna(rows["last_token_s"]).to_numpy()
    known = np.isfinite(start) & np.isfinite(stop)
    if known.sum() < 2 or stop[known].max() <= start[known].min():
        return []
    edges = np.linspace(start[known].min(), stop[known].max(), TIMELINE_POINTS + 1)
    middle = (edges[1:] + edges[:-1]) / 2
    decoding = rows["first_token_s"].fillna(rows["sent_s"]).to_numpy()
    speed = rows["completion_tokens"].to_numpy() / np.maximum(stop - decoding, 1e-6)
    generated = known & np.isfinite(speed)
    series = [{"series": "in flight", "t_s": middle, "value": in_flight(start[known], stop[known], edges)}]
    if generated.any():
        tokens = in_flight(decoding[generated], stop[generated], edges, speed[generated])
        series.append({"series": "tokens/s", "t_s": middle, "value": tokens})
    return series


def _gpu_series(path: Path) -> list[dict[str, Any]]:
    """Power summed over all GPUs; empty where `gpu.csv` is missing or cannot be read."""
    try:
        table = pd.read_csv(path, usecols=["t_s", "gpu", "power_w"], on_bad_lines="skip")
        table = table.apply(pd.to_numeric, errors="coerce").dropna()
    except (OSError, ValueError):
        return []
    if table.empty:
        return []
    total = table.groupby("t_s")["power_w"].sum()
    step = max(1, len(total) // TIMELINE_POINTS)
    means = total.groupby(np.arange(len(total)) // step).mean()
    return [{"series": "power, W", "t_s": total.index.to_numpy()[::step], "value": means.to_numpy()}]
