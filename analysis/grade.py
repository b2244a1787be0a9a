"""`python -m analysis grade`: a verdict for every record of a run, or for pairs of reference and answer.

Rules: a record is `correct wrong no_answer truncated grade_timeout grade_error failed`; only `correct` and `wrong` are
judgements of an answer. Strict accuracy wants a finished output, lenient takes any answer that is there. Grading is
by distinct (reference, answer): a million records cost what their distinct answers cost.

Does not know: latency and cost, other runs.
"""

import argparse
import hashlib
import json
import os
import re
import sys
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import msgspec
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq

from analysis.errors import InputError
from analysis.grading.extract import Extract, extract
from analysis.grading.grader import Pair, grade_pairs, version
from analysis.stats import Interval, proportion
from loadgen.record import PROBLEMS, RECORDS, Record, RunInfo, find_runs, read_records, read_run

GRADES = "grades.parquet"
"""Beside the records; made again when the grader, the records or the references change."""
COLUMNS = ["seq", "grade", "extracted", "boxed_in_thinking", "finished"]
EXAMPLES = """examples:
  python -m analysis grade results/                        every run below, accuracy for each budget
  python -m analysis grade results/my-run --by level       … for each level
  python -m analysis grade --pairs pairs.jsonl             {"gold": …, "answer": …} a line in, {…, "correct": …} a line out
"""
_THINKS = re.compile(r"r1|s1\.|qwq|think|reason", re.IGNORECASE)


class _Found(NamedTuple):
    seq: int
    problem_id: str
    status: str | None
    extract: Extract | None
    finished: bool


def cache_file() -> Path:
    """Where verdicts are remembered between runs: `$XDG_CACHE_HOME/thinkload/grades.sqlite`."""
    home = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache")
    return home / "thinkload" / "grades.sqlite"


def grade_run(folder: Path, *, fresh: bool = False) -> pd.DataFrame:
    """One row a record of a run's folder, in file order: seq, grade, extracted, boxed_in_thinking, finished."""
    stamp = _stamp(folder)
    kept = folder / GRADES
    if (
        not fresh
        and kept.exists()
        and (pq.read_schema(kept).metadata or {}).get(b"thinkload") == stamp.encode()
    ):
        frame: pd.DataFrame = pq.read_table(kept).to_pandas()
        return frame
    frame = grade_records(
        read_records(folder / RECORDS),
        golds(folder / PROBLEMS),
        thinks=_thinks(read_run(folder)),
        cache=None if fresh else cache_file(),
    )
    _keep(frame, kept, stamp)
    return frame


def grade_records(
    records: Iterable[Record], golds: Mapping[str, str], *, thinks: bool, cache: Path | None = None
) -> pd.DataFrame:
    """Grade records against references by problem id: a pure function, but for the cache it is given."""
    found = [_find(record, thinks=thinks) for record in records]
    verdicts = grade_pairs({pair for one in found if (pair := _pair(one, golds))}, cache=cache)
    rows = [
        (
            one.seq,
            one.status or _verdict(one, _pair(one, golds), verdicts),
            one.extract.answer if one.extract else None,
            one.extract.in_thinking if one.extract else False,
            one.finished,
        )
        for one in found
    ]
    return pd.DataFrame(rows, columns=COLUMNS).astype({"grade": "category"})


def _find(record: Record, *, thinks: bool) -> _Found:
    finished = record.outcome == "ok" and record.finish_reason != "length"
    if record.outcome != "ok":
        return _Found(record.seq, record.problem_id, "failed", None, finished)
    found = extract(record.text, record.reasoning, thinks=thinks, finished=finished)
    status = None if found else "no_answer" if finished else "truncated"
    return _Found(record.seq, record.problem_id, status, found, finished)


def _pair(one: _Found, golds: Mapping[str, str]) -> Pair | None:
    gold = golds.get(one.problem_id)
    return (gold, one.extract.answer) if gold is not None and one.extract is not None else None


def _verdict(one: _Found, pair: Pair | None, verdicts: Mapping[Pair, str]) -> str:
    """Without a reference nothing can be judged: that is the grader's failure. What was cut is not yet wrong."""
    if pair is None:
        return "grade_error"
    return "truncated" if verdicts[pair] == "wrong" and not one.finished else verdicts[pair]


def golds(path: Path) -> dict[str, str]:
    """Reference answers by problem id, from a run's `problems.jsonl`. Raises InputError."""
    out: dict[str, str] = {}
    for number, row in enumerate(_rows(path), 1):
        if not isinstance(row.get("unique_id"), str) or not isinstance(row.get("answer"), str | int | float):
            raise InputError(f"{path}:{number}: needs `unique_id` and `answer`; was it written by loadgen?")
        out[row["unique_id"]] = str(row["answer"])
    return out


def _rows(path: Path) -> Iterable[dict[str, Any]]:
    try:
        lines = path.read_bytes().splitlines()
    except OSError as error:
        raise InputError(f"{path}: {error.strerror}; give a file of JSON lines") from error
    for number, line in enumerate(lines, 1):
        if not line.strip():
            continue
        try:
            yield msgspec.json.decode(line, type=dict[str, Any])
        except msgspec.DecodeError as error:
            raise InputError(f"{path}:{number}: not a JSON object ({error})") from error


def _thinks(run: RunInfo) -> bool:
    """Presets are reasoning models; of others the name must say so."""
    return run.preset is not None or _THINKS.search(run.model) is not None


def _stamp(folder: Path) -> str:
    """What the grades depend on: grader, references, records (by size and time: they are append-only)."""
    records = (folder / RECORDS).stat()
    digest = hashlib.sha256((folder / PROBLEMS).read_bytes() if (folder / PROBLEMS).exists() else b"")
    digest.update(Path(__file__).read_bytes())
    digest.update(f"{version()} {records.st_size} {records.st_mtime_ns}".encode())
    return digest.hexdigest()


def _keep(frame: pd.DataFrame, path: Path, stamp: str) -> None:
    table = pa.Table.from_pandas(frame, preserve_index=False)
    partial = path.with_suffix(".partial")
    try:
        pq.write_table(
            table.replace_schema_metadata({**(table.schema.metadata or {}), b"thinkload": stamp.encode()}),
            partial,
        )
        partial.replace(path)
    except OSError as error:
        print(f"grade: {path} not kept ({error.strerror}); grading again next time", file=sys.stderr)


@dataclass(frozen=True, slots=True)
class Accuracy:
    """Shares of right answers among n outputs, each with its Wilson 95 % interval."""

    n: int
    strict: Interval
    lenient: Interval


def accuracy(grades: pd.DataFrame) -> Accuracy:
    """Over all outputs that a server gave: `failed` requests are not the model's."""
    answered = grades[grades["grade"] != "failed"]
    right = answered["grade"] == "correct"
    n, lenient, strict = len(answered), int(right.sum()), int((right & answered["finished"]).sum())
    return Accuracy(n, proportion(strict, n), proportion(lenient, n))


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Options of `grade`."""
    parser.formatter_class = argparse.RawDescriptionHelpFormatter
    parser.epilog = EXAMPLES
    parser.add_argument("results", type=Path, nargs="?", help="a run's folder, or one that holds runs")
    parser.add_argument("--pairs", type=Path, metavar="FILE.jsonl", help="grade pairs instead of runs")
    parser.add_argument(
        "--by",
        choices=["budget", "subject", "level"],
        default="budget",
        help="rows of the table (default: budget)",
    )
    parser.add_argument("--fresh", action="store_true", help="use no cached verdict")


def main(args: argparse.Namespace) -> int:
    """Grade pairs or runs. Raises InputError."""
    if (args.pairs is None) == (args.results is None):
        raise InputError("grade: give either a results folder or --pairs FILE.jsonl")
    if args.pairs is not None:
        return _grade_pairs(args.pairs, fresh=args.fresh)
    return _grade_results(args.results, args.by, fresh=args.fresh)


def _grade_pairs(path: Path, *, fresh: bool) -> int:
    rows = list(_rows(path))
    for number, row in enumerate(rows, 1):
        if not {"gold", "answer"} <= row.keys():
            raise InputError(f'{path}:{number}: needs "gold" and "answer"')
    pairs = [(str(row["gold"]), _answer(str(row["answer"]))) for row in rows]
    verdicts = grade_pairs(pairs, cache=None if fresh else cache_file())
    for row, pair in zip(rows, pairs, strict=True):
        verdict = verdicts[pair]
        print(json.dumps({**row, "correct": verdict == "correct", "grade": verdict}))
    return 0


def _answer(text: str) -> str:
    """An answer as given; of a whole output, its box."""
    found = extract(text, None, thinks=False, finished=True) if "\\boxed" in text else None
    return found.answer if found else text


def _grade_results(root: Path, by: str, *, fresh: bool) -> int:
    folders = find_runs(root)
    if not folders:
        raise InputError(f"{root}: no run here (no run.json); give a folder that `python -m loadgen` wrote")
    runs = {}
    for folder in folders:
        if (folder / RECORDS).exists():
            runs[folder] = _table(folder, by, fresh=fresh)
            _show(folder, by, runs[folder])
    print(json.dumps({"runs": [{"run": str(folder), "accuracy": table} for folder, table in runs.items()]}))
    return 0


def _table(folder: Path, by: str, *, fresh: bool) -> list[dict[str, Any]]:
    grades = grade_run(folder, fresh=fresh)
    keys = _keys(folder, by)
    grades = grades[grades["seq"].isin(keys)]
    key_of = pd.Series([keys[seq] for seq in grades["seq"]], index=grades.index, dtype=object)
    rows = []
    for key, group in grades.groupby(key_of, sort=True, dropna=False):
        share = accuracy(group)
        counts = {str(name): int(count) for name, count in group["grade"].value_counts().items() if count}
        rows.append(
            {
                by: None if pd.isna(key) else key,
                "n": share.n,
                "strict": share.strict,
                "lenient": share.lenient,
                "grades": counts,
            }
        )
    return rows


def _keys(folder: Path, by: str) -> dict[int, Any]:
    """What to group each record by, None where its problem does not say; warm-up is left out."""
    measured = [record for record in read_records(folder / RECORDS) if not record.warmup]
    if by == "budget":
        return {record.seq: record.budget for record in measured}
    of = {row["unique_id"]: row.get(by) for row in _rows(folder / PROBLEMS)}
    return {record.seq: of.get(record.problem_id) for record in measured}


def _show(folder: Path, by: str, rows: list[dict[str, Any]]) -> None:
    print(f"{folder}\n  {by:>24} {'n':>6}  strict [95 %]        lenient [95 %]       grades", file=sys.stderr)
    for row in rows:
        strict, lenient = (
            "{:.3f} [{:.3f}, {:.3f}]".format(*row[kind]) if row["n"] else f"{'—':21}"
            for kind in ("strict", "lenient")
        )
        counts = " ".join(f"{name} {count}" for name, count in row["grades"].items())
        name = "(none)" if row[by] is None else row[by]
        print(f"  {name!s:>24} {row['n']:>6}  {strict}  {lenient}  {counts}", file=sys.stderr)
