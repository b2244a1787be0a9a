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
import math
import sys
from dataclasses import replace
from pathlib import Path

import pandas as pd

from analysis import advice, noise
from analysis.advice import Recommendation, Requirements, Row
from analysis.data.frame import read_study
from analysis.data.setting import setting
from analysis.errors import InputError
from analysis.format import number, records
from analysis.output import add_json, print_result
from analysis.tables import capacity, crossover, kept, optima
from analysis.tables.choice import Choice, choose
from analysis.tables.optima import MEASURES
from analysis.tables.pairs import Evidence
from analysis.traffic import Traffic, recommend_for
from loadgen import option_types
from loadgen.measure.quantiles import least_sample

CORRECTED = 0.005
"""A correction of an estimate below this share is not worth a sentence."""


def recommend(table: pd.DataFrame, required: Requirements, evidence: Evidence) -> Recommendation:
    """Recommend the best setting of a summary table for the requirements."""
    known = optima.candidates(table)
    if known.empty:
        return Recommendation(None, headline=_nothing_known(table))
    if required.min_accuracy is not None and not optima.graded(known):
        return Recommendation(None, headline=advice.UNGRADED)
    if required.objective == "energy" and known[optima.measure("energy", known)].isna().all():
        return Recommendation(None, headline="Nothing can be recommended by energy, because no run measured it.")
    known = known.assign(losing=crossover.beyond(known, evidence.crossovers))
    found = [_among(rows, required, evidence) for rows in advice.alike(known, ["load"])]
    return advice.joined(found, "Compared were only settings of one load, GPU, data set and source")


def _among(alike: pd.DataFrame, required: Requirements, evidence: Evidence) -> Recommendation:
    """The recommendation among settings that are alike, without speculation beyond the load at which it stops paying."""
    about = advice.common(alike, "load")
    losing, known = alike[alike["losing"]], alike[~alike["losing"]]
    if known.empty:
        text = "Nothing can be recommended: speculation does not pay at this load, and the baseline has no usable run."
        return Recommendation(None, headline=text, compared=about)
    if required.near_best and required.min_accuracy is None and optima.graded(known):
        required = replace(required, min_accuracy=optima.default_target(known))
    fit = known[advice.fits(known, required)]
    measure = optima.measure(required.objective, fit) if len(fit) else ""
    timed = fit[fit[measure].gt(0) & fit[measure].lt(float("inf"))] if measure else fit
    if timed.empty:
        found = _nearest(known, required)
        found.compared = about
        found.sentences += _left_out(losing, evidence.crossovers)
        return found
    fit = optima.ranked(timed, required.objective).reset_index(drop=True)
    choice = choose(fit, evidence.problems, measure, evidence.noise)
    order = records(fit)
    best = _corrected(order[0], choice, measure)
    found = Recommendation(best, headline=f"Deploy {setting(best)}.", compared=about, chance=choice.chance())
    found.sentences = [_why(required, fit, len(known)), advice.describe(best), *_doubts(best, required)]
    servers = list(zip(fit["model"], fit["config"], strict=True))
    unlike = [place for place, server in enumerate(servers) if server != servers[0]]
    if len(order) > 1:
        place = unlike[0] if unlike else 1
        found.second = order[place]
        found.sentences.append(_second(best, order[place], measure, choice, place))
    found.tied = [order[place] for place in choice.tied]
    if found.tied:
        others = "1 other setting" if len(found.tied) == 1 else f"{len(found.tied)} other settings"
        found.headline += f" The data does not tell it apart from {others}."
    found.sentences += [*_chance(found, measure, best), *_single(known, evidence)]
    found.sentences += _stricter(order[0], known, required, evidence.noise) + _left_out(losing, evidence.crossovers)
    return found


def _left_out(losing: pd.DataFrame, stops: pd.DataFrame) -> list[str]:
    """A sentence on the settings beyond the load at which their speculation pays."""
    if losing.empty:
        return []
    named = stops.merge(losing[capacity.CHOICE]).head(advice.MOST_NAMED)
    count = "1 setting is" if len(losing) == 1 else f"{len(losing)} settings are"
    return [f"{count} beyond the load at which speculation pays: {'; '.join(map(crossover.words, records(named)))}."]


def _corrected(row: Row, choice: Choice, measure: str) -> Row:
    """The chosen setting with its measure corrected for having been chosen; `measured` has the uncorrected value."""
    estimate, low, high = choice.interval(choice.best)
    factor = advice.over(estimate, row[measure])
    best = row | {"measured": row[measure], measure: estimate, f"{measure}_low": low, f"{measure}_high": high}
    usd = {"cost_of_pass_gpu_s": "cost_of_pass_usd", "gpu_s_per_request": "usd_per_request"}
    return best | ({usd[measure]: row[usd[measure]] * factor} if measure in usd else {})


def _chance(found: Recommendation, measure: str, best: Row) -> list[str]:
    """Whether other settings are as good as far as the data shows."""
    if not found.tied:
        return [f"The probability that it is the best of these settings is {advice.probability(found.chance)}."]
    names = [setting(row) for row in found.tied[: advice.MOST_NAMED]]
    more = f" and {len(found.tied) - advice.MOST_NAMED} more" if len(found.tied) > advice.MOST_NAMED else ""
    total = f"These {len(found.tied) + 1} settings" if len(found.tied) > 1 else "These two settings"
    chance = f"The probability that the recommended one is the best is {advice.probability(found.chance)}."
    out = [f"{total} cannot be told apart: the recommended one and {'; '.join(names)}{more}. {chance}"]
    if abs(advice.over(best[measure], best["measured"]) - 1) > CORRECTED:
        out.append(
            f"It was measured at {number(best['measured'], '.3g')}. The figure above is drawn towards the mean of the settings "
            "that cannot be told apart, because the best of them was partly lucky."
        )
    return out


def _single(known: pd.DataFrame, evidence: Evidence) -> list[str]:
    """A sentence on what one run of each setting cannot show."""
    repeated = (evidence.problems["runs"] > 1).all()
    return [] if repeated or len(known) < 2 else [f"There was {noise.limits(evidence.noise)}."]


def _nothing_known(table: pd.DataFrame) -> str:
    if table.empty:
        return "Nothing can be recommended, because these results contain no requests."
    if (table["judged"] == "INVALID").all():
        return "Nothing can be recommended, because every run is INVALID."
    if not table["trusted"].any():
        return (
            "Nothing can be recommended, because every row is derived from a larger budget with several requests in flight, and no "
            "check has shown that latency and cost agree within 3 %: run the budgets without --one-pass."
        )
    return (
        "Nothing can be recommended, because no usable setting has a median latency, which needs "
        f"{least_sample(0.5)} successful requests."
    )


def _why(required: Requirements, fit: pd.DataFrame, known: int) -> str:
    asked, (per, *_) = advice.requirement(required), advice.unit_costs(of_pass=optima.graded(fit))
    words = {
        "cost": f"costs least per {per}",
        "latency": "is the fastest over all requests",
        "energy": f"needs the least energy per {per}",
    }
    least = words[required.objective]
    if required.objective == "cost" and optima.measure("cost", fit).startswith("e2e"):
        least = f"{words['latency']}; its cost is unknown, because the number of GPUs is unknown"
    among = f"Of {known} settings, {len(fit)} {asked}. Of these, it" if asked else f"Of {known} settings, it"
    return f"{among} {least}." + ("" if optima.graded(fit) else f" {NO_GRADES}")


NO_GRADES = (
    "No answer is known to be correct, so settings of one model and budget are compared, by latency and cost alone."
)


def _doubts(best: Row, required: Requirements) -> list[str]:
    doubts = advice.accuracy_doubts(best, required)
    high = float(best[f"{advice.P95}_high"])
    if required.max_e2e_p95_s is not None and math.isnan(high):
        doubts.append(
            f"The p95 latency over all requests is at least {number(best[f'{advice.P95}_low'], '.3g')} s and has no upper bound, because "
            "the requests are too few or depend on each other: repeat the run."
        )
    elif required.max_e2e_p95_s is not None and not high <= required.max_e2e_p95_s:
        doubts.append(f"The p95 latency over all requests could be as high as {number(high, '.3g')} s.")
    return doubts


def _second(best: Row, second: Row, measure: str, choice: Choice, place: int) -> str:
    ratio = choice.over_best(place)
    words = {
        "cost_of_pass_gpu_s": "more expensive per correct answer",
        "cost_of_pass_j": "more energy per correct answer",
        "gpu_s_per_request": "more expensive per request",
        "joules_per_request": "more energy per request",
    }.get(measure, "slower")
    more = (second["accuracy"] - best["accuracy"]) * 100
    low, high = (f"{(bound - 1) * 100:.0f}" for bound in ratio[1:])
    accuracy = f", {advice.points(more)}" if best["accuracy"] > 0 else ""
    return f"Second-best: {setting(second)}, {number(ratio.estimate - 1, '.0%')} {words} (95 % interval {low} to {high} %){accuracy}."


def _stricter(best: Row, known: pd.DataFrame, required: Requirements, between_runs: float) -> list[str]:
    """What a higher accuracy and a lower latency would cost, where the data shows that a setting has them."""
    graded = best["accuracy"] > 0
    allowed = known[advice.fits(known, Requirements(None, required.max_e2e_p95_s))]
    better = allowed[allowed["accuracy_low"] > best["accuracy"]]
    within = " within the required latency" if required.max_e2e_p95_s else ""
    higher = f"no setting is shown to be more accurate{within}"
    if len(better):
        row = records(optima.ranked(better, "cost"))[0]
        gain = (row["accuracy"] - best["accuracy"]) * 100
        higher = f"{setting(row)} is {gain:.1f} points more accurate, {_price(best, row)}"
    target = required.min_accuracy if required.min_accuracy is not None else best["accuracy"]
    clearly = best["e2e_p50_s"] / (1 + noise.smallest(between_runs))
    faster = known[((known["accuracy"] >= target) | (not graded)) & (known["e2e_p50_s"] < clearly)]
    enough = " with sufficient accuracy" if graded else ""
    lower = f"no setting{enough} is shown to be faster"
    if len(faster):
        row = records(faster.sort_values("e2e_p50_s"))[0]
        lower = f"the fastest setting{enough} is {setting(row)}, {_price(best, row)}"
    return [*([f"Higher accuracy: {higher}."] if graded else []), f"Lower latency: {lower}."]


def _price(best: Row, row: Row) -> str:
    per, name, *_ = advice.unit_costs(of_pass=best["accuracy"] > 0)
    cost, time = (number(advice.over(row[column], best[column]), ".2g") for column in (name, "e2e_p50_s"))
    return f"at {cost} times the cost per {per} and {time} times the median latency"


def _nearest(known: pd.DataFrame, required: Requirements) -> Recommendation:
    """No setting qualifies: name the most accurate one that is fast enough, and the fastest that is accurate enough.

    Where none is fast enough, or none is accurate enough, the most accurate and the fastest of all settings are named.
    """
    asked, wanted, limit_s = advice.requirement(required), required.min_accuracy, required.max_e2e_p95_s
    if not asked:
        text = "Nothing can be recommended, because no setting has a finite cost or latency."
        return Recommendation(None, headline=text)
    found = Recommendation(None, headline=f"No setting measured here can {asked}.")
    if wanted is not None:
        fast = known[advice.fits(known, Requirements(None, limit_s))]
        rows, where = (fast, "within the required latency") if len(fast) else (known, "of all")
        row = records(rows.sort_values(["accuracy", "e2e_p50_s"], ascending=[False, True]))[0]
        found.nearest.append(row)
        found.sentences.append(
            f"Most accurate {where}: {setting(row)}, {_short_of(row, wanted)}. {advice.describe(row)}"
        )
    timed = known[known[advice.P95].notna()]
    if limit_s is not None and timed.empty:
        needs = f"it needs {least_sample(0.95)} requests for each setting"
        found.sentences.append(f"The p95 latency is unknown, because {needs}.")
    elif limit_s is not None:
        accurate = timed[advice.fits(timed, Requirements(wanted))]
        rows, where = (accurate, "with sufficient accuracy") if len(accurate) else (timed, "of all")
        row = records(rows.sort_values([advice.P95, "e2e_p50_s"]))[0]
        found.nearest.append(row)
        found.sentences.append(f"Fastest {where}: {setting(row)}, {_too_slow(row, limit_s)}. {advice.describe(row)}")
    return found


def _short_of(row: Row, accuracy: float) -> str:
    short = (accuracy - row["accuracy"]) * 100
    return f"{short:.1f} points below the required accuracy" if short > 0 else "which is accurate enough"


def _too_slow(row: Row, limit_s: float) -> str:
    excess = row[advice.P95] - limit_s
    if math.isinf(excess):
        return "but more than 5 % of its requests fail"
    slow = f"whose p95 latency is {number(excess, '.3g')} s too high"
    return slow if excess > 0 else "which is fast enough"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Options of `recommend`."""
    parser.add_argument("results", type=Path, help="folder of a run, or a folder that contains runs")
    parser.add_argument(
        "--min-accuracy", type=float, metavar="SHARE", help="required accuracy, for example 0.8 for 80 %%"
    )
    parser.add_argument(
        "--max-e2e-p95", type=option_types.seconds, metavar="SECONDS", help="required p95 latency over all requests"
    )
    _add_traffic(parser)
    add_price(parser)
    add_json(parser)
    noise.add_noise(parser)
    parser.add_argument(
        "--objective",
        choices=list(MEASURES),
        default="cost",
        help="what to minimize among the settings that meet the requirements (default: %(default)s)",
    )
    parser.epilog = (
        "examples:\n"
        "  python -m analysis recommend results --min-accuracy 0.8 --max-e2e-p95 30\n"
        "  python -m analysis recommend results --rate 5/s --slo ttft=500ms,tpot=20ms --min-accuracy 0.8"
    )


def _add_traffic(parser: argparse.ArgumentParser) -> None:
    """Options for the question how many replicas a rate needs."""
    parser.add_argument(
        "--rate",
        type=option_types.rate,
        metavar="R/s",
        help="requests per second to serve: recommend a number of replicas",
    )
    parser.add_argument(
        "--slo",
        type=option_types.slo,
        metavar="ttft=S,tpot=S,e2e=S",
        help="with --rate: service level objectives (default: the SLO of the runs)",
    )
    parser.add_argument(
        "--attain",
        type=option_types.share,
        default=0.95,
        metavar="SHARE",
        help="with --rate: share of requests that must meet the SLO (default: %(default)s)",
    )
    parser.add_argument(
        "--headroom",
        type=noise.percentage,
        default="20%",
        metavar="PERCENT",
        help="with --rate: capacity to keep free, as a share of the rate (default: 20%%)",
    )


def main(args: argparse.Namespace) -> int:
    """Print the recommendation. The exit status is 1 when no setting qualifies."""
    if args.min_accuracy is not None and not 0 <= args.min_accuracy <= 1:
        raise InputError(
            f"--min-accuracy {args.min_accuracy:g}: give a share between 0 and 1, for example 0.8 for 80 %"
        )
    if args.slo and args.rate is None:
        raise InputError("--slo needs --rate: give the requests per second to serve, for example --rate 5/s")
    study = read_study(args.results)
    slo = args.slo or study.slo()
    if args.rate is not None and not slo:
        raise InputError(
            "--rate needs --slo, because the runs have no SLO or different ones: give for example --slo ttft=500ms"
        )
    table = kept.settings(study, args.price_per_gpu_hour, slo)
    required = Requirements(args.min_accuracy, args.max_e2e_p95, args.objective)
    evidence = Evidence(kept.problems(study), args.noise)
    if args.rate is None:
        found = recommend(table, required, evidence)
    else:
        traffic = Traffic(args.rate, slo, args.attain, args.headroom, args.price_per_gpu_hour)
        loads = capacity.load_points(table, study.searches, slo, args.attain)
        found = recommend_for(traffic, loads, required, evidence)
    words = [found.headline, *found.sentences]
    print(*words, sep="\n", file=sys.stderr)
    more = {"noise": args.noise, "others": [advice.result(one) for one in found.others]}
    result = advice.result(found) | more | {"words": " ".join(words)}
    print_result(result, ("others", "words", "not_told_apart", "nearest"), args.json)
    return 0 if found.best is not None else 1


def add_price(parser: argparse.ArgumentParser) -> None:
    """The option `--price-per-gpu-hour`, which `report` has too."""
    text = "price of one GPU for an hour (default: %(default)s, an assumption)"
    parser.add_argument("--price-per-gpu-hour", type=option_types.number, default=3.5, metavar="USD", help=text)
