"""Find the best setting by arithmetic, latency, cost or energy, among those that reach an accuracy.

Only usable rows of the summary take part; failures and truncation are already in their accuracy. A setting reaches a target
when its estimated accuracy does; its interval may reach below the target. The two optima of the paper are chosen under the
same conditions, so that they differ only in model, budget and configuration. *Compute-optimal* reaches the target with the
least arithmetic, on the fewest GPUs (more GPUs save no arithmetic) and without speculation (drafts add arithmetic).
*System-optimal* reaches the target with the least latency. See docs/decisions/0072.

This module does not know how the result is worded (recommend.py and report.py do).
"""

from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from analysis import stats
from analysis.data.setting import CONDITIONS, SETTING, by_conditions
from analysis.format import records
from analysis.noise import DAY_TO_DAY
from analysis.stats import Floats

MEASURES = {"cost": "cost_of_pass_gpu_s", "latency": "e2e_p95_all_s", "energy": "cost_of_pass_j"}
PER_REQUEST = {"cost_of_pass_gpu_s": "gpu_s_per_request", "cost_of_pass_j": "joules_per_request"}
"""What replaces a measure where no answer is known to be correct."""
WITHIN = 0.02
"""The default target is this share (2 points) below the best accuracy."""
SAME_WORK = 1.01
"""Arithmetic within 1 % counts as equal, because texts differ slightly between configurations."""


@dataclass(frozen=True, slots=True)
class Optima:
    """The compute-optimal and the system-optimal setting for one target accuracy, under the same conditions."""

    target: float
    compute: dict[str, Any]
    system: dict[str, Any]

    @property
    def differ(self) -> list[str]:
        """Which of model, budget and configuration differ between the two."""
        names = {"model": "model", "budget": "budget", "config": "configuration"}
        return [word for name, word in names.items() if self.compute[name] != self.system[name]]


def graded(table: pd.DataFrame) -> bool:
    """Whether any usable row has a correct answer; otherwise settings can be compared by latency and cost alone."""
    return len(table) > 0 and bool((table["accuracy"].gt(0) & (table["judged"] != "INVALID")).any())


def candidates(table: pd.DataFrame) -> pd.DataFrame:
    """Rows that may be recommended: usable, with a median latency and, where any row has one, a correct answer.

    Derived rows of several requests in flight are left out unless real requests at such budgets have confirmed them.
    """
    if table.empty:
        return table
    known = (table["judged"] != "INVALID") & table["e2e_p50_s"].notna() & table["trusted"]
    return table[known & table["accuracy"].gt(0)] if graded(table) else table[known]


def default_target(table: pd.DataFrame) -> float:
    """The target accuracy where none is given: two points below the best accuracy measured."""
    return float(table["accuracy"].max()) - WITHIN


def optima(table: pd.DataFrame) -> list[Optima]:
    """Both optima under each set of conditions, those nearest to the paper's first; each set has its own target."""
    known = candidates(table)
    found = [_optima(rows, default_target(rows)) for rows in by_conditions(known)] if len(known) else []
    return [one for one in found if one is not None]


def _optima(known: pd.DataFrame, target: float) -> Optima | None:
    fit = known[(known["accuracy"] >= target) & known["accuracy"].gt(0)]
    worked = fit[fit["tflop_per_request"].notna()]
    if worked.empty:
        return None
    least = worked[worked["tflop_per_request"] <= worked["tflop_per_request"].min() * SAME_WORK]
    by_arithmetic = least.assign(drafts=least["speculation"] != "off").sort_values(
        ["num_gpus", "drafts", "tflop_per_request", "e2e_p50_s"]
    )
    return Optima(target, records(by_arithmetic)[0], records(fit.sort_values("e2e_p50_s"))[0])


def measure(objective: str, fit: pd.DataFrame) -> str:
    """The column that an objective minimizes; for latency the median where no setting has a p95. Failures count in both.

    The cost is unknown where the number of GPUs is; the fastest setting is the best then.
    """
    name = MEASURES[objective] if graded(fit) else PER_REQUEST.get(MEASURES[objective], MEASURES[objective])
    if objective == "cost" and fit[name].isna().all():
        name = MEASURES["latency"]
    return "e2e_p50_all_s" if name == MEASURES["latency"] and fit[name].isna().all() else name


def ranked(fit: pd.DataFrame, objective: str) -> pd.DataFrame:
    """Sort by an objective, best first; rows without a value come last."""
    return fit.sort_values([measure(objective, fit), "e2e_p50_all_s"], na_position="last", kind="stable")


@dataclass(frozen=True, slots=True)
class Resampled:
    """How far the two optima are apart, estimated by resampling problems."""

    compute: dict[str, Any]
    system: dict[str, Any]
    times: stats.Interval
    """Mean latency of the compute-optimal setting / mean latency of the system-optimal setting, judged by other resamples
    than those that chose the two: the fastest of many settings was partly lucky, and its own latency would flatter it."""
    point: float
    """Share of resamples in which the two differ in model or budget and not only in configuration."""


def resampled_optima(
    problems: pd.DataFrame, between_runs: float = DAY_TO_DAY, draws: int = 500, seed: int = 0
) -> Resampled | None:
    """Resample under the conditions nearest to the paper's that hold enough problems; None where no conditions do.

    In each resample the target is WITHIN below the best accuracy of that resample, and each run has its own noise.
    """
    found = (_resampled(arms, between_runs, draws, seed) for arms in by_conditions(problems))
    return next((one for one in found if one is not None), None)


def _resampled(problems: pd.DataFrame, between_runs: float, draws: int, seed: int) -> Resampled | None:
    numbers = {
        name: problems.groupby(same, observed=True, sort=False).ngroup()
        for name, same in (("arm", SETTING), ("point", ["model", "budget"]))
    }
    arms = problems.assign(**numbers)
    # Arms without any value are left out, and then problems that an arm lacks.
    means = arms.groupby(["problem_id", "arm"], observed=True)[[*VALUES]].mean().dropna()
    wide = means.pivot_table(index="problem_id", columns="arm", observed=True).dropna()
    n = len(wide)
    if n < stats.MIN_UNITS:
        return None
    rng = np.random.default_rng(seed)
    about = arms.drop_duplicates("arm").set_index("arm").reindex(wide["correct"].columns)
    matrices = {name: wide[name].to_numpy() for name in VALUES}

    def resampled(drawn: NDArray[np.uint8]) -> dict[str, Floats]:
        weights = np.vstack([np.ones(n), drawn])
        means = {name: weights @ matrix / n for name, matrix in matrices.items()}
        return means | {"e2e_s": means["e2e_s"] * noise_of_runs(about, between_runs, draws, rng)}

    choosing, judging = map(resampled, np.split(stats.resampling(n, 2 * draws), 2))
    reached = choosing["correct"] >= choosing["correct"].max(axis=1, keepdims=True) - WITHIN
    compute = np.where(reached & _least_serving(about).to_numpy(), choosing["tflop"], np.inf).argmin(axis=1)
    system = np.where(reached, choosing["e2e_s"], np.inf).argmin(axis=1)
    each, points = np.arange(draws + 1), about["point"].to_numpy()
    times = judging["e2e_s"][each, compute] / judging["e2e_s"][each, system]
    low, high = np.quantile(times[1:], [stats.ALPHA / 2, 1 - stats.ALPHA / 2])
    rows = records(about.reset_index())
    return Resampled(
        rows[compute[0]],
        rows[system[0]],
        stats.Interval(float(np.exp(np.log(times[1:]).mean())), float(low), float(high)),
        float((points[compute] != points[system])[1:].mean()),
    )


VALUES = ("correct", "tflop", "e2e_s")


def _least_serving(about: pd.DataFrame) -> "pd.Series[bool]":
    """The configuration of each model and budget that adds no arithmetic: the fewest GPUs, then without speculation."""
    ranks = about["num_gpus"] * 2 + (about["speculation"].astype(str) != "off")
    return ranks == ranks.groupby(about["point"]).transform("min")


def noise_of_runs(about: pd.DataFrame, between_runs: float, draws: int, rng: np.random.Generator) -> Floats:
    """Factors by which another set of runs would differ: a row for each draw after a row of ones, a column for each setting.

    The budgets of one configuration were one run and have one factor. Repeats have their mean's noise.
    """
    runs = about.groupby(["model", "config", *CONDITIONS], observed=True, sort=False).ngroup().to_numpy()
    deviation = (about["deviation_e2e_s"].fillna(between_runs) / np.sqrt(about["runs"])).to_numpy()
    normal = rng.normal(size=(draws, runs.max() + 1))[:, runs]
    return np.vstack([np.ones(len(runs)), np.exp(normal * deviation)])
