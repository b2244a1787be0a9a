"""`python -m analysis claims RESULTS`: test the findings of the paper (arXiv 2509.19645) on your data.

The result for a claim is held, not held or can't tell, with an effect and its 95 % interval. A claim is held where the whole
interval supports it, and not held where the whole interval contradicts it. In all other cases the data cannot tell. Where the
data lacks the comparison, the effect says what to run. Where a study has several conditions (load, sampling, budget mode),
each model is tested under those nearest to the paper's (greedy, one request in flight), and the effect names them. The
paper's data is not published, so the claims test its findings and not its numbers.

This module does not know whether the findings hold on other data.
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
LARGE_B, SMALL_B = 10.0, 3.0
"""Models from 10 billion parameters stand for the paper's 14B, and models up to 3 billion for its 1.5B."""
MIN_RATIO = 1.05
"""The two optima differ from this ratio of latencies on: the fastest of many settings is partly the fastest by chance."""


@dataclass(frozen=True, slots=True)
class Claim:
    """The result of testing one finding on this data."""

    name: str
    says: str
    verdict: str
    effect: str
    """The effect with its interval and its conditions, in words."""
    estimate: float = float("nan")
    low: float = float("nan")
    high: float = float("nan")
    source: str = ""
    """The sources of the data: measured, emulated, ..."""


@dataclass(frozen=True, slots=True)
class ClaimData:
    """The tables on which claims are tested."""

    problems: pd.DataFrame
    speculation: pd.DataFrame
    parallel: pd.DataFrame


def claims(frame: pd.DataFrame) -> list[Claim]:
    """Test every claim, in the order of the paper."""
    problems = pairs.per_problem(frame)
    return test(ClaimData(problems, pairs.speculation(problems), pairs.tensor_parallel(problems)))


def test(data: ClaimData) -> list[Claim]:
    """Test every claim on tables that were already computed."""
    tests: tuple[Callable[[ClaimData], Claim], ...] = (
        accuracy_flattens,
        speculation_faster,
        parallel_speeds_large,
        parallel_slows_small,
        compute_not_system_optimal,
        ngram_cost_erratic,
    )
    source = " and ".join(data.problems["source"].astype(str).unique())
    return [replace(one(data), source=source) for one in tests]


def judge(low: float, high: float, bound: float) -> str:
    """Whether an interval supports the claim that the value exceeds `bound`."""
    if not np.isfinite(low) or not np.isfinite(high):
        return CANNOT_TELL
    return HELD if low > bound else NOT_HELD if high < bound else CANNOT_TELL


def combined(results: Iterable[str]) -> str:
    """The result for a claim about all models: one contradiction refutes it, and one unclear result leaves it open."""
    found = set(results)
    if not found:
        return CANNOT_TELL
    return NOT_HELD if NOT_HELD in found else CANNOT_TELL if CANNOT_TELL in found else HELD


def accuracy_flattens(data: ClaimData) -> Claim:
    """Compare the gain of the first budget step to that of the last one, by problem."""
    name, says = "accuracy-flattens", "Accuracy rises with the budget, then flattens."
    found = []
    for model, arms in data.problems.sort_values("params_b").groupby("model", observed=True, sort=False):
        wide = next((w for w in map(_by_budget, by_conditions(arms)) if w is not None), None)
        if wide is None:
            continue
        budgets = [float(budget) for budget in wide.columns]
        first, last = (wide[budgets[a]] - wide[budgets[b]] for a, b in ((1, 0), (-1, -2)))
        found.append((str(model), stats.mean(first - last), first.mean(), last.mean(), budgets))
    if not found:
        return Claim(name, says, CANNOT_TELL, "This needs graded answers of one model at three budgets.")
    result = combined(judge(ci.low, ci.high, 0.0) for _, ci, *_ in found)
    names = short_models(model for model, *_ in found)
    parts = [
        f"{names[model]}: {short_budget(budgets[0])}→{short_budget(budgets[1])} {_points(a)}, "
        f"{short_budget(budgets[-2])}→{short_budget(budgets[-1])} {_points(b)}; difference {_points(ci.estimate)} "
        f"({_points(ci.low)} to {_points(ci.high)})"
        for model, ci, a, b, budgets in found
    ]
    worst = min(found, key=lambda one: one[1].low)[1]
    return Claim(name, says, result, "; ".join(parts), *worst)


def _by_budget(arms: pd.DataFrame) -> pd.DataFrame | None:
    """Share of correct answers by problem and budget, over all configurations; None below three budgets."""
    wide = arms.pivot_table(index="problem_id", columns="budget", values="correct", observed=True).dropna()
    return wide.sort_index(axis=1) if wide.shape[1] >= 3 and len(wide) >= stats.MIN_UNITS else None


def speculation_faster(data: ClaimData) -> Claim:
    """Test whether the pooled speed-up of every model is above 1."""
    name, says = "speculation-faster", "N-gram speculation lowers latency at every size."
    pooled = pairs.pooled_speedups(data.problems, data.speculation)
    if not pooled:
        return Claim(
            name, says, CANNOT_TELL, "This needs one configuration with speculation and the same one without."
        )
    result = combined(judge(ci.low, ci.high, 1.0) for _, _, ci in pooled)
    worst = min(pooled, key=lambda one: one[2].low)[2]
    return Claim(name, says, result, _speedups(pooled) + _under(data.speculation), *worst)


def parallel_speeds_large(data: ClaimData) -> Claim:
    """Test whether large models are faster on the most GPUs, and say whether the speed-up is near 1.7."""
    name, says = "parallel-speeds-large", "Tensor parallelism speeds up 14B, by about 1.7 times."
    pooled = [
        one
        for one in pairs.pooled_speedups(data.problems, pairs.most_gpus(data.parallel))
        if one[1] >= LARGE_B
    ]
    if not pooled:
        return Claim(
            name,
            says,
            CANNOT_TELL,
            f"This needs a model of at least {LARGE_B:g}B on one GPU and on more GPUs.",
        )
    result = combined(judge(ci.low, ci.high, 1.0) for _, _, ci in pooled)
    near = "near" if all(1.4 <= ci.estimate <= 2.0 for _, _, ci in pooled) else "not near"
    effect = f"{_speedups(pooled)}{_under(data.parallel)}: {near} the paper's 1.7"
    return Claim(name, says, result, effect, *pooled[0][2])


def parallel_slows_small(data: ClaimData) -> Claim:
    """Test whether small models are slower on the most GPUs than on the fewest."""
    name, says = "parallel-slows-small", "Tensor parallelism slows down 1.5B."
    pooled = [
        one
        for one in pairs.pooled_speedups(data.problems, pairs.most_gpus(data.parallel))
        if one[1] <= SMALL_B
    ]
    if not pooled:
        return Claim(
            name,
            says,
            CANNOT_TELL,
            f"This needs a model of at most {SMALL_B:g}B on one GPU and on more GPUs.",
        )
    result = combined(judge(-ci.high, -ci.low, -1.0) for _, _, ci in pooled)
    return Claim(name, says, result, _speedups(pooled) + _under(data.parallel), *pooled[0][2])


def compute_not_system_optimal(data: ClaimData) -> Claim:
    """Test whether the setting with the least arithmetic is slower than the fastest one, both near the best accuracy."""
    name, says = "compute-not-system-optimal", "The compute-optimal point is not the system-optimal one."
    found = optima.resampled_optima(data.problems)
    if found is None:
        return Claim(
            name, says, CANNOT_TELL, "This needs graded answers, and models whose names contain their size."
        )
    times = found.times
    result = judge(times.low, times.high, MIN_RATIO)
    names = short_models(data.problems["model"].unique())
    points = f"within {optima.WITHIN * 100:.0f} points of the best accuracy,"
    if times.estimate == 1.0:
        effect = (
            f"{points} {_choice(found.system, names)} has both the least arithmetic and the least latency"
        )
    else:
        effect = (
            f"{points} {_choice(found.compute, names)} has the least arithmetic and {_choice(found.system, names)} the least "
            f"latency; the first takes {number(times.estimate, '.3g')} times as long ({number(times.low, '.3g')} to "
            f"{number(times.high, '.3g')}; the claim needs more than {MIN_RATIO}); the two differ in model or budget in "
            f"{number(found.point, '.0%')} of the resamples"
        )
    return Claim(name, says, result, effect + _under(data.problems, found.system), *times)


def _choice(row: dict[str, Any], names: dict[str, str]) -> str:
    return f"{names[str(row['model'])]} on {row['config']} at {short_budget(row['budget'])}"


def ngram_cost_erratic(data: ClaimData) -> Claim:
    """Test whether n-gram speculation increases the variation of the cost per token between problems, for large models."""
    name, says = "ngram-cost-erratic", "At 14B the cost per token of n-gram speculation is erratic."
    found = []
    for row in records(_largest(data.speculation)):
        base, new = pairs.arms_of(data.problems, row)
        both = pd.concat(
            [base["gpu_s_per_token"], new["gpu_s_per_token"]], axis=1, keys=["base", "new"]
        ).dropna()
        if len(both) >= stats.MIN_UNITS:
            found.append(stats.variation_ratio(both["new"], both["base"]))
    if not found:
        return Claim(
            name,
            says,
            CANNOT_TELL,
            f"This needs a model of at least {LARGE_B:g}B with and without speculation.",
        )
    result = combined(judge(ci.low, ci.high, 1.0) for ci in found)
    worst = min(found, key=lambda ci: ci.low)
    effect = (
        f"the cost of a token varies {number(worst.estimate, '.2g')} times as much between problems with speculation as "
        f"without ({number(worst.low, '.2g')} to {number(worst.high, '.2g')})"
    )
    return Claim(name, says, result, effect, *worst)


def _largest(table: pd.DataFrame) -> pd.DataFrame:
    """The comparisons of large models at their largest budget."""
    large = table[table["params_b"] >= LARGE_B] if "params_b" in table else table.iloc[:0]
    near = pairs.nearest_conditions(large)
    most: pd.DataFrame = near[near["budget"] == near["budget"].max()]
    return most


def _under(table: pd.DataFrame, row: Any = None) -> str:
    """The tested conditions in parentheses, where the data has more than one set of conditions."""
    names = varying(table)
    rows = pairs.nearest_conditions(table) if row is None else pd.DataFrame([row])
    chosen = [conditions(one, names) for one in records(rows[CONDITIONS].drop_duplicates())] if names else []
    return f" ({' and '.join(chosen)})" if chosen else ""


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
    parser.add_argument("results", type=Path, help="folder of a run, or a folder that contains runs")
    parser.epilog = "example: python -m analysis claims results/study"


def main(args: argparse.Namespace) -> int:
    """Print each claim with its result and effect."""
    found = claims(read_study(args.results).frame)
    for claim in found:
        print(f"{claim.verdict.upper():<10}  {claim.says}\n            {claim.effect}", file=sys.stderr)
    source = found[0].source
    print(f"These numbers are {source}." if source else "There are no requests.", file=sys.stderr)
    keys = ("name", "says", "verdict", "effect", "estimate", "low", "high", "source")
    print(json.dumps({"claims": [{key: plain(getattr(claim, key)) for key in keys} for claim in found]}))
    return 0
