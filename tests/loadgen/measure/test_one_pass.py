"""Budgets derived from one run, compared with values computed by hand and with real runs on the emulated server."""

import json
from pathlib import Path

import pytest

from loadgen.exchange import Exchange
from loadgen.measure.one_pass import PendingCut, derive
from loadgen.record import read_records, read_run
from loadgen.run.one_pass_files import split_piece
from tests.fixtures.emulated import emulated, loadgen


def exchange(finish: str = "stop") -> Exchange:
    """Return ten tokens in five events of 1, 3, 2, 3 and 1 tokens."""
    tokens = [1, 3, 2, 3, 1]
    return Exchange(
        sent_ns=0,
        headers_ns=1,
        end_ns=99,
        arrival_ns=[10, 20, 30, 40, 50],
        tokens=tokens,
        pieces=[("a", ""), ("bcd", ""), ("e", "f"), ("", "ghi"), ("", "")],
        token_ids=[[0], [1, 2, 3], [4, 5], [6, 7, 8], [9]],
        first_answer_ns=30,
        usage={"prompt_tokens": 7, "completion_tokens": 10, "completion_tokens_details": {"reasoning_tokens": 5}},
        token_source="continuous_usage",
        status=200,
        finish_reason=finish,
    )


def test_a_budget_at_the_end_of_a_chunk_needs_no_pending_cut() -> None:
    cut, pending = derive(exchange(), 4)
    assert pending is None
    assert (cut.arrival_ns, cut.tokens, cut.finish_reason) == ([10, 20], [1, 3], "length")
    assert "".join(r + c for r, c in cut.pieces) == "abcd"
    assert cut.first_answer_ns is None
    assert cut.usage == {"prompt_tokens": 7, "completion_tokens": 4}


def test_a_budget_inside_a_chunk_keeps_its_time_and_leaves_its_text_pending() -> None:
    cut, pending = derive(exchange(), 8)
    assert (cut.arrival_ns[-1], cut.tokens) == (40, [1, 3, 2, 2])
    assert "".join(r + c for r, c in cut.pieces) == "abcdef"
    assert pending == PendingCut((0, 1, 2, 3, 4, 5), (6, 7), ("", "ghi"))
    assert cut.first_answer_ns == 30


@pytest.mark.parametrize("budget", [10, 11, 4096])
def test_a_reply_that_ended_within_the_budget_is_unchanged(budget: int) -> None:
    whole = exchange()
    assert derive(whole, budget) == (whole, None)


def test_a_reply_that_hit_the_largest_budget_is_cut_by_an_equal_budget() -> None:
    cut, _ = derive(exchange("length"), 10)
    assert cut.finish_reason == "length"


def test_a_stream_that_broke_after_the_budget_holds_the_whole_shorter_reply() -> None:
    broken = exchange()
    broken.outcome, broken.error, broken.finish_reason = "reset", "gone", None
    assert derive(broken, 6)[0].outcome == "ok"
    assert derive(broken, 12)[0].outcome == "reset"


@pytest.mark.parametrize(
    ("piece", "part", "expected"),
    [
        (("", "ghi"), "gh", ("", "gh")),
        (("abc", ""), "ab", ("ab", "")),
        (("abc", "def"), "abc</think>\n\nde", ("abc", "de")),
        (("abc", "def"), "ab", ("ab", "")),
        (("abc", ""), "xy", None),
    ],
)
def test_a_part_of_a_chunk_is_split_into_reasoning_and_content(
    piece: tuple[str, str], part: str, expected: tuple[str, str] | None
) -> None:
    assert split_piece(piece, part) == expected


@pytest.mark.parametrize("config", ["tp1", "tp1-ngram"])
def test_derived_budgets_equal_real_runs_at_these_budgets(config: str, tmp_path: Path) -> None:
    """Text, tokens and finish reason are the same for every problem at every budget, at concurrency 1."""
    budgets = "48,100,333,800"
    options = ("--dataset", "sample", "--problems", "8", "--budgets", budgets, "--concurrency", "1")
    with emulated(config, "--speed", "20") as url:
        one = loadgen("--target", url, *options, "--one-pass", "--out", str(tmp_path / "one"))
        real = loadgen("--target", url, *options, "--out", str(tmp_path / "real"))
    assert (one.returncode, real.returncode) == (0, 0), one.stderr + real.stderr
    check = json.loads(one.stdout.splitlines()[-1])["one_pass_check"]
    assert [(row["budget"], row["problems"], row["same_text"]) for row in check["checks"]] == [(48, 8, 8)]
    found = {
        (r.problem_id, r.budget): (r.text, r.reasoning, r.completion_tokens, r.finish_reason)
        for r in read_records(tmp_path / "one" / "records.jsonl")
        if r.derived or r.budget == 800
    }
    asked = {
        (r.problem_id, r.budget): (r.text, r.reasoning, r.completion_tokens, r.finish_reason)
        for r in read_records(tmp_path / "real" / "records.jsonl")
    }
    assert found == asked
    cuts = [r.cut_at for r in read_records(tmp_path / "one" / "records.jsonl") if r.derived]
    assert "chunk" not in cuts
    assert not (tmp_path / "one" / "straddles.jsonl").exists()


def test_with_several_streams_two_budgets_are_checked_one_after_the_other(tmp_path: Path) -> None:
    """Requests at one budget begin when all at the budget before have ended, and the summary leaves the check out."""
    out = tmp_path / "run"
    options = ("--dataset", "sample", "--problems", "8", "--budgets", "16,32,64,256", "--concurrency", "4")
    with emulated("tp1", "--speed", "10") as url:
        done = loadgen("--target", url, *options, "--one-pass", "--out", str(out))
    assert done.returncode == 0, done.stderr
    parts = {
        budget: [r for r in read_records(out / "records.jsonl") if r.budget == budget and not r.derived]
        for budget in (16, 32, 64, 256)
    }
    assert {budget: len(rows) for budget, rows in parts.items()} == {16: 8, 32: 8, 64: 0, 256: 8}
    for before, after in ((256, 16), (16, 32)):
        ended_s = max(r.end_s or 0 for r in parts[before])
        assert all(r.sent_s is not None and r.sent_s >= ended_s for r in parts[after])
    summary = read_run(out).summary
    assert (summary["requests"], summary["checks"], summary["derived"]) == (8, 16, 24)
    assert summary["inter_chunk_s"]["n"] <= sum(r.chunks - 1 for r in parts[256])
    assert [row["budget"] for row in summary["one_pass_check"]["checks"]] == [16, 32]
    assert not summary["one_pass_check"]["holds"], "eight requests have no steady window"
    assert "budget 32, derived / real: e2e" in done.stderr
