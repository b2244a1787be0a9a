"""The grade and the extracted answer of each record, as columns in the order of a table of records.

Rules: if a record cannot be graded (no text was kept, or there is no reference answer), its values are null; its accuracy is unknown, not
zero. A run without texts is not graded at all. If a run's files cannot be graded, the report has a note instead of grades.

This module does not know mathematics. `run_grades.py` grades the records.
"""

from pathlib import Path

import pyarrow as pa

from analysis.errors import InputError
from loadgen.record import PROBLEMS


def with_grades(folder: Path, table: pa.Table, cell: str, notes: list[str]) -> pa.Table:
    """Return a table of records with the columns `grade` and `answer`."""
    if table.column("fingerprint").null_count == len(table):
        if len(table):
            notes.append(f"{cell}: not graded (no texts were kept)")
        return ungraded(table)
    if not (folder / PROBLEMS).exists():
        notes.append(f"{cell}: not graded (no {PROBLEMS} with reference answers)")
        return ungraded(table)
    try:
        from analysis.data.run_grades import grade_run  # noqa: PLC0415  # imports SymPy, which takes long

        grades = grade_run(folder)
    except (InputError, ValueError, OSError) as error:
        notes.append(f"{cell}: not graded ({error})")
        return ungraded(table)
    # Matched by `seq`, because reading the records may have skipped a line that grading has, and the other way round.
    rows = grades.drop_duplicates("seq").set_index("seq").reindex(table.column("seq").to_numpy())
    grade = rows["grade"].astype(object).where(table.column("fingerprint").is_valid().to_numpy())
    answer = rows["extracted"].astype(object)
    for name, column in (("grade", grade), ("answer", answer)):
        table = table.append_column(name, pa.array(column, pa.string(), from_pandas=True))
    return table


def ungraded(table: pa.Table) -> pa.Table:
    """Return a table of records with the columns `grade` and `answer`, all null."""
    nothing = pa.nulls(len(table), pa.string())
    return table.append_column("grade", nothing).append_column("answer", nothing)
