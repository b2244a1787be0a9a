"""Decide whether a setting became worse from one set of results (BASE) to another (NEW), beyond noise.

Both sides are compared on the same settings and the same problems, or across one condition, such as the configuration. The problems
of an imported run have no names, so they are paired by the lengths of their prompts, where both sides have the same lengths; what an
imported run does not know is then not compared. A regression is a change that is worse than the gate with
95 % one-sided confidence, with Holm's correction over all settings and measures: at most 5 false alarms in 100 comparisons of
equal sides, for any number of settings. A change is conclusive where it is not worse than the gate, and a change of twice the
gate would have been detected with a probability of 90 % or its interval excludes the gate. Where a side has repeated runs of a
setting, which asked the same problems, the interval includes the noise between runs. Without repeats it includes the noise
between problems only.

The cost of a request is its tokens × the cost of a token in the steady window of its run, where the run has one and asked one
budget. Otherwise it is the request's share of the wall time, with ramp-up and drain.

This module does not know the cause of a change.
"""

import math
from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from analysis import noise
from analysis.data import setting
from analysis.format import first, natural
from analysis.stats import holm, log_ratio, t_bound, t_quantile, t_tail
from analysis.tables import measures
from analysis.tables.measures import PERCENTILES, RATES
from analysis.tables.repeats import run_means
from analysis.tables.summary import judged, requests

ALPHA, POWER = 0.05, 0.90
SETTING = [name for name in setting.SETTING if name != "dataset"]
"""Problems are paired by their ids, so the file from which they were read does not matter."""
COLUMN = {"latency": "e2e_s", "ttft": "ttft_s", "tpot": "tpot_s", "cost": "gpu_s", "accuracy": "correct"}
"""Measures that are means over problems."""
MEASURES = (*COLUMN, *PERCENTILES, *RATES)
IMPORTED = ("model", "config", "load", "budget_mode", "source")
"""The part of a setting that an imported run knows."""
MIN_PAIRS = 5
MAX_LOST = 0.01
"""Where NEW fails this share of requests more than BASE, the latency and cost of the other requests are not conclusive."""
Floats = NDArray[np.float64]
SLO = dict[str, float]


@dataclass(frozen=True, slots=True)
class Change:
    """One measure of one setting: how much worse NEW is, and with which error."""

    setting: dict[str, Any]
    measure: str
    gate: float
    """Allowed change: a relative change for latency and cost, a share of the problems for accuracy."""
    base: float
    new: float
    worse: float
    """Positive means worse: the log ratio of both sides, NEW above for times and costs and BASE above for rates; the lost accuracy."""
    error: float
    """Standard error of `worse`, including the noise between runs where there are repeats."""
    degrees: float
    """Degrees of freedom of `error`."""
    n: int
    noise_floor: float
    """Standard deviation between runs, NaN without repeats."""
    lost: float = 0.0
    """Share of requests that failed in NEW minus that in BASE."""
    longer: float = 0.0
    """Relative change of the number of completion tokens of the compared requests."""
    alpha: float = ALPHA
    """One-sided error probability for this change: ALPHA divided by the number of changes."""
    regression: bool = False
    """Whether it is worse than the gate beyond noise, after Holm's correction."""

    @property
    def bound(self) -> float:
        """The gate on the scale of `worse`."""
        if self.measure in RATES:
            return -math.log1p(-self.gate)
        return self.gate if self.measure == "accuracy" else math.log1p(self.gate)

    @property
    def p_value(self) -> float:
        """Probability of a change at least this bad if the true change were equal to the gate."""
        if self.error == 0:
            return 0.0 if self.worse > self.bound else 1.0
        return t_tail((self.worse - self.bound) / self.error, self.degrees)

    @property
    def smallest_detectable(self) -> float:
        """The true change, on the scale of the gate, that would be found as a regression with a probability of 90 %."""
        quantiles = t_bound(1 - self.alpha, self.degrees) + t_bound(POWER, self.degrees)
        return self.on_gate_scale(self.bound + quantiles * self.error)

    def on_gate_scale(self, worse: float) -> float:
        """A value on the scale of `worse` on that of the gate: a relative change (of a rate: a loss), or a share of the problems."""
        if self.measure in RATES:
            return -math.expm1(-worse)
        return worse if self.measure == "accuracy" else float(np.expm1(worse))

    @property
    def better(self) -> bool:
        """Whether the whole two-sided interval is an improvement."""
        return self.worse + t_quantile(self.degrees) * self.error < 0

    @property
    def conclusive(self) -> bool:
        """Whether the change is within the gate and a worse one would have been seen, and NEW did not lose requests."""
        if self.lost > MAX_LOST and self.measure != "accuracy":  # accuracy counts a failure as not correct
            return False
        if self.worse > self.bound:
            return False
        upper = self.worse + t_bound(1 - ALPHA, self.degrees) * self.error
        return self.smallest_detectable <= 2 * self.gate or upper < self.bound

    @property
    def word(self) -> str:
        """What the data says about the change."""
        if self.regression:
            return "worse"
        if self.better:
            return "better"
        return "not worse" if self.conclusive else "cannot tell"


def compare(
    base: pd.DataFrame, new: pd.DataFrame, gate: dict[str, float], across: str | None = None, slo: SLO | None = None
) -> list[Change]:
    """The change of every measure of `gate` in every setting that both frames have.

    `across` is a part of the setting that may differ: each of its values in NEW is compared to the first one in BASE.
    """
    sides = [_usable(frame) for frame in (base, new)]
    imported = any(side["dataset"].astype(str).str.startswith("imported ").any() for side in sides)
    names = [name for name in (IMPORTED if imported else SETTING) if name != across]
    by_setting = [dict(list(side.groupby(names, observed=True, sort=False))) for side in sides]
    changes = []
    for key in (key for key in by_setting[0] if key in by_setting[1]):
        for old, other in _arms(by_setting[0][key], by_setting[1][key], across):
            where = first(other, SETTING) | ({"versus": old[across].iloc[0]} if across else {})
            both = _by_length(old, other) if imported else (old, other)
            for measure, limit in gate.items():
                if measure in COLUMN:
                    changes.append(_change(where, measure, limit, *both))
                else:
                    changes.append(_of_runs(where, measure, limit, both, slo or {}))
    return together([change for change in changes if change is not None])


def together(changes: list[Change]) -> list[Change]:
    """Changes that are judged together, by Holm's procedure: each has its part of the error probability."""
    adjusted = holm([change.p_value for change in changes])
    alpha = ALPHA / max(1, len(changes))
    return [
        replace(change, alpha=alpha, regression=bool(p_value <= ALPHA))
        for change, p_value in zip(changes, adjusted, strict=True)
    ]


def _arms(old: pd.DataFrame, new: pd.DataFrame, across: str | None) -> Iterator[tuple[pd.DataFrame, pd.DataFrame]]:
    """Both sides of a setting; across a condition, each of its values in NEW beside the first one in BASE."""
    if across is None:
        yield old, new
        return
    arms = {str(value): rows for value, rows in old.groupby(across, observed=True)}
    least = min(arms, key=natural)
    others = {str(value): rows for value, rows in new.groupby(across, observed=True)}
    yield from ((arms[least], others[name]) for name in sorted(others, key=natural) if name != least)


def _by_length(old: pd.DataFrame, new: pd.DataFrame) -> tuple[pd.DataFrame, pd.DataFrame]:
    """Both sides with the length of the prompt as the problem, where they have no problem in common but the same lengths.

    What an imported run does not know may still not differ within a side.
    """
    if any(len(side[[*SETTING, "dataset"]].drop_duplicates()) > 1 for side in (old, new)):
        return old, new.iloc[:0]
    if set(old["problem_id"]) & set(new["problem_id"]) and old["dataset"].iloc[0] == new["dataset"].iloc[0]:
        return old, new
    asked = [side.drop_duplicates("problem_id")["prompt_tokens"] for side in (old, new)]
    if sorted(asked[0]) != sorted(asked[1]):
        return old, new.iloc[:0]
    return old.assign(problem_id=old["prompt_tokens"]), new.assign(problem_id=new["prompt_tokens"])


def _of_runs(
    where: dict[str, Any], measure: str, gate: float, both: tuple[pd.DataFrame, pd.DataFrame], slo: SLO
) -> Change | None:
    """The change of a percentile or a rate; None where a side lacks it."""
    old, new = both
    common = np.intersect1d(old["problem_id"].unique(), new["problem_id"].unique())
    if len(common) < MIN_PAIRS:
        return None
    sides = [side[side["problem_id"].isin(common)] for side in (old, new)]
    found = [measures.estimate(side, measure, slo) for side in sides]
    if found[0] is None or found[1] is None:
        return None
    error = math.hypot(found[0].error, found[1].error)
    runs = [side["cell"].nunique() for side in sides]
    logs = [_single_runs(side, measure, slo) for side in sides]
    error, degrees, noise_floor = _with_repeats(error, float(len(common) - 1), logs, runs)
    values = (found[0].value, found[1].value)
    worse = math.log(values[1] / values[0]) * (-1 if measure in RATES else 1)
    lost = float(sides[0]["ok"].mean() - sides[1]["ok"].mean())
    return Change(where, measure, gate, *values, worse, error, degrees, len(common), noise_floor, lost)


def _single_runs(side: pd.DataFrame, measure: str, slo: SLO) -> Floats:
    """The logarithm of a measure in each of several runs that is large enough for it; empty for a single run."""
    cells = side.groupby("cell", observed=True)
    found = [measures.estimate(run, measure, slo) for _, run in cells] if len(cells) > 1 else []
    return np.log([one.value for one in found if one is not None])


def _with_repeats(error: float, degrees: float, values: list[Floats], runs: list[int]) -> tuple[float, float, float]:
    """The error with its degrees of freedom, and the noise floor, from the values of the repeated runs of each side."""
    repeated = [noise.Runs(len(side), float(side.std(ddof=1))) for side in values if len(side) > 1]
    noise_floor, spare = noise.pooled(repeated)
    between = noise_floor * math.sqrt(sum(1 / number for number in runs))
    if spare and between > error:  # the means of the runs already contain the noise between problems
        return between, float(spare), noise_floor
    return error, degrees, noise_floor


def _usable(frame: pd.DataFrame) -> pd.DataFrame:
    rows = requests(frame)
    rows = rows[(judged(rows) != "INVALID").to_numpy()]
    tokens = rows.get("completion_tokens", np.nan)
    gpu_s = rows["gpu_s"].where(rows["ok"] & rows["gpu_s"].gt(0))
    whole = rows.get("gpu_s_whole", rows["gpu_s"]).where(rows["ok"] & rows["gpu_s"].gt(0))
    times = {name: rows[name].where(rows["ok"]) for name in ("e2e_s", "ttft_s", "tpot_s") if name in rows}
    return rows.assign(**times, gpu_s=gpu_s, gpu_s_whole=whole, completion_tokens=tokens)


def _change(where: dict[str, Any], measure: str, gate: float, old: pd.DataFrame, new: pd.DataFrame) -> Change | None:
    column = COLUMN[measure]
    if measure == "cost" and not all(side.get("steady", pd.Series([True])).all() for side in (old, new)):
        column = "gpu_s_whole"  # both sides in the same way: at least one has no steady window
    both = _paired(old, new, column)
    if len(both) < MIN_PAIRS or (both["base"].sum() == 0 and measure != "accuracy"):
        return None
    a, b = both["base"].to_numpy(dtype=float), both["new"].to_numpy(dtype=float)
    worse, error = _accuracy(a, b) if measure == "accuracy" else log_ratio(b, a)[:2]
    runs = [_run_means(side, column, both.index) for side in (old, new)]
    scaled = runs if measure == "accuracy" else [np.log(side) for side in runs]
    error, degrees, noise_floor = _with_repeats(error, float(len(both) - 1), scaled, [len(side) for side in runs])
    lost = float(old["ok"].mean() - new["ok"].mean())
    averages = (float(a.mean()), float(b.mean()))
    longer = _longer(old[old["ok"]], new[new["ok"]])
    return Change(where, measure, gate, *averages, worse, error, degrees, len(both), noise_floor, lost, longer)


def _paired(old: pd.DataFrame, new: pd.DataFrame, column: str) -> pd.DataFrame:
    """Means by problem on both sides, of the problems that both have."""
    means = [side.groupby("problem_id", observed=True)[column].mean() for side in (old, new)]
    return pd.concat(means, axis=1, keys=["base", "new"]).dropna()


def _longer(old: pd.DataFrame, new: pd.DataFrame) -> float:
    """Relative change of the number of tokens; zero where tokens were not counted."""
    tokens = _paired(old, new, "completion_tokens")
    before = float(tokens["base"].sum())
    return float(tokens["new"].sum()) / before - 1 if before else 0.0


def _accuracy(a: Floats, b: Floats) -> tuple[float, float]:
    """Lost accuracy, and Bonett and Price's standard error: one more pair on each side keeps it above zero."""
    lost = np.append(a - b, [1.0, -1.0])
    return float((a - b).mean()), float(np.sqrt(np.mean(lost**2) - np.mean(lost) ** 2) / np.sqrt(len(lost)))


def _run_means(side: pd.DataFrame, column: str, problems: pd.Index) -> Floats:
    """The mean of each run of the setting over the problems that all of them and both sides have; one mean without repeats."""
    rows = side[side["problem_id"].isin(problems)]
    return np.array(run_means(rows, column) or [rows[column].mean()], dtype=float)


def unmatched(base: pd.DataFrame, new: pd.DataFrame) -> list[str]:
    """Sentences that name the settings which only one side has in usable runs, and which were therefore not compared."""
    held = []
    for frame in (base, new):
        rows = _usable(frame)[SETTING].drop_duplicates().to_dict("records")
        held.append(
            {tuple(str(value) for value in row.values()): setting.setting(row) + f", {row['source']}" for row in rows}
        )
    lines = []
    for name, mine, other in (("BASE", held[0], held[1]), ("NEW", held[1], held[0])):
        alone = [words for key, words in mine.items() if key not in other]
        more = f" and {len(alone) - 6} more" if len(alone) > 6 else ""
        lines += [f"Not compared, because only {name} has it: {'; '.join(alone[:6])}{more}."] if alone else []
    return lines


def regressions(changes: list[Change]) -> list[Change]:
    """The changes that are regressions, the clearest first."""
    return sorted((change for change in changes if change.regression), key=lambda change: change.p_value)


def status(changes: list[Change]) -> int:
    """The exit status: 1 for a regression, 0 for none, 2 where the data cannot tell."""
    if any(change.regression for change in changes):
        return 1
    return 0 if changes and all(change.conclusive for change in changes) else 2
