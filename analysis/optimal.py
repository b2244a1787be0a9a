"""Which setting is best, by which measure: cheapest arithmetic, least latency, least cost, least energy.

Rules: a setting is a row of the summary: model, configuration, load, budget. Only usable rows take part, failures and
truncation are in their accuracy already. A target of accuracy is met by the estimate; whether its interval meets it too
is said, not required. Arithmetic cannot see the configuration: the compute-optimal point stands on the plainest one.

Does not know: how to say it (recommend.py).
"""

from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from analysis.tables import records

MEASURES = {
    "cost": ("cost_of_pass_gpu_s", "GPU-seconds per right answer"),
    "latency": ("e2e_p95_s", "seconds (p95) from request to last token"),
    "energy": ("cost_of_pass_j", "joules per right answer"),
}
WITHIN = 0.02  # of the best accuracy: the default target, when nobody names one
SAME_WORK = 1.01  # arithmetic within 1 % is the same: texts differ a little between configurations


@dataclass(frozen=True, slots=True)
class Optima:
    """The two points the paper sets against each other, at one target of accuracy."""

    target: float
    compute: dict[str, Any]
    system: dict[str, Any]

    @property
    def differ(self) -> list[str]:
        """What differs between them: model, budget, configuration."""
        names = {"model": "model", "budget": "budget", "config": "configuration"}
        return [word for name, word in names.items() if self.compute[name] != self.system[name]]


def candidates(table: pd.DataFrame) -> pd.DataFrame:
    """Rows that may be recommended: usable, graded, timed, at least one right answer."""
    if table.empty:
        return table
    known = (table["judged"] != "INVALID") & table["accuracy"].gt(0) & table["e2e_p50_s"].notna()
    return table[known]


def default_target(table: pd.DataFrame) -> float:
    """Two points below the best accuracy measured."""
    return float(table["accuracy"].max()) - WITHIN


def optima(table: pd.DataFrame, target: float) -> Optima | None:
    """Compute-optimal (least arithmetic an answer) and system-optimal (least median latency) at `target`."""
    fit = candidates(table)
    fit = fit[fit["accuracy"] >= target] if len(fit) else fit
    worked = fit[fit["tflop_per_answer"].notna()] if len(fit) else fit
    if worked.empty:
        return None
    least = worked[worked["tflop_per_answer"] <= worked["tflop_per_answer"].min() * SAME_WORK]
    plain = least.assign(drafts=least["speculation"] != "off").sort_values(
        ["num_gpus", "drafts", "tflop_per_answer", "e2e_p50_s"]
    )
    return Optima(target, records(plain)[0], records(fit.sort_values("e2e_p50_s"))[0])


def measure(objective: str, fit: pd.DataFrame) -> str:
    """The column an objective minimises; latency falls back on the median where no p95 could be had."""
    name = MEASURES[objective][0]
    if objective == "latency" and fit[name].isna().all():
        return "e2e_p50_s"
    return name


def ranked(fit: pd.DataFrame, objective: str) -> pd.DataFrame:
    """Best first; rows without the measure last."""
    return fit.sort_values([measure(objective, fit), "e2e_p50_s"], na_position="last", kind="stable")


def resampled_optima(
    problems: pd.DataFrame, target_within: float, draws: int = 500, seed: int = 0
) -> NDArray[np.float64]:
    """For each draw of problems: do the arms of least arithmetic and of least mean latency differ? NaN where unknown.

    The target moves with each draw: `target_within` below its best accuracy.
    """
    arms = problems.assign(arm=_arm(problems), point=_point(problems))
    wide = {
        name: arms.pivot_table(index="problem_id", columns="arm", values=name, observed=True)
        for name in VALUES
    }
    common = wide["correct"].dropna().index.intersection(wide["tflop"].dropna().index)
    common = common.intersection(wide["e2e_s"].dropna().index)
    if len(common) == 0:
        return np.full(draws, np.nan)
    weights = np.random.default_rng(seed).multinomial(
        len(common), np.full(len(common), 1 / len(common)), size=draws
    )
    means = {name: weights @ wide[name].loc[common].to_numpy() / len(common) for name in VALUES}
    reached = means["correct"] >= means["correct"].max(axis=1, keepdims=True) - target_within
    points = arms.drop_duplicates("arm").set_index("arm")["point"].reindex(wide["correct"].columns).to_numpy()
    compute = np.where(reached, means["tflop"], np.inf).argmin(axis=1)
    system = np.where(reached, means["e2e_s"], np.inf).argmin(axis=1)
    differ: NDArray[np.float64] = (points[compute] != points[system]).astype(float)
    return differ


VALUES = ("correct", "tflop", "e2e_s")


def _arm(problems: pd.DataFrame) -> pd.Series:
    names = ["model", "config", "load", "budget", "budget_mode", "source"]
    return problems[names].astype(str).agg("|".join, axis=1)


def _point(problems: pd.DataFrame) -> pd.Series:
    return problems["model"].astype(str) + "|" + problems["budget"].astype(str)
