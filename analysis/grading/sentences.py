r"""Read the value that the last sentence of a text states: `So the midpoint is M = (4, 6).`, `**Roots:** x = 1, x = -2`.

Rules: a value follows a verb such as `is`, an equality sign, a colon or a preposition, or is in bold type. It must be readable as a
whole: only a unit or a remark such as `when x = 2` may follow it. A sentence that denies, doubts or limits its value (`not`, `could`,
`at least`) states none. `sentences.toml` is the table of these words.

This module does not know whether a value is correct.
"""

import re
import tomllib
from collections.abc import Iterator
from itertools import pairwise
from pathlib import Path
from typing import Any

from analysis.grading.answer_parser import parse_answer
from analysis.grading.forms import Equation, Form, Matrix, Quantity, TupleOrInterval, UnorderedList
from analysis.grading.normalize import normalize
from analysis.grading.numbers import OutOfTimeError, UndefinedError, UnreadableError, time_limit

MAX_CHARACTERS = 400
"""A longer last line states no value."""
TIME_LIMIT_S = 0.5

_TABLE: dict[str, Any] = tomllib.loads(Path(__file__).with_name("sentences.toml").read_text("utf-8"))


def _pattern(pattern: str, name: str) -> re.Pattern[str]:
    """Put the words of the table into the pattern: between word boundaries, or anywhere in languages without spaces."""
    apart, joined = (_TABLE.get(key, "").split() for key in (name, f"{name}_without_spaces"))
    words = "|".join([rf"(?<!\\)\b(?:{'|'.join(apart)})(?!\w)", *joined])
    return re.compile(pattern.replace("{}", words, 1), re.IGNORECASE)


_DISPLAY = re.compile(r"(?s)(?<=\n)\s*(?:\$\$([^$]+)\$\$|\\\[((?:(?!\\\[).)+)\\\])[\s.]*$")
_SENTENCE_END = re.compile(r"(?<=[.!。！])[)\"*]*\s+(?=[^\W\d_a-z]|[*$\\])|(?<=[。！])")
_CLAUSE = re.compile(
    r"[,;:]\s+(?!and\b|or\b)(?=(?:[^\W\d_₀-₉]{2,}|a|à|è|é)[\s,])|(?<!\bis)(?<!\bare)\s(?=(?:so|then|therefore|thus|hence|donc|entonces)\s)|[，；]"
)
_TEXT = r"\\text\{[^{}]*\}"
_PROSE = re.compile(
    r"(?<![\\a-zA-Z])(?!(?:and|or|und|oder|et|ou|sqrt|sin|cos|tan|log|exp|min|max|pi|ln)\b)[^\W\d_]{3,}|[\u3040-\u9fff\uac00-\ud7af]"
)
_THEREFORE = _pattern(r"\s*(?:{}),?\s+", "therefore")
_BEFORE_A_VALUE = _pattern(r"(?:(?:{})\s+)*", "before_a_value")
_VERB_WORD = _pattern("{}", "verbs")
_VERB = _pattern(
    r"(?:{})[\s:,]*|(?<![\w\\(])(?<![-+*/^] )(?=\$?[A-Za-z][\w₀-₉']?(?:\([a-z]\))?\s*=)|(?<![<>!=\\])=\s*|:\s+|[：→]\s*|[—–]\s+",
    "verbs",
)
"""What a value follows. The name in `x = 5` belongs to the value."""
_ENDS_WITH_VERB = re.compile(rf"(?:{_VERB.pattern}){_BEFORE_A_VALUE.pattern}$", re.IGNORECASE)
_PREPOSITION = _pattern(r"(?:{})\s+", "prepositions")
_VALUE_START = re.compile(
    r"[-+−±√∛π∞|(\[{\\$€£¥₹₽₩\d]|[A-Za-z]\d?[₀-₉']*(?:_\{?\w+\}?)?(?:\([a-z0-9]\))?\s*(?:[=<>≤≥+*/^²³(-]|$)|(?:sqrt|sin|cos|tan|ln|log|pi|(?:minus|negative)\s+\d|no(?:\s+real)?\s+solutions?$)\b"
)
_EQUALITY = re.compile(r"[^=]{1,20}=")
_FORMULA = re.compile(
    r"(?<!\S)(?=[^A-Za-z]*[A-Za-z])(?:\([a-z](?:,\s*[a-z])+\)|[\d.²³^*/+()−\s-]|(?<![A-Za-z])[A-Za-z](?![A-Za-z])|(?<=\d)[A-Za-z](?![A-Za-z]))+$"
)
_AND = re.compile(r"(?<=[\d)}])\s+(?:(and|und|et|y|e|и|和)|oder|ou|o|или|或)\s+(?=[-−(\d$]|[a-z]\w?\s*=)")
_END = re.compile(r"(?:です|である|になります|입니다|이다|이에요)?(?:[.。\s]|(?<!\d)!)*$")
_REMARK = _pattern(r"\s*[,(]?\s*(?:{})", "remarks")
_LEADING = re.compile(rf"^{_REMARK.pattern}[^,]*,\s+", re.IGNORECASE)
"""A condition before the statement: `Since x is positive, x = 5.`"""
_STARTS_WITH_WORDS = re.compile(
    rf"[*_\"(\s.…✅∴]*(?:(?:(?!\\){_PROSE.pattern}|[^\W\d_]{{2}})(?=[\s:：,'’*(\u3040-\u9fff\uac00-\ud7af])|[^\W\d]['’]|(?:[^\W\d]|\$[^$]+\$)\s+(?={_VERB_WORD.pattern}|{_PROSE.pattern})|[\u3040-\u9fff\uac00-\ud7af])"
)
"""Otherwise, the line is a value and no sentence."""
_WITH_UNITS = re.compile(r"(?:\$?\d|\().*\d\s[^\W\d_]{2,}|\d+:")
_JOINED = re.compile(rf"{_REMARK.pattern}|\b(?:and|or)\b", re.IGNORECASE)
_NO_ANSWER = _pattern(r"(?:{})|\?|\*\*[^=*]*\*\*,? (?:or|oder|ou) \*\*", "no_answer")
_DOUBT = _pattern(r"(?:{})|n['’]t\b", "doubts")
_DENIED = re.compile(
    r"(?:\b(?:not|never|cannot|could|would|may|might|nor|nicht|nie|pas|no|non|não|не)\b|n['’]t\b)\s*(?:\w+\s+)?$|[不没]\w{0,3}\s*$",
    re.IGNORECASE,
)
"""Words before a verb that deny or limit the value."""
_NOT_A_PLACE = re.compile(rf"\d|{_DOUBT.pattern}", re.IGNORECASE)
_ONE_OF = re.compile(
    r"(?!.*(?:=|\b(?:are|sind|sont|son|sono|são)\b)).*\d.*\b(?:or|oder|ou|o)\b", re.IGNORECASE
)
_BOLD = re.compile(r"(?<![\w)}\]])\*\*(?=\S)([^*\n]+(?:\*[^*\n]+)*)\*\*")
_BETWEEN_BOLD = re.compile(r"\s*(?:,\s*)?(?:(?:and|und|et|y|e|и|和|or|oder|ou|o)\s+)?")
_BOLD_WORD = re.compile(r"[^\W\d_][^\W\d_'’-]+(?: [^\W\d_'’-]+){0,2}[.。]?")
_KIND = re.compile(r".*\b(?:is|are|es|est|ist)\s+(?:(?:an?|une?|ein|eine)\s+([^\W\d_]{4,})|([A-Z][a-z]{2,}))")


def stated_value(text: str) -> str | None:
    """Return the value that the last sentence with one states, or None. A formula that the text does not finish is none."""
    text = text.strip()
    if display := _DISPLAY.search(text):
        return (display[1] or display[2]).strip()
    line = text.rpartition("\n")[2].strip().lstrip("#>-• ")
    if not 0 < len(line) <= MAX_CHARACTERS or _is_cut(line):
        return None
    words = re.sub(_TEXT, "", line)
    if not _STARTS_WITH_WORDS.match(line) and (
        len(_PROSE.findall(words)) < 3 or not _VERB_WORD.search(words)
    ):
        is_bold = "\n" in text and _BOLD.fullmatch(line)
        return line.strip("* .") if is_bold and is_value(line) else None
    try:
        with time_limit(TIME_LIMIT_S):
            return _last_value(_SENTENCE_END.split(line))
    except OutOfTimeError:
        return None


def _is_cut(line: str) -> bool:
    """True if the line ends within a formula. A dollar sign before a number may be money."""
    is_open = any(line.rfind(rf"\{one}") > line.rfind(rf"\{other}") for one, other in ("[]", "()"))
    if is_open or re.search(r"[-=+*/({\\]\s*$", line.removesuffix("**")):
        return True
    return line.replace("\\$", "").replace("$$", "$").count("$") % 2 == 1 and "$" in re.sub(
        r"\$\d[\d.,]*(?=\s*(?:[-+×*/=);.,!]|$)|\s+[^\W\d_]{2})", "", line
    )


def _last_value(sentences: list[str]) -> str | None:
    for sentence in reversed(sentences):
        found = None if _NO_ANSWER.search(sentence) else _bold_value(sentence) or _plain_value(sentence)
        if found or _NO_ANSWER.search(sentence) or _DOUBT.search(sentence):
            return found
    return None


def _bold_value(sentence: str) -> str | None:
    """Return the last value in bold type, with those that only a comma or `and` separates from it."""
    spans = [span for span in _BOLD.finditer(sentence) if not re.search(r"[:：]\s*$", span[1])]
    if not spans or (spans[-1].start() == 0 and spans[-1].end() < len(sentence) - 1):
        return None
    if _is_doubted(sentence[: spans[-1].start()], sentence[spans[-1].end() :]):
        return None
    values = [re.sub(r"[.。\s]+$", "", spans[-1][1])]
    if not is_value(values[0]):
        is_last = re.fullmatch(r"[.。!\s]*", sentence[spans[-1].end() :])
        is_word = is_last and spans[-1].start() > 0 and _BOLD_WORD.fullmatch(spans[-1][1])
        return values[0] if is_word else None
    for before, after in reversed([*pairwise(spans)]):
        between = sentence[before.end() : after.start()]
        if not _BETWEEN_BOLD.fullmatch(between) or not is_value(before[1]):
            return ", ".join(values) if _ENDS_WITH_VERB.search(sentence[: spans[-1].start()]) else None
        values.insert(0, before[1])
    return ", ".join(values)


def _plain_value(sentence: str) -> str | None:
    """Return the value in the last clause with one. A clause that is a remark or doubts its value has none."""
    clauses = _clauses(_LEADING.sub("", sentence.replace("**", "")))
    for clause in reversed(clauses):
        if _REMARK.match(clause) and len(clauses) > 1:
            continue
        if (found := _value_in(clause)) or re.search(r"\d", clause) or _DOUBT.search(clause):
            return found
    return None


def _clauses(sentence: str) -> list[str]:
    clauses, start = [], 0
    for match in _CLAUSE.finditer(sentence):
        clauses.append(sentence[start : match.start() + (match[0][0] == ":")])
        start = match.end()
    return [*clauses, sentence[start:]]


def _value_in(clause: str) -> str | None:
    """Return the value after the first verb with one, or after the last preposition if no other number is before it."""
    clause = _END.sub("", clause) + ("." if re.search(r"[ap]\.m\.$", clause) else "")
    starts = [_left_side(clause, found) for found in _VERB.finditer(clause)]
    places = [
        found for found in _PREPOSITION.finditer(clause) if not _NOT_A_PLACE.search(clause[: found.start()])
    ]
    starts += [found.end() for found in (*reversed(places), _THEREFORE.match(clause)) if found]
    for start in starts:
        rest = _BEFORE_A_VALUE.sub("", clause[start:], count=1)
        if _VALUE_START.match(rest) and not _ONE_OF.match(clause):
            if _is_doubted(clause[:start], rest):
                return None
            rest = _AND.sub(lambda joined: " and " if joined[1] else " or ", rest)
            rest = rest.removesuffix("$") if rest.count("$") == 1 and rest[0] != "$" else rest
            value = next((one for one in _shortened(rest) if is_value(one)), None)
            if value or not _EQUALITY.match(rest):
                return value
    kind = _KIND.fullmatch(clause)
    return (kind[1] or kind[2]) if kind and not _DOUBT.search(clause) else None


def _left_side(clause: str, verb: re.Match[str]) -> int:
    """Where the value after a verb starts. The left side of an equation with a variable, such as `2x = 10`, belongs to it."""
    formula = _FORMULA.search(clause[: verb.start()]) if verb[0].startswith("=") else None
    return formula.start() if formula else verb.end()


def _is_doubted(before: str, after: str) -> bool:
    """True if the words before the verb deny or limit the value, or those after it."""
    return bool(_DENIED.search(before) or _DOUBT.search(after))


def _shortened(text: str) -> Iterator[str]:
    """The text, then without a remark at its end, then the last side of a calculation such as `120 km / 2 h = 60 km/h`."""
    for one in (text, *(text[: remark.start()] for remark in _REMARK.finditer(text, 1))):
        calculation, _, last = one.rpartition("=")
        yield last.strip() if _WITH_UNITS.match(calculation) and not _JOINED.search(calculation) else one


def is_value(text: str) -> bool:
    """True if the text is a value with or without a unit, and has no other words."""
    normalized = normalize(text)
    if re.search(r"[-=+*/<>(]$", normalized) or _VERB_WORD.search(re.sub(_TEXT, "", normalized)):
        return False
    try:
        return _has_no_words(parse_answer(normalized), normalized)
    except (UnreadableError, UndefinedError, RecursionError):
        return False


def _has_no_words(form: Form, text: str) -> bool:
    """True if there is no other word than units. A formula with a word is a product of letters."""
    if isinstance(form, Matrix):
        return True
    if isinstance(form, UnorderedList | TupleOrInterval):
        return all(_has_no_words(item, text) for item in form.items)
    if isinstance(form, Equation):
        return not _PROSE.search(form.sides[0]) and all(map(is_value, form.sides[1:]))
    return not _PROSE.search(re.sub(_TEXT, "", form.formula.source if isinstance(form, Quantity) else text))
