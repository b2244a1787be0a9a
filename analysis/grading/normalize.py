r"""Normalize answers: rewrite LaTeX, Unicode and plain text to one notation, a small subset of LaTeX.

Rules: a rewrite never changes the value, and each has a test in tests/analysis/test_grade_normalize.py. The result has `\frac`, `\sqrt`,
`\le`, `^\circ`, `\text{}` and plain brackets only. `\!` and digit group separators are removed, and spacing commands become spaces.
`notation.toml` lists the characters and commands that have a synonym, and the rewrites.

This module does not know what the notation means.
"""

import re
import unicodedata
from collections.abc import Callable
from functools import partial

from analysis.grading.patterns import expressions, filled, filled_in_turn, read_table

_NOTATION = read_table("notation.toml")
_UNICODE: dict[str, str] = {char: latex for latex, chars in _NOTATION["unicode"].items() for char in chars}
_COMMANDS: dict[str, str] = {name: plain for plain, names in _NOTATION["commands"].items() for name in names.split()}
_DROPPED = re.compile(r"\\(?:" + "|".join(_NOTATION["dropped"].split()) + r")(?![a-zA-Z])\.?")
_PARTS = filled_in_turn(_NOTATION["parts"], {})
_RULES = {
    step: [(re.compile(filled(pattern, _PARTS)), replacement) for pattern, replacement in rules]
    for step, rules in _NOTATION["rewrites"].items()
}
_RE = expressions(_NOTATION)


def normalize(answer: str) -> str:
    """Apply every rewrite in order, and repeat up to three times until nothing changes. Nested wrappers need two rounds."""
    text = answer.strip()
    for _ in range(3):
        before = text
        for rewrite in REWRITES:
            text = rewrite(text).strip()
        if text == before:
            break
    return text


def _by_rules(step: str, text: str) -> str:
    """Apply the rules of one step of the table."""
    for pattern, replacement in _RULES[step]:
        text = pattern.sub(replacement, text)
    return text


def plain_unicode(text: str) -> str:
    """Rewrite mathematical and typographic characters as ASCII LaTeX, including exponents and indices."""
    text = "".join(_UNICODE.get(char, char) for char in _by_rules("unicode", text))
    return unicodedata.normalize("NFKC", text)


def unwrapped(text: str) -> str:
    r"""Remove what surrounds a formula: `$…$`, `\(…\)`, `**…**`, `\boxed`, braces, words such as `the answer is`, a full stop."""
    text = _by_rules("frames", text)
    text = re.sub(r"(?<!\\)\$", "", text) if text.replace(r"\$", "").count("$") >= 2 else text
    return _by_rules("ends", text)


def plain_presentation(text: str) -> str:
    r"""Remove colors, fonts, frames, tags and numbers of equations, and rewrite `\num`, `\SI`, `{}_5C_2`, `x**2` and HTML."""
    text = _RE.value_and_unit.sub(_value_and_unit, _by_rules("markup", text))
    text = _by_rules("numbers", text)
    if len(_RE.vector.findall(text)) > 1:  # the factors of a cross product cannot be exchanged
        text = re.sub(r"\\times(?!\s*[\d.])", r"\\cross ", text)
    return _by_rules("style", text)


def _value_and_unit(match: re.Match[str]) -> str:
    return rf"{match[1] or ''} \text{{ {_by_rules('siunitx', match[2] or match[3] or '').strip()}}}"


def without_remarks(text: str) -> str:
    r"""Remove what says only that a letter is a number, as in `2\pi k, k \in \mathbb{Z}`, and remarks in words in brackets."""
    if re.search(r"\\(?:mathbb|text)|where|for|with", text) and not _RE.remark.match(text):
        text = _RE.remark.sub("", text)
    return _by_rules("remarks", text)


def grouped_digits(text: str) -> str:
    """Join digit groups that spaces separate: `58 500` and `1 234 567` are one number, `4 7` is not."""
    return re.sub(r"(?<![\d.,/}])\d{1,3}(?: \d{3})+(?![\d/])", lambda m: m[0].replace(" ", ""), text)


def plain_commands(text: str) -> str:
    r"""Replace synonyms of commands (`\dfrac`, `\leq`, `\lbrace`, `{a \over b}` …) and remove commands for size and style."""
    text = re.sub(r"\\([a-zA-Z]+)(?![a-zA-Z])", _synonym, _DROPPED.sub("", text))
    return _by_rules("commands", text)


def _synonym(match: re.Match[str]) -> str:
    name = _COMMANDS.get(match[1], match[1])
    if name in {"{", "}", "$"}:
        return "\\" + name
    return name if not name.isalpha() or name == "i" else f"\\{name} " if name != match[1] else match[0]


def plain_text(text: str) -> str:
    r"""Rewrite every text command as `\text{}`, and remove upright, bold and vector style from letters and digits."""
    text = _RE.text_with_powers.sub(lambda m: m[1] + re.sub(r"\{(-?\d)\}", r"\1", m[2]) + "}", text)
    return _by_rules("text", _RE.text.sub(_text, text))


def _text(match: re.Match[str]) -> str:
    words = match[1]
    bare = words.strip()
    if _RE.functions.fullmatch(bare):
        return f"\\{bare} "
    if _RE.list_of_numbers.fullmatch(bare):
        return words  # a list of numbers
    upright = bare == "i" or (bare in {"e", "d"} and not match[0].startswith("\\text{"))
    if upright or bare == r"^\circ" or not any(char.isalpha() for char in bare):
        after_command = re.search(r"\\[a-zA-Z]+$", match.string[: match.start()]) and words[:1].isalpha()
        return f" {words}" if after_command else words
    return r"\text{" + words + "}"


def named_values(text: str) -> str:
    """Replace words that name a set or a time of day, such as `no solution` or `noon`, if they are the whole answer."""
    words = re.sub(r"\\text\{([^{}]*)\}", r"\1", text).strip(" .")
    found = (value for pattern, value in _NOTATION["named"].items() if re.fullmatch(pattern, words, re.IGNORECASE))
    return next(found, text)


plain_spacing = partial(_by_rules, "spacing")
named_functions = partial(_by_rules, "functions")
scientific = partial(_by_rules, "scientific")
plain_signs = partial(_by_rules, "signs")
REWRITES: tuple[Callable[[str], str], ...] = (
    plain_unicode,
    plain_presentation,
    unwrapped,
    plain_commands,
    plain_spacing,
    grouped_digits,
    plain_text,
    named_functions,
    named_values,
    scientific,
    plain_signs,
    without_remarks,
)
"""The order matters: dashes must be ASCII before signs are read, and wrappers are removed before the ends are trimmed."""


def without_spacing(text: str) -> str:
    r"""Remove spaces, except before digits, and needless braces, so that two answers can be compared as strings."""
    text = re.sub(r"(?<![\d,])\s+|\s+(?!\d)", "", text)
    return re.sub(r"([_^])\{(\w)\}", r"\1\2", text)


def decimal_comma(text: str) -> str:
    r"""Rewrite the decimal comma of a number with a unit: `8,50 \text{ m}` is 8.50 metres, but `8,50` may be two numbers."""
    text = re.sub(r"(?<![\d.,])(\d{1,3}(?:\.\d{3})+),(\d+)(?![\d,])", lambda m: f"{m[1].replace('.', '')}.{m[2]}", text)
    return _RE.decimal_comma.sub(lambda m: f"{m[1] or m[4]}.{m[2] or m[5]}{m[3] or ''}", text)
