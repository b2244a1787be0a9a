"""Recommend what to deploy for a request rate: which setting, how many replicas of it, and what they cost.

The load is a condition and not a choice, so each setting is compared at its own capacity within the SLO
(tables/capacity.py). Replicas = rate × (1 + headroom) / capacity of one replica, rounded up. This is right where requests
are divided among the replicas at random: each then receives Poisson arrivals at its part of the rate. Nothing is
extrapolated: a setting that passes at its largest load takes "at least" this load, and needs "at most" so many replicas.

This module does not know how a capacity was measured.
"""

import math
from dataclasses import dataclass

import numpy as np
import pandas as pd

from analysis import advice
from analysis.advice import Recommendation, Requirements, Row
from analysis.data.setting import setting
from analysis.format import number, records
from analysis.tables import capacity, crossover
from analysis.tables.choice import DRAWS, arms_of, resampled_sums
from analysis.tables.optima import PER_REQUEST, graded, noise_of_runs
from analysis.tables.pairs import Evidence

RANKED_BY = {"cost": "usd_per_1000", "latency": "e2e_p95_all_s", "energy": "cost_of_pass_j"}


@dataclass(frozen=True, slots=True)
class Traffic:
    """What has to be served: requests per second, the SLO (seconds by latency), and the share of requests that must meet it."""

    rate_per_s: float
    slo: dict[str, float]
    attain: float = 0.95
    headroom: float = 0.2
    """Capacity that must remain free, as a share of the rate."""
    price_per_gpu_hour: float = 3.5

    def objective(self) -> str:
        """The SLO in words: `ttft ≤ 500 ms and tpot ≤ 20 ms for 95 % of requests`."""
        limits = [
            f"{name} ≤ {value * 1000:g} ms" if value < 1 else f"{name} ≤ {value:g} s"
            for name, value in self.slo.items()
        ]
        return f"{' and '.join(limits)} for {self.attain * 100:g} % of requests"

    def sized(self, rows: pd.DataFrame) -> pd.DataFrame:
        """Rows with a capacity, and the replicas, GPUs and dollars that this traffic needs of each."""
        return capacity.sized(rows, self.rate_per_s, self.headroom, self.price_per_gpu_hour)


def recommend_for(
    traffic: Traffic, load_points: pd.DataFrame, required: Requirements, evidence: Evidence
) -> Recommendation:
    """Recommend the best setting for a rate; `load_points` is `capacity.load_points`."""
    if load_points.empty:
        text = "Nothing can be sized, because no usable run has one budget and a constant load: run `loadgen search`, or several loads."
        return Recommendation(None, headline=text)
    load_points = load_points[~crossover.beyond(load_points, evidence.crossovers)]
    if load_points.empty:
        text = "Nothing can be sized: speculation does not pay at these loads, and the baseline has no usable run at a constant load."
        return Recommendation(None, headline=text)
    found = [_among(rows, traffic, required, evidence) for rows in advice.alike(load_points, [])]
    intro = f"Every setting is compared at its own capacity within {traffic.objective()}, under the same conditions"
    return advice.joined(found, intro)


def _among(rows: pd.DataFrame, traffic: Traffic, required: Requirements, evidence: Evidence) -> Recommendation:
    """The recommendation among settings that are alike."""
    about = advice.common(rows)
    known = capacity.capacities(rows)
    able = traffic.sized(known)
    fit = able[advice.fits(able, required)]
    shown = fit[fit["decision"] == "pass"]
    fit = shown if len(shown) else fit
    by = RANKED_BY[required.objective]
    by = by if graded(rows) else PER_REQUEST.get(by, by)
    if fit.empty or (required.objective != "cost" and fit[by].isna().all()):
        unknown = f"Nothing can be recommended by {required.objective}, because no run measured it."
        text = _nothing(known, traffic, required) if fit.empty else unknown
        return Recommendation(None, headline=text, compared=about, nearest=records(able.head(1)))
    fit = fit.sort_values([by, "replicas", "e2e_p50_all_s"], na_position="last", kind="stable")
    best, *others = records(fit)
    found = Recommendation(best, others[0] if others else None, compared=about)
    found.headline = f"Deploy {_deployment(best)}."
    found.chance = _chance(fit, traffic, required, evidence)
    # Every load that passes, as if it were the capacity: at a lower load, more replicas have a lower latency.
    passing = rows[rows["decision"] == "pass"]
    each_load = passing.assign(capacity_per_s=[capacity.per_replica(row) for row in records(passing)])
    truly = "truly costs least and " if required.objective == "cost" else ""
    found.sentences = [
        _why(len(known), len(fit), required, by if fit[by].notna().any() else "replicas"),
        *_sizing(best, traffic),
        _cost(best),
        *advice.accuracy_doubts(best, required),
        f"Runner-up: {_beside(best, found.second)}." if found.second else "There is no runner-up.",
        *_stricter(best, fit, traffic.sized(each_load), required),
        f"The probability that it {truly}meets the requirements is {advice.probability(found.chance)}.",
    ]
    return found


def _deployment(row: Row) -> str:
    replicas, gpus = int(row["replicas"]), row["gpus"]
    on = "" if math.isnan(gpus) else f" ({number(gpus, ',d')} GPU{'s' if gpus > 1 else ''})"
    return f"{replicas:,} replica{'s' if replicas > 1 else ''} of {setting(row | {'load': None})}{on}"


def _nothing(known: pd.DataFrame, traffic: Traffic, required: Requirements) -> str:
    if known["capacity_per_s"].eq(0).all():
        return f"Nothing can be recommended: even at its lowest load, no setting meets {traffic.objective()}."
    if not graded(known) and required.min_accuracy is not None:
        return advice.UNGRADED
    return f"No setting within {traffic.objective()} can {advice.requirement(required)}."


def _why(known: int, fitting: int, required: Requirements, by: str) -> str:
    least = {
        "usd_per_1000": "costs least",
        "replicas": "needs the fewest replicas; their cost is unknown, because the number of GPUs is unknown",
        "e2e_p95_all_s": "is the fastest over all requests",
    }
    asked = advice.requirement(required)
    able = f"{fitting} of {known} settings meet the SLO at some load" + (f" and {asked}" if asked else "")
    return f"{able}. Of these, it {least.get(by, 'needs the least energy at its capacity')}."


def _sizing(best: Row, traffic: Traffic) -> list[str]:
    """How the number of replicas follows from the capacity, and what is uncertain about it."""
    per_s, least = number(best["capacity_per_s"], ".3g"), "at least " if best["at_least"] else ""
    needed = traffic.rate_per_s * (1 + traffic.headroom) / best["capacity_per_s"]
    fails = f"{_load(best | {'load_value': best['fails_at']})} are too many"
    replicas = f"{best['replicas']:,.0f} replicas" if best["replicas"] > 1 else "1 replica"
    most = "at most " if best["at_least"] and best["replicas"] > 1 else ""
    sizing = (
        f"One replica takes {least}{per_s} requests/s within the SLO: with {_load(best)}, {_share(best)} of the requests met it, "
        f"and {'no larger load was shown to miss it' if best['at_least'] else fails}. {traffic.rate_per_s:g}/s × "
        f"{1 + traffic.headroom:g} (headroom) / {per_s}/s = {number(needed, '.3g')}, so {most}{replicas}."
    )
    lines = [sizing]
    if best["decision"] != "pass":
        lines.append(
            f"The requests are too few to show that {traffic.attain * 100:g} % of them meet the SLO: run more."
        )
    elif not best["shown"]:
        lines.append(
            "The run does not show how its requests depend on each other, so the share has no interval: repeat the run, or confirm "
            "the rate with `loadgen search --over rate`."
        )
    if best["load_kind"] == "streams":
        lines.append(
            "A closed loop is not traffic: its rate is the lower bound of the throughput with so many requests in flight, and "
            "random arrivals at this rate sometimes put more in flight. Confirm it with `loadgen search --over rate`."
        )
    elif best["load_kind"] != "poisson":
        lines.append(f"Arrivals were {best['load_kind']}. The capacity with Poisson arrivals can be another one.")
    if best["mixed"]:
        lines.append("Its run mixed several budgets, so these are latencies under the mixture.")
    return lines


def _load(row: Row) -> str:
    """A load in words: `16 requests in flight` or `2 requests/s`."""
    return f"{row['load_value']:.4g} requests{' in flight' if row['load_kind'] == 'streams' else '/s'}"


def _share(row: Row) -> str:
    low, high = (number(row[f"good_share_{end}"], ".1%") for end in ("low", "high"))
    return number(row["good_share"], ".1%") + ("" if low == "–" else f" ({low} to {high})")


def _cost(best: Row) -> str:
    per, _, _, joules = advice.unit_costs(of_pass=best["accuracy"] > 0)
    usd = best["usd_per_1000"]
    cost = "The cost is unknown, because the number of GPUs is unknown."
    if not math.isnan(usd):
        per_hour, per_1000 = number(best["usd_per_hour"], ".3g"), number(usd, ".3g")
        cost = f"All replicas cost ${per_hour} per hour, which is ${per_1000} per 1,000 {per}s at this rate."
    known = not math.isnan(best[joules])
    energy = f" At its capacity, a {per} takes {number(best[joules], '.3g')} J." if known else ""
    return f"At this load it has {advice.quality(best)}. {cost}{energy} {advice.provenance(best)}"


def _beside(best: Row, row: Row, at: str = "") -> str:
    """Another deployment with its cost, accuracy and latency beside those of the best one."""
    usd, per_hour, median_s = (number(row[name], ".3g") for name in ("usd_per_1000", "usd_per_hour", "e2e_p50_s"))
    dollars = [] if usd == "–" else [f"${usd} per 1,000 (${per_hour} per hour)"]
    more = (row["accuracy"] - best["accuracy"]) * 100
    accuracy = [advice.points(more)] if best["accuracy"] > 0 else []
    return ", ".join([_deployment(row) + at, *dollars, *accuracy, f"median latency {median_s} s"])


def _stricter(best: Row, fit: pd.DataFrame, each_load: pd.DataFrame, required: Requirements) -> list[str]:
    """What one more point of accuracy, and half the latency, would cost."""
    out = []
    if best["accuracy"] > 0:
        row = _cheapest(fit[fit["accuracy"] >= best["accuracy"] + 0.01])
        more = _beside(best, row) if row else "no setting measured here has it"
        out.append(f"One more point of accuracy: {more}.")
    accuracy = best["accuracy"] if required.min_accuracy is None else required.min_accuracy
    fast = each_load[advice.fits(each_load, required) & (each_load["e2e_p50_s"] <= best["e2e_p50_s"] / 2)]
    row = _cheapest(fast[fast["accuracy"].ge(accuracy) | ~(best["accuracy"] > 0)])
    none = "no setting measured here has it at any load that was run"
    return [*out, f"Half the latency: {_beside(best, row, f', each at {_load(row)}') if row else none}."]


def _cheapest(rows: pd.DataFrame) -> Row | None:
    return next(iter(records(rows.sort_values(["usd_per_1000", "replicas"]))), None)


def _chance(fit: pd.DataFrame, traffic: Traffic, required: Requirements, evidence: Evidence) -> float:
    """Probability that the first setting reaches the accuracy, its replicas take the rate, and, if asked for, it costs least.

    Problems are drawn again, the same ones for every setting, which changes accuracies and throughputs. The capacity of an
    open loop has the noise between runs alone.
    """
    rng = np.random.default_rng(0)
    arms, rows = arms_of(fit, evidence.problems)
    rows = rows.assign(graded=rows["correct"].notna().astype(float))
    names = ("correct", "graded", "ok", "server_s")
    correct, answers, ok, server_s = resampled_sums(rows, names, len(fit))
    noise = noise_of_runs(arms, evidence.noise, DRAWS, rng)[1:]
    closed = (fit["load_kind"] == "streams").to_numpy()
    with np.errstate(divide="ignore", invalid="ignore"):
        per_replica = np.where(closed, ok / server_s, fit["capacity_per_s"].to_numpy()) / noise
        accuracy = np.where(graded(fit), correct / answers, 1.0)
        gpus = (
            np.ceil(traffic.rate_per_s * (1 + traffic.headroom) / per_replica) * fit["num_gpus"].fillna(1.0).to_numpy()
        )
        meets = accuracy >= (required.min_accuracy or 0.0)
        cost = np.where(meets, gpus / accuracy, np.inf)
    enough = fit["replicas"].iloc[0] * per_replica[:, 0] >= traffic.rate_per_s
    least = (cost[:, 0] <= cost.min(axis=1)) | (required.objective != "cost")
    return float((meets[:, 0] & enough & least).mean())
