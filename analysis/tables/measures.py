"""Estimate the measures of one side of a comparison that do not belong to single problems: percentiles, throughput and goodput.

A percentile is there where its sample carries it, by the same rule as everywhere. Throughput is the rate of successes under the
steady load, and goodput that of the requests within the SLO. The error of a measure is the standard error of its logarithm. Where
the requests depend on each other too much for an interval, the measure has none and the comparison cannot tell.

This module does not know gates.
"""

import math
from typing import NamedTuple

import numpy as np
import pandas as pd

from analysis import stats
from analysis.data.setting import dependence
from analysis.tables.summary import good_share, meets
from loadgen.measure.quantiles import LEVELS, least_sample

RATES = ("throughput", "goodput")
"""Measures of which a lower value is worse."""
PERCENTILES = tuple(f"{metric}.{level}" for metric in ("ttft", "tpot", "e2e") for level in LEVELS)


class Estimate(NamedTuple):
    """A measure of one side, and the standard error of its logarithm."""

    value: float
    error: float


def estimate(rows: pd.DataFrame, measure: str, slo: dict[str, float]) -> Estimate | None:
    """One of PERCENTILES or RATES over the requests of a setting; None where it was not measured."""
    rows = rows.sort_values(["cell", "sent_s"], kind="stable")
    if measure not in RATES:
        return _percentile(rows, *measure.split("."))
    units = rows.assign(ok=rows["ok"].astype(float)).groupby("problem_id", observed=True)[["ok", "server_s"]].sum()
    rate = _estimate(stats.ratio(units["ok"], units["server_s"]))
    if measure == "throughput" or rate is None:
        return rate
    good = meets(rows, slo)
    share = _estimate(good_share(rows, good))
    if share is None:
        return None
    return Estimate(rate.value * float(good.sum() / rows["ok"].sum()), math.hypot(rate.error, share.error))


def _percentile(rows: pd.DataFrame, metric: str, level: str) -> Estimate | None:
    values, p = rows[f"{metric}_s"].where(rows["ok"]), LEVELS[level]
    if values.notna().sum() < least_sample(p):
        return None
    units = pd.factorize(rows["problem_id"])[0].astype(np.int64)
    return _estimate(stats.percentile(values, p, dependence(str(rows["load"].iloc[0])), units))


def _estimate(found: stats.Interval) -> Estimate | None:
    """An interval on the scale of logarithms; an error that is not known is infinite."""
    if not found.estimate > 0:
        return None
    known = found.low > 0 and math.isfinite(found.high)
    return Estimate(found.estimate, math.log(found.high / found.low) / 2 / stats.Z if known else math.inf)
