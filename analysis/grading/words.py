r"""Answers in words: `\text{east}`, `(C)`, a name. Case, articles, `\text` and a full stop are ignored.

Rules: if the reference is words, the answer must have the same words. If it is the letter of a multiple-choice option, the answer must
have this letter; the text after the letter is ignored.

This module does not know number words or units.
"""

import re

_WRAPPED = re.compile(r"\\text\{([^{}]*)\}")
_CHOICE = re.compile(
    r"(?:option|choice|answer)?\s*\(?\s*([A-Za-z])\s*(?:\)|[.:](?=\s|$)|$)(.*)", re.IGNORECASE | re.DOTALL
)

_OPTION = re.compile(
    r"(?:option|choice)?\s*(?:\(\s*([A-J])\s*\)[.:]?(?=\s|$|\\)|([A-J])\s*[).:](?=\s))\s*(\S.*)", re.DOTALL
)
"""The letter of an option, and its text."""
_LETTERS = frozenset("ABCDEFGHIJ")

_ANOTHER = re.compile(r"\s*(?:[,;/&]|\\&|and\b|or\b)|.*(?<![A-Za-z])\([A-Z]\)", re.DOTALL)
"""Matches text after the letter of an option that names another option."""


def normalize_words(text: str) -> str:
    r"""Remove `\text`, case, articles and punctuation at the end."""
    text = _WRAPPED.sub(r"\1", text).replace("\\ ", " ").replace("-", " ")
    text = re.sub(r"\s*(?:,\s*(?:and\b)?|\band\b)\s*", ", ", text.casefold())
    text = re.sub(r"\s+", " ", text).strip(" .,;:!?\"'`{}")
    return re.sub(r"^(?:(?:it is|it's|on|an?|the)\s+)+(?=\w{2})", "", text)


def is_words(text: str) -> bool:
    r"""True if the text has only letters and spaces and is either in `\text{…}` or too long to be a product of variables."""
    if (
        not re.fullmatch(r"[a-z][a-z' ]*(?:, [a-z' ]+)*", normalize_words(text))
        and choice_letter(text) is None
    ):
        return False
    return "\\text" in text or (len(normalize_words(text)) >= 4 and "\\" not in text)


def choice_letter(text: str) -> str | None:
    r"""Return the letter of `\text{(C)}`, `(C)`, `\text{C}` or `C`, or None for anything else. A bare small letter is a variable."""
    bare = _WRAPPED.sub(r"\1", text).strip()
    found = re.fullmatch(r"\(?\s*([A-Za-z])\s*\)?", bare)
    is_option = found and ("\\text" in text or bare.startswith("(") or re.fullmatch("[A-J]", bare))
    return found[1].upper() if found and is_option else None


def same_option(gold: str, answer: str) -> bool | None:
    """Return whether the answer names the option of the reference, or None if the reference is not an option or both are variables."""
    letter, rest = choice_letter(gold), ""
    if letter is None and (option := _OPTION.fullmatch(_plain(gold))):
        letter, rest = option[1] or option[2], option[3]
    given = _CHOICE.fullmatch(_plain(answer))
    if letter is None or (given is None and (rest or gold in _LETTERS)):
        return None
    if gold in _LETTERS and answer.strip().isalpha() and answer not in _LETTERS:
        return None
    return given is not None and given[1].upper() == letter and not _ANOTHER.match(given[2])


def without_option(text: str, other: str) -> str | None:
    r"""Return the value after the letter of an option, as in `\textbf{(B)}\ 12`, if the other side is not an option. Otherwise, None."""
    option = _OPTION.fullmatch(_plain(text))
    if option is None or _ANOTHER.match(option[3]) or _CHOICE.fullmatch(_plain(other)):
        return None
    rest = (
        re.sub(r"^\s*\(?[A-J]\s*[).:]\s*", "", text)
        if "\\text" not in text[:12]
        else _without_first_text(text)
    )
    return rest.strip() if rest != text else None


def _without_first_text(text: str) -> str:
    """Remove the letter inside the first text command, and keep what follows it."""
    return re.sub(
        r"^\s*\\text\{\s*\(?[A-Ja-j]\s*[).:]?\s*([^{}]*)\}\s*[).:]?\s*",
        lambda m: rf"\text{{{m[1]}}}" if m[1].strip() else "",
        text,
        count=1,
    )


def _plain(text: str) -> str:
    return _WRAPPED.sub(r"\1", text).strip()


def same_words(gold: str, answer: str) -> bool | None:
    """Return whether the answer has the reference's words, or None if the reference is not words."""
    if not is_words(gold):
        return True if "\\text" in gold and normalize_words(gold) == normalize_words(answer) else None
    if normalize_words(gold) == normalize_words(answer):
        return True
    return False if "\\text" in gold else None
