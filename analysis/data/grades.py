"""The seam to grading: a verdict and an extracted answer for each record, in the order of the records read.

Rules: what grading cannot judge (no text kept, no reference answer) is null, and accuracy is then unknown, not zero. A
run whose records kept no text is not graded at all. A file that grading refuses costs its verdicts and a note, not the
report.

Does not know: mathematics (grade.py).
"""

from pathlib import Path

import msgspec
import pandas as pd
import pyarrow as pa

from analysis.errors import InputError
from loadgen.record import PROBLEMS


def verdicts(folder: Path, table: pa.Table, cell: str, notes: list[str]) -> pa.Table:
    """Columns `verdict` and `answer`, a row a record of `table`."""
    nothing = ungraded(table)
    if table.column("fingerprint").null_count == len(table):
        if len(table):
            notes.append(f"{cell}: not graded (no texts were kept)")
        return nothing
    if not (folder / PROBLEMS).exists():
        notes.append(f"{cell}: not graded (no {PROBLEMS} with reference answers)")
        return nothing
    try:
        grades = _grades(folder)
    except (InputError, msgspec.DecodeError, OSError, UnicodeDecodeError) as error:
        notes.append(f"{cell}: not graded ({error})")
        return nothing
    return _in_order(grades, table)


def ungraded(table: pa.Table) -> pa.Table:
    """Nothing known of any record."""
    return pa.table({name: pa.nulls(len(table), pa.string()) for name in ("verdict", "answer")})


def _grades(folder: Path) -> pd.DataFrame:
    from analysis.grade import grade_run  # noqa: PLC0415  # pulls SymPy in: only where there is something to grade

    return grade_run(folder)


def _in_order(grades: pd.DataFrame, table: pa.Table) -> pa.Table:
    """Match by `seq`: reading may have skipped a line that grading saw, or the other way round."""
    by_seq = grades.drop_duplicates("seq").set_index("seq")
    rows = by_seq.reindex(table.column("seq").to_numpy())
    texts = table.column("fingerprint").is_valid().to_numpy()
    verdict = rows["grade"].astype(object).where(texts)
    return pa.table(
        {
            "verdict": pa.array(verdict, pa.string(), from_pandas=True),
            "answer": pa.array(rows["extracted"].astype(object), pa.string(), from_pandas=True),
        }
    )
