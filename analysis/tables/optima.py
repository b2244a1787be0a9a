"""Which setting is best, by which measure: cheapest arithmetic, least latency, least cost, least energy.

Rules: only usable rows of the summary take part, failures and truncation are in their accuracy already. A target of
accuracy is met by the estimate; whether its interval meets it too is said, not required. The two optima of the paper are
chosen under the same conditions, so that they differ in what is chosen (model, budget, configuration) and not in load.
*Compute-optimal* reaches the target with the least arithmetic, served as arithmetic advises: on the fewest GPUs, because
more save none, without drafts, because those add some. *System-optimal* reaches it with the least latency. decisions/0072.

Does not know: how to say it (recommend.py, report.py).
"""

from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd

from analysis import stats
from analysis.data.setting import SETTING, by_conditions
from analysis.format import records

MEASURES = {
    "cost": ("cost_of_pass_gpu_s", "GPU-seconds per right answer"),
    "latency": ("e2e_p95_s", "seconds (p95) from request to last token"),
    "energy": ("cost_of_pass_j", "joules per right answer"),
}
WITHIN = 0.02  # of the best accuracy: the default target, when nobody names one
SAME_WORK = 1.01  # arithmetic within 1 % is the same: texts differ a little between configurations


@dataclass(frozen=True, slots=True)
class Optima:
    """The two points the paper sets against each other, at one target of accuracy, under the same conditions."""

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


def optima(table: pd.DataFrame) -> list[Optima]:
    """Both points under each set of conditions, nearest to the paper's first; the target is near the best accuracy there."""
    known = candidates(table)
    found = [_optima(rows, default_target(rows)) for rows in by_conditions(known)] if len(known) else []
    return [one for one in found if one is not None]


def _optima(known: pd.DataFrame, target: float) -> Optima | None:
    fit = known[known["accuracy"] >= target]
    worked = fit[fit["tflop_per_answer"].notna()]
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
    """How far the two optima lie apart, over resampled problems."""

    compute: dict[str, Any]
    system: dict[str, Any]
    times: stats.Interval
    """Mean latency of the compute-optimal over that of the system-optimal."""
    point: float
    """Share of resamples in which they differ in model or budget, not in configuration alone."""


def resampled_optima(problems: pd.DataFrame, draws: int = 500, seed: int = 0) -> Resampled | None:
    """Under the conditions nearest to the paper's that tell; in each draw the target is WITHIN below that draw's best."""
    found = (_resampled(arms, draws, seed) for arms in by_conditions(problems)) if len(problems) else iter(())
    return next((one for one in found if one is not None), None)


def _resampled(problems: pd.DataFrame, draws: int, seed: int) -> Resampled | None:
    arms = problems.assign(arm=_joined(problems, SETTING), point=_joined(problems, ["model", "budget"]))
    wide = {
        name: arms.pivot_table(index="problem_id", columns="arm", values=name, observed=True)
        for name in VALUES
    }
    measured = [table.columns for table in wide.values()]
    columns = measured[0].intersection(measured[1]).intersection(measured[2])
    wide = {name: table[columns].dropna() for name, table in wide.items()}
    common = wide["correct"].index.intersection(wide["tflop"].index).intersection(wide["e2e_s"].index)
    n = len(common)
    if len(columns) == 0 or n < stats.SMALLEST:
        return None
    weights = np.vstack(
        [np.ones(n), np.random.default_rng(seed).multinomial(n, np.full(n, 1 / n), size=draws)]
    )
    means = {name: weights @ wide[name].loc[common].to_numpy() / n for name in VALUES}
    reached = means["correct"] >= means["correct"].max(axis=1, keepdims=True) - WITHIN
    about = arms.drop_duplicates("arm").set_index("arm").reindex(columns)
    compute = np.where(reached & _plain(about).to_numpy(), means["tflop"], np.inf).argmin(axis=1)
    system = np.where(reached, means["e2e_s"], np.inf).argmin(axis=1)
    each, points = np.arange(len(weights)), about["point"].to_numpy()
    times = means["e2e_s"][each, compute] / means["e2e_s"][each, system]
    low, high = np.quantile(times[1:], [(1 - stats.LEVEL) / 2, (1 + stats.LEVEL) / 2])
    rows = records(about.reset_index())
    return Resampled(
        rows[compute[0]],
        rows[system[0]],
        stats.Interval(float(times[0]), float(low), float(high)),
        float((points[compute] != points[system])[1:].mean()),
    )


VALUES = ("correct", "tflop", "e2e_s")


def _plain(about: pd.DataFrame) -> "pd.Series[bool]":
    """As arithmetic advises to serve each model and budget: on the fewest GPUs, without drafts where there is a choice."""
    ranks = about["num_gpus"] * 2 + (about["speculation"].astype(str) != "off")
    return ranks == ranks.groupby(about["point"]).transform("min")


def _joined(problems: pd.DataFrame, names: list[str]) -> "pd.Series[int]":
    return problems.groupby(names, observed=True, sort=False).ngroup()
