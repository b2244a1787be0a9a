"""Compare the outputs of two runs on the same problems: text and grade of each problem, and the accuracies with McNemar's test.

    python -m analysis grade FOLDER                   # first, because the grades are read from grades.parquet
    python -m benchmarks.studies.agreement RUN_A RUN_B

Use it to check that a setting does not change the outputs, for example `--one-pass` against separate runs, concurrency 1 against 32, or
speculation on against off. It prints a line for each budget and for each problem whose text differs; the last line is one JSON object. Only
problems that both runs answered count. If a run has both derived and measured outputs for a budget, the measured ones are used.
"""

import json
import os.path
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import msgspec
import pandas as pd

from analysis.stats import mcnemar
from benchmarks.common import parser
from loadgen.record import read_records

BOTH = ["budget", "problem_id"]


def read_outputs(run: Path) -> pd.DataFrame:
    """The graded outputs of a run, without warm-up: one for each budget and problem, a measured one where there is one.

    `correct` is strict: the answer is correct and the output finished.
    """
    records = pd.DataFrame([msgspec.structs.asdict(record) for record in read_records(run / "records.jsonl")])
    outputs = records[(records["outcome"] == "ok") & ~records["warmup"]]
    outputs = outputs.assign(
        text=outputs["reasoning"].fillna("") + outputs["text"].fillna(""),
        tokens=outputs["completion_tokens"].fillna(0).astype(int),
    )
    grades = pd.read_parquet(run / "grades.parquet")[["seq", "grade", "finished"]]
    graded = outputs.merge(grades, on="seq").sort_values("derived", kind="stable")
    correct = (graded["grade"] == "correct") & graded["finished"]
    return graded.assign(correct=correct).drop_duplicates(BOTH)


def compare(one: pd.DataFrame, other: pd.DataFrame) -> Iterator[dict[str, Any]]:
    """Compare text, grade and accuracy over the problems that both runs answered, for each budget."""
    both = one.merge(other, on=BOTH, suffixes=("_one", "_other")).sort_values("problem_id")
    for budget, pairs in both.groupby("budget"):
        first, second = pairs["correct_one"], pairs["correct_other"]
        different = pairs[pairs["text_one"] != pairs["text_other"]]
        yield {
            "budget": int(str(budget)),
            "n": len(pairs),
            "same_text": len(pairs) - len(different),
            "same_verdict": int((first == second).sum()),
            "accuracy": [float(first.mean()), float(second.mean())],
            "p_value": mcnemar(first, second).p_value,
            "different": [
                {
                    "problem": row["problem_id"],
                    "characters_shared": len(os.path.commonprefix([row["text_one"], row["text_other"]])),  # noqa: RUF071 - of characters
                    "tokens": [row["tokens_one"], row["tokens_other"]],
                    "grades": [row["grade_one"], row["grade_other"]],
                }
                for row in different.to_dict("records")
            ],
        }


def main(argv: list[str] | None = None) -> int:
    """Print the comparison of two runs."""
    arguments = parser(__doc__)
    arguments.add_argument("runs", nargs=2, type=Path, metavar="RUN", help="folder of a graded run")
    args = arguments.parse_args(argv)
    for run in args.runs:
        if not (run / "grades.parquet").is_file():
            print(f"agreement: {run} is not graded; run python -m analysis grade {run}", file=sys.stderr)
            return 2
    rows = list(compare(*(read_outputs(run) for run in args.runs)))
    print("  budget     n  same text  same verdict      accuracy   McNemar p", file=sys.stderr)
    for row in rows:
        counts = f"{row['budget']:>8} {row['n']:>5} {row['same_text']:>10} {row['same_verdict']:>13}"
        a, b = row["accuracy"]
        print(f"{counts}   {a:.3f}  {b:.3f} {row['p_value']:>11.3g}", file=sys.stderr)
    for row in rows:
        for each in row["different"]:
            print(f"  {row['budget']}: {each}", file=sys.stderr)
    print(json.dumps({"runs": [str(run) for run in args.runs], "budgets": rows}))
    return 0


if __name__ == "__main__":
    sys.exit(main())
