"""What a draft is worth along the generation: tokens a step, by position in the output.

Rules: from `chunks.bin` where a run kept it (tokens in each token event, by how many came before it; the first event is
prefill's), else from each request's mean against its length, and the figure says which. With speculation one engine step
makes one chunk, unless chunks were merged under load. Reading stops when a run has shown enough.

Does not know: how chunks are stored (loadgen.record).
"""

from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from analysis import stats
from analysis.data.frame import Study
from analysis.data.setting import CONDITIONS
from analysis.tables.distributions import usable
from loadgen.chunks import CHUNKS, read_chunks

EDGES = np.array([0, 256, 512, 1024, 2048, 4096, 8192, 16384, 1 << 30], dtype=float)
SMALLEST_GROUP = 10  # requests below which a bin is not drawn
USUAL_DRAFTS = 5  # num_speculative_tokens, where the manifest does not say
MOST_MERGED = 0.05  # of requests' bins with a chunk larger than a step: beyond, chunks tell nothing of drafts
ENOUGH_CALLS = 200  # of a run: about a second of reading, and intervals of a few per cent
ARM = ["params_b", "model", "config", *CONDITIONS, "speculation", "source"]
BY_LENGTH = (
    "Each request's mean acceptance length (tokens / steps) against the length of its output, as the server "
    "reports it; bars: 95 %."
)
BY_POSITION = (
    f"Tokens in each token event against the tokens before it, over up to {ENOUGH_CALLS} requests a run; bars: 95 %, "
    "resampled by request. Chunks merged under load count as one step."
)


def acceptance(study: Study) -> pd.DataFrame:
    """One row an arm and bin: `position per_step` with its interval."""
    rows = usable(study.frame)
    drafting = (rows["speculation"].astype(str) != "off").to_numpy() & rows["ok"].to_numpy()
    rows = rows[drafting & ~rows["derived"].to_numpy()]
    if rows.empty:
        return pd.DataFrame(columns=[*ARM, "position", "per_step"])
    steps = [_of_run(study, str(cell), group) for cell, group in rows.groupby("cell", observed=True)]
    found = pd.concat(steps, ignore_index=True)
    table = _binned(found, BY_POSITION) if len(found) else _binned(_requests(rows), BY_LENGTH)
    return table.sort_values([*ARM, "position"]).reset_index(drop=True) if len(table) else table


def _of_run(study: Study, cell: str, group: pd.DataFrame) -> pd.DataFrame:
    """A run's steps by bin; none where its chunks are no steps: merged on the way, they hold more than a step can."""
    settings = study.runs[cell].server.get("configuration") or {}
    drafts = (settings.get("speculative-config") or {}).get("num_speculative_tokens", USUAL_DRAFTS)
    found = _steps(study.folder(cell) / CHUNKS, group)
    merged = found["largest"].gt(drafts + 1).mean() if len(found) else 0.0
    return found if merged <= MOST_MERGED else found.iloc[:0]


def _steps(path: Path, group: pd.DataFrame) -> pd.DataFrame:
    """Tokens and steps of each request of a run, by bin."""
    known, rows = set(group["seq"].dropna().astype(int)), []
    arm = {name: group[name].iloc[0] for name in ARM}
    calls = read_chunks(path) if path.exists() else iter(())
    for call in islice((call for call in calls if call.seq in known), ENOUGH_CALLS):
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
                "tokens": made[b],
                "steps": steps[b],
                "position": where[b] / steps[b],
                "largest": float(tokens[place == b].max()),
            }
            for b in np.flatnonzero(steps)
        ]
    return pd.DataFrame([arm | row for row in rows])


def _requests(rows: pd.DataFrame) -> pd.DataFrame:
    """One row a request: its tokens and its steps, by its length."""
    tokens = rows["completion_tokens"]
    steps = rows["num_spec_steps"].fillna(rows["chunks"])
    return rows[ARM].assign(
        unit=rows["problem_id"].astype(str),
        bin=np.searchsorted(EDGES, tokens.fillna(0), side="right"),
        tokens=rows["mean_acceptance_length"] * steps,
        steps=steps.where(steps > 0),
        position=tokens,
    )


def _binned(found: pd.DataFrame, how: str) -> pd.DataFrame:
    out: list[dict[str, Any]] = []
    for (*arm, place), group in found.dropna(subset=["tokens", "steps"]).groupby(
        [*ARM, "bin"], observed=True, dropna=False
    ):
        if len(group) < SMALLEST_GROUP:
            continue
        ratio = stats.ratio(group["tokens"], group["steps"])
        ends = {"per_step": ratio.estimate, "per_step_low": ratio.low, "per_step_high": ratio.high}
        place_row = {"bin": place, "position": float(group["position"].mean()), "n": len(group), "how": how}
        out.append(dict(zip(ARM, arm, strict=True)) | place_row | ends)
    return pd.DataFrame(out, columns=list(out[0]) if out else [*ARM, "position", "per_step"])
