r"""Longer answers or more of them: majority vote and pass@k over N samples a problem, at their full cost.

Rules: a group of k answers costs the sum of its GPU-seconds and tokens and takes as long as its slowest. Votes are
counted over answers that grading holds equal: all right ones are one candidate, wrong ones differ by what was extracted,
in one notation (`\dfrac{1}{2}` is `\frac{1}{2}`), an answer without a box does not vote; a tie falls to the candidate that
came first. Numbers for k < N are means over seeded draws of k of the N samples; pass@k is the unbiased estimator.

Does not know: how samples were made.
"""

from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray
from scipy import special

from analysis import stats
from analysis.grading.normalize import normalize, without_spacing
from analysis.tables.distributions import ABOUT, usable
from analysis.tables.summary import KEY, named, ordered

DRAWS = 20  # of k samples, for each problem: the error this leaves is a fifth of the problems' own
Ints = NDArray[np.int64]
Floats = NDArray[np.float64]


def parallel(frame: pd.DataFrame) -> pd.DataFrame:
    """One row a setting and k; k = 1 is the single answer. Empty where no problem was asked twice."""
    rows = usable(frame)
    rows = rows[rows["correct"].notna().to_numpy()]
    out: list[dict[str, Any]] = []
    if len(rows["sample"].unique()) > 1:
        for key, group in rows.groupby(KEY, observed=True, sort=False):
            setting = dict(zip(KEY, key, strict=True)) | {name: group[name].iloc[0] for name in ABOUT}
            out += [setting | row for row in _setting(group)]
    columns = [*KEY, *ABOUT, "k", "majority", "pass_at_k"]
    return ordered(pd.DataFrame(out, columns=list(out[0]) if out else columns))


def _setting(group: pd.DataFrame) -> list[dict[str, Any]]:
    """Every k of one setting."""
    group = group.assign(vote=_votes(group))
    wide = {
        c: group.pivot_table(index="problem_id", columns="sample", values=c, observed=True) for c in COLUMNS
    }
    whole = wide["vote"].dropna().index
    most = wide["vote"].shape[1]
    if most < 2 or len(whole) < stats.SMALLEST:
        return []
    grid = {c: table.reindex(whole).to_numpy(dtype=float) for c, table in wide.items()}
    return [_at(k, grid) for k in _sizes(most)]


COLUMNS = ("vote", "correct", "e2e_s", "gpu_s", "completion_tokens")


def _sizes(most: int) -> list[int]:
    """1, 2, 4, … and all of them."""
    powers = [2**n for n in range(most.bit_length()) if 2**n < most]
    return [*powers, most]


def _votes(group: pd.DataFrame) -> Ints:
    """0 for a right answer, a number for each different wrong one, −1 for none."""
    answers = group["answer"].astype(object).where(group["answer"].notna(), None)
    answers = answers.map(
        {answer: without_spacing(normalize(answer)) for answer in answers.dropna().unique()}
    )
    codes = pd.factorize(answers)[0].astype(np.int64)
    return np.where(group["correct"] == 1, 0, np.where(codes < 0, -1, codes + 1))


def _at(k: int, grid: dict[str, Floats]) -> dict[str, Any]:
    vote = grid["vote"]
    problems, n = vote.shape
    rng = np.random.default_rng([8, k])
    draws = 1 if k == n else DRAWS
    won = slowest = spent = tokens = _zeros(problems)
    for _ in range(draws):
        chosen = (
            rng.permuted(np.broadcast_to(np.arange(n), (problems, n)), axis=1)[:, :k]
            if k < n
            else np.arange(n)[None]
        )
        picked = {
            name: np.take_along_axis(values, np.broadcast_to(chosen, (problems, k)), axis=1)
            for name, values in grid.items()
        }
        won = won + majority(picked["vote"]) / draws
        slowest = slowest + np.nanmax(np.nan_to_num(picked["e2e_s"]), axis=1) / draws
        spent = spent + np.nansum(picked["gpu_s"], axis=1) / draws
        tokens = tokens + np.nansum(picked["completion_tokens"], axis=1) / draws
    right = np.nansum(grid["correct"], axis=1)
    row = {"k": k, "n": problems} | named("majority", stats.mean(won))
    row |= named("pass_at_k", stats.mean(pass_at_k(n, right, k)))
    return row | {
        "e2e_s": slowest.mean(),
        "gpu_s_per_problem": spent.mean(),
        "tokens_per_problem": tokens.mean(),
    }


def _zeros(n: int) -> Floats:
    return np.zeros(n)


def majority(vote: Floats) -> Floats:
    """1 where the candidate with most votes is the right one; rows are problems, columns votes in order."""
    agree = (vote[:, :, None] == vote[:, None, :]).sum(axis=2)
    counts = np.where(vote >= 0, agree, 0)
    winner = np.take_along_axis(vote, counts.argmax(axis=1)[:, None], axis=1)[:, 0]
    right: Floats = ((winner == 0) & (counts.max(axis=1) > 0)).astype(float)
    return right


def pass_at_k(n: int, right: Floats, k: int) -> Floats:
    """Chance that k of n samples hold a right one: 1 − C(n − right, k) / C(n, k)."""
    missed = special.comb(n - right, k) / special.comb(n, k)
    return np.asarray(1.0 - missed, dtype=np.float64)
