"""The words of a reasoning trace: the worked solution thought through, with detours, checks and repetition.

Rules: a writer yields paragraphs, for ever if asked, from one `random.Random`; how often what comes is in `Rates`,
per 1000 tokens, measured on real traces. Knows the problem, its solution and the answer reached; not how long to go.
"""

import dataclasses
import random
import re
from collections.abc import Callable, Iterator, Mapping

from server.emulator.text_phrases import phrase_book, write
from server.emulator.text_prompt import Problem

MATH = re.compile(r"\$([^$]{1,48})\$")
ASY = re.compile(r"\[asy\].*?\[/asy\]", re.DOTALL)
SENTENCE = re.compile(r"(?<=[.!?:])\s+(?=[A-Z$\\(])|\n{1,}")
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


@dataclasses.dataclass(frozen=True, slots=True)
class Rates:
    """What comes how often: chances per sentence."""

    wait: float = 0.075
    hmm: float = 0.014
    alt: float = 0.013
    letme: float = 0.065
    step: float = 0.16
    plan: float = 0.05
    recap: float = 0.06
    filler: float = 0.12
    compute: float = 0.44
    again: float = 0.03  # a sentence said before, word for word


def unboxed(text: str) -> str:
    """The text with each box taken off what it holds."""
    while (at := text.find("\\boxed{")) >= 0:
        depth, end = 1, at + 7
        while end < len(text) and depth:
            depth += {"{": 1, "}": -1}.get(text[end], 0)
            end += 1
        text = text[:at] + text[at + 7 : end - 1] + text[end:]
    return text


class Writer:
    """Fills the phrase book's slots from one problem, and strings sentences into paragraphs."""

    def __init__(self, problem: Problem, answer: str, rng: random.Random, rates: Rates) -> None:
        self.problem, self.answer, self.rng, self.rates = problem, answer, rng, rates
        self.book = phrase_book()
        solution = ASY.sub("", problem.solution)
        pieces = [piece.strip() for piece in SENTENCE.split(solution)]
        self.solution = [unboxed(piece) for piece in pieces if piece and "\\boxed" not in piece] or [""]
        clauses = [piece.strip() for piece in SENTENCE.split(ASY.sub("", problem.problem)) if piece.strip()]
        self.clauses = clauses or [problem.problem]
        spans: list[str] = MATH.findall(problem.problem) + MATH.findall(solution)
        self.expressions = list(dict.fromkeys(span for span in spans if "\\boxed" not in span)) or ["x"]
        letters = [span for span in self.expressions if len(span) == 1 and span.isalpha()]
        self.letters = letters or ["n", "x", "k"]
        self.numbers = [int(n) for n in re.findall(r"\d{1,3}", problem.problem)] or [2, 3, 5]
        self.topics = TOPICS.get(problem.subject, ANY_TOPIC)
        self._slots: Mapping[str, Callable[[], str]] = {
            name: getattr(self, f"_slot_{name}") for name in "aefinpqstv"
        }
        self.computed = 0
        self.next_step = 0
        self.said: list[str] = []
        self.kinds = [field.name for field in dataclasses.fields(Rates)]
        self.weights = [getattr(rates, kind) for kind in self.kinds]

    def __getitem__(self, slot: str) -> str:
        """What goes into `@e`, `@q` and the others."""
        return self._slots[slot]()

    def sentence(self, kind: str) -> str:
        """One sentence of a kind."""
        phrases = self.book[kind]
        out: list[str] = []
        write(phrases[int(self.rng.random() * len(phrases))], self.rng, self, out)
        return "".join(out).strip()

    def paragraphs(self) -> Iterator[str]:
        """The thinking, without its end: for ever."""
        yield self.sentence("open") + "\n\n"
        while True:
            count = 1 + int(self.rng.random() * 3.2)
            yield " ".join(self._next() for _ in range(count)) + "\n\n"

    def closing(self) -> str:
        """The thinking's last paragraph."""
        return self.sentence("close") + "\n"

    def _next(self) -> str:
        kind = self.rng.choices(self.kinds, self.weights)[0]
        if kind == "again":
            if self.said:
                return self.rng.choice(self.said)
            kind = "compute"
        text = self.sentence(kind)
        self.said.append(text)
        return text

    def _slot_s(self) -> str:
        """The solution's sentences in order, then some again."""
        step = self.solution[self.next_step % len(self.solution)]
        self.next_step += 1
        return step or self._slot_q()

    def _slot_p(self) -> str:
        return self.rng.choice(self.clauses)

    def _slot_e(self) -> str:
        return f"${self.rng.choice(self.expressions)}$"

    def _slot_f(self) -> str:
        """An expression of the problem with its numbers changed."""
        text = self.rng.choice(self.expressions)
        return f"${re.sub(r'[0-9]+', lambda _: str(self.rng.randrange(1, 40)), text)}$"

    def _slot_n(self) -> str:
        return str(self.rng.choice(self.numbers) if self.rng.random() < 0.5 else self.rng.randrange(1, 20))

    def _slot_i(self) -> str:
        return str(self.computed)

    def _slot_v(self) -> str:
        return self.rng.choice(self.letters)

    def _slot_t(self) -> str:
        return self.rng.choice(self.topics)

    def _slot_a(self) -> str:
        return self.answer

    def _slot_q(self) -> str:
        """Arithmetic that holds, on the problem's numbers or others."""
        a, b = (int(self._slot_n()) for _ in range(2))
        kind = self.rng.randrange(4)
        if kind == 0:
            self.computed = a + b
            return f"${a} + {b} = {a + b}$"
        if kind == 1:
            self.computed = a * b
            return f"${a} \\cdot {b} = {a * b}$"
        if kind == 2:
            self.computed = a - b
            return f"${a} - {b} = {a - b}$"
        self.computed = a * a
        return f"${a}^2 = {a * a}$"


def answer_paragraphs(writer: Writer) -> Iterator[str]:
    """The part after the thinking: an explanation, then the box. The caller stops it when it is long enough."""
    yield writer.sentence("explain") + "\n\n"
    for number, step in enumerate(writer.solution, 1):
        if step:
            yield f"{number}. {step}\n\n"
    while True:
        yield writer.sentence("explain") + "\n\n"


def boxed(answer: str) -> str:
    """The last lines of an answer."""
    return f"**Final Answer**\n\\[\n\\boxed{{{answer}}}\n\\]"
