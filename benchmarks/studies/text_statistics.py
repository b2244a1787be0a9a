"""Compare statistics of the emulator's texts with those of real outputs of reasoning models.

    python -m benchmarks.studies.text_statistics DATASET.jsonl [--model r1-distill-qwen-7b ...] [--seed 1 | --greedy]

Prints a table for each model: output lengths, n-gram speculation (k = 5, lookup 1..4) by draft position and by position in the output,
frequent words, and repetition. The last line is one JSON object. The reference values come from public outputs of such models on such
problems (the sets B, A7 and C of the survey that the presets cite). A range covers several sets.
"""

import argparse
import json
import re
import statistics
import sys
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import yaml

from server.emulator.engine.ngram import Steps, speculate
from server.emulator.text.model import TextModel
from server.emulator.text.problems import KnownProblem, read_problems
from server.emulator.text.tokenizer import Tokenizer

MODELS = Path(__file__).parents[2] / "server" / "models"
POSITIONS = (0, 256, 512, 1024, 2048, 4096, 8192, 16384, 1 << 30)
PER_1000 = {
    "Wait": (r"\bWait\b", "3.7-4.3"),
    "Alternatively": (r"\bAlternatively\b", "0.6-1.1"),
    "Hmm": (r"\bHmm\b", "0.7-0.8"),
    "Let me": (r"\b[Ll]et me\b", "2.4-4.4"),
    "paragraph breaks": (r"\n\n", "20-27"),
}
LEVEL_MEANS = (2120, 1950, 2770, 3300, 5180)
TOKENS_PER_STEP = (
    "1.30-1.36",
    "1.41-1.57",
    "1.55-1.65",
    "1.65-1.72",
    "1.68-1.90",
    "1.71-2.14",
    "1.71-2.24",
    "2.08-2.39",
)
ACCEPTED_BY_DRAFT_POSITION = (".333-.410", ".172-.239", ".107-.146", ".074-.111", ".053-.083")
REPEATED = {"0-512": ".05", "512-1k": ".09", "1k-2k": ".15", "2k-4k": ".19", "4k-8k": ".22", "all": ".14-.18"}


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
        started = time.perf_counter()
        self.steps = speculate(self.prompt, self.ids, 5, 1, 4)
        self.lookup_s = time.perf_counter() - started
        self.ends = np.cumsum(self.steps.emitted) + 1  # position in the output at the end of each step
        self.text = model.tokenizer.decode(self.ids)
        self.repeated = repeated_8grams(self.prompt, self.ids)


def repeated_8grams(prompt: Sequence[int], ids: Sequence[int]) -> np.ndarray[Any, np.dtype[np.bool_]]:
    """For each output token, whether it and the seven tokens before it occur earlier in the prompt or the output."""
    tokens = [*prompt, *ids]
    seen: set[tuple[int, ...]] = set()
    found = []
    for end in range(8, len(tokens) + 1):
        gram = tuple(tokens[end - 8 : end])
        found.append(gram in seen)
        seen.add(gram)
    return np.array(found[max(0, len(prompt) - 7) :], dtype=np.bool_)


def rows(outputs: Sequence[Output]) -> Iterator[tuple[str, float | str, str]]:
    """Return the rows of the table: name, value of the emulator, value of real outputs."""
    lengths = np.array([len(each.ids) for each in outputs])
    yield "output tokens, mean", lengths.mean(), "1.5B 4316, 7B 3199-3350, 14B 2945"
    yield (
        "output tokens, p10/p50/p90",
        "/".join(f"{q:.0f}" for q in np.quantile(lengths, (0.1, 0.5, 0.9))),
        "7B 1180/2090/6250",
    )
    yield "finished within 20480", statistics.mean(each.finished for each in outputs), "sampled .94-1"
    for level in range(1, 6):
        part = [len(each.ids) for each in outputs if each.level == level]
        if part:
            yield f"  level {level}, mean", statistics.mean(part), f"7B {LEVEL_MEANS[level - 1]}"
    answers = [each.answer_tokens for each in outputs if each.answer_tokens]
    if answers:
        yield (
            "answer part, p10/p50/p90",
            "/".join(f"{q:.0f}" for q in np.quantile(answers, (0.1, 0.5, 0.9))),
            "220/338/486",
        )
    characters = sum(len(each.text) for each in outputs)
    yield "characters a token", characters / lengths.sum(), "2.5-3.5"
    for name, (pattern, real) in PER_1000.items():
        count = sum(len(re.findall(pattern, each.text)) for each in outputs)
        yield f"{name} per 1000 tokens", 1000 * count / lengths.sum(), real
    yield from lookup_rows([each.steps for each in outputs])
    yield from position_rows(outputs)


def lookup_rows(all_steps: Sequence[Steps]) -> Iterator[tuple[str, float | str, str]]:
    """Rows on n-gram speculation: tokens per step, drafts, acceptance by draft position and by match length."""
    emitted = np.concatenate([steps.emitted for steps in all_steps])
    drafted = np.concatenate([steps.drafted for steps in all_steps])
    accepted = np.concatenate([steps.accepted for steps in all_steps])
    matched = np.concatenate([steps.matched for steps in all_steps])
    drafts = drafted > 0
    yield "tokens a step", emitted.mean(), "1.5-1.9"
    each = [steps.emitted.mean() for steps in all_steps if len(steps.emitted)]
    yield (
        "  per output p10/p50/p90",
        "/".join(f"{q:.2f}" for q in np.quantile(each, (0.1, 0.5, 0.9))),
        "1.37/1.58/1.77",
    )
    yield "steps with a draft", drafts.mean(), ".79-.89"
    yield "accepted / drafted", accepted.sum() / drafted.sum(), ".148-.198"
    for position, real in enumerate(ACCEPTED_BY_DRAFT_POSITION, 1):
        yield f"  position {position} accepted", (accepted[drafts] >= position).mean(), real
    for n, share, real in zip(
        (1, 2, 3, 4), (".35", ".23", ".10", ".16"), (".066", ".152", ".205", ".305"), strict=True
    ):
        here = matched == n
        yield f"  match {n}: steps", here.mean(), share
        yield f"  match {n}: accepted / drafted", accepted[here].sum() / drafted[here].sum(), real


def position_rows(outputs: Sequence[Output]) -> Iterator[tuple[str, float | str, str]]:
    """Rows on tokens per step and repetition by position in the output."""
    ends = np.concatenate([each.ends for each in outputs])
    emitted = np.concatenate([each.steps.emitted for each in outputs])
    for low, high, real in zip(POSITIONS, POSITIONS[1:], TOKENS_PER_STEP, strict=False):
        here = (ends > low) & (ends <= high)
        if here.sum() > 200:
            yield f"tokens a step at {low}-{high if high < 1 << 30 else ''}", emitted[here].mean(), real
    flags = np.concatenate([each.repeated for each in outputs])
    at = np.concatenate([np.arange(len(each.repeated)) for each in outputs])
    for (name, real), (low, high) in zip(
        REPEATED.items(),
        ((0, 512), (512, 1024), (1024, 2048), (2048, 4096), (4096, 8192), (0, 1 << 30)),
        strict=True,
    ):
        here = (at >= low) & (at < high)
        if here.any():
            yield f"repeated 8-grams, {name}", flags[here].mean(), real


def main() -> int:
    """Print the table of each model."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.studies.text_statistics", description=__doc__,
                                     formatter_class=argparse.RawDescriptionHelpFormatter)  # fmt: skip
    parser.add_argument("dataset", type=Path)
    parser.add_argument("--model", action="append", help="preset, repeatable (default: r1-distill-qwen-7b)")
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument(
        "--greedy", action="store_true", help="greedy decoding instead of a seed; some outputs loop"
    )
    parser.add_argument("--every", type=int, default=1, help="use only every Nth problem")
    parser.add_argument("--cap", type=int, default=20_480, help="maximum number of tokens of an output")
    args = parser.parse_args()
    problems = read_problems(args.dataset)[:: args.every]
    tokenizer = Tokenizer()
    result: dict[str, dict[str, float | str]] = {}
    for name in args.model or ["r1-distill-qwen-7b"]:
        preset = yaml.safe_load((MODELS / f"{name}.yaml").read_text(encoding="utf-8"))
        model = TextModel(preset, problems, tokenizer)
        outputs = [
            Output(model, problem, None if args.greedy else args.seed, args.cap) for problem in problems
        ]
        table = {what: (emulated, real) for what, emulated, real in rows(outputs)}
        tokens = sum(len(each.ids) for each in outputs)
        speed = {"written tokens/s": tokens / sum(each.write_s for each in outputs),
                 "looked up tokens/s": tokens / sum(each.lookup_s for each in outputs)}  # fmt: skip
        print(
            f"\n{name}, {len(outputs)} problems, {'greedy' if args.greedy else f'sampled, seed {args.seed}'}",
            file=sys.stderr,
        )
        for what, (emulated, real) in table.items():
            shown = (
                emulated
                if isinstance(emulated, str)
                else f"{emulated:.0f}"
                if emulated > 100
                else f"{emulated:.3f}"
            )
            print(f"{what:34} {shown:>20}   {real}", file=sys.stderr)
        for what, rate in speed.items():
            print(f"{what:34} {rate:>20,.0f}", file=sys.stderr)
        result[name] = {**{what: emulated for what, (emulated, _) in table.items()}, **speed}
    print(json.dumps(result, default=float))
    return 0


if __name__ == "__main__":
    sys.exit(main())
