r"""Find the answer in an output: a `\boxed{}` or several joined ones, an `Answer:` line, or what the last sentence states.

Rules: the last balanced box counts. An answer after the reasoning takes precedence. A box inside the reasoning is used only if there is no answer after it, and the
result says so. Nothing is guessed from other text: if the last number counted as the answer, 15 % of the reference solutions
would be correct when they are cut just before their box.

This module does not know whether an answer is correct.
"""

import re
from dataclasses import dataclass
from typing import NamedTuple

from analysis.grading.patterns import expressions, read_table
from analysis.grading.sentences import is_doubted, stated_value
from analysis.grading.words import NUMBER_WORDS

_RE = expressions(read_table("answers.toml"), {"number_words": "|".join(NUMBER_WORDS)})
END_OF_REASONING = ("</think>", "<|im_start|>answer")
"""Marks at the end of the reasoning: of R1 and similar models, and of s1.1 with its special tokens."""


@dataclass(frozen=True, slots=True)
class Extract:
    """The text of the answer, and whether it is inside the reasoning."""

    answer: str
    in_thinking: bool


def extract(text: str | None, reasoning: str | None, *, thinks: bool, finished: bool) -> Extract | None:
    """Return the answer of one output, or None if there is none.

    `thinks` says that the model is a reasoning model; a cut output without a mark at the end of its reasoning is then all reasoning.
    """
    thinking, answer = split_thinking(text or "", reasoning, thinks=thinks, finished=finished)
    if found := last_box(answer) or _answer_line(answer, finished=finished):
        return Extract(found, in_thinking=False)
    found = last_box(thinking)
    return Extract(found, in_thinking=True) if found else None


def split_thinking(text: str, reasoning: str | None, *, thinks: bool, finished: bool) -> tuple[str, str]:
    """Split an output into reasoning and answer: at the last mark, or as the server split it, or all of it is one of the two."""
    for mark in END_OF_REASONING:
        before, found, after = text.rpartition(mark)
        if found:
            return f"{reasoning or ''}{before}", after
    if reasoning:
        return reasoning, text
    if text.startswith("think\n") and (bare := list(_RE.bare_mark_of_s1.finditer(text))):
        return text[: bare[-1].start()], text[bare[-1].end() :]
    return (text, "") if thinks and not finished else ("", text)


class _Box(NamedTuple):
    start: int
    end: int
    content: str


def last_box(text: str) -> str | None:
    r"""Return the content of the last balanced, non-empty `\boxed{…}` or `\fbox{…}` that the text does not take back.

    Boxes that only words such as `or` and commas separate are one answer. The names before them, as in `x = \boxed{1}`, belong to it.
    """
    boxes = [box for box in _boxes(text) if not _is_taken_back(text, box)]
    if not boxes:
        return None
    group = [boxes[-1]]
    for box in reversed(boxes[:-1]):
        if not _RE.between.fullmatch(text, box.end, group[0].start):
            break
        group.insert(0, box)
    if len(group) == 1:
        return _with_formula(text, group[0])
    contents = dict.fromkeys(_name_before(text, box) + box.content for box in group)
    separator = r" \text{ or } " if _RE.alternative.search(text, group[0].end, group[1].start) else ", "
    return separator.join(contents)


def _boxes(text: str) -> list[_Box]:
    """Return the innermost balanced boxes, found in one pass, because a repetitive output may open thousands."""
    first = text.find("box")
    boxes: list[_Box] = []
    open_braces: list[tuple[int, int] | None] = []
    for token in _RE.brace.finditer(text, max(first - 2, 0)) if first >= 0 else ():
        if token[0] == "}":
            box = open_braces.pop() if open_braces else None
            content = text[box[1] : token.start()].strip() if box else ""
            if box and content and not (boxes and boxes[-1].start > box[0]):
                boxes.append(_Box(box[0], token.end(), content))
        elif token[0].endswith("{") and token[0] != "\\{":
            open_braces.append((token.start(), token.end()) if len(token[0]) > 1 else None)
    return boxes


def _is_taken_back(text: str, box: _Box) -> bool:
    """True if the text says directly before or after the box that it is not the answer."""
    before, after = text[max(0, box.start - 30) : box.start], text[box.end : box.end + 300]
    return _RE.rejected_before.search(before) is not None or _RE.rejected_after.match(after) is not None


def _with_formula(text: str, box: _Box) -> str:
    r"""Return the content of a box, with the formula around it if it is only a part of that: `2^{\boxed{5}}` is not 5."""
    before = text[max(0, box.start - 80) : box.start]
    is_prime = re.match(r"'(?!\w)", text[box.end : box.end + 2]) and not before.rstrip("$").endswith("'")
    if not (is_prime or _RE.formula_before.search(before) or _RE.formula_after.match(text, box.end)):
        return box.content
    around = next(found[0] for found in _RE.math.finditer(text) if found.end() > box.start)
    return around.replace(text[box.start : box.end], f"{{{box.content}}}")


def _name_before(text: str, box: _Box) -> str:
    name = _RE.name_before.search(text[max(0, box.start - 30) : box.start])
    return f"{name[1]} = " if name and "=" not in box.content else ""


def _answer_line(text: str, *, finished: bool) -> str | None:
    """Return the last `Answer:` or `####` line, or what follows `the answer is`, in one of several languages, or what the last sentence states.

    An output that was cut within this line has none. A comma in a number is a decimal comma where the language of the marker has one.
    """
    matches = list(_RE.answer_line.finditer(text))
    if not matches:
        return stated_value(text) if finished else None
    found = matches[-1]
    index = found.lastindex or 0
    answer = found[index]
    is_cut = not finished and found.end() == len(text)
    before = _RE.clause_end.split(text[: found.start()])[-1]
    is_corrected = _RE.rejected_after.match(text[found.end() : found.end() + 300])
    if is_cut or is_corrected or (index == found.re.groups and is_doubted(before)):
        return None
    if bullets := _RE.bullets.match(text, found.start(index)):
        return ", ".join(line.strip(" \t-*•") for line in bullets[0].splitlines())
    if found[0].startswith('"'):
        return answer.replace(r"\\", "\\")
    if not _RE.with_decimal_point.search(found[0].removesuffix(answer)):
        answer = _RE.decimal_comma.sub(r"\1.\2", answer)
    answer = _RE.explanation.sub("", answer.strip())
    if stated := stated_value(answer):
        return stated
    return re.sub(r"(?<![\^*_ ])[*_ ]+[.。]?$", "", answer).removeprefix("**") or None
