r"""Units, currencies, percent and degrees: `5.4 \text{ cents}` is 0.054 dollars, `\text{m s}^{-1}` is a metre per second.

Rules: a unit that only one side has is ignored, since the problem states it. Two units must have the same dimension, and the values are
then compared in base units. An unknown word of any language is a separate dimension, so 3 apples are not 3 oranges. Words that change
the meaning of a value, such as `less` or `not`, are no units.

This module does not know formulas. It splits a text into value and unit and does not read the value.
"""

import re
from dataclasses import dataclass
from fractions import Fraction

_BASE = (
    ("length", "m=1 meter=1 metre=1 in=127/5000 inch=127/5000 ft=381/1250 foot=381/1250 feet=381/1250"),
    ("length", "yd=1143/1250 yard=1143/1250 mi=201168/125 mile=201168/125 Å=1/10000000000"),
    ("time", "s=1 sec=1 second=1 min=60 minute=60 h=3600 hr=3600 hour=3600 day=86400 week=604800"),
    ("mass", "g=1 gram=1 gramme=1 lb=45359237/100000 pound=45359237/100000 oz=45359237/1600000 ounce=45359237/1600000"),
    ("money", "$=1 dollar=1 usd=1 us$=1 buck=1 ¢=1/100 cent=1/100 penny=1/100 pennie=1/100"),
    ("angle", "degree=1 deg=1 °=1"),
    ("radian", "radian=1 rad=1"),
    ("percent", "%=1 percent=1 pct=1"),
    ("", "unit=1 dozen=12 hundred=100 thousand=1000 million=1000000 billion=1000000000"),
    ("current", "A=1 ampere=1 amp=1"),
    ("temperature", "K=1 kelvin=1"),
    ("celsius", "°C=1 celsius=1"),
    ("fahrenheit", "°F=1 fahrenheit=1"),
    ("amount", "mol=1 mole=1"),
    ("euro", "€=1 eur=1 euro=1 euros=1"),
    ("pound sterling", "£=1 gbp=1"),
    ("yen", "¥=1 jpy=1 yen=1"),
    ("yuan", "元=1 cny=1 rmb=1 yuan=1"),
    ("rupee", "₹=1 inr=1 rs=1 rupee=1"),
    ("rouble", "₽=1 rub=1 ruble=1 rouble=1"),
    ("won", "₩=1 krw=1 won=1"),
    ("franc", "chf=1"),
)  # fmt: skip
_DERIVED = (
    "N=kg m s^-2", "newton=N", "J=N m", "joule=J", "W=J s^-1", "watt=W", "Pa=N m^-2", "pascal=Pa", "Hz=s^-1", "hertz=Hz",
    "C=A s", "coulomb=C", "V=W A^-1", "volt=V", "Ω=V A^-1", "ohm=Ω", "F=C V^-1", "farad=F", "T=V s m^-2", "tesla=T",
    "L=dm^3", "l=L", "liter=L", "litre=L", "mph=mile hour^-1", "kmh=km hour^-1", "kph=kmh", "kmph=kmh",
)  # fmt: skip
_PREFIXES = {"k": 3, "M": 6, "G": 9, "h": 2, "d": -1, "c": -2, "m": -3, "μ": -6, "n": -9, "p": -12}
_LONG_PREFIXES = {"kilo": 3, "mega": 6, "centi": -2, "deci": -1, "milli": -3, "micro": -6, "nano": -9}
_PREFIXED = ("m", "s", "g", "A", "K", "mol", "N", "J", "W", "Pa", "Hz", "C", "V", "Ω", "F", "T", "L", "l")
_LONG_PREFIXED = (
    "meter",
    "metre",
    "second",
    "gram",
    "gramme",
    "liter",
    "litre",
    "watt",
    "volt",
    "joule",
    "newton",
    "hertz",
)

_POWER = r"(?:\s*\^\s*(?:-?\d|\{\s*-?\d\s*\}))?"
_DEGREES = r"\^\\circ\s*(?:\\text\{\s*[CFK]\s*\}|[CF](?![a-zA-Z]))"
_ATOM = rf"(?:\\text\{{[^{{}}]*\}}|{_DEGREES}|\\(?:mu|Omega|AA)(?![a-zA-Z])){_POWER}"
_FACTORS = rf"{_ATOM}(?:\s*(?:\\cdot|\\times|[/*])?\s*{_ATOM})*"
_TAIL = re.compile(
    rf"^(?P<value>.*?)\s*(?P<unit>\\frac\s*\{{\s*{_FACTORS}\s*\}}\s*\{{\s*{_FACTORS}\s*\}}|{_FACTORS})$",
    re.DOTALL,
)
_WORDS = re.compile(
    r"^(?P<value>.*?[\d}\)!])(?P<space>\s*)(?P<unit>[^\W\d_](?:[^\W\d_]|[ ./])*?(?:\s*\^\s*(?:[23]|\{[23]\}))?)$",
    re.DOTALL,
)
_MARKS = r"[€£¥₹₽₩₫฿₿₺₴₦₱₪₡₲₵₸₼₾]|\\euro(?![a-zA-Z])|\\pounds(?![a-zA-Z])|\\yen(?![a-zA-Z])"
_MARK_NAMES = {"\\euro": "€", "\\pounds": "£", "\\yen": "¥"}
_CODES = r"(?:USD|US\s*\\?\$|EUR|GBP|JPY|CNY|RMB|INR|CHF|Rs\.?)(?![a-zA-Z])"
_BEFORE = re.compile(rf"(-?)\s*(?:\\text\{{\s*)?((?:[A-Z]{{1,2}}\s*)?\\?\$|{_MARKS}|{_CODES})(?:\s*\}})?")
_AFTER = re.compile(rf"(.*\S)\s*({_MARKS})", re.DOTALL)
_NOUN = re.compile(r"[^\W\d_]{4,}|[^\W\d_]*[^\x00-\x7f\W\d_][^\W\d_]*")
_NOT_UNITS = frozenset(
    [
        "or",
        "and",
        "no",
        "not",
        "if",
        "than",
        "except",
        "without",
        "non",
        "less",
        "more",
        "least",
        "most",
        "fewer",
        "over",
        "under",
        "above",
        "below",
        "between",
        "base",
        "greater",
        "smaller",
        "o",
        "y",
        "ou",
        "et",
        "oder",
        "und",
        "или",
        "и",
        "не",
        "more",
        "más",
        "mas",
        "menos",
        "plus",
        "moins",
        "mehr",
        "weniger",
        "nicht",
        "non",
        "pas",
        "sauf",
        "niet",
        "более",
        "менее",
        "больше",
        "меньше",
        "或",
        "和",
        "不",
        "以上",
        "以下",
        "以内",
        "至少",
        "至多",
        "大于",
        "小于",
        "超过",
        "times",
        "mod",
        "squared",
        "cubed",
    ]
)
_HAN_NOT_UNITS = re.compile("[或和不非]|以[上下内外]|至[少多]|[大小多少]于|超过|未满")


@dataclass(frozen=True, slots=True)
class Unit:
    """The dimension of a unit, its size in base units, and whether it is a word that is not in the table."""

    dimension: str
    factor: Fraction
    is_noun: bool = False


Powers = dict[str, int]
"""A dimension as the powers of base dimensions."""


def _tables() -> dict[str, tuple[Powers, Fraction]]:
    units: dict[str, tuple[Powers, Fraction]] = {}
    for dimension, names in _BASE:
        for name, size in (entry.split("=") for entry in names.split()):
            units[name] = ({dimension: 1} if dimension else {}, Fraction(size))
    _add_prefixes(units)
    for entry in _DERIVED:
        name, _, definition = entry.partition("=")
        powers: Powers = {}
        factor = Fraction(1)
        for part in definition.split():
            known, _, exponent = part.partition("^")
            factor *= _raise(units[known], int(exponent or 1), powers)
        units[name] = (powers, factor)
        _add_prefixes(units)
    return units


def _raise(unit: tuple[Powers, Fraction], exponent: int, powers: Powers) -> Fraction:
    """Add a unit's powers to those of a product, and return its factor."""
    for dimension, power in unit[0].items():
        powers[dimension] = powers.get(dimension, 0) + power * exponent
    return unit[1] ** exponent


def _add_prefixes(units: dict[str, tuple[Powers, Fraction]]) -> None:
    for prefixes, names in ((_PREFIXES, _PREFIXED), (_LONG_PREFIXES, _LONG_PREFIXED)):
        for prefix, exponent in prefixes.items():
            for name in names:
                if name in units:
                    powers, factor = units[name]
                    units.setdefault(prefix + name, (powers, factor * Fraction(10) ** exponent))


UNITS = _tables()
DEGREE = Unit("angle", Fraction(1))
PERCENT = Unit("percent", Fraction(1))
_SIGNS = (
    # In \sin 30^\circ, the degree sign belongs to the argument.
    (re.compile(r"(?!.*\\(?:sin|cos|tan|cot|sec|csc))(.*\S)\s*\^\\circ"), DEGREE),
    (re.compile(r"(.*?)\s*\\?%"), PERCENT),
    (re.compile(r"(.*?)\s*\\?\$"), Unit("money", Fraction(1))),
)


def split_unit(text: str) -> tuple[str, Unit | None]:
    r"""Split into value and unit: `55 \text{ cm}^2`, `\$36`, `90^\circ`, `28\%`, `5 hours`. Without a unit, return (text, None)."""
    text = text.strip()
    if match := _BEFORE.match(text):
        return match[1] + text[match.end() :], _currency(match[2])
    if match := _AFTER.fullmatch(text):
        return match[1], _currency(match[2])
    for sign, meaning in _SIGNS:
        if match := sign.fullmatch(text):
            return match[1], meaning
    for pattern, plain in ((_TAIL, False), (_WORDS, True)):
        if match := pattern.fullmatch(text):
            return _split_match(text, match, plain=plain)
    return text, None


def _currency(mark: str) -> Unit:
    mark = re.sub(r"[\s\\.](?![a-z])", "", mark)
    return parse_unit(_MARK_NAMES.get(mark, mark), plain=False) or Unit(mark, Fraction(1))


def _split_match(text: str, match: re.Match[str], *, plain: bool) -> tuple[str, Unit | None]:
    found = parse_unit(match["unit"], plain=plain)
    if found and found.is_noun and match["unit"].startswith("\\mu"):
        return text, None  # a variable
    if plain and found and not match["space"] and found.is_noun and match["unit"].isascii():
        return text, None
    if found is None or not match["value"].strip():
        return text, None
    value = re.sub(r"\\(?:cdot|times)\s*$", "", match["value"].strip())
    return re.sub(r"\^\\circ\s*$", "", value) if found == DEGREE else value, found


def parse_unit(text: str, *, plain: bool) -> Unit | None:
    r"""Return the unit that the text names, or None if it is not a unit. `plain` means that it is outside `\text{}`."""
    if fraction := re.fullmatch(r"\\frac\s*\{(.*)\}\s*\{(.*)\}", text):
        text = f"{fraction[1]}/{fraction[2]}"
    text = re.sub(_DEGREES, lambda m: f"°{m[0].rstrip(' }')[-1]}", text)
    text = text.replace("\\mu", "μ").replace("\\Omega", "Ω").replace("\\AA", "Å")
    text = (
        re.sub(r"(?<=μ)\s*\\text\{\s*|\\text\{", " ", text.replace("}Ω", "Ω"))
        .replace("}", " ")
        .replace("{", "")
    )
    text = text.replace("²", "^2").replace("³", "^3").replace("°\\", "°").strip(" ,()")
    text = re.sub(r"μ\s+", "μ", re.sub(r"\^\s+", "^", text))
    text = re.sub(
        r"\b(?:square|sq)\.?\s+([^\s/]+)",
        r"\1^2",
        re.sub(r"\b(?:cubic|cu)\.?\s+([^\s/]+)", r"\1^3", text, flags=re.IGNORECASE),
        flags=re.IGNORECASE,
    )
    text = re.sub(
        r"\s+squared\b", "^2", re.sub(r"\s+cubed\b", "^3", text, flags=re.IGNORECASE), flags=re.IGNORECASE
    )
    text = re.sub(r"\s+(\^)", r"\1", re.sub(r"\s*(?:/|\bper\b|(?<=\S)\s+\ban?\b)\s*", "/", text))
    powers: Powers = {}
    factor, is_noun = Fraction(1), False
    for index, side in enumerate(text.split("/")):
        for part in re.split(r"\\cdot|\\times|\*|·", side):
            one = _factors(part.strip(" .,"), plain=plain)
            if one is None:
                return None
            for name, exponent, noun in one:
                unit = ({name: 1}, Fraction(1)) if noun else UNITS[name]
                factor *= _raise(unit, exponent if index == 0 else -exponent, powers)
                is_noun |= noun
    dimension = "·".join(
        f"{name}^{power}" if power != 1 else name for name, power in sorted(powers.items()) if power
    )
    return Unit(dimension, factor, is_noun)


def _factors(text: str, *, plain: bool) -> list[tuple[str, int, bool]] | None:
    """Return the names, powers and whether they are unknown of the factors that a text names, or None."""
    words = text.split()
    found = [_known(word, plain=plain) for word in words]
    if words and all(found):
        return [(one[0], one[1], False) for one in found if one]
    if (
        not 1 <= len(words) <= 6
        or {word.casefold() for word in words} & _NOT_UNITS
        or _HAN_NOT_UNITS.search(text)
    ):
        return None
    if plain and not _NOUN.fullmatch(text):
        return None
    scale = _known(words[0], plain=False) if len(words) > 1 else None
    if scale and not UNITS[scale[0]][0]:
        rest = _factors(" ".join(words[1:]), plain=plain)
        return rest and [(scale[0], 1, False), *rest]
    name, _, exponent = text.partition("^")
    if not all(char.isalpha() or char in " '’-.()°" for char in name) or not re.fullmatch(
        r"(-?\d)?", exponent
    ):
        return None
    return [(re.sub(r"e?s$", "", name.casefold()).strip(), int(exponent or 1), True)]


def _known(word: str, *, plain: bool) -> tuple[str, int] | None:
    """Return the name in the table and the power of a word such as `cm^2` or `Hours`."""
    name, _, exponent = word.partition("^")
    if not re.fullmatch(r"(-?\d)?", exponent):
        return None
    power = int(exponent or 1)
    lower = name.casefold()
    for one in (name, lower, lower.removesuffix("s"), lower.removesuffix("es"), lower.replace(".", "")):
        if one in UNITS and (
            not plain or len(one) > 2 or (one.endswith("m") and len(one) == 2) or one in _PLAIN or power > 1
        ):
            return one, power
    return None


_PLAIN = frozenset({"kg", "ft", "yd", "mg", "hr", "lb", "oz", "Hz"})
"""Units of two letters that are recognized without `\\text{}`. A bare `m` or `s` would be a variable."""
BARE = re.compile(
    r"(?P<value>-?[\d.,/ ]*\d|\\frac\{\d+\}\{\d+\})(?:\s+|\\ )(?P<unit>[A-Za-z][A-Za-z/ ^0-9{}-]*)"
)
"""A number and a unit of letters that could also be variables, such as `3 m` or `10 m/s`."""


def without_bare_unit(text: str) -> str:
    """Remove a unit of single letters after a number. Use it only where the other side has no letters."""
    match = BARE.fullmatch(text)
    unit = parse_unit(match["unit"], plain=False) if match else None
    return match["value"] if match and unit and unit.dimension and not unit.is_noun else text
