r"""Parse one normalized answer into its form.

Rules: either the whole text is read, or `UnreadableError` is raised. A comma between groups of three digits belongs to the number outside
brackets (`58,500`) and separates items inside (`(2,102)`). `±` gives a list of two values.

This module does not know which answer is the reference, or when two forms are equivalent.
"""

import re
from collections.abc import Iterator
from dataclasses import replace
from fractions import Fraction
from typing import Literal

from analysis.grading.forms import (
    REALS,
    BaseNumber,
    Dots,
    Equation,
    Form,
    Inequality,
    Infinity,
    Matrix,
    Quantity,
    Ratio,
    SetOperation,
    TimeOfDay,
    TupleOrInterval,
    UnorderedList,
)
from analysis.grading.latex_parser import parse_formula
from analysis.grading.numbers import UnreadableError
from analysis.grading.units import DEGREE, split_sum, split_unit
from analysis.grading.words import NUMBER_WORDS, with_digits

_BASE = r"\{?\s*\(?(?:\\text\{)?\s*\(?(?:base[\s-]*\}?\s*)?(?P<base>\d+|[a-z]+)\)?\s*\}?\)?\s*\}?"
_BASED = (
    re.compile(
        r"\(?(?P<digits>[0-9A-Za-z][0-9A-Za-z, ]*(?:\.[0-9A-Za-z]+)?)\)?\s*_\s*" + _BASE, re.IGNORECASE
    ),
    re.compile(
        r"(?P<digits>[0-9A-F]+)\s*(?:\\text\{)?\s*\(?(?:in\s+)?base[\s-]*(?P<base>\d+|[a-z]+)\)?\s*\}?",
        re.IGNORECASE,
    ),
    re.compile(
        r"(?P<digits>[0-9A-F]+)\s*\\text\{\s*\(?(?:in\s+)?base\s*\}\s*(?P<base>\d+)\)?", re.IGNORECASE
    ),
)
_CLOCK = re.compile(
    r"(?P<hour>\d{1,2})(?:\s*[:h]\s*(?P<minute>\d{2}))?\s*(?:\\text\{)?\s*(?P<half>[ap])?(?(half)\.?\s*m\.?|(?P<hours>(?:uhr|o'clock|h|hours))?)\s*\}?",
    re.IGNORECASE,
)
_MATRIX = re.compile(
    r"(?P<before>.*?)[(\[]?\s*\\begin\{(?P<kind>[pbB]?matrix|smallmatrix|array)\}(?:\s*\{[lcr| ]+\})?(?P<body>.*)\\end\{(?P=kind)\}\s*[)\]]?",
    re.DOTALL,
)
_RELATION = re.compile(r"\\(?:le|ge|ne|in|approx|equiv|sim)(?![a-zA-Z])|[<>]=?|(?<![<>!])=")
_OR = re.compile(
    r",?\s*(?:\\text\{\s*,?\s*(?:or|or equivalently|i\.e\.|that is|equivalently)\s*,?\s*\}|\bor\b|\\vee(?![a-zA-Z]))\s*,?"
)
_AND = re.compile(r",?\s*(?:\\text\{\s*,?\s*(?:and)\s*\}|\band\b|\\wedge(?![a-zA-Z])|\\&|;)\s*,?")
_UNION = re.compile(r"\\cup(?![a-zA-Z])|(?<=[)\]}])\s*U\s*(?=[(\[\\])")
_SET_OPERATORS: tuple[tuple[Literal["or", "and", "minus"], re.Pattern[str]], ...] = (
    ("or", _UNION),
    ("and", re.compile(r"\\cap(?![a-zA-Z])")),
    ("minus", re.compile(r"\\setminus(?![a-zA-Z])")),
)
_ARC = re.compile(
    r"(-?)(\d+)\s*\^\\circ\s*(\d{1,2}(?:\.\d+)?)\s*(?:\^\s*)?(?:'|\{?\\prime\s*\}?)\s*(?:(\d{1,2}(?:\.\d+)?)\s*(?:''|\"|\^\s*\{?(?:\\prime\s*){2}\}?))?"
)
"""Degrees, minutes and seconds of an angle."""
_INFINITE = re.compile(r"([+-]?)\s*\\infty")


def parse_answer(text: str) -> Form:
    """Parse one answer. Raises UnreadableError."""
    text = with_digits(text.strip())
    if re.fullmatch(r"\\ldots", text):
        return Dots()
    for parser in (_number_in_base, _arc, _time_or_ratio, _sum_of_units, _matrix, _infinity):
        if (form := parser(text)) is not None:
            return form
    if len(parts := split(text, _OR)) > 1:
        return _joined(parts, "or")
    if len(parts := split(text, _AND)) > 1:
        return _joined(parts, "and")
    return _parse_single(text)


def _parse_single(text: str) -> Form:
    text = without_digit_groups(text)
    if len(parts := split(text, re.compile(","))) > 1:
        return _listed(tuple(_flattened(parse_answer(part) for part in _all_excluded(parts))))
    if (inner := _whole_set(text)) is not None:
        return inner
    if "\\pm" in text or "\\mp" in text:
        return _listed(tuple(_flattened(parse_answer(signed) for signed in _both_signs(text))))
    if _RELATION.search(text) and len(sides := split(text, _RELATION)) > 1:
        return _relation(sides, [match.strip() for match in separators(text, _RELATION)])
    for operation, operator in _SET_OPERATORS:
        if len(parts := split(text, operator)) > 1:
            return SetOperation(operation, tuple(parse_answer(part) for part in parts))
    bracketed = _bracketed(text)
    return _quantity(text) if bracketed is None else bracketed


def _listed(items: "tuple[Form, ...]") -> Form:
    """Combine items between commas: conditions must all hold, values are a list."""
    conditions = all(isinstance(item, Inequality) or item is REALS for item in items)
    return SetOperation("and", items) if conditions else UnorderedList(items)


def _all_excluded(parts: list[str]) -> list[str]:
    r"""Complete `x \ne 2, -2` to `x \ne 2, x \ne -2`."""
    left, unequal, _ = parts[0].partition("\\ne ")
    return [part if not unequal or _RELATION.search(part) else f"{left}\\ne {part}" for part in parts]


def split(text: str, separator: re.Pattern[str]) -> list[str]:
    """Split a text at the separators that are outside all brackets."""
    parts, start = [], 0
    for match in _top_level(text, separator):
        parts.append(text[start : match.start()].strip())
        start = match.end()
    return [*parts, text[start:].strip()]


def separators(text: str, separator: re.Pattern[str]) -> list[str]:
    """Return the separators at which `split` splits."""
    return [match[0] for match in _top_level(text, separator)]


def _top_level(text: str, separator: re.Pattern[str]) -> Iterator[re.Match[str]]:
    depth = at = 0
    while at < len(text):
        if depth == 0 and (match := separator.match(text, at)) and match.end() > at:
            yield match
            at = match.end()
            continue
        token = text[at : at + 2] if text[at] == "\\" else text[at]
        if token in {"(", "[", "{", "\\{"} or text.startswith(("\\begin", "\\langle"), at):
            depth += 1
        elif token in {")", "]", "}", "\\}"} or text.startswith(("\\end", "\\rangle"), at):
            depth -= 1
        at += len(token)


def without_digit_groups(text: str) -> str:
    """Remove digit group commas outside brackets: `58,500` is one number, but `58, 500` is two."""
    depth, out, at = 0, "", 0
    group = re.compile(r"(?<![\d.,])\d{1,3}(?:,\d{3})+(?![\d,])")
    while at < len(text):
        if depth == 0 and (match := group.match(text, at)) and not match[0].startswith("0"):
            out += match[0].replace(",", "")
            at = match.end()
            continue
        depth += {"(": 1, "[": 1, ")": -1, "]": -1}.get(text[at], 0)
        depth += {"\\{": 1, "\\}": -1}.get(text[at : at + 2], 0)
        out += text[at]
        at += 1
    return out


def _flattened(items: "Iterator[Form]") -> "Iterator[Form]":
    for item in items:
        if isinstance(item, UnorderedList) and not item.is_set:
            yield from item.items
        else:
            yield item


def _joined(parts: list[str], operation: Literal["or", "and"]) -> Form:
    if not all(parts):
        raise UnreadableError("there is nothing between two separators")
    items = tuple(parse_answer(part) for part in parts)
    if any(isinstance(item, Inequality | SetOperation) for item in items):
        return SetOperation(operation, items)
    return UnorderedList(tuple(_flattened(iter(items))), is_set=operation == "or")


def _both_signs(text: str) -> tuple[str, str]:
    def one(plus: str, minus: str) -> str:
        return re.sub(r"\\mp(?![a-zA-Z])", minus, re.sub(r"\\pm(?![a-zA-Z])", plus, text))

    return one("+", "-"), one("-", "+")


def _number_in_base(text: str) -> Form | None:
    match = next((found for pattern in _BASED if (found := pattern.fullmatch(text))), None)
    if match is None:
        return None
    base = NUMBER_WORDS.get(match["base"].lower(), 0)
    base = int(match["base"]) if match["base"].isdigit() else base
    digits = re.sub(r"[ ,]", "", match["digits"]).upper().lstrip("0") or "0"
    if not 2 <= base <= 36 or not (any(char.isdigit() for char in digits) or base > 10):
        return None
    if base == 10:
        return Quantity(parse_formula(digits), None)
    return BaseNumber(digits, base)


def _time_or_ratio(text: str) -> Form | None:
    clock = _CLOCK.fullmatch(text)
    if (
        clock
        and (clock["minute"] or clock["half"] or clock["hours"] in {"Uhr", "o'clock"})
        and int(clock["hour"]) < 25
        and int(clock["minute"] or 0) < 60
    ):
        return TimeOfDay(int(clock["hour"]), int(clock["minute"] or 0), (clock["half"] or "").lower())
    parts = split(text, re.compile(r":|\\colon(?![a-zA-Z])|\\text\{\s*to\s*\}|\bto\b"))
    if len(parts) < 2 or "\\{" in text or "\\to" in text or "=" in text:
        return None
    return Ratio(tuple(parse_formula(part) for part in parts))


def _sum_of_units(text: str) -> Form | None:
    total = split_sum(text)
    return Quantity(parse_formula(str(total[0])), total[1]) if total else None


def _arc(text: str) -> Form | None:
    match = _ARC.fullmatch(text)
    if match is None or max(Fraction(match[3]), Fraction(match[4] or 0)) >= 60:
        return None
    degrees = int(match[2]) + Fraction(match[3]) / 60 + Fraction(match[4] or 0) / 3600
    return Quantity(parse_formula(f"{match[1]}{degrees}"), DEGREE)


def _matrix(text: str) -> Form | None:
    match = _MATRIX.fullmatch(text)
    if match is None:
        return None
    before = match["before"].rstrip("([ ").strip()
    if re.search(r"\\begin|=", match["before"] + match["body"]):
        return None
    factor = re.sub(r"\\(?:cdot|times)\s*$", "", before)
    factor = {"": "", "-": "-1", "+": ""}.get(factor, factor)
    rows = [
        row for row in re.split(r"\\\\|\\cr(?![a-z])", match["body"].replace("\\hline", "")) if row.strip()
    ]
    return Matrix(tuple(tuple(_entry(cell, factor) for cell in row.split("&")) for row in rows))


def _entry(cell: str, factor: str) -> Form:
    return _quantity(f"({factor})({cell.strip()})" if factor else cell.strip())


def _infinity(text: str) -> Form | None:
    match = _INFINITE.fullmatch(text)
    return Infinity(-1 if match[1] == "-" else 1) if match else None


def _whole_set(text: str) -> Form | None:
    r"""Parse `\{…\}`, with or without a condition, and the names of sets."""
    if re.fullmatch(r"\\emptyset|\\\{\s*\\\}", text):
        return UnorderedList((), is_set=True)
    if re.fullmatch(r"\\mathbb\s*\{?\s*R\s*\}?|\\Reals", text):
        return REALS
    if not (text.startswith("\\{") and text.endswith("\\}")) or _closing_position(text) != len(text) - 2:
        return None
    inner = text[2:-2].strip()
    condition = split(inner, re.compile(r"\||:|\\colon(?![a-zA-Z])"))
    if len(condition) == 2:
        return parse_answer(condition[1])
    return UnorderedList(
        tuple(_flattened(parse_answer(part) for part in split(inner, re.compile("[,;]")))), is_set=True
    )


def _closing_position(text: str) -> int:
    """Return the position of the bracket that closes the first one, or -1 if there is none."""
    depth = at = 0
    while at < len(text):
        token = text[at : at + 2] if text[at] == "\\" else text[at]
        depth += {"(": 1, "[": 1, "{": 1, "\\{": 1, ")": -1, "]": -1, "}": -1, "\\}": -1}.get(token, 0)
        if depth == 0:
            return at
        at += len(token)
    return -1


def _relation(sides: list[str], signs: list[str]) -> Form:
    signs = [{"<=": "\\le", ">=": "\\ge", "==": "="}.get(sign, sign) for sign in signs]
    if "\\approx" in signs or "\\sim" in signs:
        cut = min(signs.index(sign) for sign in signs if sign in {"\\approx", "\\sim"})
        if cut == 0 and not re.search(r"[a-zA-Z]", re.sub(r"\\[a-zA-Z]+", "", sides[0])):
            return parse_answer(sides[0])
        sides, signs = (sides[: cut + 1], signs[:cut]) if cut else (sides, ["="] * len(signs))
    if signs == ["\\in"]:
        parse_formula(sides[0])  # a name; anything else would be dropped
        return parse_answer(sides[1])
    if signs and all(sign == "=" for sign in signs):
        return Equation(tuple(sides))
    if all(sign in {"<", ">", "\\le", "\\ge", "\\ne"} for sign in signs) and all(sides[1:]):
        return _without_infinite_sides(sides, signs)
    raise UnreadableError("unknown combination of relation signs")


def _without_infinite_sides(sides: list[str], signs: list[str]) -> Form:
    r"""Return the inequality; `-\infty < x \le 2` says only `x \le 2`."""
    if len(sides) > 2 and _INFINITE.fullmatch(sides[0]):
        sides, signs = sides[1:], signs[1:]
    if len(sides) > 2 and _INFINITE.fullmatch(sides[-1]):
        sides, signs = sides[:-1], signs[:-1]
    if any(_INFINITE.fullmatch(side) for side in sides):
        raise UnreadableError("an inequality with infinity")
    return Inequality(tuple(sides), tuple(signs))


def _bracketed(text: str) -> Form | None:
    r"""Parse `(a,b)`, `[a,b)`, `]a,b[`, `\langle a,b\rangle` or `(a)`."""
    if match := re.fullmatch(r"([\[\]])([^()\[\]]*[,;][^()\[\]]*)([\[\]])", text):
        text = ("[" if match[1] == "[" else "(") + match[2] + ("]" if match[3] == "]" else ")")
    text = re.sub(r"^\\langle\s*(.*)\\rangle$", r"(\1)", text)
    if not text or text[0] not in "([" or text[-1] not in ")]" or _closing_position(text) != len(text) - 1:
        return None
    items = split(text[1:-1], re.compile("[,;]"))
    if len(items) == 1:
        return parse_answer(text[1:-1]) if (text[0], text[-1]) == ("(", ")") else None
    return TupleOrInterval(text[0], tuple(parse_answer(item) for item in items), text[-1])


def _quantity(text: str) -> Quantity:
    value, unit = split_unit(text)
    if unit is not None:
        value, scale = split_unit(value)
        if scale is not None and scale.dimension not in {"", unit.dimension}:
            raise UnreadableError("two different units")
        if scale is not None and scale.dimension == "":
            unit = replace(unit, factor=unit.factor * scale.factor, scale=scale.factor)
    return Quantity(parse_formula(value), unit)
