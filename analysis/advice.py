"""Define what a recommendation is and the words that recommendations share, whether they are for one load or for a rate.

Only like is compared with like: settings of one GPU, data set and source (measured, emulated, simulated), and of one load or
each at its own capacity. Without a correct answer, nothing shows what a smaller model or a smaller budget loses, so models and
budgets are then not compared either. Where a study has several such groups, each has a recommendation.

This module does not know how a setting is chosen (recommend.py and traffic.py).
"""

import math
from dataclasses import dataclass, field
from typing import Any

import pandas as pd

from analysis.data.setting import by_conditions, in_flight, origin
from analysis.format import number, plain
from analysis.tables.optima import graded

Row = dict[str, Any]
P95 = "e2e_p95_all_s"
"""The required p95 is that of all requests, with a failure as an infinitely slow request."""
UNGRADED = (
    "No setting can be recommended for an accuracy, because no answer is known to be correct: leave out --min-accuracy."
)
MOST_NAMED = 4
"""Settings that cannot be told apart are named up to this number, and counted beyond it."""


@dataclass(frozen=True, slots=True)
class Requirements:
    """What a setting must reach (latencies in seconds), and the objective to minimize among those that do."""

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
    """The GPU, data set and source of the settings that were compared, and the load, where it is one."""
    tied: list[Row] = field(default_factory=list)
    """Settings that cannot be told apart from the best one."""
    chance: float | None = None
    """Probability that the best setting is really the best."""
    others: list["Recommendation"] = field(default_factory=list)
    """The recommendations for other loads, GPUs, data sets and sources."""


def alike(known: pd.DataFrame, same: list[str]) -> list[pd.DataFrame]:
    """Settings that may be compared, by source, GPU, data set and `same`: measured ones, then those nearest to the paper's."""
    known = known.assign(origin=known["source"].astype(str).map(origin))
    same = ["origin", "gpu", "dataset", *same] + ([] if graded(known) else ["model", "budget"])
    nearest_first = pd.concat(rows.sort_values(same, kind="stable") for rows in by_conditions(known))
    groups = [rows for _, rows in nearest_first.groupby(same, observed=True, sort=False)]
    return sorted(groups, key=lambda rows: ["measured", "emulated", "simulated"].index(rows["origin"].iloc[0]))


def common(alike: pd.DataFrame, *more: str) -> Row:
    """What settings that are alike have in common."""
    return {name: str(alike[name].iloc[0]) for name in (*more, "gpu", "dataset", "origin")}


def joined(found: list[Recommendation], intro: str) -> Recommendation:
    """The first recommendation of several groups, with the others in its last sentences; those that found a setting come first."""
    found.sort(key=lambda one: one.best is None)
    first = found[0]
    first.sentences.insert(0, f"{intro}: {compared(first.compared)}.")
    first.others = found[1:]
    for one in found[1:]:
        cost = number(one.best["cost_of_pass_gpu_s"], ".3g") if one.best else "–"
        brief_cost = f" A correct answer costs {cost} GPU-seconds." if cost != "–" else ""
        first.sentences.append(f"{compared(one.compared)}: {one.headline}{brief_cost}")
    return first


def compared(about: Row) -> str:
    """The conditions of a comparison in words."""
    load = [in_flight(str(about["load"]))] if "load" in about else []
    return ", ".join([*load, *(str(about[name]) for name in ("gpu", "dataset", "origin"))])


def fits(known: pd.DataFrame, required: Requirements) -> pd.Series:
    """Which settings reach the required accuracy and latency."""
    fit = pd.Series(data=True, index=known.index)
    if required.min_accuracy is not None:
        fit &= known["accuracy"] >= required.min_accuracy
    if required.max_e2e_p95_s is not None:
        fit &= known[P95] <= required.max_e2e_p95_s
    return fit


def unit_costs(*, of_pass: bool) -> tuple[str, str, str, str]:
    """What a cost is for (a correct answer, or a request), and the columns of its GPU-seconds, dollars and joules."""
    if of_pass:
        return "correct answer", "cost_of_pass_gpu_s", "cost_of_pass_usd", "cost_of_pass_j"
    return "request", "gpu_s_per_request", "usd_per_request", "joules_per_request"


def describe(row: Row) -> str:
    """Accuracy, latency, failures and cost of a setting in words."""
    per, gpu_s, usd, joules = unit_costs(of_pass=not math.isnan(row["cost_of_pass_gpu_s"]))
    cost = "Its cost is unknown, because the number of GPUs is unknown."
    if not math.isnan(row[gpu_s]):
        low, middle, high = (number(row[f"{gpu_s}{end}"], ".3g") for end in ("_low", "", "_high"))
        energy = f" and {number(row[joules], '.3g')} J" if not math.isnan(row[joules]) else ""
        dollars = f"${number(row[usd] * 1000, '.3g')} per 1,000"
        cost = f"A {per} costs {middle} GPU-seconds ({low} to {high}; {dollars}){energy}."
    return f"It has {quality(row)}. {cost} {provenance(row)}"


def quality(row: Row) -> str:
    """Accuracy, where it is known, latency and failures in words."""
    failed = f"; {row['failed']} of {row['n']} requests failed" if row["failed"] else ""
    low, high = (number(row[f"accuracy_{end}"], ".1%") for end in ("low", "high"))
    known = f"an accuracy of {number(row['accuracy'], '.1%')} (95 % interval {low} to {high}), "
    accuracy = known if row["accuracy"] > 0 else ""
    return f"{accuracy}a median latency of {number(row['e2e_p50_s'], '.3g')} s{_p95(row)}{failed}"


def provenance(row: Row) -> str:
    """Where the numbers come from, and whether the run trusts them."""
    return f"These numbers are {row['source']}, and the run is {row['run_verdict']}."


def _p95(row: Row) -> str:
    """The p95 over all requests, or its lower bound where the sample gives no more."""
    estimate, low = float(row[P95]), float(row[f"{P95}_low"])
    if not math.isnan(estimate):
        return f" and a p95 latency of {number(estimate, '.3g')} s"
    return "" if math.isnan(low) else f" and a p95 latency of at least {number(low, '.3g')} s"


def requirement(required: Requirements) -> str:
    """The requirements in words; empty where there are none."""
    parts = []
    if required.min_accuracy is not None:
        parts.append(f"reach an accuracy of {number(required.min_accuracy, '.1%')}")
    if required.max_e2e_p95_s is not None:
        parts.append(f"answer 95 % of requests within {required.max_e2e_p95_s:g} s")
    return " and ".join(parts)


def accuracy_doubts(best: Row, required: Requirements) -> list[str]:
    """Sentences on an accuracy that may be too low, and on a run that is too short for its cost."""
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
    return doubts


def probability(chance: float | None) -> str:
    """A probability that is never shown as certain."""
    return "more than 99%" if (chance or 0) > 0.99 else number(chance, ".0%")


def points(more: float) -> str:
    """A difference of accuracy in words."""
    return f"{more:+.1f} points of accuracy" if abs(more) >= 0.05 else "with the same accuracy"


def over(top: float, bottom: float) -> float:
    """A ratio, NaN where the denominator is zero, as in a synthetic run."""
    return top / bottom if bottom else float("nan")


_WHAT = ("model", "config", "load", "asked", "budget", "budget_mode", "source", "run_verdict", "n")
_QUALITY = ("accuracy", "accuracy_low", "accuracy_high", "e2e_p50_s", "e2e_p95_s", "e2e_p95_all_s")
_PASS = ("cost_of_pass_gpu_s", "cost_of_pass_gpu_s_low", "cost_of_pass_gpu_s_high", "cost_of_pass_usd")
_COST = ("cost_of_pass_j", "gpu_s_per_request", "usd_per_request", "joules_per_request")
_SIZE = ("good_share", "capacity_per_s", "at_least", "decision", "replicas", "gpus")
_PRICE = ("usd_per_hour", "usd_per_1000")
BRIEF = (*_WHAT, *_QUALITY, *_PASS, *_COST, *_SIZE, *_PRICE)


def brief(row: Row | None) -> Row | None:
    """The columns of a setting that the JSON output contains."""
    return None if row is None else {name: plain(row[name]) for name in BRIEF if name in row}


def result(found: Recommendation) -> Row:
    """A recommendation for the JSON output."""
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
