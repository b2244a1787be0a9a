"""The emulated models against statistics of real models, on the full MATH-500."""

import collections
import csv
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import yaml
from math_verify import parse, verify

from benchmarks.studies.text_statistics import Output
from server.config import ConfigError
from server.emulator.engine.drafts import steps_of
from server.emulator.text.model import TextModel
from server.emulator.text.outcome import GREEDY, TraceOutline
from server.emulator.text.problems import KnownProblem, read_problems
from server.emulator.text.tokenizer import VOCABULARY, Tokenizer
from server.emulator.text.wrong_answers import wrong_answers
from server.speculation import Ngram
from tests import ROOT
from tools.train_tokenizer import train

MODELS = ROOT / "server" / "models"
PRESETS = sorted(path.stem for path in MODELS.glob("*.yaml"))
TOKENIZER = Tokenizer()
TAIL = "\n</think>\n\n**Final Answer**\n\n\\boxed{"


@pytest.fixture(scope="module")
def problems(shared: Path) -> list[KnownProblem]:
    return read_problems(shared / "math500.jsonl")


def model_of(name: str, problems: list[KnownProblem]) -> TextModel:
    preset = yaml.safe_load((MODELS / f"{name}.yaml").read_text())
    return TextModel(preset, problems, TOKENIZER)


def raw_prompt(problem: KnownProblem) -> str:
    user = f"{problem.problem}\nPlease reason step by step, and put your final answer within \\boxed{{}}."
    return TOKENIZER.render_chat([{"role": "user", "content": user}], "r1")


def tokens(outline: TraceOutline) -> float:
    return float("inf") if outline.loop_from is not None else outline.thinking_tokens + outline.answer_tokens


@pytest.mark.parametrize("sample", [GREEDY, "0", "1"])
def test_forced_answers_follow_the_published_curve_and_cut_ones_lie_below(
    problems: list[KnownProblem], shared: Path, sample: str
) -> None:
    """R1-Distill-Qwen-1.5B with thinking stopped after 1000 to 8000 tokens: within 5 percentage points."""
    model = model_of("r1-distill-qwen-1.5b", problems)
    outlines = [model.outline(problem, sample) for problem in problems]
    rows = csv.DictReader((shared / "reference" / "ref_curves.csv").read_text().splitlines())
    curve = {int(row["budget_or_avg_tokens"]): float(row["accuracy_pct"]) for row in rows if "Anytime" in row["source"]}
    assert min(curve) == 1000
    assert max(curve) == 8000
    for budget, published in curve.items():
        forced = 100 * np.mean([outline.right_after(budget) for outline in outlines])
        cut = 100 * np.mean([outline.right and tokens(outline) <= budget for outline in outlines])
        assert abs(forced - published) <= 5
        assert cut < forced


def test_what_is_written_is_what_was_planned(problems: list[KnownProblem]) -> None:
    """Answers forced after 1000 tokens of thinking, and outputs that end by themselves, are as decided in the outline."""
    model = model_of("r1-distill-qwen-1.5b", problems)
    agree = 0
    for problem in problems[::5]:
        outline = model.outline(problem, "1")
        prompt = raw_prompt(problem)
        reply = model.reply(prompt, [], seed=1, temperature=0.6)
        reply.grow(1000)
        thinking = TOKENIZER.decode(reply.ids[:1000])
        if "</think>" not in thinking:
            forced = model.reply(prompt + thinking + TAIL, [], seed=1, temperature=0.6)
            forced.grow(256)
            assert forced.ended
            right = TOKENIZER.decode(forced.ids[:-1]).startswith(f"{problem.answer}}}")
            agree += right == outline.right_after(1000)
        else:
            agree += 1
        reply.grow(40_000)
        assert reply.ended
        assert len(reply.ids) == pytest.approx(tokens(outline), abs=250)
        assert (f"\\boxed{{{problem.answer}}}" in TOKENIZER.decode(reply.ids[reply.thinking_end :])) == outline.right
    assert agree >= 99  # encoding the decoded text again can change the number of tokens


@pytest.mark.parametrize(
    ("name", "published"),
    [("r1-distill-qwen-1.5b", 83), ("r1-distill-qwen-7b", 92.8), ("r1-distill-qwen-14b", 94),
     ("s1.1-1.5b", 41.1), ("s1.1-7b", 80), ("s1.1-14b", 88.4)],
)  # fmt: skip
def test_unbounded_accuracy_is_the_published_one(problems: list[KnownProblem], name: str, published: float) -> None:
    model = model_of(name, problems)
    right = np.mean([[model.outline(problem, str(seed)).right for problem in problems] for seed in range(4)])
    assert abs(100 * right - published) < 3


def test_lookup_accepts_what_it_does_on_real_traces(problems: list[KnownProblem]) -> None:
    """Sampling, k = 5, lengths 1 to 4: tokens per step increase along the output, acceptance decreases with position."""
    for name in ("r1-distill-qwen-1.5b", "r1-distill-qwen-14b", "s1.1-7b"):
        model = model_of(name, problems)
        outputs = [Output(model, problem, 1, 20_480) for problem in problems[::20]]
        emitted, accepted, drafted = (
            np.concatenate([each.steps[name] for each in outputs]) for name in ("emitted", "accepted", "drafted")
        )
        ends = np.concatenate([each.ends for each in outputs])
        assert 1.5 <= emitted.mean() <= 1.9
        places = [emitted[(ends > low) & (ends <= high)].mean() for low, high in ((0, 256), (256, 1024), (1024, 8192))]
        assert places == sorted(places)
        assert places[0] == pytest.approx(1.33, abs=0.1)
        positions = [(accepted[drafted > 0] >= position).mean() for position in range(1, 6)]
        assert 0.30 <= positions[0] <= 0.45
        assert positions == sorted(positions, reverse=True)


def test_lookup_accepts_more_in_greedy_loops(problems: list[KnownProblem]) -> None:
    """Some greedy outputs of the small model do not end; in their loops lookup gives about 4 tokens per step."""
    model = model_of("r1-distill-qwen-1.5b", problems)
    outlines = {problem: model.outline(problem, GREEDY) for problem in problems}
    looping = {problem: outline for problem, outline in outlines.items() if outline.loop_from is not None}
    assert 0.05 < len(looping) / len(problems) < 0.2
    assert not any(model.outline(problem, "1").loop_from for problem in problems)
    rates = []
    for problem, outline in list(looping.items())[:15]:
        prompt = TOKENIZER.encode(raw_prompt(problem))
        reply = model.reply(raw_prompt(problem), prompt)
        assert reply.grow(12_000) >= 12_000
        emitted = np.array(steps_of(prompt, reply.ids[:12_000], Ngram(5, 1, 4))[1]) + 1
        late = np.cumsum(emitted) > (outline.loop_from or 0) + outline.loop_period
        rates.append(emitted[late].mean())
    assert 3.5 < np.mean(rates) < 4.6


def test_majority_of_eight_beats_one_sample_at_the_same_budget(problems: list[KnownProblem]) -> None:
    model = model_of("r1-distill-qwen-7b", problems)
    single = majority = 0.0
    for problem in problems:
        votes: collections.Counter[str] = collections.Counter()
        for seed in range(8):
            outline = model.outline(problem, str(seed))
            if tokens(outline) <= 8000:
                votes[problem.answer if outline.right else model._wrong(problem, str(seed))] += 1
        single += votes[problem.answer] / 8
        majority += bool(votes) and votes.most_common(1)[0][0] == problem.answer
    assert majority > single + 0.02 * len(problems)


def test_wrong_answers_are_wrong(problems: list[KnownProblem]) -> None:
    """Every answer has at least three candidates, and a tolerant grader accepts none of them."""
    for problem in problems[::8]:
        candidates = wrong_answers(problem.answer)
        assert len(set(candidates)) == len(candidates) >= 3
        gold = parse(f"${problem.answer}$", parsing_timeout=None)
        for candidate in candidates[:3]:
            answer = parse(f"$\\boxed{{{candidate}}}$", parsing_timeout=None)
            assert not verify(gold, answer, timeout_seconds=None), (problem.answer, candidate)


def continued(model: TextModel, prompt: str, **options: Any) -> str:
    reply = model.reply(prompt, [], seed=1, temperature=0.6, **options)
    reply.grow(40_000)
    return TOKENIZER.decode(reply.ids)


def test_thinking_handed_back_goes_on_where_it_stopped(problems: list[KnownProblem]) -> None:
    """For a raw prompt with the first half of the thinking the model writes the second half."""
    model, problem = model_of("r1-distill-qwen-7b", problems), problems[3]
    whole = continued(model, raw_prompt(problem))
    half = TOKENIZER.decode(TOKENIZER.encode(whole)[:300])
    assert continued(model, raw_prompt(problem) + half) == whole[len(half) :]


def test_an_answer_that_was_cut_goes_on(problems: list[KnownProblem]) -> None:
    """For a raw prompt with the thinking and the first half of the answer the model writes the second half."""
    model, problem = model_of("r1-distill-qwen-7b", problems), problems[3]
    whole = continued(model, raw_prompt(problem))
    half = whole[: whole.index("</think>") + 60]
    assert continued(model, raw_prompt(problem) + half) == whole[len(half) :]


def test_a_native_budget_ends_the_thinking(problems: list[KnownProblem]) -> None:
    """With a reasoning parser `thinking_token_budget` ends the thinking; without one it has no effect."""
    model, problem = model_of("r1-distill-qwen-7b", problems), problems[3]
    whole = continued(model, raw_prompt(problem))
    stopped = continued(model, raw_prompt(problem), reasoning_parser=True, thinking_token_budget=200)
    thinking, _, answer = stopped.partition("</think>")
    assert len(TOKENIZER.encode(thinking)) == 200
    assert whole.startswith(thinking)
    assert "\\boxed{" in answer
    assert continued(model, raw_prompt(problem), thinking_token_budget=200) == whole


def test_s1_answers_after_its_own_tokens(problems: list[KnownProblem]) -> None:
    """s1 begins thinking and answer with `<|im_start|>`, and completes a forced `Final Answer:` with a box."""
    model, problem = model_of("s1.1-7b", problems), problems[3]
    chat = TOKENIZER.render_chat([{"role": "user", "content": problem.problem}], "s1")
    whole = continued(model, chat)
    assert whole.startswith("<|im_start|>think\n")
    assert "\\boxed{" in whole.partition("<|im_start|>answer\n")[2]
    forced = continued(model, f"{chat}<|im_start|>think\nOkay.\n<|im_start|>answer\nFinal Answer:")
    assert "\\boxed{" in forced
    assert len(forced) < 80


def test_a_preset_without_statistics_gets_the_defaults(problems: list[KnownProblem]) -> None:
    """Assumed statistics are used for a preset without any. An unknown key is an error that names the key."""
    assert TextModel({"id": "x"}, problems[:5], TOKENIZER).reply(problems[0].problem, []).grow(50) >= 50
    with pytest.raises(ConfigError, match="acuracy"):
        TextModel({"id": "x", "text": {"acuracy": 1}}, problems[:5], TOKENIZER)


def test_the_vocabulary_is_what_the_script_trains() -> None:
    """Training gives the committed file, byte for byte."""
    assert train() == VOCABULARY.read_text()
