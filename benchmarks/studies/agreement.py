"""Do two runs of the same problems say the same? Text and verdict problem by problem, accuracy by McNemar's test.

    python -m analysis grade RUN_A RUN_B ...          first: verdicts are read from grades.parquet
    python -m benchmarks.studies.agreement RUN_A RUN_B

For `--one-pass` against real runs, concurrency 1 against 32, speculation on against off. Prints a line a budget and
each problem whose text differs; the last line is one JSON object. Only problems that both runs answered count; where a run
has a budget both derived and run for real, the real one is taken.
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
class Said:
    """One output, and what the grader made of it; correct means strictly: right, and finished."""

    text: str
    correct: bool
    tokens: int
    grade: str


def said(run: Path) -> dict[tuple[int, str], Said]:
    """Outputs by budget and problem."""
    table = pd.read_parquet(run / "grades.parquet")
    grades = {
        int(seq): (str(grade), bool(done))
        for seq, grade, done in zip(table["seq"], table["grade"], table["finished"], strict=True)
    }
    outputs: dict[tuple[int, str], tuple[bool, Said]] = {}
    for record in records(run):
        key = (record.budget, record.problem_id)
        if key in outputs and not outputs[key][0]:
            continue
        grade, finished = grades[record.seq]
        text = (record.reasoning or "") + (record.text or "")
        output = Said(text, grade == "correct" and finished, record.completion_tokens or 0, grade)
        outputs[key] = (record.derived, output)
    return {key: output for key, (_, output) in outputs.items()}


def records(run: Path) -> Iterator[Record]:
    """The measured requests of a run that were answered."""
    return (r for r in read_records(run / "records.jsonl") if r.outcome == "ok" and not r.warmup)


@dataclass(frozen=True)
class Compared:
    """One budget of two runs."""

    budget: int
    n: int
    same_text: int
    same_verdict: int
    accuracy: tuple[float, float]
    p_value: float
    different: list[dict[str, Any]]


def compare(one: dict[tuple[int, str], Said], other: dict[tuple[int, str], Said], budget: int) -> Compared:
    """Text, verdict and accuracy of the problems that both answered."""
    both = sorted(problem for b, problem in one if b == budget and (b, problem) in other)
    pairs = [(problem, one[budget, problem], other[budget, problem]) for problem in both]
    different = [
        {"problem": problem, "characters_shared": shared(a.text, b.text), "tokens": [a.tokens, b.tokens], "grades": [a.grade, b.grade]}
        for problem, a, b in pairs if a.text != b.text
    ]  # fmt: skip
    first, second = [a.correct for _, a, _ in pairs], [b.correct for _, _, b in pairs]
    return Compared(
        budget=budget,
        n=len(pairs),
        same_text=len(pairs) - len(different),
        same_verdict=sum(a == b for a, b in zip(first, second, strict=True)),
        accuracy=(sum(first) / max(len(pairs), 1), sum(second) / max(len(pairs), 1)),
        p_value=mcnemar(first, second).p_value,
        different=different,
    )


def shared(one: str, other: str) -> int:
    """How many characters two texts begin with together."""
    at = 0
    for a, b in zip(one, other, strict=False):
        if a != b:
            break
        at += 1
    return at


def main(argv: list[str] | None = None) -> int:
    """Print the comparison."""
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.studies.agreement",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("runs", nargs=2, type=Path, metavar="RUN")
    args = parser.parse_args(argv)
    for run in args.runs:
        if not (run / "grades.parquet").is_file():
            print(f"agreement: {run} is not graded: python -m analysis grade {run}", file=sys.stderr)
            return 2
    one, other = (said(run) for run in args.runs)
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
