"""Print statistics of the emulator's texts, for the comparison with real outputs of reasoning models in docs/emulated-text.md.

    python -m benchmarks.studies.text_statistics DATASET.jsonl [--model r1-distill-qwen-7b ...] [--seed 1 | --greedy]

Prints a table for each model: output lengths, n-gram speculation (k = 5, lookup 1..4, by the V1 model runner unless named) by draft
position and by position in the output, frequent words, and repetition. The last line is one JSON object. The values of real outputs
are on that page only.
"""

import json
import re
import statistics
import sys
import time
from collections.abc import Iterator, Sequence
from functools import cached_property
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import yaml

from benchmarks.common import parser
from server.emulator.engine.drafts import steps_of
from server.emulator.engine.ngram import NgramProposer
from server.emulator.text.model import TextModel
from server.emulator.text.problems import KnownProblem, read_problems
from server.emulator.text.tokenizer import Tokenizer
from server.speculation import Ngram

Numbers = np.ndarray[Any, np.dtype[Any]]
MODELS = Path(__file__).parents[2] / "server" / "models"
POSITIONS = (0, 256, 512, 1024, 2048, 4096, 8192, 16384, 1 << 30)
PER_1000 = {
    "Wait": r"\bWait\b",
    "Alternatively": r"\bAlternatively\b",
    "Hmm": r"\bHmm\b",
    "Let me": r"\b[Ll]et me\b",
    "paragraph breaks": r"\n\n",
}
ENOUGH_STEPS = 200


class Output:
    """One emulated output and its statistics."""

    def __init__(self, model: TextModel, problem: KnownProblem, seed: int | None, cap: int) -> None:
        style = model.style
        text = problem.problem
        if style == "r1":
            text += "\nPlease reason step by step, and put your final answer within \\boxed{}."
        prompt = model.tokenizer.render_chat([{"role": "user", "content": text}], style)
        self.level = problem.level
        self.prompt = model.tokenizer.encode(prompt)
        reply = model.reply(prompt, self.prompt, seed=seed, temperature=0.0 if seed is None else 0.6)
        started = time.perf_counter()
        reply.grow(cap)
        self.write_s = time.perf_counter() - started
        self.ids = reply.ids[:cap]
        self.finished = reply.ended and len(reply.ids) <= cap
        self.answer_tokens = len(self.ids) - reply.thinking_end if reply.thinking_end else 0
        self.steps = steps(self.prompt, self.ids, Ngram(5, 1, 4))
        self.ends = np.cumsum(self.steps["emitted"]) + 1  # position in the output at the end of each step
        self.text = model.tokenizer.decode(self.ids)

    @cached_property
    def repeated(self) -> Numbers:
        """For each token, whether it and the seven tokens before it occur earlier in the prompt or the output."""
        grams = np.lib.stride_tricks.sliding_window_view(np.array([*self.prompt, *self.ids]), 8)
        return pd.DataFrame(grams).duplicated().to_numpy()[max(0, len(self.prompt) - 7) :]


def steps(prompt: list[int], output: list[int], settings: Ngram) -> pd.DataFrame:
    """The decode steps of an output: tokens emitted, drafted and accepted, and the length of the suffix found (0: none)."""
    drafted, accepted = steps_of(prompt, output, settings)
    proposer = NgramProposer(settings, [*prompt, *output[:1]])
    matched, emitted = [], []
    at = 1  # the first token was emitted by the prefill
    for count in accepted:
        proposer.propose()
        matched.append(proposer.matched)
        tokens = output[at : at + count + 1]
        proposer.extend(tokens)
        emitted.append(len(tokens))
        at += len(tokens)
    return pd.DataFrame({"emitted": emitted, "drafted": drafted, "accepted": accepted, "matched": matched})


def rows(outputs: Sequence[Output]) -> Iterator[tuple[str, float | str]]:
    """Return the rows of the table: name and value."""
    lengths = np.array([len(each.ids) for each in outputs])
    yield "output tokens, mean", lengths.mean()
    yield "output tokens, p10/p50/p90", deciles(lengths, ".0f")
    yield "finished within 20480", statistics.mean(each.finished for each in outputs)
    for level in range(1, 6):
        part = [len(each.ids) for each in outputs if each.level == level]
        if part:
            yield f"  level {level}, mean", statistics.mean(part)
    answers = [each.answer_tokens for each in outputs if each.answer_tokens]
    if answers:
        yield "answer part, p10/p50/p90", deciles(answers, ".0f")
    yield "characters a token", sum(len(each.text) for each in outputs) / lengths.sum()
    for name, pattern in PER_1000.items():
        count = sum(len(re.findall(pattern, each.text)) for each in outputs)
        yield f"{name} per 1000 tokens", 1000 * count / lengths.sum()
    yield from lookup_rows(outputs)
    v2 = pd.concat([steps(each.prompt, each.ids, Ngram(5, 1, 4, v2_runner=True)) for each in outputs])
    yield "V2 runner: tokens a step", v2["emitted"].mean()
    yield "V2 runner: accepted / drafted", v2["accepted"].sum() / v2["drafted"].sum()
    yield from position_rows(outputs)


def deciles(values: Sequence[float] | Numbers, form: str) -> str:
    """The 10th, 50th and 90th percentile, in one word."""
    return "/".join(f"{quantile:{form}}" for quantile in np.quantile(values, (0.1, 0.5, 0.9)))


def lookup_rows(outputs: Sequence[Output]) -> Iterator[tuple[str, float | str]]:
    """Rows on n-gram speculation: tokens per step, drafts, acceptance by draft position and by match length."""
    all_steps = pd.concat([each.steps for each in outputs])
    drafts = all_steps[all_steps["drafted"] > 0]
    yield "tokens a step", all_steps["emitted"].mean()
    each = [one.steps["emitted"].mean() for one in outputs if len(one.steps)]
    yield "  per output p10/p50/p90", deciles(each, ".2f")
    yield "steps with a draft", len(drafts) / len(all_steps)
    yield "accepted / drafted", all_steps["accepted"].sum() / all_steps["drafted"].sum()
    for position in range(1, 6):
        yield f"  position {position} accepted", (drafts["accepted"] >= position).mean()
    for n in range(1, 5):
        here = all_steps[all_steps["matched"] == n]
        yield f"  match {n}: steps", len(here) / len(all_steps)
        yield f"  match {n}: accepted / drafted", here["accepted"].sum() / here["drafted"].sum()


def position_rows(outputs: Sequence[Output]) -> Iterator[tuple[str, float | str]]:
    """Rows on tokens per step and repetition by position in the output."""
    all_steps = pd.concat([each.steps.assign(end=each.ends) for each in outputs])
    flags = pd.concat([pd.Series(each.repeated) for each in outputs])  # the index is the position
    for low, high in pairwise(POSITIONS):
        here = all_steps["emitted"][all_steps["end"].between(low, high, inclusive="right")]
        if len(here) > ENOUGH_STEPS:
            yield f"tokens a step at {low}-{high if high < POSITIONS[-1] else ''}", here.mean()
    for low, high in pairwise((0, *POSITIONS[2:7])):
        if len(repeated := flags[(flags.index >= low) & (flags.index < high)]):
            yield f"repeated 8-grams, {low}-{high}", repeated.mean()
    yield "repeated 8-grams, all", flags.mean()


def main() -> int:
    """Print the table of each model."""
    arguments = parser(__doc__)
    add = arguments.add_argument
    add("dataset", type=Path)
    add("--model", action="append", help="preset, repeatable (default: r1-distill-qwen-7b)")
    add("--seed", type=int, default=1)
    add("--greedy", action="store_true", help="greedy decoding instead of a seed; some outputs loop")
    add("--every", type=int, default=1, help="use only every Nth problem")
    add("--cap", type=int, default=20_480, help="maximum number of tokens of an output")
    args = arguments.parse_args()
    problems = read_problems(args.dataset)[:: args.every]
    tokenizer = Tokenizer()
    result = {}
    for name in args.model or ["r1-distill-qwen-7b"]:
        preset = yaml.safe_load((MODELS / f"{name}.yaml").read_text(encoding="utf-8"))
        model = TextModel(preset, problems, tokenizer)
        seed = None if args.greedy else args.seed
        outputs = [Output(model, problem, seed, args.cap) for problem in problems]
        tokens = sum(len(each.ids) for each in outputs)
        result[name] = dict(rows(outputs)) | {"written tokens/s": tokens / sum(each.write_s for each in outputs)}
        how = "greedy" if seed is None else f"sampled, seed {seed}"
        print(f"\n{name}, {len(outputs)} problems, {how}", file=sys.stderr)
        for what, value in result[name].items():
            shown = value if isinstance(value, str) else f"{value:,.{0 if value > 100 else 3}f}"
            print(f"{what:34} {shown:>20}", file=sys.stderr)
    print(json.dumps(result, default=float))
    return 0


if __name__ == "__main__":
    sys.exit(main())
