"""Six files of other people's shapes, each to a report: one command sends the run to an emulated server, one writes the page."""

import csv
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from analysis.__main__ import main
from analysis.data.frame import load as frame_of
from analysis.data.setting import asked_labels
from loadgen.options import RunOptions
from loadgen.plan.datasets import load
from loadgen.record import read_records, read_run
from tests.fixtures.control import ControlServer
from tests.fixtures.emulated import emulated, loadgen

QUESTIONS = [f"Ann has {n} pens and buys {n} more. How many pens has she?" for n in range(2, 8)]
ANSWERS = [str(2 * n) for n in range(2, 8)]


def gsm8k(folder: Path) -> str:
    rows = [{"question": q, "answer": f"She has <<a+a={a}>>{a} pens.\n#### {a}"} for q, a in zip(QUESTIONS, ANSWERS, strict=True)]  # fmt: skip
    return _lines(folder / "gsm8k-like.jsonl", rows)


def spreadsheet(folder: Path) -> str:
    with (folder / "exam.csv").open("w", newline="") as file:
        csv.writer(file).writerows([("Question", "Target"), *zip(QUESTIONS, ANSWERS, strict=True)])
    return str(folder / "exam.csv")


def parquet(folder: Path) -> str:
    pq.write_table(pa.table({"problem": QUESTIONS, "answer": [int(a) for a in ANSWERS]}), folder / "exam.parquet")
    return str(folder / "exam.parquet")


def prompts(folder: Path) -> str:
    return _lines(folder / "prompts.jsonl", [{"prompt": q} for q in QUESTIONS])


def sharegpt(folder: Path) -> str:
    turns = [[{"from": "human", "value": q}, {"from": "gpt", "value": "Many."}] for q in QUESTIONS]
    (folder / "chats.json").write_text(json.dumps([{"id": str(n), "conversations": t} for n, t in enumerate(turns)]))
    return str(folder / "chats.json")


def hub(folder: Path) -> str:
    """A data set in the cache of the Hub's client, as after a first run."""
    repository = folder / "hub" / "datasets--someone--quiz"
    data = repository / "snapshots" / "c0ffee" / "data" / "test-00000-of-00001.parquet"
    data.parent.mkdir(parents=True)
    pq.write_table(pa.table({"question": QUESTIONS, "answer": ANSWERS}), data)
    (repository / "refs").mkdir()
    (repository / "refs" / "main").write_text("c0ffee")
    return "hf:someone/quiz:test"


def _lines(path: Path, rows: list[dict[str, Any]]) -> str:
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return str(path)


@pytest.fixture(scope="module")
def server() -> Iterator[str]:
    with emulated("tp1", "--speed", "30") as target:
        yield target


@pytest.mark.parametrize(
    "shape", [gsm8k, spreadsheet, parquet, prompts, sharegpt, hub], ids=lambda shape: shape.__name__
)
def test_a_file_of_another_shape_becomes_a_report(
    shape: Any, server: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    out = tmp_path / "run"
    for name, value in {"HF_HOME": str(tmp_path), "HF_HUB_OFFLINE": "1", "XDG_CACHE_HOME": str(tmp_path)}.items():
        monkeypatch.setenv(name, value)
    done = loadgen("--target", server, "--dataset", shape(tmp_path), "--budgets", "64", "--out", str(out))
    assert done.returncode in (0, 3), done.stderr
    assert main(["report", str(out), "--page-only"]) == 0
    assert (out / "report" / "index.html").is_file()
    run, graded = json.loads((out / "run.json").read_text()), shape not in (prompts, sharegpt)
    assert run["dataset"]["answers"] == (6 if graded else 0)
    assert run["dataset"].get("revision") == ("c0ffee" if shape is hub else None)
    golds = [json.loads(line)["answer"] for line in (out / "problems.jsonl").read_text().splitlines()]
    assert golds == (ANSWERS if graded else [""] * 6)
    assert ("not graded" in done.stderr) == (not graded)
    requests = frame_of(out)
    assert set(requests["grade"]) == ({"truncated"} if graded else {"ungraded"})
    assert requests["correct"].isna().all() == (not graded)


@pytest.mark.parametrize("path", ["chat", "completions"])
def test_synthetic_prompts_have_exactly_the_tokens_asked_for(path: str, server: str, tmp_path: Path) -> None:
    """The server counts what was asked for, also with its template and with lengths from a range, and every reply has its length."""
    out, lengths = tmp_path / "run", "synthetic:input=96±32,output=12±4"
    done = loadgen(
        "--target",
        server,
        "--dataset",
        lengths,
        "--requests",
        "40",
        "--path",
        path,
        "--out",
        str(out),
        "--prompt",
        "r1",
    )
    assert done.returncode in (0, 3), done.stderr
    run = json.loads((out / "run.json").read_text())
    assert run["dataset"]["exact_tokens"] is True
    assert run["budgets"] == [12]
    wanted = {
        p.unique_id: (p.input_tokens, p.output_tokens) for p in load(RunOptions(dataset=lengths, requests=40)).problems
    }
    found = {r.problem_id: (r.prompt_tokens, r.completion_tokens) for r in read_records(out / "records.jsonl")}
    assert found == wanted
    assert len(set(found.values())) > 20
    (label,) = asked_labels([read_run(out)])
    assert "ignore_eos" in label  # the words under which the report shows the run


def test_lengths_that_a_server_does_not_keep_are_reasons_against_the_run(tmp_path: Path) -> None:
    """By /tokenize, each word is a token; by its usage, a prompt has 9 tokens. Replies end by themselves after 6 tokens."""
    pages = {"/tokenize": lambda body: (200, {"count": len(body["messages"][0]["content"].split())})}
    asked = ("--dataset", "synthetic:input=50±5,output=12", "--requests", "4", "--out", str(tmp_path / "run"))
    with ControlServer(pages).running() as target:
        assert loadgen("--target", target, *asked).returncode == 0
    run = read_run(tmp_path / "run")
    assert (run.verdict, run.dataset["exact_tokens"]) == ("SUSPECT", True)
    assert any("but 9 tokens on average by its usage" in reason for reason in run.reasons)
    assert any(reason.startswith("4 of 4 replies ended by themselves") for reason in run.reasons)


def test_the_lengths_are_approximate_without_a_tokenizer_and_that_is_said(tmp_path: Path) -> None:
    with ControlServer().running() as target:
        done = loadgen(
            "--target",
            target,
            "--dataset",
            "synthetic:input=20,output=4",
            "--requests",
            "2",
            "--out",
            str(tmp_path / "run"),
        )
    assert "has no /tokenize: the lengths of the prompts are approximate" in done.stderr


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (["--dataset", "synthetic:input=0,output=4"], "'0' is not a number of tokens"),
        (["--dataset", "synthetic:input=9999999,output=4"], "more than 50,000,000 words: give fewer --problems"),
        (["--dataset", "synthetic:input=9±9,output=4"], "'9±9' is not a number of tokens"),
        (["--dataset", "synthetic:input=9"], "write synthetic:input=512,output=256"),
        (["--dataset", "synthetic:input=9,output=4", "--budgets", "8"], "leave out --budgets"),
        (["--dataset", "synthetic:input=9,output=4", "--budget-mode", "native"], "leave out --budget-mode"),
        (["--dataset", "synthetic:input=3,output=4"], "no prompt of 3 tokens can be made"),
    ],
)  # fmt: skip
def test_impossible_lengths_are_refused(arguments: list[str], says: str, server: str, tmp_path: Path) -> None:
    done = loadgen("--target", server, *arguments, "--out", str(tmp_path / "run"))
    assert done.returncode == 2
    assert says in done.stderr
    assert done.stderr.count("\n") == 1
