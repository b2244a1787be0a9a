"""The table behind the page: accuracy, latency, cost and energy for each configuration at each budget.

Rules: a group is a setting (setting.py); its runs are pooled, INVALID ones kept apart. Warm-up is left out. Accuracy counts every request: a failed or truncated answer is not a right one.
Cost is a ratio of sums. Percentiles come twice: over successes, and over all with failures as slower than anything.

Does not know: pairs of configurations (pairs.py), figures.
"""

from typing import Any

import numpy as np
import pandas as pd

from analysis import stats
from analysis.data.setting import CONDITIONS, SETTING

KEY = [*SETTING, "judged"]
"""`judged`: `INVALID`, or `usable` for every other verdict."""
ORDER = ["params_b", "model", "tp", "config", *CONDITIONS, "budget", "source"]
"""Smallest model first."""
SMALLEST_P95 = 20  # below, a p95 is the maximum by another name and is withheld


def requests(frame: pd.DataFrame) -> pd.DataFrame:
    """The rows that count: no warm-up."""
    return frame[~frame["warmup"].to_numpy()]


def summary(frame: pd.DataFrame, price_per_gpu_hour: float) -> pd.DataFrame:
    """One row a group, in the order model size, configuration, load, budget."""
    rows = requests(frame).assign(judged=judged(frame))
    groups = rows.groupby(KEY, observed=True, sort=False)
    table = pd.DataFrame([_row(dict(zip(KEY, key, strict=True)), rows) for key, rows in groups])
    if table.empty:
        return pd.DataFrame(columns=[*KEY, "n"])
    table["cost_of_pass_usd"] = table["cost_of_pass_gpu_s"] / 3600 * price_per_gpu_hour
    table["usd_per_million_tokens"] = table["gpu_s_per_token"] / 3600 * price_per_gpu_hour * 1e6
    return ordered(table)


def ordered(table: pd.DataFrame) -> pd.DataFrame:
    """Smallest model first, then configuration, conditions and budget; rows of one setting stay as they are."""
    known = [name for name in ORDER if name in table]
    return table.sort_values(known, kind="stable").reset_index(drop=True)


def judged(frame: pd.DataFrame) -> pd.Series:
    """`INVALID` rows are shown and conclude nothing."""
    return pd.Series(np.where(frame["run_verdict"] == "INVALID", "INVALID", "usable"), index=frame.index)


def _row(key: dict[str, Any], rows: pd.DataFrame) -> dict[str, Any]:
    first = rows.iloc[0]
    row = key | {
        "params_b": first["params_b"],
        "tp": first["tp"],
        "num_gpus": first["num_gpus"],
        "speculation": first["speculation"],
        "cells": ", ".join(str(cell) for cell in rows["cell"].unique()),
        "run_verdict": worst(rows["run_verdict"].unique().tolist()),
        "n": len(rows),
        "problems": rows["problem_id"].nunique(),
        "failed": int((~rows["ok"]).sum()),
    }
    return row | _accuracy(rows) | _latency(rows) | _cost(rows)


def worst(verdicts: list[str]) -> str:
    """The verdict of runs taken together."""
    return next((v for v in ("INVALID", "not judged", "SUSPECT", "VALID") if v in verdicts), "not judged")


def accuracy(rows: pd.DataFrame) -> stats.Interval:
    """Share right: Wilson where each problem was asked once, resampled by problem where it was asked more often."""
    correct = rows["correct"].to_numpy()
    known = np.isfinite(correct)
    if rows["problem_id"].nunique() == len(rows):
        return stats.proportion(int(correct[known].sum()), int(known.sum()))
    return stats.mean(stats.by_unit(rows, ["correct"])["correct"])


def _accuracy(rows: pd.DataFrame) -> dict[str, Any]:
    verdicts = rows["verdict"].value_counts()
    return named("accuracy", accuracy(rows)) | {
        "truncated_share": float(rows["truncated"].mean()),
        "no_answer_share": float(verdicts.get("no_answer", 0) / len(rows)),
        "wrong_share": float(verdicts.get("wrong", 0) / len(rows)),
        "ungraded": int(verdicts.reindex(["ungraded", "grade_timeout", "grade_error"]).sum()),
    }


def _latency(rows: pd.DataFrame) -> dict[str, Any]:
    ok = rows[rows["ok"].to_numpy()]
    e2e, all_e2e = ok["e2e_s"].to_numpy(), np.where(rows["ok"], rows["e2e_s"], np.inf)
    out = named("e2e_mean_s", stats.mean(stats.by_unit(ok, ["e2e_s"])["e2e_s"]))
    out |= named("e2e_p50_s", stats.percentile(e2e, 0.5))
    enough = len(e2e) >= SMALLEST_P95
    out |= named("e2e_p95_s", stats.percentile(e2e, 0.95) if enough else stats.NOTHING)
    enough_sent = len(all_e2e) >= SMALLEST_P95
    out |= named("e2e_p95_all_s", stats.percentile(all_e2e, 0.95) if enough_sent else stats.NOTHING)
    out["ttft_p50_s"] = stats.percentile(ok["ttft_s"], 0.5).estimate
    out["ttft_p95_s"] = stats.percentile(ok["ttft_s"], 0.95).estimate if enough else float("nan")
    out["tpot_p50_s"] = stats.percentile(ok["tpot_s"], 0.5).estimate
    return out


def _cost(rows: pd.DataFrame) -> dict[str, Any]:
    sums = ["gpu_s", "gpu_s_paper", "completion_tokens", "correct", "energy_j", "tflop"]
    units = rows[sums].groupby(rows["problem_id"], observed=True).sum(min_count=1)
    tokens, n = units["completion_tokens"].fillna(0), len(rows)
    gpu_s = units["gpu_s"].sum()
    out = {"tokens_mean": float(tokens.sum() / max(1, rows["completion_tokens"].notna().sum()))}
    out |= named("gpu_s_per_token", stats.ratio(units["gpu_s"], tokens))
    out["gpu_s_per_token_paper"] = stats.ratio(units["gpu_s_paper"], tokens).estimate
    out |= named("cost_of_pass_gpu_s", stats.ratio(units["gpu_s"], units["correct"]))
    out["gpu_s_per_answer"] = float(gpu_s / n)
    out["joules_per_token"] = _over(units["energy_j"], tokens)
    out["cost_of_pass_j"] = _over(units["energy_j"], units["correct"])
    out["tflop_per_answer"] = float(units["tflop"].sum(min_count=1) / n)
    out["tokens_per_s_user"] = _over(rows["completion_tokens"], rows["e2e_s"])
    out["tokens_per_s_gpu"] = float(tokens.sum() / gpu_s) if gpu_s else float("nan")
    return out


def _over(top: pd.Series, bottom: pd.Series) -> float:
    known = top.notna() & bottom.notna()
    below = float(bottom[known].sum())
    return float(top[known].sum() / below) if below else float("nan")


def named(name: str, interval: stats.Interval) -> dict[str, float]:
    """An interval as three columns."""
    return {name: interval.estimate, f"{name}_low": interval.low, f"{name}_high": interval.high}


def front(table: pd.DataFrame, less: str, more: str) -> pd.Series:
    """True where no other row has less of `less` (a cost) and at least as much of `more`."""
    known = table[less].notna() & table[more].notna()
    order = table[known].sort_values([less, more], ascending=[True, False], kind="stable")
    best_before = order[more].cummax().shift(fill_value=-np.inf)
    return (
        pd.Series(order[more] > best_before, index=order.index)
        .reindex(table.index, fill_value=False)
        .astype(bool)
    )


def runs_table(frame: pd.DataFrame, runs: dict[str, Any]) -> pd.DataFrame:
    """One row a run: what it was and how it judged itself."""
    counts = requests(frame).groupby("cell", observed=True).agg(n=("ok", "size"), ok=("ok", "sum"))
    found = {
        str(name): dict(zip(counts.index.astype(str), column, strict=True)) for name, column in counts.items()
    }
    rows = []
    for cell, run in runs.items():
        n, ok = (int(found[name].get(cell, 0)) for name in ("n", "ok"))
        rows.append(
            {
                "cell": cell,
                "config": run.config,
                "model": run.model.rsplit("/", 1)[-1],
                "num_gpus": run.num_gpus,
            }
            | {
                "requests": n,
                "failed": n - ok,
                "duration_s": run.duration_s,
                "time_scale": run.time_scale,
            }
            | {
                "source": _run_source(run),
                "verdict": run.verdict or "not judged",
                "reasons": "; ".join(run.reasons),
            }
        )
    return pd.DataFrame(rows, columns=list(rows[0]) if rows else ["cell", "verdict"])


def _run_source(run: Any) -> str:
    return "simulated" if run.simulated else "emulated" if run.emulated else "measured"
