r"""Answers that are words: `\text{east}`, `(C)`, a name. Case, articles, `\text` and a full stop say nothing.

Rules: a reference that is words wants those words; a multiple-choice letter wants that letter, whatever follows it.

Does not know: numbers spelled out, units.
"""

import re

_WRAPPED = re.compile(r"\\text\{([^{}]*)\}")
_CHOICE = re.compile(
    r"(?:option|choice|answer)?\s*\(?\s*([A-Za-z])\s*(?:\)|[.:](?=\s|$)|$)(.*)", re.IGNORECASE | re.DOTALL
)

_ANOTHER = re.compile(r"\s*(?:[,;/&]|\\&|and\b|or\b)|.*(?<![A-Za-z])\([A-Z]\)", re.DOTALL)
"""After an option's letter: one more option."""


def plain(text: str) -> str:
    """Words without their wrapping, case, articles and closing punctuation."""
    text = _WRAPPED.sub(r"\1", text).replace("\\ ", " ").replace("-", " ")
    text = re.sub(r"\s*(?:,\s*(?:and\b)?|\band\b)\s*", ", ", text.casefold())
    text = re.sub(r"\s+", " ", text).strip(" .,;:!?\"'`{}")
    return re.sub(r"^(?:(?:it is|it's|on|an?|the)\s+)+(?=\w{2})", "", text)


def is_words(text: str) -> bool:
    r"""Letters and spaces only, and said to be text (`\text{…}`) or a word that is no product of variables."""
    if not re.fullmatch(r"[a-z][a-z' ]*(?:, [a-z' ]+)*", plain(text)) and choice(text) is None:
        return False
    return "\\text" in text or (len(plain(text)) >= 4 and "\\" not in text)


def choice(text: str) -> str | None:
    r"""The letter of `\text{(C)}`, `(C)`, `\text{C}`; None for anything else."""
    bare = _WRAPPED.sub(r"\1", text).strip()
    found = re.fullmatch(r"\(?\s*([A-Za-z])\s*\)?", bare)
    return found[1].upper() if found and ("\\text" in text or bare.startswith("(")) else None


def same_words(gold: str, answer: str) -> bool | None:
    """Whether the answer says the reference's words; None where the reference is not words."""
    if (letter := choice(gold)) is not None:
        given = _CHOICE.fullmatch(_WRAPPED.sub(r"\1", answer).strip())
        return given is not None and given[1].upper() == letter and not _ANOTHER.match(given[2])
    if not is_words(gold):
        return True if "\\text" in gold and plain(gold) == plain(answer) else None
    if plain(gold) == plain(answer):
        return True
    return False if "\\text" in gold else None
