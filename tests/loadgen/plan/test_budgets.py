"""Budget modes: the fields of a request, and the two calls of a forced answer."""

import json
from collections import Counter
from pathlib import Path
from typing import Any

import pytest

from loadgen.exchange import Exchange
from loadgen.options import RunOptions
from loadgen.plan.problems import Problem
from loadgen.plan.prompts import STYLES
from loadgen.plan.workload import Item, Workload
from loadgen.record import read_records
from loadgen.run.forced import joined, second_call
from loadgen.target.control_api import ControlResponse
from loadgen.target.probe import native_refusal
from tests.fixtures.emulated import emulated, loadgen

PROBLEMS = [Problem(f"p{i}", f"What is {i}+1?", str(i + 1)) for i in range(5)]


def bodies(**options: Any) -> list[dict[str, Any]]:
    chosen = RunOptions(**options)
    workload = Workload(PROBLEMS, chosen, "m", STYLES[chosen.prompt or "chat"], "run")
    return [r.body for r in workload.requests(0, workload.planned_with_warmup)]


def test_cut_sets_max_tokens_and_no_mode_sets_ignore_eos() -> None:
    found = bodies(budgets=(8, 64))
    assert Counter(b["max_tokens"] for b in found) == {8: 5, 64: 5}
    assert all("ignore_eos" not in b and b["temperature"] == 0 and "seed" not in b for b in found)


def test_a_problem_without_an_answer_is_asked_as_it_is() -> None:
    """A boxed answer would not be graded. The template of the model stays."""
    for prompt, expected in (("chat", "Name a river."), ("r1", "<｜User｜>Name a river.<｜Assistant｜>")):
        options = RunOptions(budgets=(8,), path="completions" if prompt == "r1" else "chat")
        body = (
            Workload([Problem("p", "Name a river.")], options, "m", STYLES[prompt], "run")
            .request(0, Item(0, 8, 0, 0))
            .body
        )
        assert expected in (body["prompt"] if prompt == "r1" else body["messages"][0]["content"])
        assert "boxed" not in str(body)


def test_native_limits_the_reasoning_and_leaves_room_for_the_answer() -> None:
    body = bodies(budgets=(64,), budget_mode="native", answer_tokens=100)[0]
    assert (body["thinking_token_budget"], body["max_tokens"]) == (64, 164)


def test_prompt_states_the_budget_in_words() -> None:
    body = bodies(budgets=(64,), budget_mode="prompt", answer_tokens=100)[0]
    assert body["messages"][0]["content"].endswith("Think for maximum 64 tokens.")
    assert body["max_tokens"] == 228


def test_raw_templates_contain_the_special_tokens_once() -> None:
    r1 = bodies(budgets=(64,), budget_mode="forced", prompt="r1")[0]
    assert r1["prompt"].startswith("<｜begin▁of▁sentence｜><｜User｜>What is ")
    assert r1["prompt"].endswith("\\boxed{}.<｜Assistant｜><think>\n")
    assert r1["add_special_tokens"] is False
    s1 = bodies(budgets=(64,), budget_mode="forced", prompt="s1")[0]
    assert s1["prompt"].endswith("<|im_start|>assistant\n<|im_start|>think\n")
    assert s1["skip_special_tokens"] is False


def test_each_sample_has_its_own_seed_at_every_budget() -> None:
    """A sample of a problem has the same seed at every budget and in every run with the same --seed."""
    options = {"budgets": (8, 64), "samples": 3, "sampling": "recommended", "prompt": "r1"}
    found = bodies(**options)
    seeds = Counter(b["seed"] for b in found)
    assert set(seeds.values()) == {2}
    assert len(seeds) == 15
    assert {b["temperature"] for b in found} == {0.6}
    assert [b["seed"] for b in bodies(**options)] == [b["seed"] for b in found]
    assert {b["seed"] for b in bodies(**options, seed=1)}.isdisjoint(seeds)


def test_every_request_has_its_own_cache_salt() -> None:
    assert len({b["cache_salt"] for b in bodies(cache="salt")}) == 10


def test_every_pass_has_each_request_once_in_its_own_order() -> None:
    workload = Workload(PROBLEMS, RunOptions(budgets=(8, 64), repeats=2, warmup=3), "m", STYLES["chat"], "run")
    found = list(workload.requests(0, 23))
    assert [r.seq for r in found] == list(range(23))
    assert [r.warmup for r in found] == [True] * 3 + [False] * 20
    first, second = ([(r.problem_id, r.budget) for r in found[i : i + 10]] for i in (3, 13))
    assert sorted(first) == sorted(second)
    assert first != second
    assert list(workload.requests(7, 9)) == found[7:9]


def forced_request() -> Any:
    options = RunOptions(budgets=(64,), budget_mode="forced", prompt="r1", answer_tokens=32)
    return next(Workload(PROBLEMS, options, "m", STYLES["r1"], "run").requests(0, 1))


def exchange(text: str, finish: str, tokens: int, at: int) -> Exchange:
    return Exchange(
        sent_ns=at, headers_ns=at + 1, end_ns=at + 9, arrival_ns=[at + 5], tokens=[tokens], pieces=[("", text)],
        usage={"prompt_tokens": 7, "completion_tokens": tokens}, token_source="continuous_usage", finish_reason=finish,
    )  # fmt: skip


def test_reasoning_that_reached_the_budget_is_ended_and_the_answer_is_forced() -> None:
    request = forced_request()
    kind, tail, call = second_call(request, exchange("so 2\n", "length", 64, 0)) or ("", "", request)
    assert kind == "answer"
    assert call.body["prompt"] == request.body["prompt"] + "so 2\n</think>\n\n**Final Answer**\n\n\\boxed{"
    assert call.body["max_tokens"] == 32
    both = joined(exchange("so 2\n", "length", 64, 0), tail, exchange("2}", "stop", 3, 100))
    assert "".join(c for _, c in both.pieces) == "so 2\n</think>\n\n**Final Answer**\n\n\\boxed{2}"
    assert (both.sent_ns, both.end_ns, both.tokens, both.finish_reason) == (0, 109, [64, 3], "stop")
    assert (both.usage or {})["completion_tokens"] == 67
    assert both.first_answer_ns == 105


def test_an_answer_that_was_cut_is_continued_without_the_tail() -> None:
    request = forced_request()
    kind, tail, call = second_call(request, exchange("so\n</think>\nIt is \\boxed{", "length", 64, 0)) or (
        "",
        "x",
        request,
    )
    assert (kind, tail) == ("continue", "")
    assert call.body["prompt"].endswith("It is \\boxed{")


def test_a_reply_that_ended_needs_no_second_call() -> None:
    assert second_call(forced_request(), exchange("so\n</think>\n\\boxed{2}", "stop", 9, 0)) is None


def reply(content: str | None, reasoning: str | None, reasoning_tokens: int | None, finish: str) -> ControlResponse:
    usage = {"completion_tokens": 160} | (
        {"completion_tokens_details": {"reasoning_tokens": reasoning_tokens}} if reasoning_tokens else {}
    )
    message = {"content": content, "reasoning": reasoning}
    return ControlResponse(
        200, json.dumps({"choices": [{"message": message, "finish_reason": finish}], "usage": usage}).encode()
    )


@pytest.mark.parametrize(
    ("answer", "kept"),
    [
        (reply("It is 2.", "so", 16, "stop"), True),
        (reply(None, "so so so", 160, "length"), False),
        (reply(None, "so so so", None, "length"), False),
        (reply("It is", "so", None, "length"), True),
        (reply("so so so", None, None, "length"), False),
        (reply("so</think>It is", None, None, "length"), True),
        (ControlResponse(400, b'{"error": "no"}'), False),
    ],
)
def test_a_server_that_ignores_the_native_budget_is_detected(answer: ControlResponse, kept: bool) -> None:
    assert (native_refusal(answer) is None) == kept


def test_with_forced_answers_every_reply_has_a_boxed_answer(tmp_path: Path) -> None:
    """On the emulated server, one record holds both calls, with the latency and the tokens of both."""
    out = tmp_path / "run"
    with emulated("tp1", "--speed", "20") as url:
        done = loadgen(
            "--target", url, "--dataset", "sample", "--budgets", "64", "--budget-mode", "forced", "--out", str(out)
        )  # fmt: skip
    assert done.returncode == 0, done.stderr
    found = list(read_records(out / "records.jsonl"))
    assert len(found) == 49
    for record in found:
        phases = record.phases or []
        assert record.outcome == "ok"
        assert "\\boxed{" in (record.text or "")
        assert record.completion_tokens == sum(p["completion_tokens"] for p in phases)
        assert record.end_s == phases[-1]["end_s"]
        if len(phases) == 2:
            assert phases[0]["completion_tokens"] == 64
