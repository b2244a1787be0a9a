"""Find the repeats of a setting: runs that asked the same problems. Two halves of a problem set are not repeats.

This module does not know what is compared.
"""

import pandas as pd

from analysis.data.setting import SETTING
from analysis.noise import deviation

MIN_COMMON = 0.5
"""Runs are repeats where they have this share of the problems of the smallest of them in common."""
COLUMNS = ("e2e_s", "gpu_s")


def run_means(rows: pd.DataFrame, column: str) -> list[float]:
    """The mean of each run over the problems that all runs answered; empty where the runs are not repeats."""
    wide = rows.pivot_table(index="problem_id", columns="cell", values=column, observed=True)
    common = wide.dropna()
    if common.empty or len(common) < MIN_COMMON * wide.notna().sum().min():
        return []
    means: list[float] = common.mean().tolist()
    return means


def repeats(rows: pd.DataFrame) -> pd.DataFrame:
    """For each setting with several runs that are repeats: `runs`, and the deviation between them by column."""
    cells = rows.groupby(SETTING, observed=True, sort=False)["cell"].nunique()
    several = cells[cells > 1].index.to_frame(index=False)
    out = []
    for key, group in (
        rows.merge(several, on=SETTING).groupby(SETTING, observed=True, sort=False) if len(several) else []
    ):
        means = {column: run_means(group, column) for column in COLUMNS}
        if len(means["e2e_s"]) > 1:
            found = {f"deviation_{column}": deviation(values) for column, values in means.items()}
            out.append(dict(zip(SETTING, key, strict=True)) | {"runs": len(means["e2e_s"])} | found)
    return pd.DataFrame(out, columns=[*SETTING, "runs", *(f"deviation_{column}" for column in COLUMNS)])
