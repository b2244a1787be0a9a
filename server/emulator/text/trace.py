"""The words of a reasoning trace: the worked solution thought through, with detours, checks and repetition.

Rules: a writer yields paragraphs, for ever if asked, from one `random.Random`; the chances below were set so that the
traces' rates, lookup acceptance and repetition are those measured on real ones (`benchmarks/studies/text_statistics.py` prints
both). What is said again is said in part and in other words: real traces repeat themselves seldom word for word.
Knows the problem, its solution and the answer reached; not how long to go on.
"""

import random
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import TypeVar

from server.emulator.text.phrases import phrase_book, write
from server.emulator.text.prompt import KnownProblem

# Chances of each kind of sentence; the detours' come from the model's measured rates.
KINDS: Mapping[str, float] = {
    "step": 0.13,
    "plan": 0.05,
    "recap": 0.05,
    "filler": 0.11,
    "compute": 0.41,
    "again": 0.008,  # a sentence said before
}
# A detour's kind and its chance for a rate of one per 1000 tokens: a sentence has about 23 tokens, and "Let me" stands
# inside other sentences too, 1.8 times per 1000 tokens.
DETOURS: Mapping[str, tuple[str, float, float]] = {
    "Wait": ("wait", 0.0, 0.027),
    "Alternatively": ("alt", 0.0, 0.033),
    "Hmm": ("hmm", 0.0, 0.015),
    "Let me": ("letme", 1.8, 0.03),
}
LOOSE = 0.25  # chance that a word of something quoted changes
REMEMBERED = 0.62  # chance that an expression is one used before, as it stands
SAID_AGAIN = 0.12  # chance that a calculation is one done before
PHRASE_SKEW = 3.8  # how strongly a trace prefers some phrases: 1 is not at all
GIVEN = 0.57  # chance that a number is one of the problem's
LONGEST_SPAN = 28  # characters of an expression that is said again
MATH = re.compile(r"\$([^$]{1,60})\$")
ASY = re.compile(r"\[asy\].*?\[/asy\]", re.DOTALL)
ALIGN = re.compile(r"\\begin\{(align\*?|gather\*?)\}(.*?)\\end\{\1\}", re.DOTALL)
ENVIRONMENT = re.compile(r"\\begin\{(\w+)\}.*?\\end\{\1\}", re.DOTALL)
DISPLAY = re.compile(r"\s*(?:\\\[(.*?)\\\]|\$\$(.*?)\$\$)\s*", re.DOTALL)
WORD = re.compile(r"[^\s$]*\$[^$]*\$[^\s$]*|\S+")
SENTENCE = re.compile(r"(?<=[.!?])\s+(?=[A-Z$\\(])|\n+")
NUMBER = re.compile(r"\d+")
TOPICS = {
    "Algebra": ("linear equations", "factoring", "the quadratic formula", "exponents"),
    "Intermediate Algebra": ("polynomials", "the roots", "Vieta's formulas", "inequalities"),
    "Prealgebra": ("fractions", "ratios", "unit conversions", "percentages"),
    "Number Theory": ("modular arithmetic", "divisibility", "prime factors", "remainders"),
    "Precalculus": ("trigonometry", "vectors", "complex numbers", "polar coordinates"),
    "Geometry": ("similar triangles", "the Pythagorean theorem", "areas", "angles"),
    "Counting & Probability": ("combinations", "counting cases", "probability", "complementary counting"),
}
ANY_TOPIC = ("a direct calculation", "known formulas", "a substitution", "small cases")
OTHER_WORDS: Mapping[str, tuple[str, ...]] = {
    "the": ("this", "that", "our"),
    "is": ("equals", "must be", "becomes"),
    "so": ("hence", "thus", "and so"),
    "we": ("I", "you", "one"),
    "have": ("get", "know", "see"),
    "then": ("next", "after that", "now"),
    "and": ("and also", "plus", "then"),
    "of": ("for", "in"),
    "a": ("some", "one", "the"),
    "to": ("in order to", "so as to"),
    "find": ("determine", "compute", "get"),
    "what": ("which value", "how much"),
    "therefore": ("so", "hence", "thus"),
    "since": ("because", "as"),
}
FILLERS = ("", "", "I mean", "basically", "actually", "say", "I guess", "again")


Item = TypeVar("Item")


def unboxed(text: str) -> str:
    """The text with each box taken off what it holds."""
    while (at := text.find("\\boxed{")) >= 0:
        depth, end = 1, at + 7
        while end < len(text) and depth:
            depth += {"{": 1, "}": -1}.get(text[end], 0)
            end += 1
        text = text[:at] + text[at + 7 : end - 1] + text[end:]
    return text


def sentences(text: str) -> list[str]:
    """A solution in sentences: drawings left out, each line of an aligned display one formula of its own."""

    def lines(display: re.Match[str]) -> str:
        rows = (row.replace("&", "").strip(" \n.,") for row in display[2].split("\\\\"))
        return "\n".join(f"${row}$." for row in rows if row)

    text = ALIGN.sub(lines, ASY.sub("", text))
    text = DISPLAY.sub(lambda display: f" ${(display[1] or display[2] or '').strip()}$ ", text)
    text = ENVIRONMENT.sub(lambda whole: whole[0].replace("\n", " "), text)
    return [piece.strip() for piece in SENTENCE.split(text) if len(piece.strip()) > 1]


class Writer:
    """Fills the phrase book's slots from one problem, and strings sentences into paragraphs."""

    def __init__(
        self, problem: KnownProblem, answer: str, rng: random.Random, detours: Mapping[str, float]
    ) -> None:
        self.answer, self.rng = answer, rng
        self.book = phrase_book()
        steps = sentences(problem.solution)
        # The sentence with the box gives the answer away: the trace comes to its own.
        self.steps = [step for step in steps if "\\boxed" not in step]
        self.clauses = sentences(problem.problem) or [problem.problem]
        spans: list[str] = [span for text in (*self.clauses, *self.steps) for span in MATH.findall(text)]
        self.expressions = list(dict.fromkeys(span for span in spans if len(span) <= LONGEST_SPAN)) or ["x"]
        self.letters = [span for span in self.expressions if len(span) == 1 and span.isalpha()] or [
            "n",
            "x",
            "k",
        ]
        self.numbers = [int(n) for n in re.findall(r"\d{1,3}", problem.problem)] or [2, 3, 5]
        self.topics = TOPICS.get(problem.subject, ANY_TOPIC)
        self.habit = rng.random()
        self.computed = 0
        self.step = 0
        self.said: list[str] = []
        self.equations: list[tuple[str, int]] = []
        chances = dict(KINDS)
        for word, (kind, elsewhere, chance) in DETOURS.items():
            chances[kind] = max(0.005, (detours.get(word, 0.0) - elsewhere) * chance)
        self._kinds, self._weights = list(chances), list(chances.values())
        self._slots: Mapping[str, Callable[[], str]] = {
            name: getattr(self, f"_slot_{name}") for name in "aefinpqstv"
        }

    def __getitem__(self, slot: str) -> str:
        """What goes into `@e`, `@q` and the others."""
        return self._slots[slot]()

    def sentence(self, kind: str) -> str:
        """One sentence of a kind."""
        out: list[str] = []
        phrases = self.book[kind]
        # Each writer has its favourites: real traces come back to the same few openings.
        at = int(len(phrases) * self.rng.random() ** PHRASE_SKEW + self.habit * len(phrases)) % len(phrases)
        write(phrases[at], self.rng, self, out)
        return "".join(out).strip()

    def opening(self) -> str:
        """The thinking's first paragraph."""
        return self.sentence("open") + "\n\n"

    def paragraph(self) -> str:
        """The next one."""
        return " ".join(self._next() for _ in range(1 + int(self.rng.random() * 3))) + "\n\n"

    def closing(self) -> str:
        """The thinking's last paragraph."""
        return self.sentence("close") + "\n"

    def _one_of(self, items: Sequence[Item]) -> Item:
        return items[int(self.rng.random() * len(items))]

    def _next(self) -> str:
        kind = self.rng.choices(self._kinds, self._weights)[0]
        if kind == "again":
            return self._loosely(self._one_of(self.said)) if self.said else self.sentence("compute")
        text = self.sentence(kind)
        self.said.append(text)
        return text

    def _loosely(self, text: str) -> str:
        """Some of a text, in partly other words; formulas as they are."""
        words = WORD.findall(text)
        if len(words) > 12:
            start = int(self.rng.random() * (len(words) - 8))
            words = words[start : start + 6 + int(self.rng.random() * 10)]
        out = []
        for word in words:
            if "$" in word or self.rng.random() > LOOSE:
                out.append(word)
            elif other := OTHER_WORDS.get(word.lower()):
                out.append(self._one_of(other))
            elif filler := self._one_of(FILLERS):
                out += [word, filler]
        return " ".join(out)

    def _slot_s(self) -> str:
        """The solution's sentences in order; from the second time on in part and in other words."""
        if not self.steps:
            return self._slot_q() + "."
        time, at = divmod(self.step, len(self.steps))
        self.step += 1
        return self._loosely(self.steps[at]) if time else self.steps[at]

    def _slot_p(self) -> str:
        return self._loosely(self._one_of(self.clauses))

    def _slot_e(self) -> str:
        return f"${self._one_of(self.expressions)}$" if self.rng.random() < REMEMBERED else self._slot_f()

    def _slot_f(self) -> str:
        """An expression of the problem with its numbers changed, or one made of its letters and numbers."""
        text = self._one_of(self.expressions)
        if NUMBER.search(text):
            return f"${NUMBER.sub(lambda _: str(int(self.rng.random() * 60) + 1), text)}$"
        v = self._slot_v()
        sign = self._one_of(("+", "-", r"\cdot", "="))
        return f"${self._slot_n()}{v} {sign} {self._slot_n()}$"

    def _slot_n(self) -> str:
        return str(
            self._one_of(self.numbers)
            if self.rng.random() < GIVEN
            else int(self.rng.random() ** 1.5 * 30) + 1
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
        """Arithmetic that holds: said before, or on the problem's numbers, on what was just computed, on others."""
        if self.equations and self.rng.random() < SAID_AGAIN:
            text, self.computed = self._one_of(self.equations)
            return text
        a, b = int(self._slot_n()), int(self._slot_n())
        if self.computed and self.rng.random() < 0.4:
            a = self.computed % 1000
        match int(self.rng.random() * 6):
            case 0:
                self.computed, text = a + b, f"{a} + {b}"
            case 1:
                self.computed, text = a * b, f"{a} \\cdot {b}"
            case 2:
                self.computed, text = a - b, f"{a} - {b}"
            case 3:
                self.computed, text = b * b, f"{b}^2"
            case 4:
                self.computed, text = a + b, f"{a}+{b}"
            case _:
                self.computed, text = a, f"\\frac{{{a * b}}}{{{b}}}"
        text = f"${text} = {self.computed}$"
        self.equations.append((text, self.computed))
        return text


def answer_paragraphs(writer: Writer) -> Iterator[str]:
    """The part after the thinking: an explanation in steps, for ever. The caller stops it and adds the box."""
    yield writer.sentence("explain") + "\n\n"
    for number, step in enumerate(writer.steps, 1):
        yield f"{number}. {step}\n\n"
    while True:
        yield writer.sentence("explain") + "\n\n"


def boxed(answer: str) -> str:
    """The last lines of an answer."""
    return f"**Final Answer**\n\\[\n\\boxed{{{answer}}}\n\\]"
