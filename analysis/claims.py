"""`python -m analysis claims RESULTS`: test the findings of the paper (arXiv 2509.19645) on your data.

The result for a claim is held, not held or can't tell, with an effect and its 95 % interval. A claim is held where the whole
interval supports it, and not held where the whole interval contradicts it. In all other cases the data cannot tell. Intervals
of times include the noise between runs (`--noise`). A claim about every model needs the support of each, and is refuted by one
whose interval contradicts it after correction for the number of models. Where the data lacks the comparison, the effect says
what to run.

Data of different sources (measured, emulated, simulated), GPUs or data sets are tested separately. Where a study has several
other conditions (load, sampling, budget mode), each model is tested under those nearest to the paper's (greedy, one request in
flight), and the effect names them. The claims on speed are also tested under each of the conditions. Configurations whose names
differ in more than the number of GPUs (`tp1-ngram` and `tp1-ngram-a1.75`) are not pooled: a claim must hold for each. The paper's
data is not published, so the claims test its findings and not its numbers.

This module does not know whether the findings hold on other data.
"""

import argparse
import sys
from collections.abc import Callable
from dataclasses import asdict, dataclass, fields, replace
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from analysis import noise, stats
from analysis.data.frame import Study, read_study
from analysis.data.setting import CONDITIONS, by_conditions, conditions, joined_sources, origin, varying
from analysis.format import number, plain, records, short_budget, short_models
from analysis.output import add_json, print_result
from analysis.tables import kept, optima, pairs
from analysis.tables.pairs import Evidence

HELD, NOT_HELD, CANNOT_TELL = "held", "not held", "can't tell"
LARGE_B, SMALL_B = 10.0, 3.0
"""Models from 10 billion parameters stand for the paper's 14B, and models up to 3 billion for its 1.5B."""
MIN_RATIO = 1.05
"""The two optima differ from this ratio of latencies on."""
MARGIN = 0.03
"""A step of the budget changes nothing when the accuracy changes by less than 3 points in either direction."""
ERRATIC = 1.5
"""The cost with speculation is erratic when it varies this many times as much between problems as without."""
MIN_PROBLEMS = 10
"""Fewer problems do not stand for a data set, however narrow an interval over them is."""


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
    gpu: str = ""
    dataset: str = ""
    by_load: str = ""
    """For a claim on speed that was tested under several conditions: one line with the result and the effect under each."""


def of_study(study: Study, evidence: Evidence) -> pd.DataFrame:
    """A row for each claim on a study, which are kept between calls; none where there are no requests."""

    def tested() -> pd.DataFrame:
        rows = [asdict(claim) for claim in test(evidence)] if len(evidence.problems) else []
        return pd.DataFrame(rows, columns=[field.name for field in fields(Claim)])

    return study.tables.get("claims", tested, evidence.noise)


def claims(frame: pd.DataFrame, between_runs: float = noise.DAY_TO_DAY) -> list[Claim]:
    """Test every claim, in the order of the paper."""
    return test(Evidence(pairs.per_problem(frame), between_runs))


def test(evidence: Evidence) -> list[Claim]:
    """Test every claim, each on data of one source, GPU and data set."""
    tests: tuple[Callable[[Evidence], Claim], ...] = (
        accuracy_flattens,
        speculation_faster,
        parallel_speeds_large,
        parallel_slows_small,
        compute_not_system_optimal,
        ngram_cost_erratic,
    )
    parts = _parts(evidence)
    found = []
    for one in tests:
        results = [_on(part.problems, one(part)) for part in parts]
        tested = [claim for claim in results if np.isfinite(claim.estimate)]
        found += tested or results[:1]
    return found


def _parts(evidence: Evidence) -> list[Evidence]:
    """The data by source, GPU and data set, those with most requests first; what was derived belongs to its source."""
    same = [
        evidence.problems["source"].astype(str).map(origin),
        *(evidence.problems[name].astype(str) for name in ("gpu", "dataset")),
    ]
    parts = [rows for _, rows in evidence.problems.groupby(same)]
    if len(parts) < 2:
        return [evidence]
    return [Evidence(rows, evidence.noise) for rows in sorted(parts, key=lambda rows: -rows["samples"].sum())]


def _on(problems: pd.DataFrame, claim: Claim) -> Claim:
    """The claim with what it was tested on; without its result where the data cannot carry any: few problems, or no right answer."""
    gpu, dataset = (" and ".join(problems[name].astype(str).unique()) for name in ("gpu", "dataset"))
    source = joined_sources(problems["source"].astype(str).unique())
    claim = replace(claim, source=source, gpu=gpu, dataset=dataset)
    n, correct = problems["problem_id"].nunique(), problems["correct"]
    lacks = f"There are only {n} problems" if n < MIN_PROBLEMS else ""
    if correct.notna().any() and not correct.gt(0).any():
        lacks = "No answer is correct"
    effect = f"{lacks}. {claim.effect[:1].upper()}{claim.effect[1:]}"
    return replace(claim, verdict=CANNOT_TELL, effect=effect, by_load="") if lacks else claim


def judge(low: float, high: float, bound: float) -> str:
    """Whether an interval supports the claim that the value exceeds `bound`."""
    if not np.isfinite(low) or not np.isfinite(high):
        return CANNOT_TELL
    return HELD if low > bound else NOT_HELD if high < bound else CANNOT_TELL


def combined(verdicts: Callable[[int], list[str]]) -> str:
    """The result for a claim about every model: all must support it, and one can refute it.

    `verdicts` judges each model with intervals that are simultaneous for a number of models. Supporting all of them needs no
    correction, but one of many could contradict the claim by chance.
    """
    alone = verdicts(1)
    if not alone:
        return CANNOT_TELL
    if set(alone) == {HELD}:
        return HELD
    return NOT_HELD if NOT_HELD in verdicts(len(alone)) else CANNOT_TELL


def accuracy_flattens(evidence: Evidence) -> Claim:
    """Test by problem that the accuracy rises over all budgets, that the last step adds nothing, and an earlier one more."""
    name, says = "accuracy-flattens", "Accuracy rises with the budget, then flattens."
    curves: dict[str, pd.DataFrame] = {}
    for model, arms in evidence.problems.sort_values("params_b").groupby("model", observed=True, sort=False):
        wide = next((w for w in map(_by_budget, by_conditions(arms)) if w is not None), None)
        if wide is not None:
            curves[str(model)] = wide
    if not curves:
        return Claim(name, says, CANNOT_TELL, "This needs graded answers of one model at three budgets.")
    result = combined(lambda models: [_flattens(wide, models) for wide in curves.values()])
    names = short_models(curves)
    parts = [f"{names[model]}: {_curve(wide)}" for model, wide in curves.items()]
    effect = f"{'; '.join(parts)}. A step of less than {MARGIN * 100:g} points counts as flat."
    worst = min((_largest_less_last(wide) for wide in curves.values()), key=lambda one: one.low)
    return Claim(name, says, result, effect, *worst)


def _by_budget(arms: pd.DataFrame) -> pd.DataFrame | None:
    """Share of correct answers by problem and budget, over all configurations; None below three budgets."""
    wide = arms.pivot_table(index="problem_id", columns="budget", values="correct", observed=True).dropna()
    return wide.sort_index(axis=1) if wide.shape[1] >= 3 and len(wide) >= stats.MIN_UNITS else None


def _flattens(wide: pd.DataFrame, models: int) -> str:
    """The three tests on the curve of one model; the curve has to pass all of them."""
    steps = wide.diff(axis=1).iloc[:, 1:]
    gain = stats.change(wide.iloc[:, -1] - wide.iloc[:, 0], models)
    last = stats.change(steps.iloc[:, -1], models)
    rises = judge(gain.low, gain.high, 0.0)
    if rises == CANNOT_TELL and gain.high < MARGIN:
        rises = NOT_HELD
    flat = HELD if last.low > -MARGIN and last.high < MARGIN else CANNOT_TELL
    if last.low > MARGIN or last.high < -MARGIN:
        flat = NOT_HELD
    larger = _largest_less_last(wide, models)
    found = {rises, flat, judge(larger.low, larger.high, 0.0)}
    return NOT_HELD if NOT_HELD in found else CANNOT_TELL if CANNOT_TELL in found else HELD


def _largest_less_last(wide: pd.DataFrame, models: int = 1) -> stats.Interval:
    """The largest earlier step minus the last one; the interval allows for having chosen the largest."""
    steps = wide.diff(axis=1).iloc[:, 1:]
    largest = steps.iloc[:, :-1].mean().idxmax()
    return stats.change(steps[largest] - steps.iloc[:, -1], models * (steps.shape[1] - 1))


def _curve(wide: pd.DataFrame) -> str:
    steps = wide.diff(axis=1).iloc[:, 1:]
    budgets = [short_budget(float(budget)) for budget in wide.columns]
    gain, last = stats.change(wide.iloc[:, -1] - wide.iloc[:, 0]), stats.change(steps.iloc[:, -1])
    place = int(steps.iloc[:, :-1].mean().to_numpy().argmax())
    return (
        f"{budgets[0]}→{budgets[-1]} {_change(gain)}, largest step {budgets[place]}→{budgets[place + 1]} "
        f"{_points(steps.iloc[:, place].mean())}, last step {budgets[-2]}→{budgets[-1]} {_change(last)}"
    )


def _change(found: stats.Interval) -> str:
    return f"{_points(found.estimate)} ({found.low * 100:+.1f} to {found.high * 100:+.1f})"


def speculation_faster(evidence: Evidence) -> Claim:
    """Test whether the pooled speed-up of every model is above 1."""
    says = "N-gram speculation lowers latency at every size."
    lacks = "This needs one configuration with speculation and the same one without."
    return _about_speed(Claim("speculation-faster", says, "", lacks), evidence, evidence.speculation)


def parallel_speeds_large(evidence: Evidence) -> Claim:
    """Test whether large models are faster on the most GPUs."""
    says = "Tensor parallelism speeds up 14B."
    table = pairs.most_gpus(_sized(evidence.tensor_parallel, low_b=LARGE_B))
    lacks = f"This needs a model of at least {LARGE_B:g}B on one GPU and on more GPUs."
    claim = _about_speed(Claim("parallel-speeds-large", says, "", lacks), evidence, table)
    return replace(claim, effect=f"{claim.effect}; the paper's is about 1.7") if len(table) else claim


def parallel_slows_small(evidence: Evidence) -> Claim:
    """Test whether small models are slower on the most GPUs than on the fewest."""
    says = "Tensor parallelism slows down 1.5B."
    table = pairs.most_gpus(_sized(evidence.tensor_parallel, high_b=SMALL_B))
    lacks = f"This needs a model of at most {SMALL_B:g}B on one GPU and on more GPUs."
    return _about_speed(Claim("parallel-slows-small", says, "", lacks), evidence, table, slower=True)


def _sized(table: pd.DataFrame, low_b: float = 0.0, high_b: float = np.inf) -> pd.DataFrame:
    """The comparisons of models with a number of parameters, in billions, in a range."""
    return table[table["params_b"].between(low_b, high_b)] if "params_b" in table else table.iloc[:0]


def _about_speed(claim: Claim, evidence: Evidence, table: pd.DataFrame, *, slower: bool = False) -> Claim:
    """Judge whether every speed-up is above 1, or below it; the estimate is that of the model that supports the claim least."""
    if table.empty:
        return replace(claim, verdict=CANNOT_TELL)
    kind = table["config"].astype(str).str.replace(r"^tp\d+-?", "", regex=True)
    table = table.assign(kind=kind if len(kind.unique()) > 1 else "")
    near = pd.concat([pairs.nearest_conditions(rows) for _, rows in table.groupby("kind")])
    pooled, sign = _speeds(evidence, near), -1 if slower else 1
    least = min(pooled.values(), key=lambda one: one._replace(middle=sign * one.middle).interval().low)
    single = "" if all(one.repeated for one in pooled.values()) else f"; {noise.limits(evidence.noise)}"
    effect = f"{_shown(pooled)}{_under(table, near)}{single}"
    result = replace(claim, verdict=_verdict(pooled, sign), effect=effect, by_load=_by_load(evidence, table, sign))
    return replace(result, **least.interval()._asdict())


def _by_load(evidence: Evidence, table: pd.DataFrame, sign: int) -> str:
    """The result under each of several conditions, for each kind of configuration."""
    names, lines = varying(table), []
    for _, rows in table.groupby("kind"):
        for group in by_conditions(rows) if names else ():
            here = _speeds(evidence, group)
            lines.append(f"{_verdict(here, sign)} at {conditions(group.iloc[0], names)}: {_shown(here)}")
    return "\n".join(lines)


def _speeds(evidence: Evidence, table: pd.DataFrame) -> dict[str, noise.Effect]:
    """The pooled speed-up of each model, and of each kind of configuration where there are several, by name."""
    names = short_models(table["model"].unique())
    return {
        f"{names[model]} {kind}".strip(): effect
        for kind, rows in table.groupby("kind")
        for model, effect in pairs.pooled_speedups(evidence.arms, rows, evidence.noise).items()
    }


def _verdict(pooled: dict[str, noise.Effect], sign: int) -> str:
    """Whether every speed-up is above 1, or below it for the sign -1."""
    effects = [one._replace(middle=sign * one.middle) for one in pooled.values()]
    return combined(lambda models: [judge(*one.interval(models)[1:], 1.0) for one in effects])


def _shown(pooled: dict[str, noise.Effect]) -> str:
    return ", ".join(f"{name} {_speedup(one.interval())}" for name, one in pooled.items())


def _speedup(found: stats.Interval) -> str:
    bounds = f"{number(found.low, '.3g')} to {number(found.high, '.3g')}" if np.isfinite(found.low) else "no interval"
    return f"{number(found.estimate, '.3g')} times as fast ({bounds})"


def compute_not_system_optimal(evidence: Evidence) -> Claim:
    """Test whether the setting with the least arithmetic is slower than the fastest one, both near the best accuracy."""
    name, says = "compute-not-system-optimal", "The compute-optimal point is not the system-optimal one."
    found = optima.resampled_optima(evidence.problems, evidence.noise)
    if found is None or not evidence.problems["correct"].gt(0).any():
        lacks = "This needs correct answers, and models whose names contain their size."
        return Claim(name, says, CANNOT_TELL, lacks)
    times = found.times
    result = judge(times.low, times.high, MIN_RATIO)
    names = short_models(evidence.problems["model"].unique())
    points = f"within {optima.WITHIN * 100:.0f} points of the best accuracy,"
    compute, system = _choice(found.compute, names), _choice(found.system, names)
    effect = f"{points} {system} has both the least arithmetic and the least latency"
    if not times.low == times.high == 1.0:
        effect = (
            f"{points} {compute} has the least arithmetic and {system} the least latency; the first takes "
            f"{number(times.estimate, '.3g')} times as long ({number(times.low, '.3g')} to {number(times.high, '.3g')}; the claim "
            f"needs more than {MIN_RATIO}); the two differ in model or budget in {number(found.point, '.0%')} of the resamples"
        )
    return Claim(name, says, result, effect + _under(evidence.problems, pd.DataFrame([found.system])), *times)


def _choice(row: dict[str, Any], names: dict[str, str]) -> str:
    return f"{names[str(row['model'])]} on {row['config']} at {short_budget(row['budget'])}"


def ngram_cost_erratic(evidence: Evidence) -> Claim:
    """Test whether n-gram speculation increases the variation of the cost per token between problems, for large models."""
    name, says = "ngram-cost-erratic", "At 14B the cost per token of n-gram speculation is erratic."
    found = []
    for row in records(_largest(evidence.speculation)):
        arms = [arm["gpu_s_per_token"] for arm in pairs.arms_of(evidence.arms, row)]
        both = pd.concat(arms, axis=1, keys=["base", "new"]).dropna()
        found.append(stats.variation_ratio(both["new"], both["base"]))
    found = [one for one in found if np.isfinite(one.estimate)]
    if not found:
        lacks = f"This needs a model of at least {LARGE_B:g}B with and without speculation."
        return Claim(name, says, CANNOT_TELL, lacks)
    result = combined(lambda _: [judge(ci.low, ci.high, ERRATIC) for ci in found])
    worst = min(found, key=lambda ci: ci.low)
    effect = (
        f"the cost of a token varies {number(worst.estimate, '.2g')} times as much between problems with speculation as "
        f"without ({number(worst.low, '.2g')} to {number(worst.high, '.2g')}; the claim needs more than {ERRATIC})"
    )
    return Claim(name, says, result, effect, *worst)


def _largest(table: pd.DataFrame) -> pd.DataFrame:
    """The comparisons of large models at their largest budget."""
    near = pairs.nearest_conditions(_sized(table, low_b=LARGE_B))
    most: pd.DataFrame = near[near["budget"] == near["budget"].max()]
    return most


def _under(table: pd.DataFrame, rows: pd.DataFrame) -> str:
    """The conditions of the tested rows in parentheses, where the table has more than one set of conditions."""
    names = varying(table)
    chosen = [conditions(one, names) for one in records(rows[CONDITIONS].drop_duplicates())] if names else []
    return f" ({' and '.join(chosen)})" if chosen else ""


def _points(share: float) -> str:
    return f"{share * 100:+.1f} points"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Options of `claims`."""
    parser.add_argument("results", type=Path, help="folder of a run, or a folder that contains runs")
    noise.add_noise(parser)
    add_json(parser)
    parser.epilog = "example: python -m analysis claims results/study"


def main(args: argparse.Namespace) -> int:
    """Print each claim with its result and effect."""
    study = read_study(args.results)
    found = [Claim(**row) for row in records(of_study(study, Evidence(kept.problems(study), args.noise)))]
    parts = {(claim.source, claim.gpu, claim.dataset) for claim in found}
    for claim in found:
        of = f" [{claim.source}, {claim.gpu}, {claim.dataset}]" if len(parts) > 1 else ""
        print(f"{claim.verdict.upper():<10}  {claim.says}{of}\n            {claim.effect}", file=sys.stderr)
        for line in claim.by_load.splitlines():
            print(f"            {line}", file=sys.stderr)
    source = " and ".join(dict.fromkeys(claim.source for claim in found if claim.source))
    print(f"These numbers are {source}." if source else "There are no requests of usable runs.", file=sys.stderr)
    rows = [{key: plain(value) for key, value in asdict(claim).items()} for claim in found]
    verdicts = {"noise": args.noise, "verdicts": [[claim.name, claim.verdict, claim.source] for claim in found]}
    print_result(verdicts | {"claims": rows}, ("claims", "verdicts"), args.json)
    return 0
