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
    r"""Return the letter of `\text{(C)}`, `(C)` or `\text{C}`, or None for anything else."""
    bare = _WRAPPED.sub(r"\1", text).strip()
    found = re.fullmatch(r"\(?\s*([A-Za-z])\s*\)?", bare)
    return found[1].upper() if found and ("\\text" in text or bare.startswith("(")) else None


def same_words(gold: str, answer: str) -> bool | None:
    """Return whether the answer has the reference's words, or None if the reference is not words."""
    if (letter := choice_letter(gold)) is not None:
        given = _CHOICE.fullmatch(_WRAPPED.sub(r"\1", answer).strip())
        return given is not None and given[1].upper() == letter and not _ANOTHER.match(given[2])
    if not is_words(gold):
        return True if "\\text" in gold and normalize_words(gold) == normalize_words(answer) else None
    if normalize_words(gold) == normalize_words(answer):
        return True
    return False if "\\text" in gold else None
