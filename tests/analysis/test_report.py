"""The page of a report is complete and needs no network, also for runs with damaged files."""

import json
import re
import shutil
from collections.abc import Callable
from pathlib import Path

import pandas as pd
import pytest

from analysis.__main__ import main
from tests.fixtures import make_records


@pytest.fixture(scope="session")
def study(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two models x two configurations x two budgets, 40 problems each."""
    out = tmp_path_factory.mktemp("study") / "results"
    models = "r1-distill-qwen-1.5b,r1-distill-qwen-14b"
    arguments = ["--models", models, "--configs", "tp1,tp1-ngram", "--budgets", "1024,4096", "--problems", "40"]
    assert make_records.main([str(out), *arguments]) == 0
    return out


def report(results: Path, out: Path, capsys: pytest.CaptureFixture[str]) -> dict[str, object]:
    """Run the command and return its JSON output."""
    capsys.readouterr()
    assert main(["report", str(results), "--out", str(out), "--page-only"]) == 0
    last: dict[str, object] = json.loads(capsys.readouterr().out.splitlines()[-1])
    return last


def test_report_is_one_self_contained_page(study: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """The page is one HTML file that loads nothing from another host and contains every run."""
    result = report(study, tmp_path, capsys)
    page = (tmp_path / "index.html").read_text()
    assert result["runs"] == 4
    assert result["requests"] == 4 * 40 * 2
    assert len(page) < 5e6
    assert not re.search(r"<(script|link|img|iframe)[^>]+(src|href)=[\"']?https?:", page)
    assert "tp1-ngram--r1-distill-qwen-14b" in page
    figures, legends = page.count("<figure "), page.count('<p class="legend">')
    assert figures == legends
    assert '<i class="on"' in page
    assert re.search(r"by thinkload \d+\.\d+", page)


def test_an_incomplete_last_line_is_left_out_and_reported(
    study: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """After a crash while writing, the report lacks one record and says so."""
    incomplete = tmp_path / "incomplete"
    shutil.copytree(study, incomplete)
    path = incomplete / "tp1--r1-distill-qwen-14b" / "records.jsonl"
    path.write_bytes(path.read_bytes()[:-30])
    result = report(incomplete, tmp_path / "out", capsys)
    assert result["requests"] == 4 * 40 * 2 - 1
    assert "1 damaged line was skipped (line 80: incomplete)" in (tmp_path / "out" / "index.html").read_text()


def test_no_such_folder_is_one_line(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """A missing folder gives one line on stderr and exit status 2."""
    assert main(["report", str(tmp_path / "nothing")]) == 2
    assert capsys.readouterr().err.count("\n") == 1


@pytest.fixture
def one_run(study: Path, tmp_path: Path) -> Path:
    """A copy of one run, which a test may damage."""
    folder = tmp_path / "results"
    shutil.copytree(study / "tp1--r1-distill-qwen-14b", folder)
    return folder


def damage_empty(folder: Path) -> None:
    """A run that was stopped before its first record."""
    (folder / "records.jsonl").write_bytes(b"")


def damage_no_records(folder: Path) -> None:
    """A run that ended before it opened the file."""
    (folder / "records.jsonl").unlink()


def damage_one_record(folder: Path) -> None:
    """One request."""
    path = folder / "records.jsonl"
    path.write_bytes(path.read_bytes().splitlines(keepends=True)[0])


def damage_all_failed(folder: Path) -> None:
    """Every request was refused and never sent."""
    keep = ("run_id", "seq", "problem_id", "budget")
    rows = [json.loads(line) for line in (folder / "records.jsonl").read_text().splitlines()]
    rows = [{k: row[k] for k in keep} | {"due_s": 0.0, "outcome": "refused", "error": "no"} for row in rows]
    (folder / "records.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))


def damage_zero_budget(folder: Path) -> None:
    """Budget 0 and no tokens at all."""
    rows = [json.loads(line) for line in (folder / "records.jsonl").read_text().splitlines()]
    rows = [row | {"budget": 0, "completion_tokens": 0, "tpot_s": None} for row in rows]
    (folder / "records.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))


def damage_invalid(folder: Path) -> None:
    """A run with the verdict INVALID."""
    run = json.loads((folder / "run.json").read_text())
    (folder / "run.json").write_text(json.dumps(run | {"verdict": "INVALID", "reasons": ["server restarted"]}))


def damage_no_right_answer(folder: Path) -> None:
    """A run whose answers are all wrong, as with made-up prompts."""
    rows = [json.loads(line) for line in (folder / "problems.jsonl").read_text().splitlines()]
    (folder / "problems.jsonl").write_text("".join(json.dumps(row | {"answer": "-1"}) + "\n" for row in rows))


def damage_newer(folder: Path) -> None:
    """Written by a later version of the same schema, with unknown fields and an unknown finish reason."""
    run = json.loads((folder / "run.json").read_text())
    (folder / "run.json").write_text(json.dumps(run | {"new": {"a": 1}}))
    rows = [json.loads(line) for line in (folder / "records.jsonl").read_text().splitlines()]
    rows = [row | {"future": [1, {"b": 2}], "finish_reason": "novel"} for row in rows]
    (folder / "records.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))


def damage_garbage(folder: Path) -> None:
    """Valid lines among lines that are not JSON, not an object, not UTF-8, or lack a required field."""
    lines = (folder / "records.jsonl").read_bytes().splitlines(keepends=True)
    bad = [b"{oops\n", b"[1]\n", b"\xff\xfe\n", b'{"seq":1}\n', b"\n", b'{"budget":"x","outcome":1}\n']
    (folder / "records.jsonl").write_bytes(b"".join(lines[:10] + bad + lines[10:]))


def damage_telemetry(folder: Path) -> None:
    """GPU telemetry, problems and chunks that are incomplete after a crash."""
    (folder / "gpu.csv").write_text("t_s,gpu,power_w\n1.0,0,5")
    (folder / "chunks.bin").write_bytes(b"\x05\x01")
    (folder / "problems.jsonl").write_text('{"unique_id": 3}\n{"un')


DAMAGES = [value for name, value in sorted(globals().items()) if name.startswith("damage_")]


def everything(results: Path, other: Path, out: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Every command that reads run folders."""
    assert isinstance(report(results, out, capsys)["requests"], int)
    assert main(["recommend", str(results), "--min-accuracy", "0.5", "--max-e2e-p95", "60"]) in (0, 1)
    assert main(["claims", str(results)]) == 0
    assert main(["compare", str(results), str(other)]) in (0, 1, 2)


@pytest.mark.parametrize("damage", DAMAGES, ids=lambda damage: damage.__name__.removeprefix("damage_"))
def test_every_damaged_run_gives_a_page(
    damage: Callable[[Path], None], one_run: Path, study: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Every command handles a damaged run, alone and beside an intact run, without a traceback."""
    damage(one_run)
    other = study / "tp1--r1-distill-qwen-14b"
    everything(one_run, other, tmp_path / "alone", capsys)
    shutil.copytree(study / "tp1-ngram--r1-distill-qwen-14b", one_run / "good")
    everything(one_run, other, tmp_path / "beside", capsys)


def test_a_run_of_a_newer_schema_is_left_out(
    one_run: Path, study: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Alone it is refused in one line; beside other runs, the page names it."""
    run = json.loads((one_run / "run.json").read_text())
    (one_run / "run.json").write_text(json.dumps(run | {"schema": 9}))
    assert main(["report", str(one_run), "--out", str(tmp_path / "out")]) == 2
    assert capsys.readouterr().err.count("\n") == 1
    shutil.copytree(study / "tp1-ngram--r1-distill-qwen-14b", one_run / "good")
    assert report(one_run, tmp_path / "out", capsys)["runs"] == 1
    assert "run.json has schema 9" in (tmp_path / "out" / "index.html").read_text()


def test_invalid_runs_are_shown_but_not_used(one_run: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """The page shows the reason at the top and recommends nothing."""
    damage_invalid(one_run)
    report(one_run, tmp_path / "out", capsys)
    page = (tmp_path / "out" / "index.html").read_text()
    assert "server restarted" in page
    assert "<h1>Nothing can be recommended, because every run is INVALID.</h1>" in page
    assert '<span class="flag INVALID">1 of 1 runs INVALID</span>' in page
    assert "<figure" not in page, "a title would be a conclusion"


def test_a_run_without_a_right_answer_is_judged_by_latency_and_cost(
    study: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Two configurations are compared at one budget; the page recommends one and has no figure of accuracy."""
    results = tmp_path / "results"
    for config in ("tp1", "tp1-ngram"):
        shutil.copytree(study / f"{config}--r1-distill-qwen-14b", results / config)
        damage_no_right_answer(results / config)
    found = report(results, tmp_path / "out", capsys)
    assert str(found["headline"]).startswith("Deploy DeepSeek-R1-Distill-Qwen-14B on tp1-ngram with a budget of 1,024")
    page = (tmp_path / "out" / "index.html").read_text()
    assert "compared, by latency and cost alone" in page
    assert "GPU-seconds per request" in page
    shown = set(re.findall(r'<figure id="([\w-]+)"', page))
    assert {"latency", "cost-per-token", "speed-throughput", "speculation"} <= shown
    assert not shown & {"accuracy", "accuracy-latency", "accuracy-cost", "cost-of-pass", "endings"}


def test_figures_and_tables_are_written_beside_the_page(
    one_run: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Each figure is written as SVG, PNG and PDF, each table as CSV and Parquet, and the summary as Markdown."""
    assert main(["report", str(one_run), "--out", str(tmp_path / "out")]) == 0
    figures = {path.stem for path in (tmp_path / "out" / "figures").glob("*.svg")}
    assert {"accuracy-latency", "accuracy", "cost-per-token", "timeline"} <= figures
    for name in figures:
        assert (tmp_path / "out" / "figures" / f"{name}.png").read_bytes().startswith(b"\x89PNG")
        assert (tmp_path / "out" / "figures" / f"{name}.pdf").read_bytes().startswith(b"%PDF")
    assert len(pd.read_parquet(tmp_path / "out" / "tables" / "summary.parquet")) == 2
    summary = pd.read_csv(tmp_path / "out" / "tables" / "summary.csv")
    assert len(summary) == 2
    assert {"requests_per_s", "asked_per_s", "goodput_per_s"} <= set(summary.columns)
    found = json.loads((tmp_path / "out" / "summary.json").read_text())
    assert found["headline"].startswith(f"Deploy {found['recommendation']['deploy']['model']}")
    assert len(found["summary"]) == 2
    assert "| DeepSeek-R1-Distill-Qwen-14B | tp1 |" in (tmp_path / "out" / "summary.md").read_text()
    assert set(found["titles"]) == figures
    assert not list((tmp_path / "out" / "tables").glob("*.tex"))


def test_the_line_of_json_is_short_for_a_large_study(
    study: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """12 conditions are 12 recommendations: the line names what it leaves out, and the file has everything."""
    for number in range(12):
        shutil.copytree(study / "tp1--r1-distill-qwen-14b", tmp_path / "many" / str(number))
        path = tmp_path / "many" / str(number) / "run.json"
        run = json.loads(path.read_text())
        path.write_text(json.dumps(run | {"load": {"kind": "closed", "concurrency": number + 1}}))
    for command in ("recommend", "claims"):
        file = tmp_path / f"{command}.json"
        assert main([command, str(tmp_path / "many"), "--json", str(file)]) == 0
        line = capsys.readouterr().out.splitlines()[-1]
        assert len(line) < 4096
        short, whole = json.loads(line), json.loads(file.read_text())
        assert set(whole) == {key for key in short if key != "left_out"} | set(short.get("left_out", []))
    assert len(json.loads((tmp_path / "recommend.json").read_text())["others"]) == 11


def test_tables_are_written_as_latex(one_run: Path, tmp_path: Path) -> None:
    """With the characters that LaTeX would interpret escaped."""
    run = json.loads((one_run / "run.json").read_text())
    (one_run / "run.json").write_text(json.dumps(run | {"config": "tp_1 & 50%"}))
    assert main(["report", str(one_run), "--out", str(tmp_path / "out"), "--page-only", "--latex"]) == 0
    text = (tmp_path / "out" / "tables" / "summary.tex").read_text()
    assert r"tp\_1 \& 50\%" in text
    assert r"\toprule" in text
    assert text.count(r"\\") == 3


def test_an_empty_folder_is_the_mistake_of_the_operator(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["report", str(tmp_path), "--out", str(tmp_path / "out")]) == 2
    assert "there are no runs in it" in capsys.readouterr().err
    assert not (tmp_path / "out").exists()
