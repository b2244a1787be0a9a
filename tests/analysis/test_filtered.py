"""An answer that the server's filter ended is neither wrong nor a failed request: it has a grade of its own."""

import json
from pathlib import Path

import msgspec
import pytest

from analysis.__main__ import main
from analysis.data.frame import load
from analysis.data.run_grades import accuracy, grade_records
from analysis.figures.budget import figures
from analysis.figures.style import GRADE_COLOURS
from analysis.tables import distributions, summary
from loadgen.record import PROBLEMS, RECORDS, Outcome, Record, RunInfo, write_run

OUTCOMES: tuple[Outcome, ...] = ("ok", "ok", "filtered", "filtered", "timeout")


@pytest.fixture
def run(tmp_path: Path) -> Path:
    """A right and a wrong answer, two filtered ones, and a request that failed."""
    clock = {"wall_s": 0.0, "perf_s": 0.0}
    load_ = {"kind": "closed", "concurrency": 1}
    folder = tmp_path / "run"
    folder.mkdir()
    write_run(folder, RunInfo(run_id="r", config="tp1", model="m-7B", target="t", started_at="", clock=clock, load=load_))  # fmt: skip
    (folder / PROBLEMS).write_text('{"unique_id": "p", "problem": "2 + 3?", "answer": "5"}\n')
    (folder / RECORDS).write_bytes(b"".join(msgspec.json.encode(record) + b"\n" for record in records()))
    return folder


def records() -> list[Record]:
    """One record for each outcome. The text of a filtered answer has a box, which does not count."""
    made = []
    for seq, outcome in enumerate(OUTCOMES):
        record = Record(run_id="r", seq=seq, problem_id="p", budget=64, outcome=outcome, due_s=0.0, sent_s=0.0, end_s=1.0)  # fmt: skip
        record.finish_reason = {"ok": "stop", "filtered": "content_filter"}.get(outcome)
        record.text = r"</think>\boxed{6}" if seq else r"</think>\boxed{5}"
        record.last_token_s, record.e2e_s, record.completion_tokens = 1.0, 1.0, 9
        made.append(record)
    return made


def test_it_is_counted_neither_as_wrong_nor_as_failed() -> None:
    graded = grade_records(records(), {"p": "5"}, thinks=False)
    assert graded["grade"].tolist() == ["correct", "wrong", "filtered", "filtered", "failed"]
    assert accuracy(graded).n == 2


def test_the_command_names_it(run: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["grade", str(run)]) == 0
    printed = capsys.readouterr()
    rows = json.loads(printed.out.splitlines()[-1])["runs"][0]["accuracy"]
    assert rows[0]["grades"] == {"filtered": 2, "correct": 1, "wrong": 1, "failed": 1}
    assert "filtered 2" in printed.err


def test_the_figure_of_the_report_has_its_name(run: Path) -> None:
    frame = load(run)
    assert frame["grade"].astype(str).tolist() == ["correct", "wrong", "filtered", "filtered", "failed"]
    rows = distributions.endings(frame)
    assert rows.set_index("grade")["count"]["filtered"] == 2
    made = {figure.name: figure for figure in figures(summary.summary(frame, 1.0), rows, {})}
    scale = made["endings"].chart.to_dict()["encoding"]["color"]["scale"]
    assert scale["domain"] == ["correct", "wrong", "filtered", "failed"]
    assert scale["range"] == [GRADE_COLOURS[grade] for grade in scale["domain"]]
