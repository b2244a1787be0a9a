r"""Units, currencies, percent and degrees: `5.4 \text{ cents}` is 0.054 dollars.

Rules: a unit that only one side has is ignored, since the problem states it. Two units must have the same dimension, and the values are
then compared in base units. An unknown word is a separate dimension, so 3 apples are not 3 oranges.

This module does not know formulas. It splits a text into value and unit and does not read the value.
"""

import re
from dataclasses import dataclass
from fractions import Fraction

_TABLE = (
    ("length", "mm=1/1000 millimeter=1/1000 millimetre=1/1000 cm=1/100 centimeter=1/100 centimetre=1/100"),
    ("length", "m=1 meter=1 metre=1 km=1000 kilometer=1000 kilometre=1000"),
    ("length", "in=127/5000 inch=127/5000 ft=381/1250 foot=381/1250 feet=381/1250"),
    ("length", "yd=1143/1250 yard=1143/1250 mi=201168/125 mile=201168/125"),
    ("time", "ms=1/1000 s=1 sec=1 second=1 min=60 minute=60 h=3600 hr=3600 hour=3600 day=86400 week=604800"),
    ("mass", "mg=1/1000 g=1 gram=1 kg=1000 kilogram=1000"),
    ("money", "dollar=1 usd=1 buck=1 cent=1/100 penny=1/100 pennie=1/100"),
    ("angle", "degree=1 deg=1 °=1"),
    ("radian", "radian=1 rad=1"),
    ("volume", "ml=1/1000 milliliter=1/1000 millilitre=1/1000 l=1 liter=1 litre=1"),
    ("percent", "%=1 percent=1 pct=1"),
    ("", "unit=1 dozen=12 hundred=100 thousand=1000 million=1000000 billion=1000000000"),
    ("length/time", "mph=1397/3125 kmh=5/18 kph=5/18 kmph=5/18"),
)
UNITS: dict[str, tuple[str, Fraction]] = {
    name: (dimension, Fraction(factor))
    for dimension, names in _TABLE
    for name, factor in (entry.split("=") for entry in names.split())
}
_NOUN = re.compile(r"[a-z]{4,}")
_PLAIN = UNITS.keys() - {"in", "mi", "ml", "ms", "m", "s", "h", "g", "l", "°", "%"}
r"""Units that are recognized without `\text{}`. A bare `m` or `s` would be a variable."""
_SQUARE = re.compile(r"\b(?:square|sq)\s+(\S+)")
_CUBIC = re.compile(r"\b(?:cubic|cu)\s+(\S+)")
_TAIL = re.compile(
    r"^(?P<value>.*?)\s*\\text\{(?P<unit>[^{}]*)\}\s*(?:\^\s*\{?(?P<power>[23])\}?)?$", re.DOTALL
)
_WORDS = re.compile(
    r"^(?P<value>.*?[\d}\)!])(?P<space>\s*)(?P<unit>[A-Za-z][A-Za-z ./]*?)\s*(?:\^\s*\{?(?P<power>[23])\}?)?$",
    re.DOTALL,
)
_NOT_UNITS = {
    "or", "and", "no", "not", "if", "than", "except", "without", "non", "less", "more", "least", "most", "base",
}  # fmt: skip


@dataclass(frozen=True, slots=True)
class Unit:
    """The dimension of a unit, and its size in base units."""

    dimension: str
    factor: Fraction


_DIMENSIONS = {dimension for dimension, _ in _TABLE} | {f"length^{power}" for power in (2, 3)}
DEGREE = Unit("angle", Fraction(1))
PERCENT = Unit("percent", Fraction(1))
_DOLLAR = Unit("money", Fraction(1))
_MARKS = (
    (
        re.compile(r"(?!.*\\(?:sin|cos|tan|cot|sec|csc))(.*\S)\s*\^\\circ"),
        DEGREE,
    ),  # in \sin 30^\circ, the degree sign belongs to the argument
    (re.compile(r"(.*?)\s*\\?%"), PERCENT),
    (re.compile(r"(.*?)\s*\\?\$"), _DOLLAR),
)


def split_unit(text: str) -> tuple[str, Unit | None]:
    r"""Split into value and unit: `55 \text{ cm}^2`, `\$36`, `90^\circ`, `28\%`, `5 hours`. Without a unit, return (text, None)."""
    text = text.strip()
    if match := re.match(r"(-?)\s*(\\?\$|€|£|USD\b|US\\?\$)", text):
        unit = Unit(match[2], Fraction(1)) if match[2] in "€£" else _DOLLAR
        return match[1] + text[match.end() :], unit
    for mark, meaning in _MARKS:
        if match := mark.fullmatch(text):
            return match[1], meaning
    for pattern, plain in ((_TAIL, False), (_WORDS, True)):
        if match := pattern.fullmatch(text):
            return _split_match(text, match, plain=plain)
    return text, None


def _split_match(text: str, match: re.Match[str], *, plain: bool) -> tuple[str, Unit | None]:
    words = match["unit"] + (f"^{match['power']}" if match["power"] else "")
    found = parse_unit(words, plain=plain)
    if plain and found and not match["space"] and found.dimension not in _DIMENSIONS:
        return text, None
    if found is None or not match["value"].strip():
        return text, None
    value = re.sub(r"\\(?:cdot|times)\s*$", "", match["value"].strip())
    return re.sub(r"\^\\circ\s*$", "", value) if found == DEGREE else value, found


def parse_unit(words: str, *, plain: bool) -> Unit | None:
    r"""Return the unit that the words name, or None if they are not a unit. `plain` means that they are outside `\text{}`."""
    words = words.lower().replace(".", "").replace("²", "^2").replace("³", "^3").strip(" ,()")
    if not words:
        return None
    words = _CUBIC.sub(r"\1^3", _SQUARE.sub(r"\1^2", words))
    words = re.sub(r"\s+squared\b", "^2", re.sub(r"\s+cubed\b", "^3", words))
    words = re.sub(r"\s*(?:/|\bper\b|\ban?\b)\s*", "/", words)
    words = re.sub(r"(.*)/hour$", r"\1/h", words)
    dimensions: list[str] = []
    factor = Fraction(1)
    for index, part in enumerate(words.split("/")):
        one = _parse_factor(part.strip(), plain=plain)
        if one is None:
            return None
        dimensions.append(one.dimension)
        factor = factor * one.factor if index == 0 else factor / one.factor
    return Unit("/".join(dimensions), factor)


def _parse_factor(part: str, *, plain: bool) -> Unit | None:
    name, _, exponent = part.partition("^")
    name = name.strip()
    power = int(exponent) if exponent.strip("{}").isdigit() else 1
    for candidate in (name, name.removesuffix("s"), name.removesuffix("es")):
        if candidate in UNITS and (not plain or candidate in _PLAIN or (candidate == "in" and power > 1)):
            dimension, factor = UNITS[candidate]
            return Unit(f"{dimension}^{power}" if power > 1 else dimension, factor**power)
    words = name.split()
    if (
        (plain and not _NOUN.fullmatch(name))
        or not 1 <= len(words) <= 3
        or not re.fullmatch(r"[a-z' -]+", name)
        or _NOT_UNITS & set(words)
    ):
        return None
    if words[0] in {"dozen", "hundred", "thousand", "million", "billion"}:
        rest = _parse_factor(" ".join(words[1:]), plain=plain)
        return rest and Unit(rest.dimension, rest.factor * UNITS[words[0]][1])
    return Unit(re.sub(r"(?:e?s)$", "", name), Fraction(1))
