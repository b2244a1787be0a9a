"""The text that an emulated model writes: TextModel turns a prompt into a Reply whose ids grow as they are needed.

Rules: same problem, model and seed, same ids, whatever the configuration; greedy decoding has no seed; ids already
handed out never change. Modes: `trace` (reasoning on the dataset's problems), `loop` (one short period for ever: every
draft of prompt lookup is accepted), `random` (no pair of tokens twice: none is), or a file of recorded outputs.
Knows nothing of time, batches or HTTP.
"""

import collections
import hashlib
import itertools
import json
import random
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from server.config import ConfigError
from server.emulator.text.outcome import GREEDY, Figures, TraceOutline, draw, plan
from server.emulator.text.prompt import S1_ANSWER, S1_THINK, Finder, KnownProblem, PromptMatch, as_problem
from server.emulator.text.tokenizer import R1_END, Tokenizer
from server.emulator.text.trace import Writer, answer_paragraphs, boxed
from server.emulator.text.wrong_answers import wrong_answers

LOOP_SLIPS = 0.08  # of a loop's paragraphs: it brings lookup to the measured 4 tokens a step instead of 4.6
CLOSING_TOKENS = 30  # the last paragraph of the thinking, or the box
KEPT_REPLIES = 2048  # a whole MATH500 run, some seeds of it: about 100 MB at most
MODES = ("trace", "loop", "random")
Chunks = Iterator[list[int]]


class GeneratedText:
    """One output. `ids` holds what is written so far; call `grow` before reading further."""

    def __init__(self, chunks: Chunks, end_thinking: int | None = None) -> None:
        self.ids: list[int] = []
        self.ended = False  # nothing follows `ids`: the last one is the end token
        self.thinking_end: int | None = None  # how many ids belong to the thinking, its end mark included
        self._chunks = chunks
        self._end_thinking = end_thinking

    def grow(self, length: int) -> int:
        """Make `ids` at least `length` long, or whole where the output ends before; returns how long it is."""
        while len(self.ids) < length and not self.ended:
            chunk = next(self._chunks, None)
            if chunk is None:
                self.ended = True
                break
            if self.thinking_end is None and self._end_thinking in chunk:
                self.thinking_end = len(self.ids) + chunk.index(self._end_thinking) + 1
            self.ids += chunk
        return len(self.ids)


class TextModel:
    """One served model's words."""

    def __init__(
        self,
        preset: Mapping[str, Any],
        problems: Sequence[KnownProblem | Mapping[str, Any]],
        tokenizer: Tokenizer,
        mode: str = "trace",
    ) -> None:
        self.style = str(preset.get("prompt", "chat"))
        self.name = str(preset.get("id", "model"))
        self.figures = Figures.of(preset)
        self.tokenizer = tokenizer
        self.mode = mode if mode in MODES else "replay"
        self.recorded = read_recorded(Path(mode), tokenizer) if self.mode == "replay" else {}
        known = [p if isinstance(p, KnownProblem) else as_problem(p, n) for n, p in enumerate(problems)]
        self.finder = Finder([as_problem({"problem": text}) for text in self.recorded] or known)
        end = tokenizer.id(R1_END if self.style == "r1" else "<|im_end|>")
        self.eos_id = 0 if end is None else end
        self._end_thinking = None if self.style == "s1" else tokenizer.id("</think>")
        self._replies: collections.OrderedDict[tuple[object, ...], GeneratedText] = collections.OrderedDict()
        self._unseeded: collections.Counter[bytes] = collections.Counter()

    def reply(
        self,
        prompt_text: str,
        prompt_ids: Sequence[int],
        *,
        seed: int | None = None,
        temperature: float = 0.0,
        reasoning_parser: bool = False,
        thinking_token_budget: int | None = None,
        ignore_eos: bool = False,
    ) -> GeneratedText:
        """The output to this prompt. `thinking_token_budget` holds only with a reasoning parser, as in vLLM."""
        if self.mode == "loop":
            return GeneratedText(self._loop(prompt_ids))
        if self.mode == "random":
            return GeneratedText(self._random(prompt_ids, seed if temperature > 0 else 0))
        if self.mode == "replay":
            asked = self.finder.understand(prompt_text)
            return GeneratedText(
                iter([self.recorded.get(asked.problem.problem, [self.eos_id])]), self._end_thinking
            )
        prompt = hashlib.blake2b(prompt_text.encode(), digest_size=16).digest()
        sample = self._sample(prompt, seed, temperature)
        budget = thinking_token_budget if reasoning_parser else None
        key = (prompt, sample, budget, ignore_eos)
        reply = self._replies.get(key)
        if reply is None:
            asked = self.finder.understand(prompt_text)
            chunks = self._chunks(asked, sample, budget)
            if ignore_eos:
                chunks = itertools.chain(chunks, self._beyond(asked.problem, sample))
            reply = self._replies[key] = GeneratedText(chunks, self._end_thinking)
            if len(self._replies) > KEPT_REPLIES:
                self._replies.popitem(last=False)
        else:
            self._replies.move_to_end(key)
        return reply

    def plan(self, problem: KnownProblem, sample: str) -> TraceOutline:
        """What is to become of one sample of one problem."""
        return plan(self.name, self.figures, problem, sample)

    def _sample(self, prompt: bytes, seed: int | None, temperature: float) -> str:
        """Greedy decoding ignores the seed; requests without one draw anew each time."""
        if temperature <= 0:
            return GREEDY
        if seed is not None:
            return str(seed)
        self._unseeded[prompt] += 1
        return f"unseeded/{self._unseeded[prompt]}"

    def _chunks(self, asked: PromptMatch, sample: str, budget: int | None) -> Chunks:
        """The output, paragraph by paragraph, from where the prompt leaves off."""
        fate = self.plan(asked.problem, sample)
        encode = self.tokenizer.encode
        answer = asked.answer
        if answer is None:
            if self.style == "s1" and not asked.opened:
                yield encode(f"{S1_THINK}\n")
            right = fate.right
            done = len(encode(asked.thinking)) if asked.thinking else 0
            thought = 0
            for chunk in self._thinking(asked.problem, sample, fate):
                part = chunk[max(0, done - thought) :]
                thought += len(chunk)
                if budget is not None and thought > budget:
                    yield part[: max(0, len(part) - (thought - budget))]
                    right = fate.right_after(budget)
                    break
                if part:
                    yield part
            yield encode(f"{S1_ANSWER}\n" if self.style == "s1" else "</think>\n\n")
            answer = ""
        else:
            right = fate.right_after(len(encode(asked.thinking)))
        yield from self._answer(asked.problem, sample, answer, fate, right)

    def _thinking(self, problem: KnownProblem, sample: str, fate: TraceOutline) -> Chunks:
        """The thinking, its end mark left out; for ever where the plan loops."""
        given = problem.answer if fate.right else self._wrong(problem, sample)
        writer = self._writer(problem, given, sample)
        stop = fate.thinking_tokens if fate.loop_from is None else fate.loop_from
        chunk = self.tokenizer.encode(writer.opening())
        written = 0
        while written + len(chunk) / 2 < stop - CLOSING_TOKENS:
            written += len(chunk)
            yield chunk
            chunk = self.tokenizer.encode(writer.paragraph())
        if fate.loop_from is None:
            yield self.tokenizer.encode(writer.closing())
        else:
            yield from self._circling(writer, fate)

    def _circling(self, writer: Writer, fate: TraceOutline) -> Chunks:
        """The loop: the same paragraphs for ever, now and then one of them put differently, as in real loops."""
        encode = self.tokenizer.encode
        period: list[list[int]] = []
        while sum(map(len, period)) < fate.loop_period:
            period.append(encode(writer.paragraph()))
        while True:
            for chunk in period:
                yield encode(writer.paragraph()) if writer.rng.random() < LOOP_SLIPS else chunk

    def _writer(self, problem: KnownProblem, answer: str, part: str) -> Writer:
        rng = random.Random(f"{self.name}/{problem.unique_id}/{part}")
        return Writer(problem, answer, rng, self.figures.detours)

    def _answer(
        self, problem: KnownProblem, sample: str, begun: str, fate: TraceOutline, right: bool
    ) -> Chunks:
        """What follows the thinking, or what the prompt has begun of it."""
        begun = begun.lstrip("\n")
        answer = problem.answer if right else self._wrong(problem, sample)
        encode = self.tokenizer.encode
        whole = list(self._explained(problem, answer, sample, fate))
        text = self.tokenizer.decode(itertools.chain.from_iterable(whole)) if begun else ""
        if begun.rfind("\\boxed{") > begun.rfind("}"):
            yield encode(f"{answer}}}" + ("\n\\]" if begun.rfind("\\[") > begun.rfind("\\]") else ""))
        elif text.startswith(begun):  # an answer that was cut short goes on; mostly nothing was begun
            yield from [encode(text[len(begun) :])] if begun else whole
        else:
            yield encode(f" The final answer is $\\boxed{{{answer}}}$.")
        yield [self.eos_id]

    def _explained(self, problem: KnownProblem, answer: str, sample: str, fate: TraceOutline) -> Chunks:
        """The answer's part: steps, as long as planned, and the box."""
        written = 0
        for paragraph in answer_paragraphs(self._writer(problem, answer, f"{sample}/answer")):
            if written >= fate.answer_tokens - CLOSING_TOKENS:
                break
            chunk = self.tokenizer.encode(paragraph)
            written += len(chunk)
            yield chunk
        yield self.tokenizer.encode(boxed(answer))

    def _wrong(self, problem: KnownProblem, sample: str) -> str:
        """The wrong answer of this sample: the likelier ones more often, so that wrong samples disagree."""
        candidates = wrong_answers(problem.answer or "7")
        at = int(len(candidates) * draw("wrong", self.name, problem.unique_id, sample) ** 1.8)
        return candidates[at]

    def _beyond(self, problem: KnownProblem, sample: str) -> Chunks:
        """After the end token, where the request ignores it: more thinking."""
        writer = self._writer(problem, problem.answer, f"{sample}/beyond")
        while True:
            yield self.tokenizer.encode(writer.paragraph())

    def _loop(self, prompt_ids: Sequence[int]) -> Chunks:
        """Two ids that the prompt lacks, again and again: what random weights fell into when measured."""
        seen = set(prompt_ids)
        period = list(itertools.islice((i for i in self.tokenizer.plain_ids if i not in seen), 2))
        while True:
            yield period

    def _random(self, prompt_ids: Sequence[int], seed: int | None) -> Chunks:
        """Ids no pair of which was there before: what followed a token once never follows it again."""
        rng = random.Random(f"{prompt_ids[-64:]}/{seed}")
        plain = self.tokenizer.plain_ids
        last = prompt_ids[-1] if prompt_ids else -1
        seen = set(itertools.pairwise(prompt_ids))
        while True:
            chunk = []
            for _ in range(64):
                token = plain[int(rng.random() * len(plain))]
                while (last, token) in seen:
                    token = plain[int(rng.random() * len(plain))]
                seen.add((last, token))
                chunk.append(token)
                last = token
            yield chunk


def read_recorded(path: Path, tokenizer: Tokenizer) -> dict[str, list[int]]:
    """Recorded outputs by what was asked: JSONL of `problem` and `ids` (this tokenizer's) or `text`."""
    recorded = {}
    for number, line in enumerate(path.read_text(encoding="utf-8").splitlines(), 1):
        try:
            row = json.loads(line)
            recorded[as_problem(row).problem] = row.get("ids") or tokenizer.encode(row["text"])
        except KeyError as missing:
            raise ConfigError(f"{path}:{number}: lacks {missing}") from missing
        except ValueError as error:
            raise ConfigError(f"{path}:{number}: no JSON ({error})") from error
    return recorded
