"""Compute the summary table: accuracy, latency, cost and energy of each setting.

A row is a setting (data/setting.py). Its runs are pooled, but INVALID runs form a row of their own. Warm-up requests are left
out. Accuracy counts every request, so a failed or truncated answer is not a correct one. Costs are ratios of sums.
Percentiles are computed over successful requests, and again over all requests with failures as infinitely slow ones. A
percentile is shown from `least_sample` values on, the same rule as for the summary of a run. A ratio has the same requests in
its numerator and its denominator, and is NaN where either was not measured at all. The share of requests within the SLO
(`good_share`) is there where an SLO is given for the whole table.

This module does not know comparisons of configurations (pairs.py) or figures.
"""

import math
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import ArrayLike

from analysis import stats
from analysis.data.setting import CONDITIONS, SETTING, dependence, load_point
from analysis.format import first, natural
from loadgen.measure.dependence import share_interval
from loadgen.measure.quantiles import least_sample
from loadgen.record import RunInfo

KEY = [*SETTING, "judged"]
"""`judged` is `INVALID`, or `usable` for every other verdict."""
ORDER = ["params_b", "model", "tp", "config", *CONDITIONS, "budget", "source"]
"""Sort order of the tables: the smallest model comes first."""


def requests(frame: pd.DataFrame) -> pd.DataFrame:
    """The requests that are evaluated: all except warm-up and those that only check derived budgets."""
    left_out = (frame["warmup"] | frame.get("check", False)).to_numpy()
    return frame[~left_out] if left_out.any() else frame


def summary(frame: pd.DataFrame, price_per_gpu_hour: float, slo: dict[str, float] | None = None) -> pd.DataFrame:
    """One row for each setting, sorted by model size, configuration, conditions and budget."""
    rows = requests(frame).assign(judged=judged(frame)).sort_values(["cell", "sent_s"], kind="stable")
    budgets = rows.groupby("cell", observed=True)["budget"].transform("nunique")
    rows = rows.assign(good=meets(rows, slo or {}), mixed=budgets > 1)
    groups = rows.groupby(KEY, observed=True, sort=False)
    units = _units(rows.assign(place=groups.ngroup()))
    found = zip(groups, units, strict=True)
    table = pd.DataFrame([_row(dict(zip(KEY, key, strict=True)), rows, part) for (key, rows), part in found])
    if table.empty:
        return pd.DataFrame(columns=[*KEY, "n"])
    table["cost_of_pass_usd"] = table["cost_of_pass_gpu_s"] / 3600 * price_per_gpu_hour
    table["usd_per_request"] = table["gpu_s_per_request"] / 3600 * price_per_gpu_hour
    table["usd_per_million_tokens"] = table["gpu_s_per_token"] / 3600 * price_per_gpu_hour * 1e6
    return ordered(table)


SUMS = ["gpu_s", "gpu_s_whole", "server_s", "completion_tokens", "correct"]
SUMS += ["energy_j", "tflop", "ok", "e2e_s"]


def _units(rows: pd.DataFrame) -> list[pd.DataFrame]:
    """For each setting, the sums over the requests of each problem (`e2e_s`: successful ones), with the numbers of requests.

    They are computed for all settings at once, because a small group costs as much as a large one.
    """
    known = rows.assign(ok=rows["ok"].astype(float), e2e_s=rows["e2e_s"].where(rows["ok"]))
    groups = known.groupby(["place", "problem_id"], observed=True)
    units = groups[SUMS].sum(min_count=1)
    units = units.assign(asked=groups.size().astype(float), timed=groups["e2e_s"].count())
    return [part for _, part in units.groupby(level="place", sort=True)]


def ordered(table: pd.DataFrame) -> pd.DataFrame:
    """Sort a table by ORDER; rows of one setting keep their order."""
    known = [name for name in ORDER if name in table]

    def key(column: pd.Series) -> pd.Series:
        if column.name not in ("load", "config"):
            return column
        places = sorted(column.astype(str).unique(), key=natural)  # c2 comes before c16
        return column.astype(str).map({name: place for place, name in enumerate(places)})

    return table.sort_values(known, kind="stable", key=key).reset_index(drop=True)


def meets(rows: pd.DataFrame, slo: dict[str, float]) -> "pd.Series[float]":
    """1 where a request succeeded within every objective, else 0; NaN without objectives. As `loadgen.measure.formulas.meets`."""
    good = rows["ok"] & rows["e2e_s"].notna()
    # An answer of one token has no time between tokens.
    one_token = (rows["completion_tokens"] == 1) & (rows["chunks"] == 1) & rows["ttft_s"].notna()
    for name, limit_s in slo.items():
        good &= (rows[f"{name}_s"] <= limit_s) | (one_token & rows[f"{name}_s"].isna() & (name == "tpot"))
    return good.astype(float) if slo else pd.Series(np.nan, index=rows.index)


def good_share(rows: pd.DataFrame, good: "pd.Series[float]") -> stats.Interval:
    """The share of good requests (meets), which are in the order of time, with an interval that allows for their dependence."""
    if good.isna().any():
        return stats.NOTHING
    slowest = rows["e2e_s"].where(rows["ok"]).fillna(np.inf).tolist()
    bounds = share_interval(good.astype(int).tolist(), dependence(str(rows["load"].iloc[0])), slowest)
    return stats.Interval(float(good.mean()), *(bounds or (math.nan, math.nan)))


def judged(frame: pd.DataFrame) -> pd.Series:
    """Which requests belong to INVALID runs: they are shown, but no conclusion uses them."""
    return pd.Series(np.where(frame["run_verdict"] == "INVALID", "INVALID", "usable"), index=frame.index)


def _row(key: dict[str, Any], rows: pd.DataFrame, units: pd.DataFrame) -> dict[str, Any]:
    row = key | first(rows, ["params_b", "tp", "num_gpus", "speculation"])
    row |= {
        "cells": ", ".join(str(cell) for cell in rows["cell"].unique()),
        "run_verdict": worst_verdict(rows["run_verdict"].unique().tolist()),
        "n": len(rows),
        "problems": len(units),
        "failed": int((~rows["ok"]).sum()),
        "steady": bool(rows["steady"].all()),
        "steady_share": float(rows["steady_share"].mean()),
        "trusted": bool(rows["trusted"].all()),
        "mixed": bool(rows["mixed"].any()),
    }
    return row | _accuracy(rows) | _latency(rows, units) | _cost(rows, units) | _throughput(rows, units)


def worst_verdict(verdicts: list[str]) -> str:
    """The verdict of several runs together."""
    return next((v for v in ("INVALID", "not judged", "SUSPECT", "VALID") if v in verdicts), "not judged")


def accuracy(rows: pd.DataFrame) -> stats.Interval:
    """Share of correct answers: Wilson's interval, at the effective number of problems where a problem has several samples."""
    correct = rows["correct"].to_numpy()
    known = int(np.isfinite(correct).sum())
    if rows["problem_id"].nunique() == len(rows):
        return stats.proportion(int(np.nansum(correct)), known)
    return stats.proportion_of_units(rows.groupby("problem_id", observed=True)["correct"].mean(), known)


def _accuracy(rows: pd.DataFrame) -> dict[str, Any]:
    grades = rows["grade"]
    open_grades = ["ungraded", "undecided", "grade_timeout", "grade_error"]
    return named("accuracy", accuracy(rows)) | {
        "truncated_share": float(rows["truncated"].mean()),
        "no_answer_share": float((grades == "no_answer").mean()),
        "wrong_share": float((grades == "wrong").mean()),
        "ungraded": int(grades.isin(open_grades).sum()),
    }


def _latency(rows: pd.DataFrame, units: pd.DataFrame) -> dict[str, Any]:
    """Latencies of a setting's requests, which are in the order of time."""
    ok = rows[rows["ok"].to_numpy()]
    load = dependence(str(rows["load"].iloc[0]))

    def percentile(among: pd.DataFrame, values: ArrayLike, p: float) -> stats.Interval:
        found = stats.percentile(values, p, load, among["problem_id"].cat.codes.to_numpy().astype(np.int64))
        return found if _enough(values, p) else found._replace(estimate=np.nan)

    with_failures = np.where(rows["ok"], rows["e2e_s"], np.inf)
    out = named("e2e_mean_s", stats.mean(units["e2e_s"] / units["timed"]))
    out |= named("e2e_p50_s", percentile(ok, ok["e2e_s"], 0.5))
    out |= named("e2e_p95_s", percentile(ok, ok["e2e_s"], 0.95))
    out |= named("e2e_p95_all_s", percentile(rows, with_failures, 0.95))
    out["e2e_p50_all_s"] = _nearest_rank(with_failures, 0.5)
    for name in ("ttft_p50", "ttft_p95", "tpot_p50", "tpot_p95", "ttft_p99", "tpot_p99", "e2e_p99"):
        metric, percent = name.split("_p")
        out[f"{name}_s"] = _nearest_rank(ok[f"{metric}_s"], int(percent) / 100)
    return out


def _nearest_rank(values: ArrayLike, p: float) -> float:
    return stats.nearest_rank(values, p) if _enough(values, p) else np.nan


def _enough(values: ArrayLike, p: float) -> bool:
    return int((~np.isnan(np.asarray(values, dtype=float))).sum()) >= least_sample(p)


def _cost(rows: pd.DataFrame, units: pd.DataFrame) -> dict[str, Any]:
    # A failed request has no tokens, but a run in which nothing was counted has no ratio.
    tokens = units["completion_tokens"].fillna(0) if units["completion_tokens"].any() else np.nan
    gpu_s, n = units["gpu_s"] * (1.0 if units["gpu_s"].sum() > 0 else np.nan), len(rows)
    units = units.assign(completion_tokens=tokens, gpu_s=gpu_s)
    out = {"tokens_mean": float(rows["completion_tokens"].mean())}
    out |= named("gpu_s_per_token", stats.ratio(gpu_s, units["completion_tokens"]))
    out["gpu_s_per_token_whole"] = _over(units["gpu_s_whole"], units["completion_tokens"])
    ok = rows[rows["ok"].to_numpy() & rows["e2e_s"].notna().to_numpy()]
    out["gpu_s_per_token_paper"] = _over(ok["gpu_s_paper"], ok["completion_tokens"])
    out |= named("cost_of_pass_gpu_s", stats.ratio(gpu_s, units["correct"]))
    out |= named("gpu_s_per_request", stats.ratio(gpu_s, units["asked"]))
    out |= named("joules_per_request", stats.ratio(units["energy_j"], units["asked"]))
    out |= named("joules_per_token", stats.ratio(units["energy_j"], units["completion_tokens"]))
    out |= named("cost_of_pass_j", stats.ratio(units["energy_j"], units["correct"]))
    out["tflop_per_request"] = float(units["tflop"].sum(min_count=1) / n)
    out["tokens_per_s_user"] = _over(rows["completion_tokens"], rows["e2e_s"])
    out["tokens_per_s_gpu"] = float(units["completion_tokens"].sum(min_count=1) / gpu_s.sum(min_count=1))
    return out


def _throughput(rows: pd.DataFrame, units: pd.DataFrame) -> dict[str, Any]:
    """Successful requests per second of the steady load, and the share of all requests that met the SLO.

    A request's `server_s` is what it takes of the server, so the rate is also right where several budgets ran together: it is
    the rate at which the server answers requests of this budget alone.
    """
    out = named("requests_per_s", stats.ratio(units["ok"], units["server_s"]))
    kind, asked = load_point(str(rows["load"].iloc[0]))
    out["asked_per_s"] = asked if kind not in ("", "streams") else np.nan
    good, share = rows["good"].to_numpy(), good_share(rows, rows["good"])
    if np.isnan(share.estimate):
        return out | named("good_share", share) | {"goodput_per_s": np.nan}
    # Successes per second × good requests per success: a failed request is not good, and takes its part of the server.
    goodput = out["requests_per_s"] * good.sum() / rows["ok"].sum() if rows["ok"].any() else 0.0
    return out | named("good_share", share) | {"goodput_per_s": goodput}


def _over(top: pd.Series, bottom: pd.Series) -> float:
    above, under = top.to_numpy(dtype=float), bottom.to_numpy(dtype=float)
    known = ~np.isnan(above) & ~np.isnan(under)
    below = float(under[known].sum())
    return float(above[known].sum() / below) if below else float("nan")


def named(name: str, interval: stats.Interval) -> dict[str, float]:
    """An interval as three columns: `name`, `name_low`, `name_high`."""
    return {name: interval.estimate, f"{name}_low": interval.low, f"{name}_high": interval.high}


def front(table: pd.DataFrame, less: str, more: str) -> pd.Series:
    """The Pareto front: True where no row has less of `less` (a cost) and at least as much of `more`."""
    known = table[less].notna() & table[more].notna()
    order = table[known].sort_values([less, more], ascending=[True, False], kind="stable")
    best_before = order[more].cummax().shift(fill_value=-np.inf)
    return pd.Series(table.index.isin(order.index[order[more] > best_before]), index=table.index)


def runs_table(frame: pd.DataFrame, runs: dict[str, RunInfo]) -> pd.DataFrame:
    """One row for each run: its description, its verdict and the reasons for it."""
    groups = requests(frame).groupby("cell", observed=True)["ok"]
    sent, ok = (found.to_dict() for found in (groups.size(), groups.sum()))
    rows = [
        {
            "cell": cell,
            "config": run.config,
            "model": run.model.rsplit("/", 1)[-1],
            "num_gpus": run.num_gpus,
            "requests": int(sent.get(cell, 0)),
            "failed": int(sent.get(cell, 0) - ok.get(cell, 0)),
            "duration_s": run.duration_s,
            "time_scale": run.time_scale,
            "source": run_source(run),
            "verdict": run.verdict or "not judged",
            "reasons": "; ".join(run.reasons),
        }
        for cell, run in runs.items()
    ]
    return pd.DataFrame(rows, columns=list(rows[0]) if rows else ["cell", "verdict"])


def run_source(run: RunInfo) -> str:
    """Whether a run was measured, emulated or simulated."""
    return "simulated" if run.simulated else "emulated" if run.emulated else "measured"
