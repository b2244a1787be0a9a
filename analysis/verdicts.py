"""The seam to grading: one verdict a record, in the order of `records.jsonl`.

Rules: what grading cannot judge (no text kept, no reference answer) is `ungraded`, and accuracy is then unknown, not
zero.
"""

from pathlib import Path

import pyarrow as pa


def verdicts(folder: Path, table: pa.Table, cell: str, notes: list[str]) -> pa.Array:
    """Nothing is graded before grading exists."""
    notes.append(f"{cell}: not graded ({folder.name} has no grades)")
    return pa.nulls(len(table), pa.string())
