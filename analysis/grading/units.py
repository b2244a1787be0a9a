r"""Units, currencies, percent and degrees: `5.4 \text{ cents}` is 0.054 dollars, `\text{m s}^{-1}` is a metre per second.

Rules: a unit that only one side has is ignored, since the problem states it. Two units must have the same dimension, and the values are
then compared in base units. An unknown word of any language is a separate dimension, so 3 apples are not 3 oranges. Words that change
the meaning of a value, such as `less` or `not`, are no units. `units.toml` is the table of known units.

This module does not know formulas. It splits a text into value and unit and does not read the value.
"""

import re
import unicodedata
from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass
from fractions import Fraction
from itertools import product

from analysis.grading.patterns import expressions, read_table

Measure = tuple[Counter[str], Fraction]
"""The powers of base dimensions, and the size in base units."""
_TABLE = read_table("units.toml")
_NOT_UNITS = frozenset(_TABLE["not_units"].split())
_CLEAR = frozenset(_TABLE["clear_without_text"].split())
_RE = expressions(_TABLE)
_MARK_NAMES = {"\\euro": "€", "\\pounds": "£", "\\yen": "¥"}
_REWRITES = [(re.compile(pattern, re.IGNORECASE), replacement) for pattern, replacement in _TABLE["rewrites"]]
"""Rewrites of the text of a unit: `\frac{\text{m}}{\text{s}}` is `m/s`."""


@dataclass(frozen=True, slots=True)
class Unit:
    """A unit: its dimension and its size in base units.

    `scale` is the part of the size that belongs to the number, as in `million dollars`. A noun is a word that is not in the table.
    """

    dimension: str
    factor: Fraction
    is_noun: bool = False
    is_sum: bool = False
    scale: Fraction = Fraction(1)


def _tables() -> dict[str, Measure]:
    units: dict[str, Measure] = {}
    for dimension, rows in _TABLE["units"].items():
        for size, names in rows.items():
            parts = [part.partition("^") for part in size.split()]
            powers, factor = _product(
                (units[name] if name in units else (Counter(), Fraction(name)), int(exponent or 1))
                for name, _, exponent in parts
            )
            if dimension not in {"scale", "derived"}:
                powers[dimension] = 1
            _add(units, names.split(), (powers, factor))
    return units


def _add(units: dict[str, Measure], names: list[str], measure: Measure) -> None:
    """Add a unit under its names, and with every prefix under the names that have a star."""
    units |= dict.fromkeys((name.rstrip("*") for name in names), measure)
    for size, prefixes in _TABLE["prefixes"].items():
        for prefix, name in product(prefixes.split(), names):
            if name.endswith("*"):
                units.setdefault(prefix + name[:-1], (measure[0], measure[1] * Fraction(size)))


def _product(parts: Iterable[tuple[Measure, int]]) -> Measure:
    """Multiply powers of units."""
    powers: Counter[str] = Counter()
    factor = Fraction(1)
    for (dimensions, size), exponent in parts:
        for dimension, power in dimensions.items():
            powers[dimension] += power * exponent
        factor *= size**exponent
    return powers, factor


UNITS = _tables()
DEGREE = Unit("angle", Fraction(1))
RADIAN = Unit("radian", Fraction(1))
PERCENT = Unit("percent", Fraction(1))
_SIGNS = (
    # In \sin 30^\circ, the degree sign belongs to the argument.
    (re.compile(r"(?!.*\\(?:sin|cos|tan|cot|sec|csc|cis))(.*\S)\s*\^\\circ"), DEGREE),
    (re.compile(r"(.*?)\s*\\?%"), PERCENT),
    (re.compile(r"(.*?)\s*\\?\$"), Unit("money", Fraction(1))),
)


def split_unit(text: str) -> tuple[str, Unit | None]:
    r"""Split into value and unit: `55 \text{ cm}^2`, `\$36`, `90^\circ`, `28\%`, `5 hours`. Without a unit, return (text, None)."""
    text = text.strip()
    if match := _RE.currency_before.match(text):
        return match[1] + text[match.end() :], _currency(match[2])
    if match := _RE.currency_after.fullmatch(text):
        return match[1], _currency(match[2])
    for sign, meaning in _SIGNS:
        if match := sign.fullmatch(text):
            return match[1], meaning
    for pattern, plain in ((_RE.in_text, False), (_RE.in_words, True)):
        if match := pattern.fullmatch(text):
            return _split_match(text, match, plain=plain)
    return text, None


def _currency(mark: str) -> Unit:
    mark = re.sub(r"[\s\\.](?![a-z])", "", mark)
    return parse_unit(_MARK_NAMES.get(mark, mark), plain=False) or Unit(mark, Fraction(1))


def _split_match(text: str, match: re.Match[str], *, plain: bool) -> tuple[str, Unit | None]:
    found = parse_unit(match["unit"], plain=plain)
    if found is None or not match["value"].strip():
        return text, None
    if found.is_noun and (
        match["unit"].startswith("\\mu") or (plain and not match["space"] and match["unit"].isascii())
    ):
        return text, None  # a variable
    value = re.sub(r"\\(?:cdot|times)\s*$", "", match["value"].strip())
    return re.sub(r"\^\\circ\s*$", "", value) if found == DEGREE else value, found


def split_sum(text: str) -> tuple[Fraction, Unit] | None:
    """Return the total of `2 h 30 min` and its smallest unit: each unit is smaller than the one before it, and its value fits into that."""
    text = re.sub(r"\s*\\text\{\s*([^{}]*)\}\s*", r" \1 ", text).strip()
    if not _RE.sum.fullmatch(text):
        return None
    parts = [(match[1], parse_unit(match[2], plain=False)) for match in _RE.part.finditer(text)]
    total = Fraction(0)
    last: Unit | None = None
    for value, unit in parts:
        if unit is None or unit.is_noun:
            return None
        size = Fraction(value) * unit.factor
        if last and (unit.dimension != last.dimension or unit.factor >= last.factor or size >= last.factor):
            return None
        total, last = total + size, unit
    return (total / last.factor, Unit(last.dimension, last.factor, is_sum=True)) if last else None


def parse_unit(text: str, *, plain: bool) -> Unit | None:
    r"""Return the unit that the text names, or None if it is not a unit. `plain` means that it is outside `\text{}`."""
    for pattern, replacement in _REWRITES:
        text = pattern.sub(replacement, text)
    parts: list[tuple[str, int, bool]] = []
    for index, side in enumerate(text.split("/")):
        one = _factors(side.strip(" .,-"), plain=plain and index == 0)
        if one is None:
            return None
        parts += [(name, exponent if index == 0 else -exponent, is_noun) for name, exponent, is_noun in one]
    measures = [
        ((Counter([name]), Fraction(1)) if is_noun else UNITS[name], exponent) for name, exponent, is_noun in parts
    ]
    powers, factor = _product(measures)
    scale = _product(one for one in measures if not one[0][0])[1]
    dimension = "·".join(f"{name}^{power}" if power != 1 else name for name, power in sorted(powers.items()) if power)
    return Unit(dimension, factor, any(is_noun for *_, is_noun in parts), scale=scale)


def _factors(text: str, *, plain: bool) -> list[tuple[str, int, bool]] | None:
    """Return the names, powers and whether they are unknown of the factors that a text names, or None."""
    words = text.split()
    found = [known for word in words if (known := _known(word))]
    if words and len(found) == len(words):
        # Outside `\\text{}`, a bare `m` or `s` would be a variable.
        clear = (len(name) > 2 or name in _CLEAR or not name.isascii() for name, _ in found)
        is_power = len(found) == 1 and found[0][1] > 1
        return [(*one, False) for one in found] if not plain or is_power or any(clear) else None
    if (
        not 1 <= len(words) <= 6
        or {word.casefold().strip("().") for word in words} & _NOT_UNITS
        or _RE.not_units_in_cjk.search(text)
    ):
        return None
    if plain and not _RE.noun.fullmatch(text):
        return None
    if len(words) > 1 and found and _known(words[0]) == found[0] and not UNITS[found[0][0]][0]:
        rest = _factors(" ".join(words[1:]), plain=plain)
        return rest and [(found[0][0], 1, False), *rest]
    name, _, exponent = text.partition("^")
    is_noun = name and all(char.isalpha() or char in " '’-.()°" for char in name)
    if not is_noun or not re.fullmatch(r"(-?\d)?", exponent):
        return None
    return [(re.sub(r"e?s$", "", name.casefold()).strip(), int(exponent or 1), True)]


def _known(word: str) -> tuple[str, int] | None:
    """Return the name in the table and the power of a word such as `cm^2` or `Hours`."""
    name, _, exponent = word.strip(".").partition("^")
    if not re.fullmatch(r"(-?\d)?", exponent):
        return None
    lower = name.casefold()
    names = [name]
    if len(name) > 2 or lower in _CLEAR:
        ascii_only = re.sub("[\u0300-\u036f]", "", unicodedata.normalize("NFKD", lower))
        names += [lower, lower.replace(".", "")]
        names += [one.removesuffix(end) for one in (lower, ascii_only) for end in ("", "s", "es")]
    return next(((one, int(exponent or 1)) for one in names if one in UNITS), None)


def with_text_unit(text: str, other: str) -> str:
    r"""Write a unit of letters that could also be variables as text: `10 m/s` becomes `10 \text{m/s}`.

    If the other side has no letters, there must be a plain number and a space before the unit.
    """
    match = _RE.in_words.fullmatch(text) if "\\text" not in text else None
    value, unit = _split_match(text, match, plain=False) if match else (text, None)
    if match is None or unit is None or unit.is_noun or not unit.dimension or _has_letters(value):
        return text
    is_apart = match["space"] and re.fullmatch(r"-?[\d.,/ ]*\d|-?\\frac\{\d+\}\{\d+\}|.*\^[{(]?-?\d+[})]?", value)
    if is_apart or (len(match["unit"]) > 1 and _has_letters(other)):
        return f"{value} \\text{{{re.sub('[{}]', '', match['unit'])}}}"
    return text


def _has_letters(text: str) -> bool:
    return re.search(r"[^\W\d_]", re.sub(r"\\[a-zA-Z]+", "", text)) is not None
