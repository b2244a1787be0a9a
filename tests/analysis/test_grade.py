"""Grading of pairs and of runs, the time limit, the caches and the command."""

import contextlib
import json
import sqlite3
from collections import Counter
from pathlib import Path

import msgspec
import pytest

from analysis.__main__ import main
from analysis.data.run_grades import GRADES, accuracy, grade_records, grade_run, reference_answers
from analysis.errors import InputError
from analysis.grade import _answer
from analysis.grading.extract import last_box
from analysis.grading.grader import Grade, Pair, grade_pairs
from loadgen.exchange import Outcome
from loadgen.record import Record, RunInfo, write_run
from tests.conftest import ROOT

TABLE = [json.loads(line) for line in (ROOT / "tests/data/grading_pairs.jsonl").read_text().splitlines()]
SLOW = r"\int_0^1 e^{e^{x^{x^x}}} dx"


def record(seq: int, text: str | None, *, finish: str = "stop", outcome: Outcome = "ok", problem: str = "p") -> Record:
    return Record(
        run_id="r", seq=seq, problem_id=problem, budget=64, due_s=0.0, outcome=outcome, finish_reason=finish, text=text
    )


def make_run(folder: Path, texts: list[str], golds: dict[str, str], model: str = "R1") -> Path:
    folder.mkdir()
    records = [record(seq, text, problem=problem) for seq, (text, problem) in enumerate(zip(texts, golds, strict=True))]
    (folder / "records.jsonl").write_bytes(b"".join(msgspec.json.encode(one) + b"\n" for one in records))
    rows = [{"unique_id": key, "answer": gold, "subject": "Algebra", "level": 1} for key, gold in golds.items()]
    (folder / "problems.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    write_run(folder, RunInfo(run_id="r", config="tp1", model=model, target="t", started_at="", clock={}))
    return folder


INTEGERS: dict[Pair, Grade] = {(str(n), str(n)): "correct" for n in range(498)}


@pytest.fixture(scope="module")
def graded() -> dict[Pair, Grade]:
    """The grades of the table and of a slow pair with integers, all from one call, because starting its processes takes seconds."""
    return grade_pairs([*((row["gold"], _answer(row["answer"])) for row in TABLE), ("5", SLOW), *INTEGERS])


def test_table_of_pairs(graded: dict[Pair, Grade]) -> None:
    """In 7,000 pairs of all kinds of answers, every equal answer is correct and no different one is. Few are undecided, all named."""
    rows = [(row, graded[row["gold"], _answer(row["answer"])]) for row in TABLE]
    assert [row for row, grade in rows if not row["equal"] and grade == "correct"] == []
    assert [row for row, grade in rows if row["equal"] and grade != "correct"] == []
    assert [row for row, grade in rows if (grade == "undecided") != row.get("undecided", False)] == []
    assert len(TABLE) >= 7000
    assert min(Counter(row["equal"] for row in TABLE).values()) >= 400


def test_references_equal_themselves(shared: Path) -> None:
    """In MATH-500 and in our sample, the answer in the box of each reference solution is correct."""
    for path in (shared / "math500.jsonl", ROOT / "loadgen/data/sample.jsonl"):
        rows = [json.loads(line) for line in path.read_text().splitlines()]
        pairs = [(row["answer"], last_box(row["solution"]) or "") for row in rows]
        assert set(grade_pairs(pairs).values()) == {"correct"}


def test_different_references_differ(shared: Path) -> None:
    """A quarter of the references that are not integers, compared with each other: only equal ones are equal."""
    rows = [json.loads(line)["answer"] for line in (shared / "math500.jsonl").read_text().splitlines()]
    answers = sorted({answer for answer in rows if not answer.lstrip("-").isdigit()})[::4]
    grades = grade_pairs((a, b) for a in answers for b in answers if a != b)
    assert {pair for pair, grade in grades.items() if grade != "wrong"} <= {
        (a, b)
        for a in answers
        for b in answers
        if a.replace("d", "").replace(" ", "") == b.replace("d", "").replace(" ", "")
    }


def test_a_slow_pair_times_out_and_the_others_are_graded(graded: dict[Pair, Grade]) -> None:
    """It ends as grade_timeout, and the other pairs get their correct grades."""
    assert graded["5", SLOW] == "grade_timeout"
    assert INTEGERS.items() <= graded.items()


@pytest.mark.parametrize(
    ("gold", "answer", "grade"),
    [
        ("5", "9^{9^{9}}", "wrong"),
        ("5", "(10^9)!", "wrong"),
        ("9^{9^9}", "9^{9^9}+1", "undecided"),
        ("5", "9^{9^{9^9}}", "undecided"),
        (r"\{x \in \mathbb{Z} : x > 3\}", r"(3,\infty)", "undecided"),
        ("1" * 400, "1" * 399 + "2", "wrong"),
        (r"\frac{1}{1+" * 10_000 + "1" + "}" * 10_000, "1", "undecided"),
        (r"\frac{1}{1+" * 150 + "1" + "}" * 150, "1", "undecided"),
        ("5", "4+", "undecided"),
        ("1 h and " * 240, "5", "undecided"),
    ],
)
def test_what_cannot_be_decided_is_undecided(gold: str, answer: str, grade: str) -> None:
    """Towers of powers, long numbers and deep nesting end in time, and never as equal."""
    assert grade_pairs([(gold, answer)]) == {(gold, answer): grade}


def test_every_record_gets_one_grade() -> None:
    """An output without a box, a cut output without a correct answer and a failed request have grades of their own, not wrong."""
    records = [
        record(0, r"a</think>\boxed{5}"),
        record(1, r"a</think>\boxed{6}"),
        record(2, "a</think>done"),
        record(3, "a", finish="length"),
        record(4, None, outcome="timeout"),
        record(5, r"so \boxed{5}, wait", finish="length"),
        record(6, r"</think>\boxed{5}", problem="unknown"),
        record(7, r"so \boxed{6}, wait", finish="length"),
    ]
    frame = grade_records(records, {"p": "5"}, thinks=True)
    assert frame["grade"].tolist() == [
        "correct",
        "wrong",
        "no_answer",
        "truncated",
        "failed",
        "correct",
        "grade_error",
        "truncated",
    ]
    assert frame["boxed_in_thinking"].tolist() == [False, False, False, False, False, True, False, True]
    assert frame["finished"].tolist() == [True, True, True, False, False, False, True, False]
    share = accuracy(frame)
    assert (share.n, share.strict.estimate, share.lenient.estimate) == (7, 1 / 7, 2 / 7)
    assert share.strict.low < 1 / 7 < share.strict.high


def test_wilson_interval() -> None:
    """The interval for 17 of 20 is 0.640 to 0.948 (Wilson 1927, computed by hand)."""
    frame = grade_records([record(n, rf"\boxed{{{5 if n < 17 else 6}}}") for n in range(20)], {"p": "5"}, thinks=False)
    assert accuracy(frame).strict == pytest.approx((0.85, 0.6396, 0.9476), abs=1e-4)


def test_a_run_is_graded_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The grades are stored beside the records, and computed again when the references change or the file is damaged."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    folder = make_run(tmp_path / "run", [r"\boxed{5}", r"\boxed{0.5}"], {"a": "5", "b": r"\frac12"})
    first = grade_run(folder)
    assert first["grade"].tolist() == ["correct", "correct"]
    written = (folder / GRADES).stat().st_mtime_ns
    assert grade_run(folder).equals(first)
    assert (folder / GRADES).stat().st_mtime_ns == written
    (folder / GRADES).write_text("damaged")
    assert grade_run(folder).equals(first)
    (folder / "problems.jsonl").write_text('{"unique_id": "a", "answer": "6"}\n{"unique_id": "b", "answer": "1"}\n')
    assert grade_run(folder)["grade"].tolist() == ["wrong", "wrong"]


def test_grades_of_100_problems_at_5_budgets_come_back_from_the_cache(shared: Path, tmp_path: Path) -> None:
    """All outputs are distinct, and none is graded a second time. `benchmarks.grading` measures how long it takes."""
    rows = [json.loads(line) for line in (shared / "math500.jsonl").read_text().splitlines()[:100]]
    golds = {row["unique_id"]: row["answer"] for row in rows}
    texts = [
        (
            row["unique_id"],
            "think " * 500 + "</think>" + row["solution"] + rf" \boxed{{{row['answer']}+{budget}-{budget}}}",
        )
        for row in rows
        for budget in range(5)
    ]
    records = [record(seq, text, problem=problem) for seq, (problem, text) in enumerate(texts)]
    cache = tmp_path / "grades.sqlite"
    frame = grade_records(records, golds, thinks=True, cache=cache)
    assert len(frame) == 500
    assert grade_records(records, golds, thinks=True, cache=cache).equals(frame)
    with contextlib.closing(sqlite3.connect(cache)) as connection, connection:
        connection.execute("UPDATE verdict SET verdict = 'no_answer'")
    again = grade_records(records, golds, thinks=True, cache=cache)
    assert set(again["grade"]) == {"no_answer"}


def test_pairs_come_back_in_order(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Each pair is printed as one JSON line with `correct`. If an answer has a box, its content is graded."""
    pairs = [("5", "5.0"), ("5", "6"), (r"\frac12", r"so \boxed{0.5}"), ("5", "6")]
    path = tmp_path / "pairs.jsonl"
    path.write_text("".join(json.dumps({"gold": gold, "answer": answer}) + "\n" for gold, answer in pairs))
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    assert main(["grade", "--pairs", str(path)]) == 0
    rows = [json.loads(line) for line in capsys.readouterr().out.splitlines()]
    assert [row["correct"] for row in rows] == [True, False, True, False]
    assert [(row["gold"], row["answer"]) for row in rows] == pairs


def test_results_are_graded_by_level(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """The table is on stderr and one JSON object on stdout. Problems without a level have a row of their own."""
    folder = make_run(tmp_path / "run", [r"\boxed{5}", r"\boxed{6}", r"\boxed{8}"], {"a": "5", "b": "7", "c": "8"})
    problems = (folder / "problems.jsonl").read_text().splitlines()
    problems[2] = problems[2].replace('"level": 1', '"level": null')
    (folder / "problems.jsonl").write_text("\n".join(problems))
    assert main(["grade", str(tmp_path), "--by", "level", "--fresh"]) == 0
    row, other = json.loads(capsys.readouterr().out)["runs"][0]["accuracy"]
    assert (row["level"], row["n"], row["strict"][0]) == (1, 2, 0.5)
    assert row["grades"] == {"correct": 1, "wrong": 1}
    assert (other["level"], other["n"], other["strict"][0]) == (None, 1, 1.0)


def test_a_run_without_answers_has_no_accuracy(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """An unknown share is null, because NaN is no JSON."""
    folder = make_run(tmp_path / "run", [r"\boxed{5}"], {"a": "5"})
    (folder / "records.jsonl").write_bytes(msgspec.json.encode(record(0, None, outcome="refused", problem="a")) + b"\n")
    assert main(["grade", str(folder)]) == 0
    out = capsys.readouterr().out
    assert "NaN" not in out
    assert json.loads(out)["runs"][0]["accuracy"][0]["strict"] == [None] * 3


@pytest.mark.parametrize(
    ("line", "message"),
    [("nonsense", ":1: not a JSON object"), ('{"gold": "5"}', ':1: needs "gold" and "answer"'), (None, "No such file")],
)
def test_invalid_pairs_are_reported(
    tmp_path: Path, line: str | None, message: str, capsys: pytest.CaptureFixture[str]
) -> None:
    """The error names file and line, the exit status is 2, and nothing is on stdout."""
    path = tmp_path / "pairs.jsonl"
    if line is not None:
        path.write_text(line + "\n")
    status = main(["grade", "--pairs", str(path)])
    out, err = capsys.readouterr()
    assert (status, out) == (2, "")
    assert message in err
    assert len(err.splitlines()) == 1


def test_references_need_an_id_and_an_answer(tmp_path: Path) -> None:
    (tmp_path / "problems.jsonl").write_text('{"unique_id": "a"}\n')
    with pytest.raises(InputError, match=r"problems\.jsonl:1"):
        reference_answers(tmp_path / "problems.jsonl")
