"""The sample problems, which were written for this repository so that it can be used without a data set."""

import json
import re
from collections import Counter
from pathlib import Path

import pytest

from tests.conftest import ROOT

ROWS = [json.loads(line) for line in (ROOT / "loadgen/data/sample.jsonl").read_text().splitlines()]
SUBJECTS = {
    "Algebra",
    "Counting & Probability",
    "Geometry",
    "Intermediate Algebra",
    "Number Theory",
    "Prealgebra",
    "Precalculus",
}
KINDS = {
    "int": r"-?\d+",
    "fraction": r"\\frac\{\d+\}\{\d+\}",
    "mixed number": r"\d+\\frac\{\d+\}\{\d+\}",
    "surd": r".*\\sqrt.*",
    "pi": r"\d+\\pi",
    "expression": r".*[a-z]\^2 - .*",
    "complex": r"-?\d+ \+ \d+i",
    "degree": r"\d+\^\\circ",
    "tuple": r"\(\d+,\d+\)",
    "interval": r"\[.*\]",
    "union": r".*\\cup.*",
    "text": r"\\text\{.*\}",
    "comma list": r"-?\d+(,\d+)+",
    "decimal": r"\d+\.\d+",
    "matrix": r"\\begin\{pmatrix\}.*",
    "base-b": r"\d+_\d",
    "equation": r".*[xyz].* = .*",
    "dollar": r"\\\$.*",
    "plus-minus": r".*\\pm.*",
    "unit": r"\d+ \\text\{ cm\}\^2",
}


def boxed_answer(solution: str) -> str:
    start = solution.rindex(r"\boxed{") + len(r"\boxed{")
    depth, end = 1, start
    while depth:
        depth += {"{": 1, "}": -1}.get(solution[end], 0)
        end += 1
    return solution[start : end - 1]


def test_at_least_42_problems_over_all_subjects_and_levels() -> None:
    """There are seven subjects and five levels, and every subject has problems of at least four levels."""
    assert len(ROWS) >= 42
    assert {row["subject"] for row in ROWS} == SUBJECTS
    assert {row["level"] for row in ROWS} == {1, 2, 3, 4, 5}
    assert min(Counter(row["subject"] for row in ROWS).values()) >= 4
    for subject in SUBJECTS:
        assert len({row["level"] for row in ROWS if row["subject"] == subject}) >= 4


@pytest.mark.parametrize("kind", KINDS)
def test_every_answer_kind_occurs(kind: str) -> None:
    assert any(re.fullmatch(KINDS[kind], row["answer"]) for row in ROWS)


def test_the_schema_is_that_of_math_500() -> None:
    """Keys, their order and types are the same; ids are `sample/<subject>/<n>.json` and unique; the text is ASCII."""
    keys = {"problem": str, "solution": str, "answer": str, "subject": str, "level": int, "unique_id": str}
    for row in ROWS:
        assert list(row) == list(keys)
        assert all(type(row[key]) is kind for key, kind in keys.items())
        assert json.dumps(row, ensure_ascii=False).isascii()
        folder = row["subject"].lower().replace("&", "and").replace(" ", "_")
        assert re.fullmatch(rf"sample/{folder}/\d+\.json", row["unique_id"])
    assert len({row["unique_id"] for row in ROWS}) == len({row["problem"] for row in ROWS}) == len(ROWS)


@pytest.mark.parametrize("row", ROWS, ids=lambda row: row["unique_id"])
def test_a_solution_is_prose_that_ends_with_the_answer(row: dict[str, str]) -> None:
    """It has 60 to 250 words in several sentences, and one box, which is in the last sentence and holds the answer."""
    solution = row["solution"]
    assert 60 <= len(solution.split()) <= 250
    assert len(re.findall(r"\.\s", solution)) >= 4
    assert boxed_answer(solution) == row["answer"]
    assert solution.count(r"\boxed") == 1
    assert len(solution) - solution.index(r"\boxed") < len(row["answer"]) + 40


def test_no_row_is_from_math_500(shared: Path) -> None:
    """None of the sample problems is copied from the benchmark."""
    math500 = {json.loads(line)["problem"] for line in (shared / "math500.jsonl").read_text().splitlines()}
    assert not math500 & {row["problem"] for row in ROWS}
