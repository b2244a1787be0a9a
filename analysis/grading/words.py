r"""Answers in words: `\text{east}`, `(C)`, a name. Case, articles, `\text` and a full stop are ignored.

Rules: if the reference is words, the answer must have the same words. If it is the letter of a multiple-choice option, the answer must
have this letter; the text after the letter is ignored.

A number in words (`twenty-five apples`) has the value in digits, and a date is compared by day, month and year.

This module does not know units.
"""

import re

from analysis.grading.patterns import expressions, read_table

_TABLE = read_table("words.toml")
NUMBER_WORDS: dict[str, int] = _TABLE["numbers"]
_SCALES: dict[str, int] = _TABLE["scales"]
_RE = expressions(_TABLE, {"number_words": "|".join((*NUMBER_WORDS, *_SCALES, "hundred"))})
_LETTERS = frozenset("ABCDEFGHIJ")
_OPPOSITES = {"yes": "no", "no": "yes", "true": "false", "false": "true"}


def normalize_words(text: str) -> str:
    r"""Remove `\text`, case, articles, hyphens between letters and punctuation around the text, but no sign, prime or decimal point."""
    return _with_case(text).casefold()


def _with_case(text: str) -> str:
    text = _RE.hyphen.sub(" ", _RE.wrapped.sub(r"\1", text).replace("\\ ", " "))
    text = re.sub(r"\s*(?:,\s*(?:and\b)?|\band\b)\s*", ", ", text, flags=re.IGNORECASE)
    text = _RE.quoted.sub(r"\1", re.sub(r"\s+", " ", text).strip(" ,;:?{}"))
    text = re.sub(r"^\.(?!\d)|\.$|(?<!\d)!$", "", text).strip()
    return _RE.article.sub("", text)


def is_words(text: str) -> bool:
    r"""True if the text has only letters and spaces and is either in `\text{…}` or too long to be a product of variables."""
    words = normalize_words(text)
    if not re.fullmatch(r"[a-z][a-z' ]*(?:, [a-z' ]+)*", words) and choice_letter(text) is None:
        return False
    return "\\text" in text or (len(words) >= 4 and "\\" not in text)


def choice_letter(text: str) -> str | None:
    r"""Return the letter of `\text{(C)}`, `(C)`, `\text{C}` or `C`, or None for anything else. A bare small letter is a variable."""
    bare = _plain(text)
    found = re.fullmatch(r"\(?\s*([A-Za-z])\s*\)?", bare)
    is_option = found and ("\\text" in text or bare.startswith("(") or re.fullmatch("[A-J]", bare))
    return found[1].upper() if found and is_option else None


def same_option(gold: str, answer: str) -> bool | None:
    """Return whether the answer names the option of the reference, or None if the reference is not an option or both are variables."""
    for one, other in ((gold, answer), (answer, gold)):  # `ACD` and `A, C, D` are the same options
        letters = re.sub(r"[\s,;&]|\band\b", "", _plain(other))
        if re.fullmatch("[A-J]{2,6}", one) and re.fullmatch("[A-J]{2,6}", letters) and letters != other:
            return set(one) == set(letters)
    letter, rest = choice_letter(gold), ""
    if letter is None and (option := _RE.option.fullmatch(_plain(gold))):
        letter, rest = option[1] or option[2], option[3]
    given = _RE.choice.fullmatch(_plain(answer))
    if letter is None or (given is None and (rest or gold in _LETTERS)):
        return None
    if gold in _LETTERS and answer.strip().isalpha() and answer not in _LETTERS:
        return None
    return given is not None and given[1].upper() == letter and not _RE.another.match(given[2])


def without_option(text: str, other: str) -> str | None:
    r"""Return the value after the letter of an option, as in `\textbf{(B)}\ 12`, if the other side is not an option. Otherwise, None."""
    option = _RE.option.fullmatch(_plain(text))
    if option is None or _RE.another.match(option[3]) or _RE.choice.fullmatch(_plain(other)):
        return None
    pattern = _RE.first_text if "\\text" in text[:12] else r"^\s*\(?[A-J]\s*[).:]\s*"
    rest = re.sub(pattern, lambda m: rf"\text{{{m['after']}}}" if m.groupdict().get("after") else "", text)
    return rest.strip() if rest != text else None


def _plain(text: str) -> str:
    return _RE.wrapped.sub(r"\1", text).strip()


def same_words(gold: str, answer: str) -> bool | None:
    r"""Return whether the answer has the reference's words, or None if the reference is not words.

    Capital letters matter in names outside of `\text` and in the units after them, and in chemical formulas: CO is not Co.
    """
    is_text = "\\text" in gold
    texts = _plain(gold), _plain(answer)
    has_case = (
        (is_text and re.search(r"\w", _RE.wrapped.sub("", gold)))
        or any(map(_RE.variable.match, texts))
        or all(map(_RE.elements.fullmatch, texts))
        or re.fullmatch(r"(?:[A-Z][a-z]){2,}", texts[0])
    )
    normalized = _with_case if has_case else normalize_words
    if normalized(gold) == normalized(answer):
        return True if is_words(gold) or (is_text and not re.search(r"\d", gold)) else None
    return False if is_text and is_words(gold) else None


def with_digits(text: str) -> str:
    r"""Write the number at the beginning of a text in digits: `twenty-five apples` is `25 \text{apples}`, `minus five` is `-5`."""
    if signed := _RE.negative.match(text):
        rest = text[signed.end() :]
        rest = with_digits(rest if signed[2] else (signed[1] or "") + rest).strip()
        return f"-{rest}" if re.match(r"\d|\\(?:frac|sqrt)", rest) else text
    match = _RE.number.match(text)
    if match is None:
        return text
    rest = re.sub(r"^\\text\{|\}$", "", text[match.end() :]).strip()
    total = _number(re.findall(r"[a-z]+", match[1].casefold()))
    return text if total is None else rf"{total} \text{{{rest}}}" if rest else str(total)


def _number(words: list[str]) -> int | None:
    """Return the value of `two hundred and five`, or None for `two three`, which is no number."""
    total = part = 0
    last = 10**12
    for word in words:
        size = NUMBER_WORDS.get(word, 100 if word == "hundred" else _SCALES.get(word, 0))
        if word == "and":
            continue
        if word in NUMBER_WORDS:
            if part and (last < 20 or size >= last or size >= 20 > last):
                return None
            part, last = part + size, size if size >= 20 else 1
        elif part == 0:
            return None
        elif word == "hundred":
            part, last = part * 100, 100
        else:
            total, part, last = total + part * size, 0, 10**12
    return total + part


def date(text: str) -> tuple[int, int, int] | None:
    """Return the year (0 if there is none), month and day of `March 14, 2024` or `14 March 2024`."""
    bare = _plain(text).strip(". ")
    match = _RE.month_first.fullmatch(bare) or _RE.day_first.fullmatch(bare)
    if match is None:
        return None
    month = _TABLE["months"].split().index(match["month"].casefold()[:3])
    return int(match["year"] or 0), month + 1, int(match["day"])


def same_molecule(gold: str, answer: str) -> bool:
    r"""True if both are the same formula of two or more elements or the same reaction: `H2O` and `\text{H_2O}`."""
    texts = [re.sub(r"\\(?:text|mathrm|mathsf|ce)(?![a-z])|[{}_\s]", "", text) for text in (gold, answer)]
    if re.search(r"_\{\d+[A-Z]", gold + answer):  # an index with an element, as in `C_{6H12}O_6`
        return False
    if texts[0] != texts[1] or not re.search(r"\d", texts[0]) or not re.search(r"[A-Z][^\\]*[A-Z(]", texts[0]):
        return False
    return all(map(_RE.molecule.fullmatch, re.split(r"\+|\\to", texts[0])))


def same_yes_no(gold: str, answer: str) -> bool | None:
    """Compare `Yes, the triangle is right-angled` with yes or no. None if either does not begin so, or says both."""
    asked = normalize_words(gold)
    given = re.match(r"([a-z]+)\s*(?:[,.;:!]|\s-|$)", _plain(answer).casefold())
    words = set(re.findall(r"[a-z]+", _plain(answer).casefold()))
    pair = {asked, _OPPOSITES.get(asked)}
    if given is None or asked not in _OPPOSITES or given[1] not in pair or words.issuperset(pair):
        return None
    return given[1] == asked
