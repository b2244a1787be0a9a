"""Finds the most frequent error texts of a run: what the server or the connection said where requests failed.

Texts that differ only in numbers, such as a request id or a time, count as one; the first of them is shown.

This module does not know which errors count against a run (see `verdict`).
"""

import re
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from loadgen.record import RECORDS, RunInfo, read_records

SHOWN = 3
CHARACTERS = 200
MOST_KINDS = 10_000
"""Further kinds of texts are not counted, so that memory is bounded."""
_VARIABLE = re.compile(r"[0-9a-f]*[0-9][0-9a-f-]*", re.IGNORECASE)


def frequent_errors(folder: Path) -> list[dict[str, Any]]:
    """Return `count`, `outcome` and `text` of the most frequent error texts of the measured requests."""
    counts: Counter[tuple[str, str]] = Counter()
    first: dict[tuple[str, str], str] = {}
    for record in read_records(folder / RECORDS):
        if record.outcome == "ok" or record.warmup or record.derived:
            continue
        text = (record.error or "")[:CHARACTERS]
        kind = record.outcome, _VARIABLE.sub("0", text)
        if kind in first or len(first) < MOST_KINDS:
            counts[kind] += 1
            first.setdefault(kind, text)
    return [{"count": count, "outcome": kind[0], "text": first[kind]} for kind, count in counts.most_common(SHOWN)]


def error_lines(run: RunInfo) -> Iterator[str]:
    """Yield a line for each of the most frequent error texts, for the console and the report."""
    for error in run.summary.get("errors", ()):
        yield f"failed: {error['count']} × {error['outcome']}: {error['text'] or '(no text)'}"
