"""Writes the text of a reasoning trace: the worked solution with detours, calculations, checks and repetition.

Rules: a writer produces any number of paragraphs from one `random.Random`. The probabilities below and those in trace.yaml
were fitted so that word rates, n-gram acceptance and repetition are those of real traces (docs/emulated-text.md compares them).
Repeated sentences are shortened and reworded, because real traces seldom repeat themselves word for word. This module does not
know tokens or when a trace ends.
"""

import random
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, TypeVar

import yaml

from server.emulator.text.phrases import phrase_book, write
from server.emulator.text.problems import KnownProblem

TABLES: Mapping[str, Any] = yaml.safe_load(Path(__file__).with_suffix(".yaml").read_text(encoding="utf-8"))
WORD_CHANGES = 0.25  # probability that a word of a repeated text is replaced
KNOWN_EXPRESSION = 0.62  # probability that an expression is used unchanged
KNOWN_EQUATION = 0.12  # probability that a calculation is one made before
PHRASE_SKEW = 3.8  # how strongly a trace prefers some phrases; with 1 it has no preference
GIVEN_NUMBER = 0.57  # probability that a number is taken from the problem
LONGEST_SPAN = 28  # longest expression of the problem that is used, in characters
MATH = re.compile(r"\$([^$]{1,60})\$")
ASY = re.compile(r"\[asy\].*?\[/asy\]", re.DOTALL)
ALIGN = re.compile(r"\\begin\{(align\*?|gather\*?)\}(.*?)\\end\{\1\}", re.DOTALL)
ENVIRONMENT = re.compile(r"\\begin\{(\w+)\}.*?\\end\{\1\}", re.DOTALL)
DISPLAY = re.compile(r"\s*(?:\\\[(.*?)\\\]|\$\$(.*?)\$\$)\s*", re.DOTALL)
WORD = re.compile(r"[^\s$]*\$[^$]*\$[^\s$]*|\S+")
SENTENCE = re.compile(r"(?<=[.!?])\s+(?=[A-Z$\\(])|\n+")
NUMBER = re.compile(r"\d+")


Item = TypeVar("Item")


def sentences(text: str) -> list[str]:
    """The sentences of a solution, without drawings. Each line of an aligned display becomes one formula."""

    def lines(display: re.Match[str]) -> str:
        rows = (row.replace("&", "").strip(" \n.,") for row in display[2].split("\\\\"))
        return "\n".join(f"${row}$." for row in rows if row)

    text = ALIGN.sub(lines, ASY.sub("", text))
    text = DISPLAY.sub(lambda display: f" ${(display[1] or display[2] or '').strip()}$ ", text)
    text = ENVIRONMENT.sub(lambda whole: whole[0].replace("\n", " "), text)
    return [piece.strip() for piece in SENTENCE.split(text) if len(piece.strip()) > 1]


class TraceWriter:
    """Fills the slots of the phrase book with material of one problem and combines sentences into paragraphs."""

    def __init__(self, problem: KnownProblem, answer: str, rng: random.Random, detours: Mapping[str, float]) -> None:
        self.answer, self.rng = answer, rng
        self.book = phrase_book()
        steps = sentences(problem.solution)
        # The sentence with the box states the right answer, but the trace may reach a wrong one.
        self.steps = [step for step in steps if "\\boxed" not in step]
        self.question = sentences(problem.problem) or [problem.problem]
        spans: list[str] = [span for text in (*self.question, *self.steps) for span in MATH.findall(text)]
        self.expressions = list(dict.fromkeys(span for span in spans if len(span) <= LONGEST_SPAN)) or ["x"]
        letters = [span for span in self.expressions if len(span) == 1 and span.isalpha()]
        self.letters = letters or ["n", "x", "k"]
        self.numbers = [int(n) for n in re.findall(r"\d{1,3}", problem.problem)] or [2, 3, 5]
        self.topics: list[str] = TABLES["topics"].get(problem.subject, TABLES["any_topic"])
        self.preference = rng.random()
        self.computed = 0
        self.step = 0
        self.written: list[str] = []
        self.equations: list[tuple[str, int]] = []
        chances = dict(TABLES["kinds"])
        for word, (kind, elsewhere, chance) in TABLES["detours"].items():
            chances[kind] = max(0.005, (detours.get(word, 0.0) - elsewhere) * chance)
        self._kinds, self._weights = list(chances), list(chances.values())
        self._slots: Mapping[str, Callable[[], str]] = {name: getattr(self, f"_slot_{name}") for name in "aefinpqstv"}

    def sentence(self, kind: str) -> str:
        """One sentence of a kind."""
        phrases = self.book[kind]
        # Each writer prefers other phrases, because real traces use the same few openings again and again.
        index = int(len(phrases) * self.rng.random() ** PHRASE_SKEW + self.preference * len(phrases)) % len(phrases)
        return write(phrases[index], self.rng, lambda slot: self._slots[slot]()).strip()

    def opening(self) -> str:
        """The first paragraph of the thinking."""
        return self.sentence("open") + "\n\n"

    def paragraph(self) -> str:
        """The next paragraph."""
        return " ".join(self._next() for _ in range(1 + int(self.rng.random() * 3))) + "\n\n"

    def closing(self) -> str:
        """The last paragraph of the thinking."""
        return self.sentence("close") + "\n"

    def _one_of(self, items: Sequence[Item]) -> Item:
        return items[int(self.rng.random() * len(items))]

    def _next(self) -> str:
        kind = self.rng.choices(self._kinds, self._weights)[0]
        if kind == "repeat":
            return self._paraphrase(self._one_of(self.written)) if self.written else self.sentence("compute")
        text = self.sentence(kind)
        self.written.append(text)
        return text

    def _paraphrase(self, text: str) -> str:
        """A part of a text with some words replaced; formulas stay unchanged."""
        words = WORD.findall(text)
        if len(words) > 12:
            start = int(self.rng.random() * (len(words) - 8))
            words = words[start : start + 6 + int(self.rng.random() * 10)]
        out = []
        for word in words:
            if "$" in word or self.rng.random() > WORD_CHANGES:
                out.append(word)
            elif other := TABLES["other_words"].get(word.lower()):
                out.append(self._one_of(other))
            elif filler := self._one_of(TABLES["fillers"]):
                out += [word, filler]
        return " ".join(out)

    def _slot_s(self) -> str:
        """The sentences of the solution in order; from the second pass on they are shortened and reworded."""
        if not self.steps:
            return self._slot_q() + "."
        repetition, index = divmod(self.step, len(self.steps))
        self.step += 1
        return self._paraphrase(self.steps[index]) if repetition else self.steps[index]

    def _slot_p(self) -> str:
        return self._paraphrase(self._one_of(self.question))

    def _slot_e(self) -> str:
        return f"${self._one_of(self.expressions)}$" if self.rng.random() < KNOWN_EXPRESSION else self._slot_f()

    def _slot_f(self) -> str:
        """An expression of the problem with its numbers changed, or a new one of its letters and numbers."""
        text = self._one_of(self.expressions)
        if NUMBER.search(text):
            return f"${NUMBER.sub(lambda _: str(int(self.rng.random() * 60) + 1), text)}$"
        v = self._slot_v()
        sign = self._one_of(("+", "-", r"\cdot", "="))
        return f"${self._slot_n()}{v} {sign} {self._slot_n()}$"

    def _slot_n(self) -> str:
        return str(
            self._one_of(self.numbers) if self.rng.random() < GIVEN_NUMBER else int(self.rng.random() ** 1.5 * 30) + 1
        )

    def _slot_i(self) -> str:
        return str(self.computed)

    def _slot_v(self) -> str:
        return self._one_of(self.letters)

    def _slot_t(self) -> str:
        return self._one_of(self.topics)

    def _slot_a(self) -> str:
        return self.answer

    def _slot_q(self) -> str:
        """A correct equation: one written before, or a new one with numbers of the problem or the last result."""
        if self.equations and self.rng.random() < KNOWN_EQUATION:
            text, self.computed = self._one_of(self.equations)
            return text
        a, b = int(self._slot_n()), int(self._slot_n())
        if self.computed and self.rng.random() < 0.4:
            a = self.computed % 1000
        equations = (
            (a + b, f"{a} + {b}"),
            (a * b, f"{a} \\cdot {b}"),
            (a - b, f"{a} - {b}"),
            (b * b, f"{b}^2"),
            (a + b, f"{a}+{b}"),
            (a, f"\\frac{{{a * b}}}{{{b}}}"),
        )
        self.computed, text = self._one_of(equations)
        text = f"${text} = {self.computed}$"
        self.equations.append((text, self.computed))
        return text


def answer_paragraphs(writer: TraceWriter) -> Iterator[str]:
    """Paragraphs of the answer: an explanation in steps without end. The caller stops and adds the box."""
    yield writer.sentence("explain") + "\n\n"
    for number, step in enumerate(writer.steps, 1):
        yield f"{number}. {step}\n\n"
    while True:
        yield writer.sentence("explain") + "\n\n"


def boxed(answer: str) -> str:
    """The last lines of an answer, with the answer in a box."""
    return f"**Final Answer**\n\\[\n\\boxed{{{answer}}}\n\\]"
