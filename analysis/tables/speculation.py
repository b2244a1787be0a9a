"""Compute the acceptance of draft tokens: tokens for each engine step, by position in the output and by budget.

The source is `chunks.bin` where a run kept it: the tokens in each token event, by the number of tokens before it. The first
event comes from prefill and is left out. Otherwise the source is each request's number of accepted tokens, by the length of its
output. The figure says which source was used. With speculation one engine step makes one chunk, unless chunks were merged
under load. At most ENOUGH_REQUESTS requests of a run are read. Where chunks stand for steps, a histogram says how many draft
tokens the steps accepted.

The acceptance by draft position is what the load generator read of the server's counters (`/metrics`). A run without them has none.

This module does not know how chunks are stored (loadgen.chunks does), or how the server's counters are evaluated
(loadgen/measure/acceptance.py).
"""

from collections.abc import Iterator
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from analysis import stats
from analysis.data.frame import Study
from analysis.data.setting import CONDITIONS
from analysis.format import first
from analysis.tables.distributions import usable
from loadgen.chunks import CHUNKS, read_chunks
from loadgen.record import RunInfo

EDGES = np.array([0, 256, 512, 1024, 2048, 4096, 8192, 16384, 1 << 30], dtype=float)
MIN_REQUESTS = 10  # a bin with fewer requests is not shown
DEFAULT_DRAFT_TOKENS = 5  # num_speculative_tokens where the manifest does not contain it
MAX_MERGED = 0.05  # with a larger share of merged chunks, a chunk does not stand for a step
ENOUGH_REQUESTS = 200  # read from each run: takes about a second and gives intervals of a few per cent
WIDEST = 64  # accepted draft tokens that a histogram distinguishes
ARM = ["params_b", "model", "config", *CONDITIONS, "speculation", "source"]
REQUEST = ["cell", "seq", "problem_id", "ok", "derived", "completion_tokens", "chunks"]
REQUEST += ["num_accepted_draft_tokens"]
"""What is read of each request."""
BY_LENGTH = (
    "Tokens per engine step of each request, from the accepted tokens that the server reports, by the length of its "
    "output. Bars: 95 % intervals."
)
BY_POSITION = (
    f"Tokens in each token event, by the number of tokens before it, over up to {ENOUGH_REQUESTS} requests of each run. "
    "Bars: 95 % intervals over requests. Chunks that were merged under load count as one step."
)
RATIOS = ["tokens_per_step", "tokens_per_drafting_step", "acceptance_rate", "accepted_fraction"]
AT_POSITION = {"accepted": "accepted_at_position", "accepted_per_step": "accepted_at_position_per_step"}
"""Column of a draft position -> the run's list by position."""


def acceptance(study: Study) -> dict[str, pd.DataFrame]:
    """Tokens per step by position in the output and by budget, and how many draft tokens the steps accepted."""
    rows = usable(study.frame, *REQUEST)
    speculative = (rows["speculation"].astype(str) != "off").to_numpy() & rows["ok"].to_numpy()
    rows = rows[speculative & ~rows["derived"].to_numpy()]
    steps = [_of_run(study, str(cell), group) for cell, group in rows.groupby("cell", observed=True)]
    found = pd.concat(steps, ignore_index=True) if steps else pd.DataFrame()
    how, requests = (BY_POSITION, found) if len(found) else (BY_LENGTH, _requests(rows))
    return {
        "acceptance": _binned(requests, "bin", how),
        "acceptance_by_budget": _binned(requests, "budget", how),
        "accepted_drafts": _histogram(found),
    }


def _of_run(study: Study, cell: str, group: pd.DataFrame) -> pd.DataFrame:
    """A run's steps by bin; empty where too many of its chunks were merged and hold more tokens than one step can."""
    drafts = draft_tokens(study.runs[cell]) or DEFAULT_DRAFT_TOKENS
    found = _steps(study.folder(cell) / CHUNKS, group)
    merged = found["largest"].gt(drafts + 1).mean() if len(found) else 0.0
    return found if merged <= MAX_MERGED else found.iloc[:0]


def _steps(path: Path, group: pd.DataFrame) -> pd.DataFrame:
    """Tokens and steps of each request of a run, by bin of positions."""
    known, rows = set(group["seq"].dropna().astype(int)), []
    arm, budgets = first(group, ARM), dict(zip(group["seq"], group["budget"], strict=True))
    calls = read_chunks(path) if path.exists() else iter(())
    for call in islice((call for call in calls if call.seq in known), ENOUGH_REQUESTS):
        tokens = np.asarray(call.tokens[1:], dtype=float)
        before = np.cumsum(np.asarray(call.tokens, dtype=float))[:-1]
        place = np.searchsorted(EDGES, before, side="right")
        width = len(EDGES) + 1
        made, steps = np.bincount(place, tokens, width), np.bincount(place, minlength=width)
        where = np.bincount(place, before, width)
        rows += [
            {
                "unit": call.seq,
                "bin": b,
                "budget": budgets[call.seq],
                "tokens": made[b],
                "steps": steps[b],
                "position": where[b] / steps[b],
                "largest": float(tokens[place == b].max()),
                "accepted": np.bincount(np.clip(tokens[place == b].astype(int) - 1, 0, WIDEST), minlength=WIDEST + 1),
            }
            for b in np.flatnonzero(steps)
        ]
    return pd.DataFrame([arm | row for row in rows])


def _requests(rows: pd.DataFrame) -> pd.DataFrame:
    """One row for each request: its tokens and steps after the first token, with the bin of its length.

    A step emits one token that was not drafted, so it counts also where nothing was drafted.
    """
    tokens = rows["completion_tokens"]
    steps = tokens - 1 - rows["num_accepted_draft_tokens"]
    return rows[[*ARM, "budget"]].assign(
        unit=rows["problem_id"].astype(str),
        bin=np.searchsorted(EDGES, tokens.fillna(0), side="right"),
        tokens=tokens - 1,
        steps=steps.where(steps > 0),
        position=tokens,
    )


def _binned(found: pd.DataFrame, by: str, how: str) -> pd.DataFrame:
    """One row for each arm and value of `by`: `per_step` with its interval over requests."""
    # A request has a row for each bin that it reaches.
    parts = [*ARM, by, "unit"]
    sums = found.dropna(subset=["tokens", "steps"]).groupby(parts, observed=True, dropna=False)
    whole = sums.agg({"tokens": "sum", "steps": "sum", "position": "mean"}).reset_index()
    out: list[dict[str, Any]] = []
    for (*arm, value), group in whole.groupby([*ARM, by], observed=True, dropna=False):
        if len(group) < MIN_REQUESTS:
            continue
        ratio = stats.ratio(group["tokens"], group["steps"])
        ends = {"per_step": ratio.estimate, "per_step_low": ratio.low, "per_step_high": ratio.high}
        about = {by: value, "position": float(group["position"].mean()), "n": len(group), "how": how}
        out.append(dict(zip(ARM, arm, strict=True)) | about | ends)
    return pd.DataFrame(out, columns=list(out[0]) if out else [*ARM, by, "position", "per_step"])


def _histogram(found: pd.DataFrame) -> pd.DataFrame:
    """One row for each arm, budget, bin of positions and number of accepted draft tokens: the share of the steps."""
    out: list[dict[str, Any]] = []
    parts = [*ARM, "budget", "bin"]
    for key, group in found.groupby(parts, observed=True, dropna=False) if len(found) else ():
        counts = np.sum(group["accepted"].tolist(), axis=0)
        about = {"position": float(group["position"].mean()), "steps": counts.sum(), "n": len(group)}
        about |= dict(zip(parts, key, strict=True))
        shares = np.trim_zeros(counts / counts.sum(), "b")
        out += [about | {"accepted": number, "share": share} for number, share in enumerate(shares)]
    return pd.DataFrame(out, columns=[*parts, "position", "accepted", "share", "steps", "n"])


def acceptance_by_draft(study: Study) -> pd.DataFrame:
    """One row for each run and draft position, counted from 1; empty where no run reports drafts by position."""
    rows = [
        row for cell, group in study.frame.groupby("cell", observed=True) for row in _positions(study, str(cell), group)
    ]
    return pd.DataFrame(rows, columns=[*ARM, "cell", *RATIOS, "draft_position", *AT_POSITION])


def draft_tokens(run: RunInfo) -> int | None:
    """The number of draft tokens in a step, as the server reports it or as its counters show it."""
    counted = len((run.summary.get("speculation") or {}).get("accepted_at_position", []))
    return run.server.get("draft_tokens") or counted or None


def numbers_of_drafts(study: Study) -> dict[str, int]:
    """The number of draft tokens of each configuration whose runs report it."""
    cells = study.frame[["config", "cell"]].drop_duplicates().astype(str)
    found = {config: draft_tokens(study.runs[cell]) for config, cell in cells.itertuples(index=False)}
    return {config: number for config, number in found.items() if number}


def _positions(study: Study, cell: str, group: pd.DataFrame) -> Iterator[dict[str, Any]]:
    found = study.runs[cell].summary.get("speculation") or {}
    about = first(group, [*ARM, "cell"]) | {name: found.get(name) for name in RATIOS}
    lists = [found.get(name, []) for name in AT_POSITION.values()]
    for position, shares in enumerate(zip(*lists, strict=True), 1):
        yield about | {"draft_position": position} | dict(zip(AT_POSITION, shares, strict=True))
