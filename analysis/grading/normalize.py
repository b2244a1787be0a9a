r"""One notation for one meaning: LaTeX, Unicode and plain-text habits rewritten to a small LaTeX dialect.

Rules: a rewrite never changes a value; each has a test (tests/analysis/test_grade_clean.py). What comes out has `\frac`, `\sqrt`,
`\le`, `^\circ`, `\text{}` and plain brackets only; `\!` and digit-group marks are gone; spacing commands are spaces.

Does not know: what the notation means.
"""

import re
import unicodedata
from collections.abc import Callable

_UNICODE = {
    "−": "-", "–": "-", "—": "-", "‐": "-", "‑": "-",
    "×": r"\times ", "·": r"\cdot ", "⋅": r"\cdot ", "∙": r"\cdot ", "÷": r"\div ", "∗": "*",
    "±": r"\pm ", "∓": r"\mp ", "∞": r"\infty ", "π": r"\pi ", "θ": r"\theta ", "α": r"\alpha ", "β": r"\beta ",
    "γ": r"\gamma ", "λ": r"\lambda ", "φ": r"\phi ", "ω": r"\omega ",
    "≤": r"\le ", "≥": r"\ge ", "≠": r"\ne ", "≈": r"\approx ", "∈": r"\in ", "∪": r"\cup ", "∩": r"\cap ",
    "∅": r"\emptyset ", "ℝ": r"\mathbb{R}", "∖": r"\setminus ",
    "°": r"^\circ ", "º": r"^\circ ", "¢": r"\text{ cents}", "′": "'", "’": "'", "“": '"', "”": '"',
    "⟨": r"\langle ", "⟩": r"\rangle ", "…": r"\ldots ", "√": r"\sqrt ",
    "½": r"\frac{1}{2}", "¼": r"\frac{1}{4}", "¾": r"\frac{3}{4}", "⅓": r"\frac{1}{3}", "⅔": r"\frac{2}{3}",
    "⅛": r"\frac{1}{8}", "⅜": r"\frac{3}{8}", "⅝": r"\frac{5}{8}", "⅞": r"\frac{7}{8}", "⅕": r"\frac{1}{5}",
    "⅖": r"\frac{2}{5}", "⅗": r"\frac{3}{5}", "⅘": r"\frac{4}{5}", "⅙": r"\frac{1}{6}", "⅚": r"\frac{5}{6}",
    "\u200b": "", "\ufeff": "",
}  # fmt: skip
_SUPERSCRIPTS = str.maketrans("⁰¹²³⁴⁵⁶⁷⁸⁹⁻⁺", "0123456789-+")
_SUBSCRIPTS = str.maketrans("₀₁₂₃₄₅₆₇₈₉", "0123456789")

_COMMANDS = {
    "dfrac": "frac", "tfrac": "frac", "cfrac": "frac", "dbinom": "binom", "tbinom": "binom",
    "leq": "le", "leqslant": "le", "geq": "ge", "geqslant": "ge", "neq": "ne", "not=": "ne",
    "to": "to", "ast": "cdot", "bullet": "cdot", "lbrace": "{", "rbrace": "}", "degree": "circ", "degrees": "circ",
    "infin": "infty", "varnothing": "emptyset", "backslash": "setminus", "smallsetminus": "setminus",
    "lvert": "|", "rvert": "|", "vert": "|", "mid": "|", "lbrack": "[", "rbrack": "]", "lparen": "(", "rparen": ")",
    "arctg": "arctan", "tg": "tan", "ctg": "cot", "varphi": "phi", "varepsilon": "epsilon", "imath": "i",
    "bigcup": "cup", "bigcap": "cap", "mathdollar": "$", "textdollar": "$", "land": "wedge", "lor": "vee", "dotsc": "ldots", "dots": "ldots", "cdots": "ldots",
}  # fmt: skip
_DROPPED = (
    "left", "right", "bigl", "bigr", "Bigl", "Bigr", "biggl", "biggr", "Biggl", "Biggr", "big", "Big", "bigg", "Bigg",
    "middle", "displaystyle", "textstyle", "scriptstyle", "limits", "nolimits", "mathstrut", "strut", "hfill", "noindent",
    "rm", "bf", "it", "normalsize", "large", "Large", "small", "ensuremath",
)  # fmt: skip
_TEXT = r"\\(?:text(?:rm|bf|it|normal|sf|tt|up|sc)?|mbox|hbox|mathrm|mathsf|mathtt|operatorname\*?|textrm)\s*\{([^{}]*)\}"
_STYLE = r"\\(?:mathbf|boldsymbol|bm|mathit|mathnormal|mathcal|pmb|vec|overrightarrow|underline|bold|color\{\w+\})\s*\{([^{}]*)\}"
_FUNCTIONS = "sqrt|arcsin|arccos|arctan|sin|cos|tan|cot|sec|csc|ln|log|pi|infty|theta"
_BRACED = r"\{((?:[^{}]|\{(?:[^{}]|\{[^{}]*\})*\})*)\}"

Rewrite = Callable[[str], str]


def clean(answer: str) -> str:
    """Apply every rewrite, in order, until none changes anything (twice is enough for nested wrappers)."""
    text = answer.strip()
    for _ in range(3):
        before = text
        for rewrite in REWRITES:
            text = rewrite(text).strip()
        if text == before:
            break
    return text


def plain_unicode(text: str) -> str:
    """Mathematical and typographic characters as ASCII LaTeX; exponents and indices keep their place."""
    text = re.sub("∛\\s*(\\d+|[a-z])", r"\\sqrt[3]{\1}", text)
    text = re.sub("√\\s*(\\d+(?:\\.\\d+)?|[a-z])", r"\\sqrt{\1}", text)
    text = re.sub("[⁰¹²³⁴⁵⁶⁷⁸⁹⁻⁺]+", _superscript, text)
    text = re.sub("[₀₁₂₃₄₅₆₇₈₉]+", lambda m: "_{" + m[0].translate(_SUBSCRIPTS) + "}", text)
    text = re.sub(r"\\(?:text|mathrm)\{\s*¢\s*\}", "¢", text)
    text = "".join(_UNICODE.get(char, char) for char in text)
    return unicodedata.normalize("NFKC", text)


def _superscript(match: re.Match[str]) -> str:
    digits = match[0].translate(_SUPERSCRIPTS)
    return f"^{digits}" if len(digits) == 1 else f"^{{{digits}}}"


def unwrapped(text: str) -> str:
    r"""Without what delimits a formula: `$…$`, `\(…\)`, `**…**`, an inner `\boxed`, braces, a sentence's words and full stop."""
    text = re.sub(r"\\(?:boxed|fbox)\s*" + _BRACED, r"\1", text)
    text = re.sub(rf"^(?!.*\\(?:over|choose)){_BRACED}$", r"\1", text)
    text = re.sub(r"^\s*(?:the\s+)?(?:final\s+)?answer\s*(?:is|:|=)\s*:?", "", text, flags=re.IGNORECASE)
    text = re.sub(r"^\\text\s*\{[^{}]*(?:\bis|\bare|\bequals|:|=)\s*\}(?=.)", "", text)
    text = text.replace("...", r"\ldots ")
    text = re.sub(
        r"^\*\*(.*)\*\*$|^__(.*)__$|^`(.*)`$", lambda m: next(g for g in m.groups() if g is not None), text
    )
    text = re.sub(
        r"^\\\[(.*)\\\]$|^\\\((.*)\\\)$", lambda m: m[1] if m[1] is not None else m[2], text, flags=re.DOTALL
    )
    text = re.sub(r"(?<!\\)\$", "", text) if text.replace(r"\$", "").count("$") >= 2 else text
    text = re.sub(r"^(?:=|\\approx|~|\\sim|\\therefore|\\Rightarrow|\\implies)\s*", "", text)
    return re.sub(r"(?:\\[,;: ]?|[.,;:!\s])+$", "", text) if not text.endswith("!") else text


def plain_spacing(text: str) -> str:
    r"""Spacing commands as spaces, except where they group digits: `58\,500`, `10,\!080`, `10{,}080`."""
    text = re.sub(r"\\hspace\*?\{[^{}]*\}|\\phantom\{[^{}]*\}|\\[hv]skip\S*", " ", text)
    text = re.sub(r"\\\\\s*\[[^\]]*\]", r"\\\\ ", text)
    text = re.sub(r"\\(?:quad|qquad|enspace|thinspace|medspace|thickspace|space)(?![a-zA-Z])", " ", text)
    text = re.sub(r",\s*\\!\s*", ",", text)
    text = re.sub(r"(?<!\\)\\!", "", text)
    text = re.sub(r"(?<![a-zA-Z])\s*\{,\}\s*", ",", text)
    text = re.sub(r"(?<=\d)(?<!\\)\\[,;: ](?=\d{3}(?!\d))", "", text)
    text = re.sub(r"(?<!\\)\\(?:[,;:> ]|\n)", " ", text).replace("~", " ")
    return re.sub(r"\s+", " ", text)


def grouped_digits(text: str) -> str:
    """Digit groups set apart by spaces: `58 500` is one number, `1 234 567` too; `4 7` is not."""
    return re.sub(r"(?<![\d.,/}])\d{1,3}(?: \d{3})+(?![\d/])", lambda m: m[0].replace(" ", ""), text)


def plain_commands(text: str) -> str:
    r"""Synonyms of commands: `\dfrac`, `\leq`, `\lbrace`, `{a \over b}` …; sizing and style switches dropped."""
    text = re.sub(r"\\(?:" + "|".join(_DROPPED) + r")(?![a-zA-Z])\.?", "", text)
    text = re.sub(r"\\([a-zA-Z]+)(?![a-zA-Z])", _synonym, text)
    text = re.sub(r"\{([^{}]*)\\over(?![a-zA-Z])([^{}]*)\}", r"\\frac{\1}{\2}", text)
    text = re.sub(r"\{([^{}]*)\\choose(?![a-zA-Z])([^{}]*)\}", r"\\binom{\1}{\2}", text)
    text = re.sub(
        r"\^\s*\{\s*\\circ\s*\}|\^\s*\\circ|(?<=[\d}])\s*\\circ|(?<=\d)\^\{?[oO]\}?$", r"^\\circ ", text
    )
    text = re.sub(r"\\bmod|\\pmod", r"\\mod", text)
    return (
        text.replace("<=", r"\le ")
        .replace(">=", r"\ge ")
        .replace("!=", r"\ne ")
        .replace("&lt;", "<")
        .replace("&gt;", ">")
    )


def _synonym(match: re.Match[str]) -> str:
    name = _COMMANDS.get(match[1], match[1])
    if name in {"{", "}", "$"}:
        return "\\" + name
    return name if not name.isalpha() or name == "i" else f"\\{name} " if name != match[1] else match[0]


def plain_text(text: str) -> str:
    r"""Every text command as `\text{}`; upright letters and digits as themselves; bold and vectors dropped."""
    text = re.sub(_STYLE, r"\1", text)
    text = re.sub(_TEXT, _text, text)
    text = re.sub(r"\\text\{\s*\}", " ", text)
    text = re.sub(r"\\text\{\s*(-?\d[\d.,]*)\s+([A-Za-z][^{}]*)\}", r"\1 \\text{ \2}", text)
    text = re.sub(r"(?<=\d)\s*(?:\^\s*\{?\s*)?(?:\\text\{\s*)?(?:st|nd|rd|th)\s*\}{0,2}$", "", text)
    return re.sub(r"\\(lt|gt)(?![a-zA-Z])", lambda m: "<" if m[1] == "lt" else ">", text)


def _text(match: re.Match[str]) -> str:
    words = match[1]
    bare = words.strip()
    if re.fullmatch(_FUNCTIONS, bare):
        return f"\\{bare} "
    upright = bare == "i" or (bare in {"e", "d"} and not match[0].startswith("\\text{"))
    if upright or bare == r"^\circ" or not re.search(r"[A-Za-z]", bare):
        after_command = re.search(r"\\[a-zA-Z]+$", match.string[: match.start()]) and words[:1].isalpha()
        return f" {words}" if after_command else words
    return r"\text{" + words + "}"


def named_functions(text: str) -> str:
    """`sqrt(2)`, `sin x`, `pi`, `infinity` typed without a backslash."""
    text = re.sub(r"(?<![\\a-zA-Z{])(?:infinity|inf|oo)(?![a-zA-Z])", r"\\infty ", text)
    return re.sub(r"(?<![\\a-zA-Z])(" + _FUNCTIONS + r")(?![a-zA-Z])(?![^{}]*\}(?<=\\text))", r"\\\1 ", text)


def scientific(text: str) -> str:
    r"""`6.72e-5` is `6.72 \times 10^{-5}`."""
    return re.sub(r"(?<![\w.])(\d*\.?\d+)[eE]([+-]?\d+)(?![\w.])", r"\1 \\times 10^{\2}", text).replace(
        "^{+", "^{"
    )


def named_sets(text: str) -> str:
    """The empty set and the reals, where an answer is these words alone."""
    words = re.sub(r"\\text\{([^{}]*)\}", r"\1", text).strip(" .")
    if re.fullmatch(r"no (?:real )?solutions?|none|(?:the )?empty set", words, re.IGNORECASE):
        return r"\emptyset"
    return r"\mathbb{R}" if re.fullmatch(r"all reals?(?: numbers)?", words, re.IGNORECASE) else text


def plain_signs(text: str) -> str:
    """`6 + (-5)i` is `6 - 5i`; a leading plus says nothing."""
    text = re.sub(r"\+\s*\(\s*-\s*(\d+(?:\.\d+)?)\s*\)", r"- \1", text)
    text = re.sub(r"-\s*\(\s*-\s*(\d+(?:\.\d+)?)\s*\)", r"+ \1", text)
    return re.sub(r"^\+\s*", "", text)


REWRITES: tuple[Rewrite, ...] = (
    plain_unicode,
    unwrapped,
    plain_commands,
    plain_spacing,
    grouped_digits,
    plain_text,
    named_functions,
    named_sets,
    scientific,
    plain_signs,
)
"""In this order: the dash must be ASCII before signs are read, wrappers gone before ends are trimmed."""


def squeezed(text: str) -> str:
    r"""What two cleaned answers are compared by as strings: no spaces but before digits, no needless braces."""
    text = re.sub(r"(?<![\d,])\s+|\s+(?!\d)", "", text)
    return re.sub(r"([_^])\{(\w)\}", r"\1\2", text)
