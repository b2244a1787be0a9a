"""Grade the records of a run, and compute the accuracy from the grades.

Rules: a record's grade is `correct wrong no_answer truncated undecided grade_timeout grade_error filtered failed ungraded`; only `correct` and `wrong` mean
that an answer was compared with the reference. A problem whose reference answer is empty is `ungraded`. Strict accuracy counts only finished outputs as correct, lenient accuracy counts every correct
answer. Each distinct pair of reference and answer is graded once, however many records have it.

This module does not know latency and cost, or other runs. It imports SymPy, so import it only where something is graded.
"""

import hashlib
import io
import re
import sys
from collections.abc import Iterable, Iterator, Mapping
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import msgspec
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq

from analysis.errors import InputError
from analysis.grading.extract import extract
from analysis.grading.grader import Pair, grade_pairs, version
from analysis.stats import Interval, proportion
from loadgen.files import cache_folder, write_atomically
from loadgen.record import PROBLEMS, RECORDS, Record, RunInfo, read_records, read_run

GRADES = "grades.parquet"
"""The file beside the records. It is written again when the grader, the records or the reference answers change."""
COLUMNS = ["seq", "grade", "extracted", "boxed_in_thinking", "finished"]
_REASONING_MODEL = re.compile(r"r1|s1\.|qwq|think|reason", re.IGNORECASE)


class _Output(NamedTuple):
    """A row of the result for one record, with the reference answer and the answer where they have to be compared."""

    seq: int
    grade: str | None
    extracted: str | None = None
    boxed_in_thinking: bool = False
    finished: bool = False
    pair: Pair | None = None


def cache_file() -> Path:
    """The file that keeps grades between calls: `$XDG_CACHE_HOME/thinkload/grades.sqlite`."""
    return cache_folder() / "grades.sqlite"


def grade_run(folder: Path, *, fresh: bool = False) -> pd.DataFrame:
    """Return one row per record of a run's folder, in the order of the file, with the columns `COLUMNS`.

    Grades are read from grades.parquet if they are current. With `fresh`, everything is graded again. Raises InputError.
    """
    stamp = _stamp(folder)
    path = folder / GRADES
    with suppress(OSError, ValueError):  # a file that is missing or damaged is written again
        if not fresh and (pq.read_schema(path).metadata or {}).get(b"thinkload") == stamp.encode():
            saved: pd.DataFrame = pq.read_table(path).to_pandas()
            return saved
    frame = grade_records(
        read_records(folder / RECORDS),
        reference_answers(folder / PROBLEMS),
        thinks=_is_reasoning_model(read_run(folder)),
        cache=None if fresh else cache_file(),
    )
    _save(frame, path, stamp)
    return frame


def grade_records(
    records: Iterable[Record], golds: Mapping[str, str], *, thinks: bool, cache: Path | None = None
) -> pd.DataFrame:
    """Grade records. `golds` are the reference answers by problem id, `thinks` says that the model is a reasoning model."""
    outputs = [_read_output(record, golds, thinks=thinks) for record in records]
    grades = grade_pairs({output.pair for output in outputs if output.pair}, cache=cache)
    rows = []
    for output in outputs:
        grade = grades[output.pair] if output.pair else output.grade
        # In an output that was cut, an answer is not yet wrong.
        grade = "truncated" if grade == "wrong" and not output.finished else grade
        *row, _ = output._replace(grade=grade)  # without the pair
        rows.append(row)
    return pd.DataFrame(rows, columns=COLUMNS).astype({"grade": "category"})


def _read_output(record: Record, golds: Mapping[str, str], *, thinks: bool) -> _Output:
    if record.outcome != "ok":
        return _Output(record.seq, "filtered" if record.outcome == "filtered" else "failed")
    finished, gold = record.finish_reason != "length", golds.get(record.problem_id)
    if gold == "":
        return _Output(record.seq, "ungraded", finished=finished)
    found = extract(record.text, record.reasoning, thinks=thinks, finished=finished)
    if found is None:
        return _Output(record.seq, "no_answer" if finished else "truncated", finished=finished)
    # Without a reference answer there is nothing to compare, and the grade stays an error of grading.
    pair = None if gold is None else (gold, found.answer)
    return _Output(record.seq, "grade_error", found.answer, found.in_thinking, finished, pair)


def reference_answers(path: Path) -> dict[str, str]:
    """Read the reference answers by problem id from a run's `problems.jsonl`. Raises InputError."""
    answers: dict[str, str] = {}
    for number, row in enumerate(read_json_lines(path), 1):
        if not isinstance(row.get("unique_id"), str) or not isinstance(row.get("answer"), str | int | float):
            raise InputError(f"{path}:{number}: needs `unique_id` and `answer`; was it written by loadgen?")
        answers[row["unique_id"]] = str(row["answer"])
    return answers


def read_json_lines(path: Path) -> Iterator[dict[str, Any]]:
    """Read a file with one JSON object per line. Raises InputError with file and line."""
    try:
        lines = path.read_bytes().splitlines()
    except OSError as error:
        raise InputError(f"{path}: {error.strerror}; give a file of JSON lines") from error
    for number, line in enumerate(lines, 1):
        if not line.strip():
            continue
        try:
            yield msgspec.json.decode(line, type=dict[str, Any])
        except (ValueError, RecursionError) as error:
            raise InputError(f"{path}:{number}: not a JSON object ({error})") from error


def _is_reasoning_model(run: RunInfo) -> bool:
    """True for presets, which all are reasoning models, and for models whose name says so."""
    return run.preset is not None or _REASONING_MODEL.search(run.model) is not None


def _stamp(folder: Path) -> str:
    """Hash of what the grades depend on. Records are append-only, so their size and time of change are enough."""
    records, problems = (folder / RECORDS).stat(), folder / PROBLEMS
    digest = hashlib.sha256(problems.read_bytes() if problems.exists() else b"")
    digest.update(Path(__file__).read_bytes())
    digest.update(f"{version()} {records.st_size} {records.st_mtime_ns}".encode())
    return digest.hexdigest()


def _save(frame: pd.DataFrame, path: Path, stamp: str) -> None:
    table = pa.Table.from_pandas(frame, preserve_index=False)
    metadata = {**(table.schema.metadata or {}), b"thinkload": stamp.encode()}
    content = io.BytesIO()
    pq.write_table(table.replace_schema_metadata(metadata), content)
    try:
        write_atomically(path, content.getvalue())
    except OSError as error:
        print(f"grade: {path} could not be written ({error.strerror}); the next call grades again", file=sys.stderr)


@dataclass(frozen=True, slots=True)
class Accuracy:
    """Fractions of correct answers among n outputs, each with its Wilson 95 % interval."""

    n: int
    strict: Interval
    lenient: Interval


def accuracy(grades: pd.DataFrame) -> Accuracy:
    """Compute the accuracy over all outputs that can be graded, without failed requests and what a filter removed."""
    answered = grades[~grades["grade"].isin(["failed", "filtered", "ungraded"])]
    correct = answered["grade"] == "correct"
    n, lenient, strict = len(answered), int(correct.sum()), int((correct & answered["finished"]).sum())
    return Accuracy(n, proportion(strict, n), proportion(lenient, n))
