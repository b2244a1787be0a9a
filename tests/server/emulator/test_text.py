"""The text of emulated models, on a small dataset."""

import itertools
import json
from pathlib import Path
from typing import Any

import pytest

from server.config import ConfigError
from server.emulator.engine.drafts import steps_of
from server.emulator.text.model import TextModel
from server.emulator.text.problems import known_problem
from server.emulator.text.tokenizer import Tokenizer
from server.speculation import Ngram

PRESET: dict[str, Any] = {"id": "some/model", "prompt": "r1"}
ROWS = [
    {"problem": f"What is ${n} + {n + 1}$? Give the sum.", "solution": f"We add.\n\nSo ${n} + {n + 1} = \\boxed{{{2 * n + 1}}}.$",
     "answer": str(2 * n + 1), "level": 1 + n % 5, "subject": "Algebra", "unique_id": f"t/{n}"}
    for n in range(40)
]  # fmt: skip
PROBLEMS = [known_problem(row) for row in ROWS]


@pytest.fixture(scope="module")
def tokenizer() -> Tokenizer:
    return Tokenizer()


def prompt(tokenizer: Tokenizer, row: dict[str, Any]) -> str:
    return tokenizer.render_chat([{"role": "user", "content": f"{row['problem']}\nThink."}], "r1")


def written(model: TextModel, text: str, **options: Any) -> list[int]:
    reply = model.reply(text, model.tokenizer.encode(text), **options)
    reply.grow(40_000)
    return reply.ids


def test_greedy_ignores_the_seed_and_repeats(tokenizer: Tokenizer) -> None:
    """A new model writes the same ids, and another seed changes them only above temperature 0."""
    text = prompt(tokenizer, ROWS[0])
    first = written(TextModel(PRESET, PROBLEMS, tokenizer), text, seed=1)
    model = TextModel(PRESET, PROBLEMS, tokenizer)
    assert written(model, text, seed=2) == first
    sampled = written(model, text, seed=2, temperature=0.6)
    assert sampled != first
    assert written(model, text, seed=3, temperature=0.6) != sampled
    assert written(TextModel(PRESET, PROBLEMS, tokenizer), text, seed=2, temperature=0.6) == sampled


def test_a_reply_grows_as_it_is_read_and_ends_with_the_end_token(tokenizer: Tokenizer) -> None:
    text = prompt(tokenizer, ROWS[1])
    model = TextModel(PRESET, PROBLEMS, tokenizer)
    reply = model.reply(text, [], seed=1, temperature=1.0)
    early = list(reply.ids[: reply.grow(10)])
    reply.grow(40_000)
    assert reply.ids[: len(early)] == early
    assert reply.ended
    assert reply.ids[-1] == model.eos_id
    assert reply.thinking_end is not None
    assert tokenizer.decode(reply.ids[reply.thinking_end - 1 : reply.thinking_end]) == "</think>"
    assert "\\boxed{" in tokenizer.decode(reply.ids[reply.thinking_end :])


def test_a_forced_answer_fills_the_open_box(tokenizer: Tokenizer) -> None:
    """After a problem, some thinking, its end and an open box, the model closes the box and stops."""
    text = prompt(tokenizer, ROWS[2]) + "Okay, so.\n</think>\n\n**Final Answer**\n\n\\boxed{"
    model = TextModel(PRESET, PROBLEMS, tokenizer)
    tail = tokenizer.decode(written(model, text)[:-1])
    assert tail.endswith("}")
    assert len(tail) < 10


def test_every_draft_is_accepted_in_a_loop_and_none_of_a_random_text(tokenizer: Tokenizer) -> None:
    text = prompt(tokenizer, ROWS[3])
    ids = tokenizer.encode(text)
    for mode, share in (("loop", 1.0), ("random", 0.0)):
        reply = TextModel(PRESET, PROBLEMS, tokenizer, mode=mode).reply(text, ids, seed=5, temperature=1.0)
        reply.grow(4096)
        drafted, accepted = steps_of(ids, reply.ids[:4000], Ngram(5, 1, 4))
        assert sum(drafted) > 0
        assert sum(accepted[:-1]) == share * sum(drafted[:-1])


def test_an_unknown_prompt_gets_a_text_of_its_own(tokenizer: Tokenizer) -> None:
    model = TextModel(PRESET, PROBLEMS, tokenizer)
    texts = {tuple(written(model, question)[:200]) for question in ("Hello there", "Tell me a story", "")}
    assert len(texts) == 3


@pytest.mark.parametrize(
    ("line", "says"), [('{"problem": "x"}', "outputs.jsonl:1: has no 'text'"), ("{", "outputs.jsonl:1: not valid JSON")]
)
def test_a_bad_line_of_recorded_outputs_is_named(tokenizer: Tokenizer, tmp_path: Path, line: str, says: str) -> None:
    file = tmp_path / "outputs.jsonl"
    file.write_text(line)
    with pytest.raises(ConfigError, match=says):
        TextModel(PRESET, [], tokenizer, mode=str(file))


def test_of_several_problems_in_a_prompt_the_last_is_asked(tokenizer: Tokenizer) -> None:
    """Examples and earlier messages come before the question; the model's own output is not searched."""
    finder = TextModel(PRESET, PROBLEMS, tokenizer).finder
    one, two, three = (row["problem"] for row in ROWS[:3])
    chat = [
        {"role": "user", "content": one},
        {"role": "assistant", "content": "1"},
        {"role": "user", "content": f"{two}\nGo."},
    ]
    asked = finder.match(tokenizer.render_chat(chat, "r1") + three)
    assert asked.problem.problem == two
    assert asked.thinking == three


def test_the_text_for_an_unknown_problem_quotes_no_special_tokens(tokenizer: Tokenizer) -> None:
    model = TextModel(PRESET, PROBLEMS, tokenizer)
    text = tokenizer.render_chat([{"role": "user", "content": "Tell me <think> about ships. Sail well."}], "r1")
    ids = written(model, text)
    assert not tokenizer.hidden_ids & set(ids[:-1])
    assert ids.count(tokenizer.id("</think>")) == 1


def test_ignoring_the_end_goes_on_after_it(tokenizer: Tokenizer) -> None:
    text = prompt(tokenizer, ROWS[4])
    model = TextModel(PRESET, PROBLEMS, tokenizer)
    ends = written(model, text, seed=1, temperature=1.0)
    reply = model.reply(text, [], seed=1, temperature=1.0, ignore_eos=True)
    assert reply.grow(len(ends) + 500) >= len(ends) + 500
    assert list(itertools.islice(reply.ids, len(ends))) == ends


def test_recorded_outputs_are_served_as_they_were(tokenizer: Tokenizer, tmp_path: Path) -> None:
    """Outputs are recorded as ids or text and found by the problem; for other prompts the output ends at once."""
    end = tokenizer.encode("<｜end▁of▁sentence｜>")
    by_ids = {"problem": ROWS[0]["problem"], "ids": [*tokenizer.encode("one"), *end]}
    by_text = {"problem": ROWS[1]["problem"], "text": "Two.<｜end▁of▁sentence｜>"}
    file = tmp_path / "outputs.jsonl"
    file.write_text("".join(json.dumps(row) + "\n" for row in (by_ids, by_text)))
    model = TextModel(PRESET, [], tokenizer, mode=str(file))
    assert written(model, prompt(tokenizer, ROWS[0])) == by_ids["ids"]
    assert written(model, prompt(tokenizer, ROWS[1])) == [*tokenizer.encode("Two."), *end]
    assert written(model, prompt(tokenizer, ROWS[2])) == end
