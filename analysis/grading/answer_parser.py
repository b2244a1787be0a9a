r"""Parse one normalized answer into its form.

Rules: either the whole text is read, or `UnreadableError` is raised. A comma between groups of three digits belongs to the number outside
brackets (`58,500`) and separates items inside (`(2,102)`). `±` gives a list of two values.

This module does not know which answer is the reference, or when two forms are equivalent.
"""

import math
import re
from collections.abc import Iterable, Iterator
from dataclasses import replace
from fractions import Fraction
from itertools import chain
from typing import Literal

from analysis.grading import forms
from analysis.grading.forms import Form, Inequality, Quantity, SetOperation, TupleOrInterval, UnorderedList
from analysis.grading.latex_parser import parse_formula
from analysis.grading.numbers import UndecidedError, UnreadableError
from analysis.grading.patterns import expressions, read_table
from analysis.grading.solutions import rational_roots
from analysis.grading.units import DEGREE, split_sum, split_unit
from analysis.grading.words import NUMBER_WORDS, with_digits

MAX_ITEMS = 1_000
_RE = expressions(read_table("forms.toml"))
_SET_OPERATORS: tuple[tuple[Literal["or", "and", "minus"], re.Pattern[str]], ...] = (
    ("or", _RE.union),
    ("and", _RE.intersection),
    ("minus", _RE.difference),
)
_OPENING = ("(", "[", "{", "\\{", "\\begin", "\\langle")
_CLOSING = (")", "]", "}", "\\}", "\\end", "\\rangle")


def parse_answer(text: str) -> Form:
    """Parse one answer. Raises UnreadableError."""
    text = with_digits(text.strip())
    if re.fullmatch(r"\\ldots", text):
        return forms.Dots()
    for parser in (_number_in_base, _arc, _time_or_ratio, _sum_of_units, _matrix, _infinity):
        if (form := parser(text)) is not None:
            return form
    if _RE.logic.fullmatch(text):
        raise UndecidedError("a statement of logic")
    if len(parts := split(text, _RE.either)) > 1:
        return _joined(parts, "or")
    parts = split(text, _RE.both)
    return _joined(parts, "and") if len(parts) > 1 else _parse_single(text)


def _parse_single(text: str) -> Form:
    text = without_digit_groups(text)
    if len(parts := split(text, re.compile(","))) > 1:
        return _listed(_flattened(map(parse_answer, _all_excluded(parts))))
    if (inner := _whole_set(text)) is not None:
        return inner
    if "\\pm" in text or "\\mp" in text:
        if text.count("\\pm") > 1 or re.search(r"[<>]|\\[lg]e(?![a-z])", text):
            raise UndecidedError("signs that may be independent, or an inequality with two signs")
        signed = (text.replace("\\pm", plus).replace("\\mp", minus) for plus, minus in ("+-", "-+"))
        return _listed(_flattened(map(parse_answer, signed)))
    if signs := [match[0].strip() for match in _top_level(text, _RE.relation)]:
        return _relation(split(text, _RE.relation), signs)
    for operation, operator in _SET_OPERATORS:
        if len(parts := split(text, operator)) > 1:
            return SetOperation(operation, tuple(parse_answer(part) for part in parts))
    bracketed = _bracketed(text)
    return _quantity(text) if bracketed is None else bracketed


def _listed(items: tuple[Form, ...]) -> Form:
    """Combine items between commas: conditions must all hold, values are a list."""
    conditions = all(isinstance(item, Inequality) or item is forms.REALS for item in items)
    return SetOperation("and", items) if conditions else UnorderedList(items)


def _all_excluded(parts: list[str]) -> list[str]:
    r"""Complete `x \ne 2, -2` to `x \ne 2, x \ne -2`."""
    left, unequal, _ = parts[0].partition("\\ne ")
    return [part if not unequal or _RE.relation.search(part) else f"{left}\\ne {part}" for part in parts]


def split(text: str, separator: re.Pattern[str]) -> list[str]:
    """Split a text at the separators that are outside all brackets."""
    parts, start = [], 0
    for match in _top_level(text, separator):
        parts.append(text[start : match.start()].strip())
        start = match.end()
    return [*parts, text[start:].strip()]


def _top_level(text: str, separator: re.Pattern[str], ignored: str = "") -> Iterator[re.Match[str]]:
    """Find the separators outside all brackets, except those brackets that are ignored."""
    end = 0
    for at, depth in _depths(text, ignored):
        if depth == 0 and at >= end and (match := separator.match(text, at)) and match.end() > at:
            yield match
            end = match.end()


def _depths(text: str, ignored: str = "") -> Iterator[tuple[int, int]]:
    """Return each position, and the end, with the number of brackets that are open before it."""
    depth = 0
    for token in _RE.bracket.finditer(text):
        yield token.start(), depth
        if token[0] not in ignored:
            depth += (token[0] in _OPENING) - (token[0] in _CLOSING)
    yield len(text), depth


def _is_enclosed(text: str) -> bool:
    """True if the bracket at the beginning of the text is closed at its end."""
    return all((depth > 0) == (at < len(text)) for at, depth in _depths(text) if at > 0)


def without_digit_groups(text: str) -> str:
    """Remove digit group commas outside brackets: `58,500` is one number, but `58, 500` is two."""
    for match in reversed([*_top_level(text, _RE.digit_groups, ignored="{}")]):
        text = text[: match.start()] + match[0].replace(",", "") + text[match.end() :]
    return text


def _flattened(items: Iterable[Form]) -> tuple[Form, ...]:
    """Replace each list among the items by its own items. Sets stay."""
    parts = ((item.items if isinstance(item, UnorderedList) and not item.is_set else (item,)) for item in items)
    return tuple(chain.from_iterable(parts))


def _joined(parts: list[str], operation: Literal["or", "and"]) -> Form:
    if not all(parts):
        raise UnreadableError("there is nothing between two separators")
    items = tuple(parse_answer(part) for part in parts)
    if any(isinstance(item, Inequality | SetOperation) for item in items):
        return SetOperation(operation, items)
    return UnorderedList(_flattened(items), is_set=operation == "or")


def _number_in_base(text: str) -> Form | None:
    match = _RE.base_as_index.fullmatch(text) or _RE.base_in_words.fullmatch(text)
    if match is None:
        return None
    base = NUMBER_WORDS.get(match["base"].lower(), 0)
    base = int(match["base"]) if match["base"].isdigit() else base
    digits = re.sub(r"[ ,]", "", match["digits"]).upper().lstrip("0") or "0"
    if not 2 <= base <= 36 or not (any(char.isdigit() for char in digits) or base > 10):
        return None
    return forms.BaseNumber(digits, base)


def _time_or_ratio(text: str) -> Form | None:
    clock = _RE.clock.fullmatch(text)
    if clock and (clock["minute"] or clock["half"] or clock["hours"] in {"Uhr", "o'clock"}):
        return forms.TimeOfDay(int(clock["hour"]), int(clock["minute"] or 0), (clock["half"] or "").lower())
    parts = split(text, _RE.ratio)
    if len(parts) < 2 or "\\{" in text or "\\to" in text or "=" in text:
        return None
    return forms.Ratio(tuple(parse_formula(part) for part in parts))


def _sum_of_units(text: str) -> Form | None:
    total = split_sum(text)
    return Quantity(parse_formula(str(total[0])), total[1]) if total else None


def _arc(text: str) -> Form | None:
    match = _RE.arc.fullmatch(text)
    if match is None or max(Fraction(match[3]), Fraction(match[4] or 0)) >= 60:
        return None
    degrees = int(match[2]) + Fraction(match[3]) / 60 + Fraction(match[4] or 0) / 3600
    return Quantity(parse_formula(f"{match[1]}{degrees}"), DEGREE)


def _matrix(text: str) -> Form | None:
    match = _RE.matrix.fullmatch(text)
    if match is None or re.search(r"\\begin|=", match["before"] + match["body"]):
        return None
    factor = re.sub(r"\\(?:cdot|times)\s*$", "", match["before"].rstrip("([ ").strip())
    factor = {"": "", "-": "-1", "+": ""}.get(factor, factor)
    body = re.split(r"\\\\|\\cr(?![a-z])", match["body"].replace("\\hline", ""))
    cells = ([cell.strip() for cell in row.split("&")] for row in body if row.strip())
    rows = (tuple(_quantity(f"({factor})({cell})" if factor else cell) for cell in row) for row in cells)
    return forms.Matrix(tuple(TupleOrInterval("(", row, ")") for row in rows))


def _infinity(text: str) -> Form | None:
    match = _RE.infinite.fullmatch(text)
    return forms.Infinity(-1 if match[1] == "-" else 1) if match else None


def _whole_set(text: str) -> Form | None:
    r"""Parse `\{…\}`, with or without a condition, and the names of sets."""
    if re.fullmatch(r"\\emptyset|\\\{\s*\\\}", text):
        return UnorderedList((), is_set=True)
    if re.fullmatch(r"\\mathbb\s*\{?\s*R\s*\}?|\\Reals", text):
        return forms.REALS
    if not (text.startswith("\\{") and text.endswith("\\}") and _is_enclosed(text)):
        return None
    inner = text[2:-2].strip()
    separators = [*_top_level(inner, re.compile(r"\||:|\\colon(?![a-zA-Z])"))]
    element = inner[: separators[0].start()].strip() if separators else ""
    if len(separators) == 1 or _RE.element.fullmatch(element.partition("\\in")[0].strip()):
        return _where(element, inner[separators[0].end() :].strip())
    return UnorderedList(_flattened(map(parse_answer, split(inner, re.compile("[,;]")))), is_set=True)


def _where(element: str, condition: str) -> Form:
    r"""Parse `\{x \in \mathbb{Z} \mid 1 < x \le 4\}`: all numbers with a condition, or the integers between two numbers."""
    name, _, numbers = (part.strip() for part in element.partition("\\in"))
    if not re.fullmatch(r"[a-zA-Z]|\([a-zA-Z](?:,\s*[a-zA-Z])+\)", name):
        raise UndecidedError("the values of an expression")
    form = parse_answer(condition)
    if re.fullmatch(r"(?:\\mathbb\s*\{?\s*R\s*\}?)?", numbers):
        if isinstance(form, forms.Equation) and name.isalpha() and form.sides[0] != name:
            return _set_of(rational_roots(form.sides, name))
        return form
    is_integer = re.fullmatch(r"\\mathbb\s*\{?\s*Z\s*\}?", numbers)
    if is_integer and isinstance(form, Inequality) and form.sides[1:-1] == (name,):
        return _integers_between(form)
    raise UndecidedError("a set of integers")


def _integers_between(chain: Inequality) -> Form:
    ends = [parse_formula(chain.sides[index]) for index in (0, 2)]
    low, high = (None if end.symbols else end.value() for end in ends)
    ascending = {*chain.signs} <= {"<", "\\le"}
    if not isinstance(low, Fraction) or not isinstance(high, Fraction) or not ascending or high - low > MAX_ITEMS:
        raise UndecidedError("a set of integers")
    first = math.ceil(low) + (chain.signs[0] == "<" and low.denominator == 1)
    last = math.floor(high) - (chain.signs[1] == "<" and high.denominator == 1)
    return _set_of(range(first, last + 1))


def _set_of(numbers: Iterable[int | Fraction]) -> Form:
    return UnorderedList(tuple(Quantity(parse_formula(str(one)), None) for one in numbers), is_set=True)


def _relation(sides: list[str], signs: list[str]) -> Form:
    signs = [{"<=": "\\le", ">=": "\\ge", "==": "="}.get(sign, sign) for sign in signs]
    if "\\approx" in signs or "\\sim" in signs:
        cut = min(signs.index(sign) for sign in signs if sign in {"\\approx", "\\sim"})
        if cut == 0 and not re.search(r"[a-zA-Z]", re.sub(r"\\[a-zA-Z]+", "", sides[0])):
            return parse_answer(sides[0])
        sides, signs = (sides[: cut + 1], signs[:cut]) if cut else (sides, ["="] * len(signs))
    if signs == ["\\equiv"] and (modular := _RE.modular.fullmatch(sides[1])):
        modulus = int(modular["modulus"])
        return forms.Congruence(sides[0], int(modular["residue"]) % modulus, modulus)
    if signs == ["\\in"]:
        if not _RE.element.fullmatch(sides[0]):
            raise UnreadableError("a set of the values of an expression")
        return parse_answer(sides[1])
    if signs and all(sign == "=" for sign in signs):
        return forms.Equation(tuple(sides))
    if all(sign in {"<", ">", "\\le", "\\ge", "\\ne"} for sign in signs) and all(sides[1:]):
        return _without_infinite_sides(sides, signs)
    raise UnreadableError("unknown combination of relation signs")


def _without_infinite_sides(sides: list[str], signs: list[str]) -> Form:
    r"""Return the inequality; `-\infty < x \le 2` says only `x \le 2`."""
    if len(sides) > 2 and _RE.infinite.fullmatch(sides[0]):
        sides, signs = sides[1:], signs[1:]
    if len(sides) > 2 and _RE.infinite.fullmatch(sides[-1]):
        sides, signs = sides[:-1], signs[:-1]
    if any(_RE.infinite.fullmatch(side) for side in sides):
        raise UnreadableError("an inequality with infinity")
    return Inequality(tuple(sides), tuple(signs))


def _bracketed(text: str) -> Form | None:
    r"""Parse `(a,b)`, `[a,b)`, `]a,b[`, `\langle a,b\rangle` or `(a)`."""
    if match := re.fullmatch(r"([\[\]])([^()\[\]]*[,;][^()\[\]]*)([\[\]])", text):
        text = ("[" if match[1] == "[" else "(") + match[2] + ("]" if match[3] == "]" else ")")
    if (signed := re.fullmatch(r"([+-])\s*(\(.*,.*\))", text)) and _is_enclosed(signed[2]):
        text = f"({','.join(f'{signed[1]}({item})' for item in split(signed[2][1:-1], re.compile(',')))})"
    text = re.sub(r"^\\langle\s*(.*)\\rangle$", r"(\1)", text)
    if not text or text[0] not in "([" or text[-1] not in ")]" or not _is_enclosed(text):
        return None
    items = split(text[1:-1], re.compile("[,;]"))
    if len(items) == 1:
        return parse_answer(text[1:-1]) if (text[0], text[-1]) == ("(", ")") else None
    parts = tuple(map(parse_answer, items))
    rows = [part for part in parts if isinstance(part, TupleOrInterval) and part.opening + part.closing == "[]"]
    if len(rows) == len(parts) and (text[0], text[-1]) == ("[", "]"):
        return forms.Matrix(tuple(TupleOrInterval("(", row.items, ")") for row in rows))
    return TupleOrInterval(text[0], parts, text[-1])


def _quantity(text: str) -> Quantity:
    value, unit = split_unit(text)
    if unit is not None:
        value, scale = split_unit(value)
        if scale is not None and scale.dimension not in {"", unit.dimension}:
            raise UnreadableError("two different units")
        if scale is not None and scale.dimension == "":
            unit = replace(unit, factor=unit.factor * scale.factor, scale=scale.factor)
    return Quantity(parse_formula(value), unit)
