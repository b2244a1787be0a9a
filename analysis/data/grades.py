"""The grade and the extracted answer of each record, as columns in the order of a table of records.

Rules: if a record cannot be graded (no text was kept, or there is no reference answer), its values are null; its accuracy is unknown, not
zero. A run without texts is not graded at all. If a run's files cannot be graded, the report has a note instead of grades.

This module does not know mathematics. `run_grades.py` grades the records.
"""

from pathlib import Path

import pandas as pd
import pyarrow as pa

from analysis.errors import InputError
from loadgen.record import PROBLEMS


def grade_columns(folder: Path, table: pa.Table, cell: str, notes: list[str]) -> pa.Table:
    """Return the columns `verdict` (the grade) and `answer`, with a row for each record of `table`."""
    if table.column("fingerprint").null_count == len(table):
        if len(table):
            notes.append(f"{cell}: not graded (no texts were kept)")
        return empty_columns(table)
    if not (folder / PROBLEMS).exists():
        notes.append(f"{cell}: not graded (no {PROBLEMS} with reference answers)")
        return empty_columns(table)
    try:
        from analysis.data.run_grades import grade_run  # noqa: PLC0415  # imports SymPy, which takes long

        grades = grade_run(folder)
    except (InputError, ValueError, OSError) as error:
        notes.append(f"{cell}: not graded ({error})")
        return empty_columns(table)
    return _in_order(grades, table)


def empty_columns(table: pa.Table) -> pa.Table:
    """Return the same columns without any value."""
    return pa.table({name: pa.nulls(len(table), pa.string()) for name in ("verdict", "answer")})


def _in_order(grades: pd.DataFrame, table: pa.Table) -> pa.Table:
    """Match rows by `seq`, because reading the records may have skipped a line that grading has, and the other way round."""
    by_seq = grades.drop_duplicates("seq").set_index("seq")
    rows = by_seq.reindex(table.column("seq").to_numpy())
    has_text = table.column("fingerprint").is_valid().to_numpy()
    grade = rows["grade"].astype(object).where(has_text)
    return pa.table(
        {
            "verdict": pa.array(grade, pa.string(), from_pandas=True),
            "answer": pa.array(rows["extracted"].astype(object), pa.string(), from_pandas=True),
        }
    )
