r"""Read the value that the last sentence of a text states: `So the midpoint is M = (4, 6).`, `**Roots:** x = 1, x = -2`.

Rules: a value follows a verb such as `is`, an equality sign, a colon or a preposition, or is in bold type. It must be readable as a
whole: only a unit or a remark such as `when x = 2` may follow it. A sentence that denies, doubts or limits its value (`not`, `could`,
`at least`) states none. `sentences.toml` has these words and the regular expressions.

This module does not know whether a value is correct.
"""

import re
from collections.abc import Iterator
from itertools import pairwise

from analysis.grading.answer_parser import parse_answer
from analysis.grading.forms import BaseNumber, Equation, Form, Matrix, Quantity, TupleOrInterval, UnorderedList
from analysis.grading.normalize import normalize
from analysis.grading.numbers import OutOfTimeError, UndefinedError, UnreadableError, time_limit
from analysis.grading.patterns import expressions, read_table

MAX_CHARACTERS = 400
"""A longer last line states no value."""
TIME_LIMIT_S = 0.5


def _any_of(words: str) -> str:
    """Return the expression of a list of words: between word boundaries, or anywhere in languages without spaces."""
    apart, joined = (sorted(part.split(), key=len, reverse=True) for part in f"{words} | ".split(" | ")[:2])
    return "|".join([rf"(?<!\\)\b(?:{'|'.join(apart)})(?!\w)", *joined])


_TABLE = read_table("sentences.toml")
_RE = expressions(_TABLE, {name: _any_of(words) for name, words in _TABLE["words"].items()}, re.IGNORECASE)
"""The compiled expressions of the table `[patterns]`, by name."""


def stated_value(text: str) -> str | None:
    """Return the value that the last sentence with one states, or None. A formula that the text does not finish is none."""
    text = text.strip()
    if display := _RE.display.search(text):
        return str(display[1] or display[2]).strip()
    line = text.rpartition("\n")[2].strip().lstrip("#>-• ")
    if not 0 < len(line) <= MAX_CHARACTERS or _is_cut(line) or _RE.list.search(text[-2 * MAX_CHARACTERS :]):
        return None
    words = _RE.text.sub("", line)
    if not _RE.starts_with_words.match(line) and (len(_RE.prose.findall(words)) < 3 or not _RE.verb_word.search(words)):
        is_bold = "\n" in text and _RE.bold.fullmatch(line)
        return line.strip("* .") if is_bold and _is_value(line) else None
    try:
        with time_limit(TIME_LIMIT_S):
            return _last_value(_RE.sentence_end.split(line))
    except OutOfTimeError:
        return None


def is_doubted(words: str) -> bool:
    """True if the words before `the answer is`, in its sentence, deny it, doubt it or speak of a part or a multiple of it."""
    return _RE.doubted.search(words) is not None


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
        if _RE.no_answer.search(sentence):
            return None
        if (found := _bold_value(sentence) or _plain_value(sentence)) or _RE.doubt.search(sentence):
            return found
    return None


def _bold_value(sentence: str) -> str | None:
    """Return the last value in bold type, with those that only a comma or `and` separates from it."""
    spans = [span for span in _RE.bold.finditer(sentence) if not re.search(r"[:：]\s*$", span[1])]
    if not spans or (spans[-1].start() == 0 and spans[-1].end() < len(sentence) - 1):
        return None
    before = re.split(r"[,;:]\s", sentence[: spans[-1].start()])[-1]
    if _is_limited(before, sentence[spans[-1].end() :]) or _RE.remark.match(before) or _RE.doubt.search(before):
        return None
    values = [re.sub(r"[.。\s]+$", "", spans[-1][1])]
    if not _is_value(values[0]):
        is_last = re.fullmatch(r"[.。!\s]*", sentence[spans[-1].end() :])
        is_word = is_last and spans[-1].start() > 0 and _RE.bold_word.fullmatch(spans[-1][1])
        return values[0] if is_word else None
    for before, after in reversed([*pairwise(spans)]):
        between = sentence[before.end() : after.start()]
        if not _RE.between_bold.fullmatch(between) or not _is_value(before[1]):
            return ", ".join(values) if _RE.ends_with_verb.search(sentence[: spans[-1].start()]) else None
        values.insert(0, before[1])
    return ", ".join(values)


def _plain_value(sentence: str) -> str | None:
    """Return the value in the last clause with one. A clause that is a remark or doubts its value has none."""
    clauses = _clauses(_RE.leading.sub("", sentence.replace("**", "")))
    for clause in reversed(clauses):
        if _RE.remark.match(clause) and len(clauses) > 1:
            continue
        if (found := _value_in(clause)) or re.search(r"\d", clause) or _RE.doubt.search(clause):
            return found
    return None


def _clauses(sentence: str) -> list[str]:
    clauses, start = [], 0
    for match in _RE.clause.finditer(sentence):
        clauses.append(sentence[start : match.start() + (match[0][0] == ":")])
        start = match.end()
    return [*clauses, sentence[start:]]


def _value_in(clause: str) -> str | None:
    """Return the value after the first verb with one, or after the last preposition if no other number is before it."""
    clause = _RE.end.sub("", clause) + ("." if re.search(r"[ap]\.m\.$", clause) else "")
    starts = [_left_side(clause, found) for found in _RE.verb.finditer(clause)]
    places = [
        found for found in _RE.preposition.finditer(clause) if not _RE.not_a_place.search(clause[: found.start()])
    ]
    starts += [found.end() for found in (*reversed(places), _RE.therefore.match(clause)) if found]
    for start in starts:
        rest = _RE.before_a_value.sub("", clause[start:], count=1)
        if _RE.value_start.match(rest) and not _RE.one_of.match(clause):
            if _is_limited(clause[:start], rest):
                return None
            rest = _RE.conjunction.sub(lambda joined: " and " if joined[1] else " or ", rest)
            rest = rest.removesuffix("$") if rest.count("$") == 1 and rest[0] != "$" else rest
            value = next((one for one in _shortened(rest) if _is_value(one)), None)
            if value or not _RE.equality.match(rest):
                return value
    kind = _RE.kind.fullmatch(clause)
    return (kind[1] or kind[2]) if kind and not _RE.doubt.search(clause) else None


def _left_side(clause: str, verb: re.Match[str]) -> int:
    """Where the value after a verb starts. The left side of an equation with a variable, such as `2x = 10`, belongs to it."""
    formulas = [*_RE.formula.finditer(clause, 0, verb.start())] if verb[0].startswith("=") else []
    return formulas[-1].start() if formulas and formulas[-1].end() == verb.start() else verb.end()


def _is_limited(before: str, after: str) -> bool:
    """True if the words before the verb deny or limit the value, or those after it."""
    return bool(_RE.denied.search(before) or _RE.doubt.search(after))


def _shortened(text: str) -> Iterator[str]:
    """The text, then without a remark at its end, then the last side of a calculation such as `120 km / 2 h = 60 km/h`."""
    for one in (text, *(text[: remark.start()] for remark in _RE.remark.finditer(text, 1))):
        calculation, _, last = one.rpartition("=")
        yield (last.strip() if _RE.with_units.match(calculation) and not _RE.joined.search(calculation) else one)


def _is_value(text: str) -> bool:
    """True if the text is a value with or without a unit, and has no other words."""
    normalized = normalize(text)
    if re.search(r"[-=+*/<>(]$", normalized) or _RE.verb_word.search(_RE.text.sub("", normalized)):
        return False
    try:
        return _has_no_words(parse_answer(normalized), normalized)
    except (UnreadableError, UndefinedError, RecursionError):
        return False


def _has_no_words(form: Form, text: str) -> bool:
    """True if there is no other word than units. A formula with a word is a product of letters."""
    if isinstance(form, Matrix | BaseNumber):
        return True
    if isinstance(form, UnorderedList | TupleOrInterval):
        return all(_has_no_words(item, text) for item in form.items)
    if isinstance(form, Equation):
        return not _RE.prose.search(form.sides[0]) and all(map(_is_value, form.sides[1:]))
    return not _RE.prose.search(_RE.text.sub("", form.formula.source if isinstance(form, Quantity) else text))
