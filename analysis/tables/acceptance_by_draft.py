"""Compute the acceptance of each run by draft position, from what the load generator read of the server's counters.

The measures are those of docs/metrics.md. This module does not know how they are counted (loadgen/measure/acceptance.py), and
says nothing about runs without `/metrics`: acceptance by position in the output is in analysis/tables/speculation.py.
"""

from collections.abc import Iterator
from typing import Any

import pandas as pd

from analysis.data.frame import Study
from analysis.data.setting import CONDITIONS
from analysis.format import first
from loadgen.record import RunInfo

ARM = ["params_b", "model", "config", *CONDITIONS, "speculation", "source", "cell"]
RATIOS = ["tokens_per_step", "tokens_per_drafting_step", "acceptance_rate", "accepted_fraction"]
AT_POSITION = {"accepted": "accepted_at_position", "accepted_per_step": "accepted_at_position_per_step"}
"""Column of a draft position -> the run's list by position."""


def acceptance_by_draft(study: Study) -> pd.DataFrame:
    """One row for each run and draft position, counted from 1; empty where no run reports drafts by position."""
    rows = [
        row for cell, group in study.frame.groupby("cell", observed=True) for row in _of_run(study, str(cell), group)
    ]
    return pd.DataFrame(rows, columns=[*ARM, *RATIOS, "draft_position", *AT_POSITION])


def draft_tokens(run: RunInfo) -> int | None:
    """The number of draft tokens in a step, as the server reports it or as its counters show it."""
    counted = len((run.summary.get("speculation") or {}).get("accepted_at_position", []))
    return run.server.get("draft_tokens") or counted or None


def numbers_of_drafts(study: Study) -> dict[str, int]:
    """The number of draft tokens of each configuration whose runs report it."""
    cells = study.frame[["config", "cell"]].drop_duplicates().astype(str)
    found = {config: draft_tokens(study.runs[cell]) for config, cell in cells.itertuples(index=False)}
    return {config: number for config, number in found.items() if number}


def _of_run(study: Study, cell: str, group: pd.DataFrame) -> Iterator[dict[str, Any]]:
    found = study.runs[cell].summary.get("speculation") or {}
    about = first(group, ARM) | {name: found.get(name) for name in RATIOS}
    lists = [found.get(name, []) for name in AT_POSITION.values()]
    for position, shares in enumerate(zip(*lists, strict=True), 1):
        yield about | {"draft_position": position} | dict(zip(AT_POSITION, shares, strict=True))
