"""`python -m analysis recommend RESULTS --min-accuracy 0.8 --max-e2e-p95 30`: recommend what to deploy.

Only like is compared with like: settings of one load, GPU, data set and source (measured, emulated, simulated). Where a study
has several, there is a recommendation for each, those nearest to the paper's load first. It names a model, a configuration and
a budget, with their accuracy, latency and cost, the second-best setting, the settings that cannot be told apart from it, the
probability that it is the best, and the cost of stricter requirements. Latencies count failures as infinitely slow.

A requirement is met when the estimate meets it; where the 95 % interval does not, a sentence says so. The estimate that was
the reason for the choice is corrected for having been chosen (tables/choice.py). Where no setting qualifies, the nearest ones
are named and how far they are from the requirements.

This module does not know how the numbers were computed (analysis/tables does).
"""

import argparse
import json
import math
import sys
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import pandas as pd

from analysis import noise
from analysis.data.frame import read_study
from analysis.data.setting import by_conditions, in_flight, origin, setting
from analysis.errors import InputError
from analysis.format import number, plain, records
from analysis.tables import optima, pairs, summary
from analysis.tables.choice import Choice, choose
from analysis.tables.optima import MEASURES
from loadgen.measure.quantiles import least_sample

Row = dict[str, Any]
P95 = "e2e_p95_all_s"
"""The required p95 is that of all requests, with a failure as an infinitely slow request."""
MOST_NAMED = 4
"""Settings that cannot be told apart are named up to this number, and counted beyond it."""
CORRECTED = 0.005
"""A correction of an estimate below this share is not worth a sentence."""


@dataclass(frozen=True, slots=True)
class Requirements:
    """The accuracy and latency (seconds) that a setting must reach, and the objective to minimize among those that do."""

    min_accuracy: float | None = None
    max_e2e_p95_s: float | None = None
    objective: str = "cost"
    near_best: bool = False
    """Require an accuracy within two points of the best one, where none is given."""


@dataclass(slots=True)
class Recommendation:
    """The best setting, or the nearest ones where none qualifies, with the sentences that explain it."""

    best: Row | None
    second: Row | None = None
    nearest: list[Row] = field(default_factory=list)
    headline: str = ""
    sentences: list[str] = field(default_factory=list)
    compared: Row = field(default_factory=dict)
    """The load, GPU, data set and source of the settings that were compared."""
    tied: list[Row] = field(default_factory=list)
    """Settings that cannot be told apart from the best one."""
    chance: float | None = None
    """Probability that the best setting is really the best."""
    others: list["Recommendation"] = field(default_factory=list)
    """The recommendations for other loads, GPUs, data sets and sources."""


def recommend(
    table: pd.DataFrame,
    required: Requirements,
    problems: pd.DataFrame | None = None,
    between_runs: float = noise.DAY_TO_DAY,
) -> Recommendation:
    """Recommend the best setting of a summary table for the requirements; `problems` is `pairs.per_problem`."""
    known = optima.candidates(table)
    if known.empty:
        return Recommendation(None, headline=_nothing_known(table))
    if required.objective == "energy" and known["cost_of_pass_j"].isna().all():
        return Recommendation(
            None, headline="Nothing can be recommended by energy, because no run measured it."
        )
    found = [_among(rows, required, problems, between_runs) for rows in _alike(known)]
    found.sort(key=lambda one: one.best is None)
    first = found[0]
    words = _compared(first.compared)
    first.sentences.insert(0, f"Compared were only settings of one load, GPU, data set and source: {words}.")
    first.others = found[1:]
    first.sentences += [
        f"{_compared(one.compared)}: {one.headline} {_brief_cost(one)}".rstrip() for one in found[1:]
    ]
    return first


def _alike(known: pd.DataFrame) -> list[pd.DataFrame]:
    """The settings by source, GPU, data set and load: measured ones first, then those nearest to the paper's conditions."""
    known = known.assign(origin=known["source"].astype(str).map(origin))
    order = ["measured", "emulated", "simulated"]
    groups: dict[tuple[str, ...], list[pd.DataFrame]] = {}
    for rows in by_conditions(known):
        for name, part in rows.groupby("origin", observed=True):
            first = part.iloc[0]
            key = (str(name), str(first["gpu"]), str(first["dataset"]), str(first["load"]))
            groups.setdefault(key, []).append(part)
    keys = sorted(groups, key=lambda key: order.index(key[0]))
    return [pd.concat(groups[key]) for key in keys]


def _compared(about: Row) -> str:
    return f"{in_flight(str(about['load']))}, {about['gpu']}, {about['dataset']}, {about['origin']}"


def _brief_cost(found: Recommendation) -> str:
    if found.best is None:
        return ""
    return f"A correct answer costs {number(found.best['cost_of_pass_gpu_s'], '.3g')} GPU-seconds."


def _among(
    known: pd.DataFrame, required: Requirements, problems: pd.DataFrame | None, between_runs: float
) -> Recommendation:
    """The recommendation among settings that are alike."""
    compared = {name: str(known[name].iloc[0]) for name in ("load", "gpu", "dataset", "origin")}
    if required.near_best and required.min_accuracy is None:
        required = replace(required, min_accuracy=optima.default_target(known))
    fit = known[_fits(known, required)]
    measure = optima.measure(required.objective, fit) if len(fit) else ""
    timed = fit[fit[measure].gt(0) & fit[measure].lt(float("inf"))] if measure else fit
    if timed.empty:
        found = _nearest(known, required)
        found.compared = compared
        return found
    fit = optima.ranked(timed, required.objective).reset_index(drop=True)
    choice = choose(fit, problems, measure, between_runs)
    order = records(fit)
    best = _corrected(order[0], choice, measure)
    found = Recommendation(
        best, headline=f"Deploy {setting(best)}.", compared=compared, chance=choice.chance()
    )
    found.sentences = [_why(required, len(fit), len(known)), describe(best), *_doubts(best, required)]
    others = [
        place
        for place, row in enumerate(order)
        if place and (row["model"], row["config"]) != (best["model"], best["config"])
    ]
    place = next(iter(others or range(1, len(order))), None)
    if place is not None:
        found.second = order[place]
        found.sentences.append(_second(best, order[place], required.objective, choice, place))
    found.tied = [order[place] for place in choice.tied]
    found.sentences += [*_chance(found, measure, best), *_single(known, problems, between_runs)]
    found.sentences += _stricter(order[0], known, required, between_runs)
    return found


def _corrected(row: Row, choice: Choice, measure: str) -> Row:
    """The chosen setting with its measure corrected for having been chosen; `measured` has the uncorrected value."""
    estimate, low, high = choice.interval(choice.best)
    factor = _over(estimate, row[measure])
    best = row | {"measured": row[measure], measure: estimate, f"{measure}_low": low, f"{measure}_high": high}
    return best | (
        {"cost_of_pass_usd": row["cost_of_pass_usd"] * factor} if measure == MEASURES["cost"] else {}
    )


def _chance(found: Recommendation, measure: str, best: Row) -> list[str]:
    """Whether other settings are as good as far as the data shows."""
    if not found.tied:
        return [f"The probability that it is the best of these settings is {_probability(found)}."]
    names = [setting(row) for row in found.tied[:MOST_NAMED]]
    more = f" and {len(found.tied) - MOST_NAMED} more" if len(found.tied) > MOST_NAMED else ""
    total = f"These {len(found.tied) + 1} settings" if len(found.tied) > 1 else "These two settings"
    out = []
    out.append(
        f"{total} cannot be told apart: the recommended one and {'; '.join(names)}{more}. The probability that the "
        f"recommended one is the best is {_probability(found)}."
    )
    if abs(_over(best[measure], best["measured"]) - 1) > CORRECTED:
        out.append(
            f"It was measured at {number(best['measured'], '.3g')}. The figure above is drawn towards the mean of the settings "
            "that cannot be told apart, because the best of them was partly lucky."
        )
    return out


def _probability(found: Recommendation) -> str:
    return "more than 99%" if (found.chance or 0) > 0.99 else number(found.chance, ".0%")


def _single(known: pd.DataFrame, problems: pd.DataFrame | None, between_runs: float) -> list[str]:
    """A sentence on what one run of each setting cannot show."""
    repeated = problems is not None and (problems["runs"] > 1).all()
    return [] if repeated or len(known) < 2 else [f"There was {noise.limits(between_runs)}."]


def _nothing_known(table: pd.DataFrame) -> str:
    if table.empty:
        return "Nothing can be recommended, because these results contain no requests."
    if (table["judged"] == "INVALID").all():
        return "Nothing can be recommended, because every run is INVALID."
    if table["accuracy"].isna().all():
        return "Nothing can be recommended, because no answer was graded."
    if not table["accuracy"].gt(0).any():
        return "Nothing can be recommended, because no answer is correct."
    if not table["trusted"].any():
        return (
            "Nothing can be recommended, because every row is derived from a larger budget with several requests in flight, and no "
            "check has shown that latency and cost agree within 3 %: run the budgets without --one-pass."
        )
    return (
        "Nothing can be recommended, because no usable setting has both a correct answer and a median latency, which needs "
        f"{least_sample(0.5)} successful requests."
    )


def _fits(known: pd.DataFrame, required: Requirements) -> pd.Series:
    fit = pd.Series(data=True, index=known.index)
    if required.min_accuracy is not None:
        fit &= known["accuracy"] >= required.min_accuracy
    if required.max_e2e_p95_s is not None:
        fit &= known[P95] <= required.max_e2e_p95_s
    return fit


def describe(row: Row) -> str:
    """Accuracy, latency, failures and cost of a setting in words."""
    failed: str = f"; {row['failed']} of {row['n']} requests failed" if row["failed"] else ""
    energy: str = f" and {number(row['cost_of_pass_j'], '.3g')} J" if pd.notna(row["cost_of_pass_j"]) else ""
    low, high = (number(row[f"cost_of_pass_gpu_s_{end}"], ".3g") for end in ("low", "high"))
    return (
        f"It has an accuracy of {number(row['accuracy'], '.1%')} (95 % interval {number(row['accuracy_low'], '.1%')} to "
        f"{number(row['accuracy_high'], '.1%')}), a median latency of {number(row['e2e_p50_s'], '.3g')} s{_p95(row)}{failed}. A correct answer costs "
        f"{number(row['cost_of_pass_gpu_s'], '.3g')} GPU-seconds ({low} to {high}; ${number(row['cost_of_pass_usd'] * 1000, '.3g')} per 1,000){energy}. "
        f"These numbers are {row['source']}, and the run is {row['run_verdict']}."
    )


def _p95(row: Row) -> str:
    """The p95 over all requests, or its lower bound where the sample gives no more."""
    estimate, low = float(row[P95]), float(row[f"{P95}_low"])
    if not math.isnan(estimate):
        return f" and a p95 latency of {number(estimate, '.3g')} s"
    return "" if math.isnan(low) else f" and a p95 latency of at least {number(low, '.3g')} s"


def _why(required: Requirements, fitting: int, known: int) -> str:
    asked = _requirement(required)
    least = {
        "cost": "costs least per correct answer",
        "latency": "is the fastest over all requests",
        "energy": "needs the least energy per correct answer",
    }
    among = f"Of {known} settings, {fitting} {asked}. Of these, it" if asked else f"Of {known} settings, it"
    return f"{among} {least[required.objective]}."


def _requirement(required: Requirements) -> str:
    parts = []
    if required.min_accuracy is not None:
        parts.append(f"reach an accuracy of {number(required.min_accuracy, '.1%')}")
    if required.max_e2e_p95_s is not None:
        parts.append(f"answer 95 % of requests within {required.max_e2e_p95_s:g} s")
    return " and ".join(parts)


def _doubts(best: Row, required: Requirements) -> list[str]:
    doubts = []
    if required.min_accuracy is not None and best["accuracy_low"] < required.min_accuracy:
        doubts.append(
            f"With {best['n']} requests, the accuracy could be as low as {number(best['accuracy_low'], '.1%')}. Run more "
            "problems to make the interval smaller."
        )
    if not best.get("steady", True):
        doubts.append(
            "Its run is too short for a steady window, so the cost contains the beginning and the end of the run, when fewer "
            "requests are in flight. Ask for about ten requests for each stream."
        )
    high = float(best[f"{P95}_high"])
    if required.max_e2e_p95_s is not None and math.isnan(high):
        doubts.append(
            f"The p95 latency over all requests is at least {number(best[f'{P95}_low'], '.3g')} s and has no upper bound, because "
            "the requests are too few or depend on each other: repeat the run."
        )
    elif required.max_e2e_p95_s is not None and not high <= required.max_e2e_p95_s:
        doubts.append(f"The p95 latency over all requests could be as high as {number(high, '.3g')} s.")
    return doubts


def _second(best: Row, second: Row, objective: str, choice: Choice, place: int) -> str:
    ratio = choice.over_best(place)
    words = {
        "cost": "more expensive per correct answer",
        "latency": "slower",
        "energy": "more energy per correct answer",
    }[objective]
    points = (second["accuracy"] - best["accuracy"]) * 100
    low, high = (f"{(bound - 1) * 100:.0f}" for bound in ratio[1:])
    return (
        f"Second-best: {setting(second)}, {number(ratio.estimate - 1, '.0%')} {words} (95 % interval {low} to {high} %), "
        f"{_points(points)}."
    )


def _points(points: float) -> str:
    return f"{points:+.1f} points of accuracy" if abs(points) >= 0.05 else "with the same accuracy"


def _stricter(best: Row, known: pd.DataFrame, required: Requirements, between_runs: float) -> list[str]:
    """What a higher accuracy and a lower latency would cost, where the data shows that a setting has them."""
    out = []
    limit = Requirements(None, required.max_e2e_p95_s, required.objective)
    allowed = known[_fits(known, limit)]
    better = allowed[allowed["accuracy_low"] > best["accuracy"]]
    if len(better):
        row = records(optima.ranked(better, "cost"))[0]
        gain = (row["accuracy"] - best["accuracy"]) * 100
        out.append(
            f"Higher accuracy: {setting(row)} is {gain:.1f} points more accurate, {_price(best, row)}."
        )
    else:
        out.append(
            "Higher accuracy: no setting is shown to be more accurate"
            + (" within the required latency." if required.max_e2e_p95_s else ".")
        )
    target = required.min_accuracy if required.min_accuracy is not None else best["accuracy"]
    clearly = best["e2e_p50_s"] / (1 + noise.smallest(between_runs))
    faster = known[(known["accuracy"] >= target) & (known["e2e_p50_s"] < clearly)]
    if len(faster):
        row = records(faster.sort_values("e2e_p50_s"))[0]
        out.append(
            f"Lower latency: the fastest setting with sufficient accuracy is {setting(row)}, {_price(best, row)}."
        )
    else:
        out.append("Lower latency: no setting with sufficient accuracy is shown to be faster.")
    return out


def _over(top: float, bottom: float) -> float:
    """A ratio, NaN where the denominator is zero, as in a synthetic run."""
    return top / bottom if bottom else float("nan")


def _price(best: Row, row: Row) -> str:
    cost, time = (_over(row[name], best[name]) for name in ("cost_of_pass_gpu_s", "e2e_p50_s"))
    return f"at {number(cost, '.2g')} times the cost per correct answer and {number(time, '.2g')} times the median latency"


def _nearest(known: pd.DataFrame, required: Requirements) -> Recommendation:
    """No setting qualifies: name the most accurate one that is fast enough, and the fastest that is accurate enough.

    Where none is fast enough, or none is accurate enough, the most accurate and the fastest of all settings are named.
    """
    found = Recommendation(None, headline=f"No setting measured here can {_requirement(required)}.")
    fast = known[_fits(known, Requirements(None, required.max_e2e_p95_s))]
    accurate = known[_fits(known, Requirements(required.min_accuracy)) & known[P95].notna()]
    if required.min_accuracy is not None:
        _add_most_accurate(
            found,
            fast if len(fast) else known,
            required,
            "within the required latency" if len(fast) else "of all",
        )
    if required.max_e2e_p95_s is not None and known[P95].isna().all():
        found.sentences.append(
            f"The p95 latency is unknown, because it needs {least_sample(0.95)} requests for each setting."
        )
    elif required.max_e2e_p95_s is not None:
        timed = accurate if len(accurate) else known[known[P95].notna()]
        _add_fastest(found, timed, required, "with sufficient accuracy" if len(accurate) else "of all")
    return found


def _add_most_accurate(
    found: Recommendation, among: pd.DataFrame, required: Requirements, where: str
) -> None:
    row = records(among.sort_values(["accuracy", "e2e_p50_s"], ascending=[False, True]))[0]
    short = ((required.min_accuracy or 0.0) - row["accuracy"]) * 100
    gap = f"{short:.1f} points below the required accuracy" if short > 0 else "which is accurate enough"
    found.nearest.append(row)
    found.sentences.append(f"Most accurate {where}: {setting(row)}, {gap}. {describe(row)}")


def _add_fastest(found: Recommendation, among: pd.DataFrame, required: Requirements, where: str) -> None:
    row = records(among.sort_values([P95, "e2e_p50_s"]))[0]
    over = row[P95] - (required.max_e2e_p95_s or 0.0)
    gap = (
        "but more than 5 % of its requests fail"
        if row[P95] == float("inf")
        else f"whose p95 latency is {number(over, '.3g')} s too high"
        if over > 0
        else "which is fast enough"
    )
    found.nearest.append(row)
    found.sentences.append(f"Fastest {where}: {setting(row)}, {gap}. {describe(row)}")


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Options of `recommend`."""
    parser.add_argument("results", type=Path, help="folder of a run, or a folder that contains runs")
    parser.add_argument(
        "--min-accuracy", type=float, metavar="SHARE", help="required accuracy, for example 0.8 for 80 %%"
    )
    parser.add_argument(
        "--max-e2e-p95", type=float, metavar="SECONDS", help="required p95 latency over all requests"
    )
    add_price(parser)
    noise.add_noise(parser)
    parser.add_argument(
        "--objective",
        choices=list(MEASURES),
        default="cost",
        help="what to minimize among the settings that meet the requirements (default: %(default)s)",
    )
    parser.epilog = (
        "example: python -m analysis recommend results --min-accuracy 0.8 --max-e2e-p95 30 --objective cost"
    )


def main(args: argparse.Namespace) -> int:
    """Print the recommendation. The exit status is 1 when no setting qualifies."""
    if args.min_accuracy is not None and not 0 <= args.min_accuracy <= 1:
        raise InputError(
            f"--min-accuracy {args.min_accuracy:g}: give a share between 0 and 1, for example 0.8 for 80 %"
        )
    if args.max_e2e_p95 is not None and not args.max_e2e_p95 > 0:
        raise InputError(f"--max-e2e-p95 {args.max_e2e_p95:g}: give a number of seconds above 0")
    check_price(args.price_per_gpu_hour)
    between_runs = noise.parse(args.noise)
    study = read_study(args.results)
    table = summary.summary(study.frame, args.price_per_gpu_hour)
    required = Requirements(args.min_accuracy, args.max_e2e_p95, args.objective)
    found = recommend(table, required, pairs.per_problem(study.frame), between_runs)
    print(found.headline, *found.sentences, sep="\n", file=sys.stderr)
    print(
        json.dumps(
            {
                **_result(found),
                "noise": between_runs,
                "others": [_result(one) for one in found.others],
                "words": " ".join([found.headline, *found.sentences]),
            }
        )
    )
    return 0 if found.best is not None else 1


def _result(found: Recommendation) -> Row:
    return {
        "qualifies": found.best is not None,
        "compared": found.compared,
        "deploy": brief(found.best),
        "chance_best": plain(found.chance),
        "not_told_apart": [brief(row) for row in found.tied[:MOST_NAMED]],
        "not_told_apart_count": len(found.tied),
        "runner_up": brief(found.second),
        "nearest": [brief(row) for row in found.nearest],
    }


def add_price(parser: argparse.ArgumentParser) -> None:
    """The option `--price-per-gpu-hour`, which `report` has too."""
    text = "price of one GPU for an hour (default: %(default)s, an assumption)"
    parser.add_argument("--price-per-gpu-hour", type=float, default=3.5, metavar="USD", help=text)


def check_price(usd: float) -> None:
    """Raises InputError where the price is negative or not finite."""
    if not 0 <= usd < float("inf"):
        raise InputError(f"--price-per-gpu-hour {usd:g}: give a price in dollars, 0 or more")


BRIEF = (
    "model",
    "config",
    "load",
    "asked",
    "budget",
    "budget_mode",
    "source",
    "run_verdict",
    "n",
    "accuracy",
    "accuracy_low",
    "accuracy_high",
    "e2e_p50_s",
    "e2e_p95_s",
    "e2e_p95_all_s",
    "cost_of_pass_gpu_s",
    "cost_of_pass_gpu_s_low",
    "cost_of_pass_gpu_s_high",
    "cost_of_pass_usd",
    "cost_of_pass_j",
)


def brief(row: Row | None) -> Row | None:
    """The columns of a setting that the JSON output contains."""
    return None if row is None else {name: plain(row[name]) for name in BRIEF}
