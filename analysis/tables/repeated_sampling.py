r"""Compute majority vote and pass@k over N samples of each problem, with their full cost.

A group of k answers costs the sum of its GPU-seconds and tokens, and takes as long as its slowest answer. All correct answers
are one candidate of the vote. Wrong answers are different candidates when their extracted answers differ after normalization
(`\dfrac{1}{2}` equals `\frac{1}{2}`). An output without an answer does not vote. In a tie the candidate that came first wins.
Values for 1 < k < N are means over seeded draws of k of the N samples; for k = 1 they are means over all samples, so that a
vote of one is pass@1. pass@k is the unbiased estimator. A group has no time of its slowest answer where a sample failed, or where
its samples did not run at the same time: k answers one after another, or in different runs, take longer than the slowest of them.

This module does not know how samples were generated.
"""

from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray
from scipy import special

from analysis import stats
from analysis.grading.normalize import normalize, without_spacing
from analysis.tables.distributions import ABOUT, about, usable
from analysis.tables.summary import KEY, named, ordered

DRAWS = 20  # of k samples for each problem; the remaining error is a fifth of the error between problems
Ints = NDArray[np.int64]
Floats = NDArray[np.float64]


def parallel(frame: pd.DataFrame) -> pd.DataFrame:
    """One row for each setting and k; k = 1 is a single answer. Empty where every problem has one sample."""
    rows = usable(frame, "problem_id", "sample", "answer", *COLUMNS[1:])
    rows = rows[rows["correct"].notna().to_numpy()]
    out: list[dict[str, Any]] = []
    if len(rows["sample"].unique()) > 1:
        for key, group in rows.groupby(KEY, observed=True, sort=False):
            out += [about(key, group) | row for row in _setting(group)]
    columns = [*KEY, *ABOUT, "k", "majority", "pass_at_k"]
    return ordered(pd.DataFrame(out, columns=list(out[0]) if out else columns))


def _setting(group: pd.DataFrame) -> list[dict[str, Any]]:
    """The rows of one setting, one for each k."""
    group = group.assign(vote=_votes(group), cell=pd.factorize(group["cell"])[0])
    wide = {c: group.pivot_table(index="problem_id", columns="sample", values=c, observed=True) for c in COLUMNS}
    whole = wide["vote"].dropna().index
    most = wide["vote"].shape[1]
    if most < 2 or len(whole) < stats.MIN_UNITS:
        return []
    grid = {c: table.reindex(whole).to_numpy(dtype=float) for c, table in wide.items()}
    return [_at(k, grid) for k in _sizes(most)]


COLUMNS = ("vote", "correct", "e2e_s", "gpu_s", "completion_tokens", "sent_s", "last_token_s", "cell")


def _sizes(most: int) -> list[int]:
    """1, 2, 4, … and the number of samples."""
    powers = [2**n for n in range(most.bit_length()) if 2**n < most]
    return [*powers, most]


def _votes(group: pd.DataFrame) -> Ints:
    """0 for a correct answer, a positive number for each different wrong answer, −1 for no answer."""
    answers = group["answer"].astype(object).where(group["answer"].notna(), None)
    answers = answers.map({answer: without_spacing(normalize(answer)) for answer in answers.dropna().unique()})
    codes = pd.factorize(answers)[0].astype(np.int64)
    return np.where(group["correct"] == 1, 0, np.where(codes < 0, -1, codes + 1))


def _at(k: int, grid: dict[str, Floats]) -> dict[str, Any]:
    problems, n = grid["vote"].shape
    groups = _groups(k, problems, n)
    picked = {
        name: np.stack([np.take_along_axis(values, chosen, axis=1) for chosen in groups])
        for name, values in grid.items()
    }
    won = np.mean([majority(votes) for votes in picked["vote"]], axis=0)
    together = picked["sent_s"].max(axis=2) < picked["last_token_s"].min(axis=2)
    together &= picked["cell"].max(axis=2) == picked["cell"].min(axis=2)
    slowest = picked["e2e_s"].max(axis=2)  # NaN where a sample failed
    right = np.nansum(grid["correct"], axis=1)
    row = {"k": k, "n": problems} | named("majority", stats.proportion_of_units(won, problems * n))
    row |= named("pass_at_k", stats.proportion_of_units(pass_at_k(n, right, k), problems * n))
    known = slowest[np.isfinite(slowest)]
    return row | {
        # The groups that overlap by chance are those with long answers, so that most groups have to.
        "e2e_s": float(known.mean()) if len(known) and together[np.isfinite(slowest)].mean() > 0.9 else np.nan,
        "gpu_s_per_problem": _mean_sum(picked["gpu_s"]),
        "tokens_per_problem": _mean_sum(picked["completion_tokens"]),
    }


def _groups(k: int, problems: int, n: int) -> list[Ints]:
    """Groups of k of the n samples of each problem, as column numbers."""
    everyone = np.broadcast_to(np.arange(n), (problems, n))
    if k == n:
        return [everyone]
    if k == 1:
        return [everyone[:, place : place + 1] for place in range(n)]
    rng = np.random.default_rng([8, k])
    return [rng.permuted(everyone, axis=1)[:, :k] for _ in range(DRAWS)]


def _mean_sum(values: Floats) -> float:
    """Mean over groups and problems of the sum over k samples; NaN where nothing was measured."""
    return float(np.nansum(values, axis=2).mean()) if np.isfinite(values).any() else np.nan


def majority(vote: Floats) -> Floats:
    """1 where the candidate with most votes is correct; rows are problems, columns are votes in order."""
    agree = (vote[:, :, None] == vote[:, None, :]).sum(axis=2)
    counts = np.where(vote >= 0, agree, 0)
    winner = np.take_along_axis(vote, counts.argmax(axis=1)[:, None], axis=1)[:, 0]
    right: Floats = ((winner == 0) & (counts.max(axis=1) > 0)).astype(float)
    return right


def pass_at_k(n: int, right: Floats, k: int) -> Floats:
    """Probability that at least one of k samples out of n is correct: 1 − C(n − right, k) / C(n, k)."""
    missed = special.comb(n - right, k) / special.comb(n, k)
    return np.asarray(1.0 - missed, dtype=np.float64)
