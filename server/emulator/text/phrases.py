"""The phrase book: reads sentence templates from phrases.txt and fills in their choices and slots.

Rules: a phrase is compiled once and written many times. All random decisions use the `random.Random` that the caller
passes, so the same generator state gives the same sentence. This module does not know problems, models or tokens.
"""

import dataclasses
import functools
import random
import re
from collections.abc import Callable, Mapping
from pathlib import Path

PHRASES = Path(__file__).with_name("phrases.txt")
# How strongly the first wordings of a choice are preferred, as in real text. With 1 all are equally likely.
WORD_SKEW = 3.4
SYNTAX = re.compile(r"([\[\]|]|@[a-z])")


@dataclasses.dataclass(frozen=True, slots=True)
class Slot:
    """A place that is filled in, such as `@e`; the head of phrases.txt lists all slots."""

    name: str


Part = str | Slot | tuple["Phrase", ...]
"""A text, a slot, or a choice among several wordings."""
Phrase = tuple[Part, ...]


def compile_phrase(line: str) -> Phrase:
    """Parse a template such as `[a|b] of @e`. Raises ValueError if a bracket is not closed."""
    # For the line and each open bracket, the options so far. What follows belongs to the last option.
    stack: list[list[list[Part]]] = [[[]]]
    for mark in filter(None, SYNTAX.split(line)):
        if mark == "[":
            stack.append([[]])
        elif mark == "|":
            stack[-1].append([])
        elif mark == "]":
            options = stack.pop()
            stack[-1][-1].append(tuple(tuple(option) for option in options))
        else:
            stack[-1][-1].append(Slot(mark[1:]) if mark[0] == "@" else mark)
    ((phrase,),) = stack
    return tuple(phrase)


@functools.cache
def phrase_book() -> Mapping[str, tuple[Phrase, ...]]:
    """The phrases of each kind of sentence."""
    book: dict[str, list[Phrase]] = {}
    kind = ""
    for line in PHRASES.read_text(encoding="utf-8").splitlines():
        if line.startswith("=="):
            kind = line.strip("= ")
            book[kind] = []
        elif line and not line.startswith("#"):
            book[kind].append(compile_phrase(line))
    return {kind: tuple(phrases) for kind, phrases in book.items()}


def write(phrase: Phrase, rng: random.Random, fill: Callable[[str], str]) -> str:
    """The phrase in words. `fill` returns the text for a slot by its name."""
    text = ""
    for part in phrase:
        if isinstance(part, str):
            text += part
        elif isinstance(part, Slot):
            text += fill(part.name)
        else:
            text += write(part[int(rng.random() ** WORD_SKEW * len(part))], rng, fill)
    return text
