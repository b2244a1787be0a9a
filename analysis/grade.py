"""The command `python -m analysis grade`: grade the records of runs, or pairs of reference answer and answer.

It prints the accuracy as a table on stderr and as one JSON object on stdout. `data/run_grades.py` grades the records; this module does
not know how.
"""

import argparse
import json
import sys
from pathlib import Path
from typing import Any

import pandas as pd

from analysis.data.run_grades import accuracy, cache_file, grade_run, read_json_lines
from analysis.errors import InputError
from analysis.format import plain
from analysis.grading.extract import extract
from analysis.grading.grader import grade_pairs
from loadgen.record import PROBLEMS, RECORDS, DamagedLines, find_runs, read_records
from loadgen.terminal import printable

EXAMPLES = """examples:
  python -m analysis grade results/                   # grade every run in the folder; accuracy for each budget
  python -m analysis grade results/my-run --by level   # grade one run; accuracy for each level
  python -m analysis grade --pairs pairs.jsonl        # each line {"gold": …, "answer": …} is printed with "correct" added
"""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the options of `grade`."""
    parser.formatter_class = argparse.RawDescriptionHelpFormatter
    parser.epilog = EXAMPLES
    parser.add_argument("results", type=Path, nargs="?", help="the folder of a run, or a folder that contains runs")
    parser.add_argument("--pairs", type=Path, metavar="FILE.jsonl", help="grade pairs instead of runs")
    parser.add_argument(
        "--by",
        choices=["budget", "subject", "level"],
        default="budget",
        help="what the rows of the table stand for (default: budget)",
    )
    parser.add_argument("--fresh", action="store_true", help="ignore cached grades and grade everything again")


def main(args: argparse.Namespace) -> int:
    """Grade pairs or runs. Raises InputError."""
    if (args.pairs is None) == (args.results is None):
        raise InputError("grade: give either a results folder or --pairs FILE.jsonl")
    if args.pairs is not None:
        return _grade_pairs_file(args.pairs, fresh=args.fresh)
    return _grade_results(args.results, args.by, fresh=args.fresh)


def _grade_pairs_file(path: Path, *, fresh: bool) -> int:
    rows = list(read_json_lines(path))
    for number, row in enumerate(rows, 1):
        if not {"gold", "answer"} <= row.keys():
            raise InputError(f'{path}:{number}: needs "gold" and "answer"')
    pairs = [(str(row["gold"]), _answer(str(row["answer"]))) for row in rows]
    grades = grade_pairs(pairs, cache=None if fresh else cache_file())
    for row, pair in zip(rows, pairs, strict=True):
        print(json.dumps({**row, "correct": grades[pair] == "correct", "grade": grades[pair]}))
    return 0


def _answer(text: str) -> str:
    """Return the answer that `extract` finds, or the text itself if it finds none."""
    found = extract(text, None, thinks=False, finished=True)
    return found.answer if found else text


def _grade_results(root: Path, by: str, *, fresh: bool) -> int:
    folders = find_runs(root)
    if not folders:
        raise InputError(f"{root}: no run here (no run.json); give a folder that `python -m loadgen` wrote")
    runs = []
    for folder in folders:
        if not (folder / RECORDS).exists():
            continue
        try:
            runs.append(_grade_run(folder, by, fresh=fresh))
        except (InputError, ValueError, OSError) as error:
            reason = str(error) if isinstance(error, InputError) else f"{folder}: {error}"
            if len(folders) == 1:
                raise InputError(reason) from None
            print(f"analysis: {printable(reason)}: not graded", file=sys.stderr)
    print(json.dumps({"runs": runs}))
    return 0


def _grade_run(folder: Path, by: str, *, fresh: bool) -> dict[str, Any]:
    """Print the accuracy of one run, and return it."""
    damaged = DamagedLines()
    keys = _group_keys(folder, by, damaged)
    grades = grade_run(folder, fresh=fresh)
    grades = grades[grades["seq"].isin(keys)]
    key_column = pd.Series([keys[seq] for seq in grades["seq"]], index=grades.index, dtype=object)
    rows = []
    for key, group in grades.groupby(key_column, sort=True, dropna=False):
        share = accuracy(group)
        counts = {str(name): int(count) for name, count in group["grade"].value_counts().items() if count}
        shares = {
            name: [plain(end) for end in found]
            for name, found in (("strict", share.strict), ("lenient", share.lenient))
        }
        row = {"n": share.n} | shares | {"grades": counts}
        rows.append({by: None if pd.isna(key) else key} | row)
    _print_table(folder, by, rows)
    if not damaged.count:
        return {"run": str(folder), "accuracy": rows}
    print(f"  {folder / RECORDS}: {damaged}", file=sys.stderr)
    return {"run": str(folder), "accuracy": rows, "damaged_lines": damaged.count}


def _group_keys(folder: Path, by: str, damaged: DamagedLines) -> dict[int, Any]:
    """The group of each record by its `seq`, without warm-up. The group is None if the problem does not name it."""
    records = read_records(folder / RECORDS, damaged)
    measured = [(record.seq, record.budget, record.problem_id) for record in records if not record.warmup]
    if by == "budget":
        return {seq: budget for seq, budget, _ in measured}
    # Groups are sorted, so a value that is neither a word nor a number counts as none.
    named = [row for row in read_json_lines(folder / PROBLEMS) if isinstance(row.get(by), str | int)]
    groups = {row.get("unique_id"): row[by] for row in named}
    return {seq: groups.get(problem_id) for seq, _, problem_id in measured}


def _print_table(folder: Path, by: str, rows: list[dict[str, Any]]) -> None:
    print(f"{folder}\n  {by:>24} {'n':>6}  strict [95 %]        lenient [95 %]       grades", file=sys.stderr)
    for row in rows:
        strict, lenient = (
            "{:.3f} [{:.3f}, {:.3f}]".format(*row[kind]) if row["n"] else f"{'—':21}" for kind in ("strict", "lenient")
        )
        counts = " ".join(f"{name} {count}" for name, count in row["grades"].items())
        name = "(none)" if row[by] is None else row[by]
        print(f"  {printable(str(name)):>24} {row['n']:>6}  {strict}  {lenient}  {counts}", file=sys.stderr)
