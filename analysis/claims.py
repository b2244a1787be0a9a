"""`python -m analysis claims RESULTS`: the paper's findings (arXiv 2509.19645), tested on your data.

Rules: each claim says held, not held or can't tell, with an effect and its 95 % interval; it is held where the interval
lies wholly on the claim's side, not held where it lies wholly on the other, and can't be told otherwise or where the
data has no such comparison (and then it says what to run). Where a study holds several conditions (load, sampling,
budget mode), each model is tested under those nearest to the paper's, greedy and one request at a time, and the effect
names them. Claims are the paper's in kind, not in number: its figures are not published.

Does not know: whether the paper is right elsewhere.
"""

import argparse
import json
import sys
from collections.abc import Callable, Iterable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from analysis import stats
from analysis.data.frame import read_study
from analysis.data.setting import CONDITIONS, by_conditions, conditions, varying
from analysis.format import number, plain, records, short_budget, short_models
from analysis.tables import optima, pairs

HELD, NOT_HELD, CANNOT_TELL = "held", "not held", "can't tell"
LARGE_B, SMALL_B = (
    10.0,
    3.0,
)  # billions of parameters from and up to which a model plays the paper's 14B and 1.5B
ANOTHER = (
    1.05  # times as long, from which one optimum is another: the fastest of many settings is a little lucky
)


@dataclass(frozen=True, slots=True)
class Claim:
    """One finding on this data."""

    name: str
    says: str
    verdict: str
    effect: str
    """The effect, its interval and what it rests on, in words."""
    estimate: float = float("nan")
    low: float = float("nan")
    high: float = float("nan")
    source: str = ""
    """measured, emulated, …: what it rests on."""


@dataclass(frozen=True, slots=True)
class ClaimData:
    """What claims are tested on."""

    problems: pd.DataFrame
    speculation: pd.DataFrame
    parallel: pd.DataFrame


def claims(frame: pd.DataFrame) -> list[Claim]:
    """Every claim, in the paper's order."""
    problems = pairs.per_problem(frame)
    return test(ClaimData(problems, pairs.speculation(problems), pairs.tensor_parallel(problems)))


def test(evidence: ClaimData) -> list[Claim]:
    """Test every claim on what was already paired."""
    tests: tuple[Callable[[ClaimData], Claim], ...] = (
        flattens,
        speculation_faster,
        parallel_large,
        parallel_small,
        not_compute_optimal,
        erratic,
    )
    source = " and ".join(evidence.problems["source"].astype(str).unique())
    return [replace(one(evidence), source=source) for one in tests]


def judge(low: float, high: float, bound: float) -> str:
    """Where an interval lies against a bound that the claim says is exceeded."""
    if not np.isfinite(low) or not np.isfinite(high):
        return CANNOT_TELL
    return HELD if low > bound else NOT_HELD if high < bound else CANNOT_TELL


def together(verdicts: Iterable[str]) -> str:
    """A claim about every member: one failure refutes it, one doubt leaves it open."""
    seen = set(verdicts)
    if not seen:
        return CANNOT_TELL
    return NOT_HELD if NOT_HELD in seen else CANNOT_TELL if CANNOT_TELL in seen else HELD


def flattens(evidence: ClaimData) -> Claim:
    """First step of the budget against the last, by problem."""
    name, says = "accuracy-flattens", "Accuracy rises with the budget, then flattens."
    found = []
    for model, arms in evidence.problems.sort_values("params_b").groupby("model", observed=True, sort=False):
        wide = next((w for w in map(_by_budget, by_conditions(arms)) if w is not None), None)
        if wide is None:
            continue
        budgets = [float(budget) for budget in wide.columns]
        first, last = (wide[budgets[a]] - wide[budgets[b]] for a, b in ((1, 0), (-1, -2)))
        found.append((str(model), stats.mean(first - last), first.mean(), last.mean(), budgets))
    if not found:
        return Claim(name, says, CANNOT_TELL, "needs three budgets of one model, graded")
    verdict = together(judge(ci.low, ci.high, 0.0) for _, ci, *_ in found)
    names = short_models(model for model, *_ in found)
    parts = [
        f"{names[model]}: {short_budget(budgets[0])}→{short_budget(budgets[1])} {_points(a)}, "
        f"{short_budget(budgets[-2])}→{short_budget(budgets[-1])} {_points(b)}; difference {_points(ci.estimate)} "
        f"({_points(ci.low)} to {_points(ci.high)})"
        for model, ci, a, b, budgets in found
    ]
    worst = min(found, key=lambda one: one[1].low)[1]
    return Claim(name, says, verdict, "; ".join(parts), *worst)


def _by_budget(arms: pd.DataFrame) -> pd.DataFrame | None:
    """Whether each problem was answered rightly at each budget, mean over configurations; None below three budgets."""
    wide = arms.pivot_table(index="problem_id", columns="budget", values="correct", observed=True).dropna()
    return wide.sort_index(axis=1) if wide.shape[1] >= 3 and len(wide) >= stats.MIN_UNITS else None


def speculation_faster(evidence: ClaimData) -> Claim:
    """Pooled speed-up of each size; all above 1."""
    name, says = "speculation-faster", "N-gram speculation lowers latency at every size."
    pooled = _pooled(evidence.problems, evidence.speculation)
    if not pooled:
        return Claim(name, says, CANNOT_TELL, "needs one configuration with speculation and the same without")
    verdict = together(judge(ci.low, ci.high, 1.0) for _, _, ci in pooled)
    worst = min(pooled, key=lambda one: one[2].low)[2]
    return Claim(name, says, verdict, _speedups(pooled) + _under(evidence.speculation), *worst)


def parallel_large(evidence: ClaimData) -> Claim:
    """The largest model on the most GPUs, without speculation where there is such a pair: around 1.7 times as fast."""
    name, says = "parallel-speeds-large", "Tensor parallelism speeds up 14B, by about 1.7 times."
    pooled = [one for one in _pooled(evidence.problems, _most_gpus(evidence.parallel)) if one[1] >= LARGE_B]
    if not pooled:
        return Claim(
            name, says, CANNOT_TELL, f"needs a model of at least {LARGE_B:g}B on one GPU and on more"
        )
    verdict = together(judge(ci.low, ci.high, 1.0) for _, _, ci in pooled)
    near = "near" if all(1.4 <= ci.estimate <= 2.0 for _, _, ci in pooled) else "not near"
    effect = f"{_speedups(pooled)}{_under(evidence.parallel)}: {near} the paper's 1.7"
    return Claim(name, says, verdict, effect, *pooled[0][2])


def parallel_small(evidence: ClaimData) -> Claim:
    """The smallest model on the most GPUs is slower than on one."""
    name, says = "parallel-slows-small", "Tensor parallelism slows down 1.5B."
    pooled = [one for one in _pooled(evidence.problems, _most_gpus(evidence.parallel)) if one[1] <= SMALL_B]
    if not pooled:
        return Claim(name, says, CANNOT_TELL, f"needs a model of at most {SMALL_B:g}B on one GPU and on more")
    verdict = together(judge(-ci.high, -ci.low, -1.0) for _, _, ci in pooled)
    return Claim(name, says, verdict, _speedups(pooled) + _under(evidence.parallel), *pooled[0][2])


def not_compute_optimal(evidence: ClaimData) -> Claim:
    """How much longer the setting of least arithmetic takes than the fastest one, both near the best accuracy."""
    name, says = "compute-not-system-optimal", "The compute-optimal point is not the system-optimal one."
    found = optima.resampled_optima(evidence.problems)
    if found is None:
        return Claim(name, says, CANNOT_TELL, "needs graded answers and models whose names tell their size")
    times = found.times
    verdict = judge(times.low, times.high, ANOTHER)
    names = short_models(evidence.problems["model"].unique())
    points = f"within {optima.WITHIN * 100:.0f} points of the best accuracy"
    if times.estimate == 1.0:
        effect = (
            f"{points} {_choice(found.system, names)} has both the least arithmetic and the least latency"
        )
    else:
        effect = (
            f"{points} least arithmetic is {_choice(found.compute, names)}, least latency {_choice(found.system, names)}: the first takes "
            f"{number(times.estimate, '.3g')} times as long ({number(times.low, '.3g')} to {number(times.high, '.3g')}"
            f"; told apart above {ANOTHER}); another model or budget, not configuration alone, in "
            f"{number(found.point, '.0%')} of resamples"
        )
    return Claim(name, says, verdict, effect + _under(evidence.problems, found.system), *times)


def _choice(row: dict[str, Any], names: dict[str, str]) -> str:
    return f"{names[str(row['model'])]} on {row['config']} at {short_budget(row['budget'])}"


def erratic(evidence: ClaimData) -> Claim:
    """Ratio of the variation of cost per token between problems, with n-gram speculation over without, largest model."""
    name, says = "ngram-cost-erratic", "At 14B the cost per token of n-gram speculation is erratic."
    found = []
    for row in records(_largest(evidence.speculation)):
        base, new = _arms(evidence.problems, row)
        both = pd.concat(
            [base["gpu_s_per_token"], new["gpu_s_per_token"]], axis=1, keys=["base", "new"]
        ).dropna()
        if len(both) >= stats.MIN_UNITS:
            found.append(stats.variation_ratio(both["new"], both["base"]))
    if not found:
        return Claim(
            name, says, CANNOT_TELL, f"needs a model of at least {LARGE_B:g}B with and without speculation"
        )
    verdict = together(judge(ci.low, ci.high, 1.0) for ci in found)
    worst = min(found, key=lambda ci: ci.low)
    effect = (
        f"the cost of a token varies {number(worst.estimate, '.2g')} times as much between problems with speculation as "
        f"without ({number(worst.low, '.2g')} to {number(worst.high, '.2g')})"
    )
    return Claim(name, says, verdict, effect, *worst)


def _largest(table: pd.DataFrame) -> pd.DataFrame:
    """Comparisons of the large model at its largest budget."""
    large = table[table["params_b"] >= LARGE_B] if "params_b" in table else table.iloc[:0]
    near = _nearest(large)
    most: pd.DataFrame = near[near["budget"] == near["budget"].max()]
    return most


def _nearest(table: pd.DataFrame) -> pd.DataFrame:
    """The comparisons of each model under the conditions nearest to the paper's that hold problems enough."""
    if table.empty:
        return table
    chosen = []
    for _, rows in table.groupby("model", observed=True, sort=False):
        groups = list(by_conditions(rows))
        chosen.append(next((group for group in groups if group["n"].min() >= stats.MIN_UNITS), groups[0]))
    return pd.concat(chosen)


def _under(table: pd.DataFrame, row: Any = None) -> str:
    """The conditions tested, where the data holds more than one set of them."""
    names = varying(table)
    rows = _nearest(table) if row is None else pd.DataFrame([row])
    chosen = [conditions(one, names) for one in records(rows[CONDITIONS].drop_duplicates())] if names else []
    return f" ({' and '.join(chosen)})" if chosen else ""


def _most_gpus(table: pd.DataFrame) -> pd.DataFrame:
    """Comparisons of each model on the most GPUs it has, without speculation where there are such."""
    if table.empty:
        return table
    most = table[table["tp"] == table.groupby("model", observed=True)["tp"].transform("max")]
    plain_rows = most[most["speculation"].astype(str) == "off"]
    chosen: pd.DataFrame = plain_rows if len(plain_rows) else most
    return chosen


def _arms(problems: pd.DataFrame, row: dict[str, Any]) -> tuple[pd.DataFrame, pd.DataFrame]:
    same = np.logical_and.reduce([(problems[k] == row[k]).to_numpy() for k in pairs.SAME])
    both = problems[same].set_index("problem_id")
    return both[both["config"] == row["base"]], both[both["config"] == row["config"]]


def _pooled(problems: pd.DataFrame, table: pd.DataFrame) -> list[tuple[str, float, stats.Interval]]:
    """Speed-up of each model over its comparisons at all budgets: Σ base / Σ new, resampled by problem."""
    out: list[tuple[str, float, stats.Interval]] = []
    for model, rows in _nearest(table).groupby("model", observed=True, sort=False) if len(table) else []:
        base, new = [], []
        for row in records(rows):
            arms = _arms(problems, row)
            both = pd.concat([arms[0]["e2e_s"], arms[1]["e2e_s"]], axis=1, keys=["base", "new"]).dropna()
            base.append(both["base"])
            new.append(both["new"])
        sums = [pd.concat(parts).groupby(level=0, observed=True).sum() for parts in (base, new)]
        out.append((str(model), float(rows["params_b"].iloc[0]), stats.ratio(*sums)))
    return sorted(out, key=lambda one: one[1])


def _speedups(pooled: list[tuple[str, float, stats.Interval]]) -> str:
    names = short_models(model for model, _, _ in pooled)
    parts = [
        f"{names[model]} {number(ci.estimate, '.3g')} times as fast ({number(ci.low, '.3g')} to {number(ci.high, '.3g')})"
        for model, _, ci in pooled
    ]
    return ", ".join(parts)


def _points(share: float) -> str:
    return f"{share * 100:+.1f} points"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Options of `claims`."""
    parser.add_argument("results", type=Path)
    parser.epilog = "example: python -m analysis claims results/study"


def main(args: argparse.Namespace) -> int:
    """Print each claim and what became of it."""
    found = claims(read_study(args.results).frame)
    for claim in found:
        print(f"{claim.verdict.upper():<10}  {claim.says}\n            {claim.effect}", file=sys.stderr)
    print(f"These numbers are {found[0].source or 'none: there are no requests'}.", file=sys.stderr)
    keys = ("name", "says", "verdict", "effect", "estimate", "low", "high", "source")
    print(json.dumps({"claims": [{key: plain(getattr(claim, key)) for key in keys} for claim in found]}))
    return 0
