"""Find up to which load speculation pays, and the best number of draft tokens at each load.

The speed-up is that of tables/pairs.py: the same problems with and without speculation, with the noise between runs in its interval.
Speculation *stops paying* at the smallest load at which the speed-up falls to 1. Between two loads, the logarithm of the
speed-up is interpolated over the logarithm of the load. The bounds are where the bounds of the speed-up fall to 1. A setting that is slower
at its smallest load stops paying at 0, one that is faster at all its loads at infinity: nothing is extrapolated.

This module does not know which drafter a configuration has, or what is recommended.
"""

import itertools
import math
from collections.abc import Iterable, Mapping
from typing import Any

import numpy as np
import pandas as pd

from analysis.data.setting import setting, with_load_points
from analysis.format import first, number, records
from analysis.tables.capacity import CHOICE

BOUNDS = ("", "_low", "_high")
ARM = [*CHOICE, "load_kind"]
STOPS = ["stops_at", "stops_at_low", "stops_at_high"]
CROSSOVERS = [*ARM, "base", "speculation", "params_b", *STOPS, "smallest_load", "largest_load", "loads"]
SAME = [*(name for name in ARM if name != "config"), "load", "load_value", "base", "speculation"]
BEST = [*SAME, "params_b", "draft_tokens", "config", "speedup", "speedup_low", "speedup_high", "as_good"]


def crossing(points: Iterable[tuple[float, float]]) -> float:
    """The load at which a speed-up falls to 1, from pairs of load and speed-up; NaN where no speed-up is known."""
    known = sorted((load, math.log(speedup)) for load, speedup in points if speedup > 0)
    if not known:
        return math.nan
    if known[0][1] < 0:
        return 0.0
    for (low, above), (high, below) in itertools.pairwise(known):
        if below < 0:
            return float(low * (high / low) ** (above / (above - below)))
    return math.inf


def speedups(pairs: pd.DataFrame) -> pd.DataFrame:
    """The rows of the table `speculation` at a constant load, with the kind and the size of the load."""
    if pairs.empty:
        return pairs.assign(load_kind="", load_value=np.nan)
    rows = with_load_points(pairs)
    return rows[rows["load_value"] > 0].sort_values("load_value", kind="stable")


def crossovers(pairs: pd.DataFrame) -> pd.DataFrame:
    """One row for each setting with speculation, without its load."""
    out = []
    rows = speedups(pairs)
    for _, arm in rows.groupby(ARM, observed=True, sort=False, dropna=False) if len(rows) else ():
        loads = arm["load_value"]
        stops = [crossing(zip(loads, arm[f"speedup{bound}"], strict=True)) for bound in BOUNDS]
        ends = {"smallest_load": loads.min(), "largest_load": loads.max(), "loads": len(loads)}
        about = first(arm, [*ARM, "base", "speculation", "params_b"])
        out.append(about | dict(zip(STOPS, stops, strict=True)) | ends)
    return pd.DataFrame(out, columns=CROSSOVERS)


def beyond(table: pd.DataFrame, found: pd.DataFrame) -> "pd.Series[bool]":
    """Which settings of the summary speculate at a load beyond the one at which it stops paying."""
    rows = with_load_points(table[[*CHOICE, "load"]]).merge(found[[*ARM, "stops_at"]], on=ARM, how="left")
    return pd.Series((rows["load_value"] > rows["stops_at"].astype(float)).to_numpy(), index=table.index)


def words(row: dict[str, Any]) -> str:
    """Where the speculation of a setting stops paying."""
    at, low, high = (number(row[name], ".3g") for name in STOPS)
    unit = "in flight" if row["load_kind"] == "streams" else "requests per second"
    where = f"stops paying at {at} {unit}" if row["stops_at"] else "pays at no load that was run"
    return f"{setting(row)} {where} (95 % interval of that load: {low} to {high} {unit})"


def best_draft_tokens(pairs: pd.DataFrame, numbers: Mapping[str, int]) -> pd.DataFrame:
    """One row for each method and load whose number of draft tokens was varied: the number with the largest speed-up.

    That number is 0 where speculation is slower with every number. `as_good` are the other numbers whose speed-up lies within the
    interval of the best one. `numbers` has the draft tokens of each configuration. Configurations whose names differ only in
    `-kN` are one method.
    """
    out = []
    rows = speedups(pairs)
    if rows.empty:
        return pd.DataFrame(columns=BEST)
    family = rows["config"].astype(str).str.replace(r"-k\d+", "", regex=True)
    rows = rows.assign(draft_tokens=rows["config"].map(numbers).astype(float), family=family)
    rows = rows[rows["draft_tokens"].notna()]
    for _, arms in rows.groupby([*SAME, "family"], observed=True, sort=False, dropna=False):
        if len(arms) < 2:
            continue
        best = records(arms.sort_values("speedup", ascending=False))[0]
        near = arms[(arms["speedup"] >= best["speedup_low"]) & (arms["config"] != best["config"])]
        as_good = ", ".join(f"{tokens:.0f}" for tokens in sorted(near["draft_tokens"]))
        pays = {} if best["speedup"] > 1 else {"draft_tokens": 0.0}
        out.append(best | {"as_good": as_good} | pays)
    return pd.DataFrame(out, columns=BEST)
