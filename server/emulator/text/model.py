"""The text that an emulated model writes: TextModel returns for a prompt a GeneratedText that grows as it is read.

Rules: the same problem, model and seed give the same ids under every configuration. Greedy decoding ignores the seed. Ids
that were read never change. Modes: `trace` (reasoning about the problems of a dataset), `loop` (one short period without
end, so that every draft of n-gram lookup is accepted), `random` (no pair of tokens occurs twice, so that no draft is
accepted), or the path of a file with recorded outputs. This module does not know time, batches or HTTP.
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
from server.emulator.text.outcome import GREEDY, TextStatistics, TraceOutline, draw, outline
from server.emulator.text.problems import KnownProblem, known_problem
from server.emulator.text.prompt import S1_ANSWER, S1_THINK, ProblemFinder, PromptMatch
from server.emulator.text.tokenizer import END_THINK, R1_END, Tokenizer
from server.emulator.text.trace import TraceWriter, answer_paragraphs, boxed
from server.emulator.text.wrong_answers import wrong_answers

# Share of a loop's paragraphs that differ. With it n-gram lookup gives the measured 4 tokens per step instead of 4.6.
LOOP_CHANGES = 0.08
CLOSING_TOKENS = 30  # length of the last paragraph of the thinking, and of the box
CACHED_REPLIES = 2048  # a MATH-500 run with some seeds; at most about 100 MB
MODES = ("trace", "loop", "random")
Chunks = Iterator[list[int]]


class GeneratedText:
    """One output. `ids` holds the tokens written so far; call `grow` before reading further."""

    def __init__(self, chunks: Chunks, end_thinking_id: int | None = None) -> None:
        self.ids: list[int] = []
        self.ended = False  # whether `ids` is the whole output, with the end-of-text token
        self.thinking_end: int | None = None  # number of ids up to and including the end-of-thinking token
        self._chunks = chunks
        self._end_thinking_id = end_thinking_id

    def grow(self, length: int) -> int:
        """Extend `ids` to at least `length` tokens or to the end of the output; returns its length."""
        while len(self.ids) < length and not self.ended:
            chunk = next(self._chunks, None)
            if chunk is None:
                self.ended = True
                break
            if self.thinking_end is None and self._end_thinking_id in chunk:
                self.thinking_end = len(self.ids) + chunk.index(self._end_thinking_id) + 1
            self.ids += chunk
        return len(self.ids)


class TextModel:
    """Generates the outputs of one served model."""

    def __init__(
        self, preset: Mapping[str, Any], problems: Sequence[KnownProblem], tokenizer: Tokenizer, mode: str = "trace"
    ) -> None:
        self.style = str(preset.get("prompt", "chat"))
        self.name = str(preset.get("id", "model"))
        self.statistics = TextStatistics.of(preset)
        self.tokenizer = tokenizer
        self.mode = mode if mode in MODES else "replay"
        self.recorded = read_recorded(Path(mode), tokenizer) if self.mode == "replay" else {}
        self.finder = ProblemFinder([known_problem({"problem": text}) for text in self.recorded] or problems)
        end = tokenizer.id(R1_END if self.style == "r1" else "<|im_end|>")
        self.eos_id = 0 if end is None else end
        self._end_thinking_id = None if self.style == "s1" else tokenizer.id(END_THINK)
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
        """The output for a prompt. `thinking_token_budget` is ignored without a reasoning parser, as in vLLM."""
        if self.mode == "loop":
            return GeneratedText(self._loop(prompt_ids))
        if self.mode == "random":
            return GeneratedText(self._random(prompt_ids, seed if temperature > 0 else 0))
        if self.mode == "replay":
            match = self.finder.match(prompt_text)
            return GeneratedText(iter([self.recorded.get(match.problem.problem, [self.eos_id])]), self._end_thinking_id)
        prompt_hash = hashlib.blake2b(prompt_text.encode(), digest_size=16).digest()
        sample = self._sample(prompt_hash, seed, temperature)
        budget = thinking_token_budget if reasoning_parser else None
        key = (prompt_hash, sample, budget, ignore_eos)
        reply = self._replies.get(key)
        if reply is None:
            match = self.finder.match(prompt_text)
            chunks = self._chunks(match, sample, budget)
            if ignore_eos:
                chunks = itertools.chain(chunks, self._after_eos(match.problem, sample))
            reply = self._replies[key] = GeneratedText(chunks, self._end_thinking_id)
            if len(self._replies) > CACHED_REPLIES:
                self._replies.popitem(last=False)
        else:
            self._replies.move_to_end(key)
        return reply

    def outline(self, problem: KnownProblem, sample: str) -> TraceOutline:
        """The decisions for one sample of one problem."""
        return outline(self.name, self.statistics, problem, sample)

    def _sample(self, prompt_hash: bytes, seed: int | None, temperature: float) -> str:
        """The key of a sample. Greedy decoding ignores the seed; requests without a seed get a new sample each time."""
        if temperature <= 0:
            return GREEDY
        if seed is not None:
            return str(seed)
        self._unseeded[prompt_hash] += 1
        return f"unseeded/{self._unseeded[prompt_hash]}"

    def _chunks(self, match: PromptMatch, sample: str, budget: int | None) -> Chunks:
        """The output paragraph by paragraph, continuing what the prompt already contains."""
        trace = self.outline(match.problem, sample)
        encode = self.tokenizer.encode
        answer = match.answer
        if answer is None:
            if self.style == "s1" and not match.opened:
                yield encode(f"{S1_THINK}\n")
            right = trace.right
            present = len(encode(match.thinking)) if match.thinking else 0
            written = 0
            for chunk in self._thinking(match.problem, sample, trace):
                part = chunk[max(0, present - written) :]
                written += len(chunk)
                if budget is not None and written > budget:
                    yield part[: max(0, len(part) - (written - budget))]
                    right = trace.right_after(budget)
                    break
                if part:
                    yield part
            yield encode(f"{S1_ANSWER}\n" if self.style == "s1" else f"{END_THINK}\n\n")
            answer = ""
        else:
            right = trace.right_after(len(encode(match.thinking)))
        yield from self._answer(match.problem, sample, answer, trace, right)

    def _thinking(self, problem: KnownProblem, sample: str, trace: TraceOutline) -> Chunks:
        """The thinking without its end token. It does not end if the outline contains a loop."""
        answer = problem.answer if trace.right else self._wrong(problem, sample)
        writer = self._writer(problem, answer, sample)
        stop = trace.thinking_tokens if trace.loop_from is None else trace.loop_from
        chunk = self.tokenizer.encode(writer.opening())
        written = 0
        while written + len(chunk) / 2 < stop - CLOSING_TOKENS:
            written += len(chunk)
            yield chunk
            chunk = self.tokenizer.encode(writer.paragraph())
        if trace.loop_from is None:
            yield self.tokenizer.encode(writer.closing())
        else:
            yield from self._loop_paragraphs(writer, trace)

    def _loop_paragraphs(self, writer: TraceWriter, trace: TraceOutline) -> Chunks:
        """The same paragraphs again and again; now and then one is replaced, as in real loops."""
        encode = self.tokenizer.encode
        period: list[list[int]] = []
        while sum(map(len, period)) < trace.loop_period:
            period.append(encode(writer.paragraph()))
        while True:
            for chunk in period:
                yield encode(writer.paragraph()) if writer.rng.random() < LOOP_CHANGES else chunk

    def _writer(self, problem: KnownProblem, answer: str, part: str) -> TraceWriter:
        rng = random.Random(f"{self.name}/{problem.unique_id}/{part}")
        return TraceWriter(problem, answer, rng, self.statistics.detours)

    def _answer(self, problem: KnownProblem, sample: str, begun: str, trace: TraceOutline, right: bool) -> Chunks:
        """The answer after the thinking, continuing `begun`, the part that the prompt contains."""
        begun = begun.lstrip("\n")
        answer = problem.answer if right else self._wrong(problem, sample)
        encode = self.tokenizer.encode
        whole = list(self._explanation(problem, answer, sample, trace))
        text = self.tokenizer.decode(itertools.chain.from_iterable(whole)) if begun else ""
        if begun.rfind("\\boxed{") > begun.rfind("}"):
            yield encode(f"{answer}}}" + ("\n\\]" if begun.rfind("\\[") > begun.rfind("\\]") else ""))
        elif text.startswith(begun):  # continue an answer that was cut; mostly `begun` is empty
            yield from [encode(text[len(begun) :])] if begun else whole
        else:
            yield encode(f" The final answer is $\\boxed{{{answer}}}$.")
        yield [self.eos_id]

    def _explanation(self, problem: KnownProblem, answer: str, sample: str, trace: TraceOutline) -> Chunks:
        """The answer: steps up to the planned length, and the box."""
        written = 0
        for paragraph in answer_paragraphs(self._writer(problem, answer, f"{sample}/answer")):
            if written >= trace.answer_tokens - CLOSING_TOKENS:
                break
            chunk = self.tokenizer.encode(paragraph)
            written += len(chunk)
            yield chunk
        yield self.tokenizer.encode(boxed(answer))

    def _wrong(self, problem: KnownProblem, sample: str) -> str:
        """The wrong answer of this sample. Likely ones are drawn more often, but wrong samples can differ."""
        candidates = wrong_answers(problem.answer or "7")
        index = int(len(candidates) * draw("wrong", self.name, problem.unique_id, sample) ** 1.8)
        return candidates[index]

    def _after_eos(self, problem: KnownProblem, sample: str) -> Chunks:
        """More thinking after the end-of-text token, for requests with `ignore_eos`."""
        writer = self._writer(problem, problem.answer, f"{sample}/beyond")
        while True:
            yield self.tokenizer.encode(writer.paragraph())

    def _loop(self, prompt_ids: Sequence[int]) -> Chunks:
        """Two ids that are not in the prompt, in turn: measured models with random weights wrote such loops."""
        seen = set(prompt_ids)
        period = list(itertools.islice((i for i in self.tokenizer.plain_ids if i not in seen), 2))
        while True:
            yield period

    def _random(self, prompt_ids: Sequence[int], seed: int | None) -> Chunks:
        """Random ids in which no pair of neighboring ids occurs twice, the prompt included."""
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
    """Read recorded outputs by problem: JSONL with `problem` and either `ids` (of this tokenizer) or `text`.

    Raises ConfigError that names file and line.
    """
    recorded = {}
    for number, line in enumerate(path.read_text(encoding="utf-8").splitlines(), 1):
        try:
            row = json.loads(line)
            recorded[known_problem(row).problem] = row.get("ids") or tokenizer.encode(row["text"])
        except KeyError as missing:
            raise ConfigError(f"{path}:{number}: has no {missing}") from missing
        except ValueError as error:
            raise ConfigError(f"{path}:{number}: not valid JSON ({error})") from error
    return recorded
