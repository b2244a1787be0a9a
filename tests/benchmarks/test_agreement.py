"""The comparison of two runs by problem."""

import json
from pathlib import Path

import msgspec
import pandas as pd
import pytest

from benchmarks.studies import agreement
from loadgen.record import Record


def write_run(folder: Path, rows: list[tuple[str, str, str, bool]]) -> Path:
    """Write a graded run at budget 256 from rows of (problem, text, grade, derived)."""
    folder.mkdir()
    records = [
        Record(run_id="r", seq=seq, problem_id=problem, budget=256, due_s=0.0, outcome="ok" if text else "timeout",
               text=text, completion_tokens=len(text), derived=derived)
        for seq, (problem, text, _, derived) in enumerate(rows)
    ]  # fmt: skip
    (folder / "records.jsonl").write_bytes(b"".join(msgspec.json.encode(record) + b"\n" for record in records))
    grades = pd.DataFrame({"seq": range(len(rows)), "grade": [row[2] for row in rows], "finished": True})
    grades.to_parquet(folder / "grades.parquet")
    return folder


def test_texts_and_grades_are_compared_and_differences_listed(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Failed requests do not count. If an output is both derived and measured, the measured one counts."""
    one = write_run(
        tmp_path / "one",
        [("a", "same", "correct", False), ("b", "left", "correct", False), ("c", "", "failed", False)],
    )
    rows = [
        ("a", "same", "correct", False),
        ("b", "stale", "wrong", True),
        ("b", "lest", "wrong", False),
        ("c", "x", "wrong", False),
    ]
    other = write_run(tmp_path / "other", rows)
    assert agreement.main([str(one), str(other)]) == 0
    (budget,) = json.loads(capsys.readouterr().out.splitlines()[-1])["budgets"]
    assert (budget["n"], budget["same_text"], budget["same_verdict"]) == (2, 1, 1)
    assert budget["accuracy"] == [1.0, 0.5]
    assert budget["different"] == [
        {"problem": "b", "characters_shared": 2, "tokens": [4, 4], "grades": ["correct", "wrong"]}
    ]
