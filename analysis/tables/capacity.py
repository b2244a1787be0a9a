"""Find how much load a setting can take within an SLO, and how many replicas a given rate needs.

A load *passes* where the interval of the share of requests within the SLO lies at or above the share to attain, *fails* where
it lies below, and is *undecided* otherwise. A search for the same SLO has decided this with its repeated looks taken into
account, so its decision is used where there is one. Where a run does not show how its requests depend on each other and its share has no
interval, the interval of independent requests decides, which is the narrowest possible one, and the result is marked as not
shown. The capacity of a setting is its highest passing load below its lowest
failing load, and never more than the largest load that was run. Of an open loop it is the rate, of a closed loop the
throughput at so many streams, at the lower bound of its interval.

This module does not know accuracy requirements or words.
"""

import math
from typing import Any

import numpy as np
import pandas as pd

from analysis import stats
from analysis.data.searches import Search
from analysis.data.setting import SETTING, with_load_points
from analysis.format import records

CHOICE = [name for name in SETTING if name != "load"]
"""A setting without its load: what is deployed."""
FOUND = ["decision", "shown", "limit_low", "limit_high"]


def load_points(table: pd.DataFrame, searches: dict[str, Search], slo: dict[str, float], attain: float) -> pd.DataFrame:
    """The rows of the summary that were run at a constant load, sorted by load, with the decision on each.

    A request of an open loop competes with those of the other budgets of its run, which came at a rate of their own, so a run
    of several budgets says nothing about the capacity at one of them.
    """
    if table.empty:
        return table.reindex(columns=[*CHOICE, "load_kind", "load_value", *FOUND])
    rows = with_load_points(table)
    single = (rows["load_kind"] == "streams") | ~rows["mixed"]
    usable = (rows["judged"] != "INVALID") & rows["trusted"] & single & rows["load_value"].gt(0)
    rows = rows[usable].sort_values("load_value", kind="stable").reset_index(drop=True)
    searched = _searched(searches, slo, attain)
    found = [_decide(row, searched, attain) for row in records(rows)]
    return rows.join(pd.DataFrame(found, columns=FOUND)).assign(attained=rows["good_share"] >= attain)


Found = tuple[str, bool, float, float]
"""The decision on a load, whether it is shown, and the interval of the limit where a search has found one."""


def _searched(searches: dict[str, Search], slo: dict[str, float], attain: float) -> dict[str, Found]:
    """What searches for this SLO have found for each cell."""
    found: dict[str, Found] = {}
    for prefix, search in searches.items():
        if search.slo == slo and search.attain == attain:
            interval = search.limit.interval if search.limit else (None, None)
            limit = [math.nan if bound is None else bound for bound in interval]
            found |= {
                prefix + run: (decision, True, limit[0], limit[1]) for run, decision in search.decisions().items()
            }
    return found


def _decide(row: dict[str, Any], searched: dict[str, Found], attain: float) -> Found:
    found = [searched[cell] for cell in row["cells"].split(", ") if cell in searched]
    if found:
        agree = len({one[0] for one in found}) == 1
        return (found[0][0] if agree else "undecided", *found[-1][1:])
    low, high = row["good_share_low"], row["good_share_high"]
    shown = not math.isnan(low)
    if not shown:
        _, low, high = stats.proportion(row["good_share"] * row["n"], row["n"])
    decision = "pass" if low >= attain else "fail" if high < attain else "undecided"
    return decision, shown, math.nan, math.nan


def capacities(points: pd.DataFrame) -> pd.DataFrame:
    """One row for each setting without its load: its row of the summary at its capacity, or at its lowest load where that fails.

    `capacity_per_s` is in requests per second, and `at_least` says that no larger load fails. Where no load passes, a load counts
    whose share of good requests is large enough but whose interval is not; its decision stays `undecided`. Where a setting was
    run in open and in closed loops, Poisson arrivals come first, because they are nearest to traffic.
    """
    out = []
    for _, rows in points.groupby(CHOICE, observed=True, sort=False):
        kinds = sorted(rows["load_kind"].unique(), key=lambda kind: (kind == "streams", kind != "poisson"))
        out.append(_capacity(rows[rows["load_kind"] == kinds[0]].sort_values("load_value")))
    added = ["capacity_per_s", "at_least", "fails_at", "loads"]
    return pd.DataFrame(out, columns=[*points.columns, *added])


def _capacity(rows: pd.DataFrame) -> dict[str, Any]:
    """The capacity from the loads of one setting and kind, which are in ascending order."""
    # A search also knows of loads whose runs are INVALID, because the server could not follow.
    failed = rows["load_value"].where(rows["decision"] == "fail")
    fails_at = float(np.fmin(failed.min(), rows["limit_high"].min()))
    below = rows[~(rows["load_value"] >= fails_at)]
    passing = below[below["decision"] == "pass"]
    passing = passing if len(passing) else below[below["attained"]]
    row = records(passing.tail(1) if len(passing) else rows.head(1))[0]
    return row | {
        "capacity_per_s": per_replica(row) if len(passing) else 0.0,
        "at_least": math.isnan(fails_at),
        "fails_at": fails_at,
        "loads": len(rows),
    }


def per_replica(row: dict[str, Any]) -> float:
    """Requests per second that one replica takes at a load: the rate that was asked, or the lower bound of the throughput.

    A server that answered fewer requests than it was asked for, by more than random arrivals explain, takes what it answered.
    """
    asked, answered = float(row["load_value"]), float(row["requests_per_s"])
    if row["load_kind"] != "streams":
        return answered if answered < asked * (1 - stats.Z / math.sqrt(row["n"])) else asked
    return answered if math.isnan(row["requests_per_s_low"]) else float(row["requests_per_s_low"])


def sized(rows: pd.DataFrame, rate: float, headroom: float, price_per_gpu_hour: float) -> pd.DataFrame:
    """Add what a rate needs of each row: `replicas gpus usd_per_hour usd_per_1000`; rows without a capacity are left out.

    GPUs are paid for whether they are busy or not, so dollars are those of all replicas, divided among the correct answers to
    the requests at this rate, or among all requests where no answer is known to be correct.
    """
    rows = rows[rows["capacity_per_s"].gt(0)]
    replicas = np.ceil((rate * (1 + headroom) / rows["capacity_per_s"]).round(9))
    per_hour = replicas * rows["num_gpus"] * price_per_gpu_hour
    answers = rows["accuracy"].where(rows["accuracy"].gt(0), 1.0)
    return rows.assign(
        replicas=replicas,
        gpus=replicas * rows["num_gpus"],
        usd_per_hour=per_hour,
        usd_per_1000=per_hour / 3600 / (rate * answers) * 1000,
    )
