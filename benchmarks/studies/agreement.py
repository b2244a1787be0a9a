"""Compare the outputs of two runs on the same problems: text and grade of each problem, and the accuracies with McNemar's test.

    python -m analysis grade FOLDER                   # first, because the grades are read from grades.parquet
    python -m benchmarks.studies.agreement RUN_A RUN_B

Use it to check that a setting does not change the outputs, for example `--one-pass` against separate runs, concurrency 1 against 32, or
speculation on against off. It prints a line for each budget and for each problem whose text differs; the last line is one JSON object. Only
problems that both runs answered count. If a run has both derived and measured outputs for a budget, the measured ones are used.
"""

import argparse
import json
import sys
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import pandas as pd

from analysis.stats import mcnemar
from loadgen.record import Record, read_records


@dataclass(frozen=True)
class GradedOutput:
    """An output with its grade. `correct` is strict: the answer is correct and the output finished."""

    text: str
    correct: bool
    tokens: int
    grade: str


def read_outputs(run: Path) -> dict[tuple[int, str], GradedOutput]:
    """Read the outputs of a run by budget and problem."""
    table = pd.read_parquet(run / "grades.parquet")
    grades = {
        int(seq): (str(grade), bool(done))
        for seq, grade, done in zip(table["seq"], table["grade"], table["finished"], strict=True)
    }
    outputs: dict[tuple[int, str], tuple[bool, GradedOutput]] = {}
    for record in answered_requests(run):
        key = (record.budget, record.problem_id)
        if key in outputs and not outputs[key][0]:
            continue
        grade, finished = grades[record.seq]
        text = (record.reasoning or "") + (record.text or "")
        output = GradedOutput(text, grade == "correct" and finished, record.completion_tokens or 0, grade)
        outputs[key] = (record.derived, output)
    return {key: output for key, (_, output) in outputs.items()}


def answered_requests(run: Path) -> Iterator[Record]:
    """The successful requests of a run, without warm-up."""
    return (r for r in read_records(run / "records.jsonl") if r.outcome == "ok" and not r.warmup)


@dataclass(frozen=True)
class Comparison:
    """The comparison of two runs at one budget. `accuracy` has one value for each run."""

    budget: int
    n: int
    same_text: int
    same_verdict: int
    accuracy: tuple[float, float]
    p_value: float
    different: list[dict[str, Any]]


def compare(
    one: dict[tuple[int, str], GradedOutput], other: dict[tuple[int, str], GradedOutput], budget: int
) -> Comparison:
    """Compare text, grade and accuracy over the problems that both runs answered."""
    both = sorted(problem for b, problem in one if b == budget and (b, problem) in other)
    pairs = [(problem, one[budget, problem], other[budget, problem]) for problem in both]
    different = [
        {"problem": problem, "characters_shared": common_prefix(a.text, b.text), "tokens": [a.tokens, b.tokens], "grades": [a.grade, b.grade]}
        for problem, a, b in pairs if a.text != b.text
    ]  # fmt: skip
    first, second = [a.correct for _, a, _ in pairs], [b.correct for _, _, b in pairs]
    return Comparison(
        budget=budget,
        n=len(pairs),
        same_text=len(pairs) - len(different),
        same_verdict=sum(a == b for a, b in zip(first, second, strict=True)),
        accuracy=(sum(first) / max(len(pairs), 1), sum(second) / max(len(pairs), 1)),
        p_value=mcnemar(first, second).p_value,
        different=different,
    )


def common_prefix(one: str, other: str) -> int:
    """Number of characters at the start that two texts have in common."""
    differences = (n for n, (a, b) in enumerate(zip(one, other, strict=False)) if a != b)
    return next(differences, min(len(one), len(other)))


def main(argv: list[str] | None = None) -> int:
    """Print the comparison of two runs."""
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.studies.agreement",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("runs", nargs=2, type=Path, metavar="RUN", help="folder of a graded run")
    args = parser.parse_args(argv)
    for run in args.runs:
        if not (run / "grades.parquet").is_file():
            print(f"agreement: {run} is not graded; run python -m analysis grade {run}", file=sys.stderr)
            return 2
    one, other = (read_outputs(run) for run in args.runs)
    rows = [compare(one, other, budget) for budget in sorted({b for b, _ in one} & {b for b, _ in other})]
    print("  budget     n  same text  same verdict      accuracy   McNemar p", file=sys.stderr)
    for row in rows:
        a, b = row.accuracy
        counts = f"{row.budget:>8} {row.n:>5} {row.same_text:>10} {row.same_verdict:>13}"
        print(f"{counts}   {a:.3f}  {b:.3f} {row.p_value:>11.3g}", file=sys.stderr)
    for row in rows:
        for each in row.different:
            print(f"  {row.budget}: {each}", file=sys.stderr)
    print(json.dumps({"runs": [str(run) for run in args.runs], "budgets": [asdict(row) for row in rows]}))
    return 0


if __name__ == "__main__":
    sys.exit(main())
