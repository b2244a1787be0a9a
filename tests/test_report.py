"""The report's page: whole, readable, without network, whatever the runs look like."""

import json
import re
import shutil
from pathlib import Path

import pytest

from analysis.__main__ import main
from benchmarks import make_records


@pytest.fixture(scope="session")
def study(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two models x two configurations x two budgets, 40 problems each."""
    out = tmp_path_factory.mktemp("study") / "results"
    models = "r1-distill-qwen-1.5b,r1-distill-qwen-14b"
    arguments = [
        "--models",
        models,
        "--configs",
        "tp1,tp1-ngram",
        "--budgets",
        "1024,4096",
        "--problems",
        "40",
    ]
    assert make_records.main([str(out), *arguments]) == 0
    return out


def report(results: Path, out: Path, capsys: pytest.CaptureFixture[str]) -> dict[str, object]:
    """Run the command; its last line on stdout."""
    capsys.readouterr()
    assert main(["report", str(results), "--out", str(out), "--page-only"]) == 0
    last: dict[str, object] = json.loads(capsys.readouterr().out.splitlines()[-1])
    return last


def test_report_is_one_self_contained_page(
    study: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """One HTML file that names no other host and holds every run."""
    result = report(study, tmp_path, capsys)
    page = (tmp_path / "index.html").read_text()
    assert result["runs"] == 4
    assert result["requests"] == 4 * 40 * 2
    assert len(page) < 5e6
    assert not re.search(r"<(script|link|img|iframe)[^>]+(src|href)=[\"']?https?:", page)
    assert "tp1-ngram--r1-distill-qwen-14b" in page


def test_a_torn_last_line_is_left_out_and_said(
    study: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """A crash while writing costs one record, not the report."""
    torn = tmp_path / "torn"
    shutil.copytree(study, torn)
    path = torn / "tp1--r1-distill-qwen-14b" / "records.jsonl"
    path.write_bytes(path.read_bytes()[:-30])
    result = report(torn, tmp_path / "out", capsys)
    assert result["requests"] == 4 * 40 * 2 - 1
    assert "unreadable line" in (tmp_path / "out" / "index.html").read_text()


def test_no_such_folder_is_one_line(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """The operator's mistake: one line that names the folder, exit 2."""
    assert main(["report", str(tmp_path / "nothing")]) == 2
    assert capsys.readouterr().err.count("\n") == 1
