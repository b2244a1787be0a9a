"""What a draft is worth along the generation: tokens a step, by position in the output.

Rules: from `chunks.bin` where a run kept it (tokens in each token event against their position), else from each
request's mean against its length, and the figure says which. With speculation one engine step makes one chunk, unless
chunks were merged under load.

Does not know: how chunks are stored (loadgen.record).
"""

import numpy as np
import pandas as pd

from analysis import stats
from analysis.frame import Study
from analysis.shapes import usable

EDGES = np.array([0, 256, 512, 1024, 2048, 4096, 8192, 16384, 1 << 30], dtype=float)
SMALLEST_GROUP = 10  # requests below which a bin is not drawn
BY_LENGTH = "Each request's mean acceptance length (tokens / steps) against the length of its output, as the server or the chunks report it; bars: 95 %."


def acceptance(study: Study) -> pd.DataFrame:
    """One row an arm and bin: `position per_step` with its interval."""
    return by_length(study.frame)


def by_length(frame: pd.DataFrame) -> pd.DataFrame:
    """Mean acceptance length of requests, by output length."""
    rows = usable(frame)
    rows = rows[
        (rows["speculation"].astype(str) != "off").to_numpy()
        & rows["ok"].to_numpy()
        & ~rows["derived"].to_numpy()
    ]
    tokens, chunks = rows["completion_tokens"], rows["chunks"]
    per_step = rows["mean_acceptance_length"].fillna(tokens / chunks.where(chunks > 0))
    rows = rows.assign(per_step=per_step, bin=np.searchsorted(EDGES, tokens.fillna(0)))
    out = []
    for (model, config, load, place), group in rows.groupby(
        ["model", "config", "load", "bin"], observed=True
    ):
        if len(group) < SMALLEST_GROUP:
            continue
        mean = stats.mean(stats.by_unit(group, ["per_step"])["per_step"])
        out.append(
            {
                "params_b": group["params_b"].iloc[0],
                "model": model,
                "config": config,
                "load": load,
                "position": group["completion_tokens"].mean(),
            }
            | {"per_step": mean.estimate, "per_step_low": mean.low, "per_step_high": mean.high, "bin": place}
            | {
                "n": len(group),
                "source": group["source"].iloc[0],
                "speculation": group["speculation"].iloc[0],
                "how": BY_LENGTH,
            }
        )
    if not out:
        return pd.DataFrame(columns=["model", "config", "position", "per_step"])
    return (
        pd.DataFrame(out)
        .sort_values(["params_b", "model", "config", "load", "position"])
        .reset_index(drop=True)
    )
