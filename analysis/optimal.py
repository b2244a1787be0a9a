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


@dataclass(frozen=True, slots=True)
class Resampled:
    """How often, over resampled problems, the two optima differ."""

    setting: float
    """In model, budget or configuration."""
    point: float
    """In model or budget."""


def resampled_optima(
    problems: pd.DataFrame, within: float, draws: int = 500, seed: int = 0
) -> Resampled | None:
    """Resample problems; in each draw the target lies `within` below the best accuracy of that draw."""
    arms = problems.assign(arm=_joined(problems, ARM), point=_joined(problems, ["model", "budget"]))
    wide = {
        name: arms.pivot_table(index="problem_id", columns="arm", values=name, observed=True)
        for name in VALUES
    }
    measured = [table.columns for table in wide.values()]
    columns = measured[0].intersection(measured[1]).intersection(measured[2])
    wide = {name: table[columns].dropna() for name, table in wide.items()}
    common = wide["correct"].index.intersection(wide["tflop"].index).intersection(wide["e2e_s"].index)
    if len(columns) == 0 or len(common) == 0:
        return None
    weights = np.random.default_rng(seed).multinomial(
        len(common), np.full(len(common), 1 / len(common)), size=draws
    )
    means = {name: weights @ wide[name].loc[common].to_numpy() / len(common) for name in VALUES}
    reached = means["correct"] >= means["correct"].max(axis=1, keepdims=True) - within
    about = arms.drop_duplicates("arm").set_index("arm").reindex(columns)
    plain = _plain(about).to_numpy()
    compute = np.where(reached & plain, means["tflop"], np.inf).argmin(axis=1)
    system = np.where(reached, means["e2e_s"], np.inf).argmin(axis=1)
    points = about["point"].to_numpy()
    return Resampled(float((compute != system).mean()), float((points[compute] != points[system]).mean()))


VALUES = ("correct", "tflop", "e2e_s")
ARM = ["model", "config", "load", "budget", "budget_mode", "source"]


def _plain(about: pd.DataFrame) -> pd.Series:
    """The plainest configuration of each model and budget: arithmetic cannot tell the others apart."""
    ranks = about["num_gpus"] * 2 + (about["speculation"].astype(str) != "off")
    return ranks == ranks.groupby(about["point"]).transform("min")


def _joined(problems: pd.DataFrame, names: list[str]) -> pd.Series:
    return problems.groupby(names, observed=True, sort=False).ngroup()
