r"""Normalize answers: rewrite LaTeX, Unicode and plain text to one notation, a small subset of LaTeX.

Rules: a rewrite never changes the value, and each has a test in tests/analysis/test_grade_normalize.py. The result has `\frac`, `\sqrt`,
`\le`, `^\circ`, `\text{}` and plain brackets only. `\!` and digit group separators are removed, and spacing commands become spaces.
`notation.toml` lists the characters and commands that have a synonym.

This module does not know what the notation means.
"""

import re
import tomllib
import unicodedata
from collections.abc import Callable
from pathlib import Path
from typing import Any

_NOTATION: dict[str, Any] = tomllib.loads(Path(__file__).with_name("notation.toml").read_text("utf-8"))
_UNICODE: dict[str, str] = {char: latex for latex, chars in _NOTATION["unicode"].items() for char in chars}
_COMMANDS: dict[str, str] = {name: plain for plain, names in _NOTATION["commands"].items() for name in names.split()}
_ASCII = {sign: latex for latex, signs in _NOTATION["ascii"].items() for sign in signs.split()}
_DROPPED = _NOTATION["dropped"].split()
_SUPERSCRIPT = "[⁰¹²³⁴⁵⁶⁷⁸⁹⁻⁺]"

_TEXT = r"\\(?:text[a-z]*|[mh]box|mathrm|mathsf|mathtt|operatorname\*?)\s*\{([^{}]*)\}"
_TEXT_WITH_POWERS = r"(\\(?:text|mathrm|mathsf|textrm)\s*\{)((?:[^{}]|\^\{-?\d\})*)\}"
_FUNCTIONS = (
    "sqrt|exp|(?:arc?)?(?:sinh|cosh|tanh)|arcsin|arccos|arctan|sin|cos|tan|cot|sec|csc|cis|ln|log|pi|infty|theta"
)
_NESTED = r"\{(?:[^{}]|\{(?:[^{}]|\{(?:[^{}]|\{[^{}]*\})*\})*\})*\}"
_BRACED = r"\{((?:[^{}]|" + _NESTED + r")*)\}"
_STYLE = (
    r"\\(?:mathbf|boldsymbol|bm|mathit|mathnormal|mathcal|pmb|vec|overrightarrow|underline|uline|bold|emph|underbrace|overbrace|mathop|mathord|hl"
    r"|textcolor\s*(?:\[\w*\])?\s*\{[^{}]*\}|colorbox\s*\{[^{}]*\}|fcolorbox\s*\{[^{}]*\}\s*\{[^{}]*\}|bbox\s*\[[^\]]*\])\s*"
    + _BRACED
)
_VECTOR = r"\\(?:mathbf|boldsymbol|bm|vec)\s*\{?\s*\\?[a-zA-Z]"
_VALUE_AND_UNIT = re.compile(r"\\(?:SI|qty)\s*(?:\[[^\]]*\])?\s*" + _BRACED + r"\s*" + _BRACED)
_CHOICE = re.compile(
    r"(?:\{\s*\})?\s*(?P<sign>[_^])\s*\{?\s*(?P<n>\w+)\s*\}?\s*(?:\\(?:text|mathrm|mathbf|rm)\s*)?\{?\s*(?P<kind>[CP])\s*\}?\s*_\s*\{?\s*(?P<k>\w+)\s*\}?"
)
_SETS_OF_NUMBERS = r"\\mathbb\s*\{?\s*[ZNQRC]\s*\}?(?:[_^](?:\{[^{}]*\}|[+*>0-9]))?"
_ALLOWED_IN_A_REMARK = (
    r"(?:\b(?:any|all|every|each|some|an?|is|are|be|constants?|integers?|real|numbers?|arbitrary|natural|values?|of|and|the|where|for|with)\b"
    rf"|\b[A-Za-z]\b(?:_\w)?|\\in\s*{_SETS_OF_NUMBERS}|[\s,.~$:]|\\text\{{|[{{}}])"
)
_REMARK = re.compile(
    rf"\s*[,;]?\s*(?:\(\s*[a-zA-Z](?:\s*,\s*[a-zA-Z])*\s*\\in\s*{_SETS_OF_NUMBERS}\s*\)"
    rf"|(?:(?<=[,;])|(?<=[,;] )|(?<=\}} )|(?<=quad ))(?:\\text\{{[^{{}}]*\}}\s*|\\forall\s*)?[a-zA-Z](?:\s*,\s*[a-zA-Z])*\s*\\in\s*{_SETS_OF_NUMBERS}"
    rf"|[,;]\s*[a-zA-Z]\s*\\text\{{\s*(?:is\s+|are\s+)?(?:any\s+|an\s+)?integers?\s*\}}|\(?\s*(?:\\text\{{[\s,;(]*)?\b(?:where|for|with)\b(?:{_ALLOWED_IN_A_REMARK})+\)?)$"
)
_APPROXIMATION = (
    r"\s*(?:\(\s*(?:(?:\\text\{)?\s*(?:approx(?:imately|\.)?|about|roughly)\s*\}?|\\approx)\s*[-\d.,]+\s*\)"
    r"|,?\s*\\text\{\s*\(?(?:or|which is)?\s*(?:approximately|about|roughly)\s*[\d.]*\)?\s*\}\s*[\d.]*\)?)$"
)
_DISTANCE = (
    r"(?<=\d)(\s*(?:miles?|km|kilomet(?:er|re)s?|met(?:er|re)s?|feet|yards?|blocks?))"
    r"\s+(?:away\s+)?from\s+(?:(?:the|his|her|their)\s+)?[a-z]+$"
)
_REASON = r"\s*\\text\{\s*\((?:rounded|approximately|exactly|exact|since|because|as)\b[^{}]*\)\s*\}$"

Rewrite = Callable[[str], str]


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


def plain_unicode(text: str) -> str:
    """Rewrite mathematical and typographic characters as ASCII LaTeX, including exponents and indices."""
    text = re.sub("∛\\s*(\\d+|[a-z])", r"\\sqrt[3]{\1}", text)
    text = re.sub("√\\s*(\\d+(?:\\.\\d+)?|[a-z])", r"\\sqrt{\1}", text)
    text = re.sub(f"({_SUPERSCRIPT}{{2,}})", r"^{\1}", text)
    text = re.sub(rf"(?<![{{⁰¹²³⁴⁵⁶⁷⁸⁹⁻⁺])({_SUPERSCRIPT})(?!{_SUPERSCRIPT})", r"^\1", text)
    text = re.sub("([₀₁₂₃₄₅₆₇₈₉]+)", r"_{\1}", text)
    text = re.sub(r"\\(?:text|mathrm)\{\s*¢\s*\}", "¢", text)
    text = "".join(_UNICODE.get(char, char) for char in text)
    return unicodedata.normalize("NFKC", text)


def unwrapped(text: str) -> str:
    r"""Remove what surrounds a formula: `$…$`, `\(…\)`, `**…**`, `\boxed`, braces, words such as `the answer is`, a full stop."""
    text = re.sub(r"\\(?:boxed|fbox)\s*" + _BRACED, r"\1", text)
    text = re.sub(rf"^(?!.*\\(?:over|choose)){_BRACED}$", r"\1", text)
    text = re.sub(r"[.\s]*I hope (?:it|this) is correct\.?\s*$", "", text, flags=re.IGNORECASE)
    text = re.sub(
        r"^\s*(?:(?:so|thus|hence|therefore),?\s+)?(?:the\s+)?(?:final\s+|correct\s+)?(?:answer|option|choice)\s*(?:is|:|=)\s*:?",
        "",
        text,
        flags=re.IGNORECASE,
    )
    text = re.sub(r"^\\text\s*\{[^{}]*(?:\bis|\bare|\bequals|:|=)\s*\}(?=.)", "", text)
    text = text.replace("...", r"\ldots ")
    text = re.sub(r"^\*\*(.*)\*\*$|^\*([^*]+)\*$|^__(.*)__$|^`(.*)`$", lambda m: m[m.lastindex or 0], text)
    text = re.sub(r"(?s)^\\\[(.*)\\\]$|^\\\((.*)\\\)$", lambda m: m[m.lastindex or 0], text)
    text = re.sub(r"(?<!\\)\$", "", text) if text.replace(r"\$", "").count("$") >= 2 else text
    text = re.sub(r"^(?:=|\\approx|~|\\sim|\\therefore|\\Rightarrow|\\implies)\s*", "", text)
    return re.sub(r"(?:\\[,;:! ]?|[.,;:\s])+$", "", text)


def plain_presentation(text: str) -> str:
    r"""Remove colors, fonts, frames, tags and numbers of equations, and rewrite `\num`, `\SI`, `{}_5C_2`, `x**2` and HTML."""
    text = re.sub(r"(?<![\w)}\]*])\*\*(?=\S)([^*\n]+)\*\*(?![\w(])", r"\1", text)
    text = re.sub(r"<(b|strong|i|em|u)>(.*?)</\1>", r"\2", text)
    text = re.sub(r"<sup>(.*?)</sup>", r"^{\1}", re.sub(r"<sub>(.*?)</sub>", r"_{\1}", text))
    text = _VALUE_AND_UNIT.sub(lambda m: rf"{m[1]} \text{{ {_unit_name(m[2])}}}", text)
    text = re.sub(r"\\(?:si|unit)\s*" + _BRACED, lambda m: rf"\text{{ {_unit_name(m[1])}}}", text)
    text = re.sub(r"\\num\s*(?:\[[^\]]*\])?\s*" + _BRACED, r"\1", text)
    text = re.sub(r"\\ang\s*" + _BRACED, r"\1^\\circ ", text)
    text = re.sub(r"\\color\s*(?:\[\w*\])?\s*\{[^{}]*\}|\\(?:tag|label)\*?\s*\{[^{}]*\}", "", text)
    text = re.sub(r"\\(?:wide)?hat\s*\{?\s*\\?([ijk])(?:math)?(?![a-z])\s*\}?", r"\1", text)
    if len(re.findall(_VECTOR, text)) > 1:  # the factors of a cross product cannot be exchanged
        text = re.sub(r"\\times(?!\s*[\d.])", r"\\cross ", text)
    text = re.sub(_STYLE, lambda m: " " * m.string[: m.start()][-1:].isalpha() + m[1], text)
    text = re.sub(r"\\(?:mathbf|mathrm|mathsf|mathit|boldsymbol|bm)\s+(?=\w)", "", text)
    text = re.sub(r"\\(?:text|mathrm|mathbf)\s*\{\s*([CP])\s*\}\s*(?=\(\s*\d|_\{?\d)", r"\1", text)
    text = re.sub(r"^\s*(\d{1,4})\s?(?:C|\\choose)\s?(\d{1,4})\s*$", r"\\binom{\1}{\2}", text)
    text = _CHOICE.sub(lambda m: rf"\{'binom' if m['kind'] == 'C' else 'perm'}{{{m['n']}}}{{{m['k']}}}", text)
    text = re.sub(r"(?:(?<![\\a-zA-Z}])|(?<=\\cdot))\{\s*\}", "", text)
    return re.sub(r"(?<=[\w)}\]])(?<![a-zA-Z]{2})\s*\*\*\s*(?=[\w({-])", "^", text)


def _unit_name(unit: str) -> str:
    r"""Rewrite the units of siunitx: `\meter\per\second` is `meter/second` and `m.s^{-1}` is `m s^{-1}`."""
    unit = re.sub(r"\\per(?![a-z])", "/", unit)
    unit = re.sub(r"\\(kilo|mega|centi|deci|milli|micro|nano)\s*(?=\\)", r"\\\1@", unit).replace("@\\", "")
    unit = re.sub(r"\\squared|\\cubed", lambda m: "^2" if "s" in m[0] else "^3", unit)
    unit = re.sub(r"\\([a-zA-Z]+)", r" \1", unit).replace(".", " ").replace("~", " ")
    return re.sub(r"\s*([/^])\s*", r"\1", re.sub(r"[{}]", "", unit)).strip()


def without_remarks(text: str) -> str:
    r"""Remove what says only that a letter is a number, as in `2\pi k, k \in \mathbb{Z}`, and remarks in words in brackets."""
    if re.search(r"\\(?:mathbb|text)|where|for|with", text):
        text = _REMARK.sub("", text) if not re.match(_REMARK, text) else text
    text = re.sub(r"\s*\(\s*(?:\\text\{)?\s*or\b\s*\}?\s*(.*)\)$", r" \\text{ or } \1", text)
    text = re.sub(_APPROXIMATION, "", text)
    text = re.sub(r"(?<=\d) in the (?:(morning)|afternoon|evening)$", lambda m: f" {'a' if m[1] else 'p'}.m.", text)
    text = re.sub(_DISTANCE, r"\1", text)
    return re.sub(_REASON, "", text)


def plain_spacing(text: str) -> str:
    r"""Rewrite spacing commands as spaces, except between digit groups: `58\,500`, `10,\!080`, `10{,}080`."""
    text = re.sub(r"\\hspace\*?\{[^{}]*\}|\\phantom\{[^{}]*\}|\\[hv]skip\S*", " ", text)
    text = re.sub(r"\\\\\s*\[[^\]]*\]", r"\\\\ ", text)
    text = re.sub(r"\\(?:q?quad|(?:en|thin|med|thick)?space)(?![a-zA-Z])", " ", text)
    text = re.sub(r",\s*\\!\s*", ",", text)
    text = re.sub(r"(?<!\\)\\!", "", text)
    text = re.sub(r"(?<=\d)\{,\}(?=(?:\d{1,2}|\d{4,})(?!\d))|(?<=(?<![\d,.}])0)\{,\}(?=\d)", ".", text)
    text = re.sub(r"(?<![a-zA-Z])\s*\{([,:])\}\s*", r"\1", text)
    text = re.sub(r"(?<=\d)(?<!\\)\\[,;: ](?=\d{3}(?!\d))", "", text)
    text = re.sub(r"(?<!\\)\\(?:[,;:> ]|\n)", " ", text)
    text = re.sub(r"(?<!~)~(?!~)", " ", text)  # two of them strike out
    return re.sub(r"\s+", " ", text)


def grouped_digits(text: str) -> str:
    """Join digit groups that spaces separate: `58 500` and `1 234 567` are one number, `4 7` is not."""
    return re.sub(r"(?<![\d.,/}])\d{1,3}(?: \d{3})+(?![\d/])", lambda m: m[0].replace(" ", ""), text)


def plain_commands(text: str) -> str:
    r"""Replace synonyms of commands (`\dfrac`, `\leq`, `\lbrace`, `{a \over b}` …) and remove commands for size and style."""
    text = re.sub(r"\\(?:" + "|".join(_DROPPED) + r")(?![a-zA-Z])\.?", "", text)
    text = re.sub(r"\\([a-zA-Z]+)(?![a-zA-Z])", _synonym, text)
    text = re.sub(r"\{([^{}]*)\\over(?![a-zA-Z])([^{}]*)\}", r"\\frac{\1}{\2}", text)
    text = re.sub(r"\{([^{}]*)\\choose(?![a-zA-Z])([^{}]*)\}", r"\\binom{\1}{\2}", text)
    text = re.sub(r"\^\s*\{\s*\\circ\s*\}|\^\s*\\circ|(?<=[\d}])\s*\\circ|(?<=\d)\^\{?[oO]\}?$", r"^\\circ ", text)
    text = re.sub(r"\\not\s*(?:=|\{=\})", r"\\ne ", re.sub(r"\\not\s*\\in(?![a-z])", r"\\notin ", text))
    text = re.sub(r"\\bmod|\\pmod", r"\\mod", text)
    return re.sub(r"[<>!]=|&(?:[lg]t|nbsp);", lambda m: _ASCII[m[0]], text)


def _synonym(match: re.Match[str]) -> str:
    name = _COMMANDS.get(match[1], match[1])
    if name in {"{", "}", "$"}:
        return "\\" + name
    return name if not name.isalpha() or name == "i" else f"\\{name} " if name != match[1] else match[0]


def plain_text(text: str) -> str:
    r"""Rewrite every text command as `\text{}`, and remove upright, bold and vector style from letters and digits."""
    text = re.sub(_TEXT_WITH_POWERS, lambda m: m[1] + re.sub(r"\{(-?\d)\}", r"\1", m[2]) + "}", text)
    text = re.sub(_TEXT, _text, text)
    text = re.sub(r"\\text[a-z]*(\{[^{}]*)\\text\{([^{}]*)\}", r"\\text\1\2", text)
    text = re.sub(r"\\text\{\s*\}", " ", text)
    text = re.sub(r"\\text\{\s*(-?\d[\d.,:]*)\s+([A-Za-z][^{}]*)\}", r"\1 \\text{ \2}", text)
    text = re.sub(r"(?<=\d)\s*(?:\^\s*\{?\s*)?(?:\\text\{\s*)?(?:st|nd|rd|th)\s*\}{0,2}$", "", text)
    return re.sub(r"\\gt(?![a-zA-Z])", ">", re.sub(r"\\lt(?![a-zA-Z])", "<", text))


def _text(match: re.Match[str]) -> str:
    words = match[1]
    bare = words.strip()
    if re.fullmatch(_FUNCTIONS, bare):
        return f"\\{bare} "
    if re.fullmatch(r"[-\d.,\s]*\d[-\d.,\s]*(?:\b(?:and|or)\b[-\d.,\s]+)*", bare):
        return words  # a list of numbers
    upright = bare == "i" or (bare in {"e", "d"} and not match[0].startswith("\\text{"))
    if upright or bare == r"^\circ" or not any(char.isalpha() for char in bare):
        after_command = re.search(r"\\[a-zA-Z]+$", match.string[: match.start()]) and words[:1].isalpha()
        return f" {words}" if after_command else words
    return r"\text{" + words + "}"


def named_functions(text: str) -> str:
    """Add the missing backslash to `sqrt(2)`, `sin x`, `pi` and `infinity`."""
    text = re.sub(r"(?<![\\a-zA-Z{])(?:infinity|inf|oo)(?![a-zA-Z])", r"\\infty ", text)
    return re.sub(r"(?<![\\a-zA-Z])(" + _FUNCTIONS + r")(?![a-zA-Z])(?![^{}]*\}(?<=\\text))", r"\\\1 ", text)


def scientific(text: str) -> str:
    r"""Rewrite `6.72e-5` and `6.72 x 10^-5` as `6.72 \times 10^{-5}`."""
    text = re.sub(r"(?<=\d)\s*[xX]\s*(?=10\s*\^)", r" \\times ", text)
    return re.sub(r"(?<![\w.])(\d*\.?\d+)[eE]\+?(-?\d+)(?![\w.])", r"\1 \\times 10^{\2}", text)


def named_values(text: str) -> str:
    """Replace words that name a set or a time of day, such as `no solution` or `noon`, if they are the whole answer."""
    words = re.sub(r"\\text\{([^{}]*)\}", r"\1", text).strip(" .")
    found = (value for pattern, value in _NOTATION["named"].items() if re.fullmatch(pattern, words, re.IGNORECASE))
    return next(found, text)


def plain_signs(text: str) -> str:
    """Rewrite `6 + (-5)i` as `6 - 5i`, and remove a leading plus."""
    text = re.sub(r"\+\s*\(\s*-\s*(\d+(?:\.\d+)?)\s*\)", r"- \1", text)
    text = re.sub(r"-\s*\(\s*-\s*(\d+(?:\.\d+)?)\s*\)", r"+ \1", text)
    return re.sub(r"^\+\s*", "", text)


REWRITES: tuple[Rewrite, ...] = (
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
    with_unit = (
        r"(-?(?:[€£]\s*)?\d+),(\d{1,2}|\d{4,})(\s*(?:[€£₽%°]|\\[%$]|\^\\circ|\\text|[^\W\d_])[^\d,]*(?:\^\{?-?\d\}?)?)"
    )
    return re.sub(
        rf"^{with_unit}$|^(-?[€£]\s*\d+),(\d{{1,2}})$",
        lambda m: f"{m[1] or m[4]}.{m[2] or m[5]}{m[3] or ''}",
        text,
    )
