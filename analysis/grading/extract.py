r"""Which part of an output is its answer: the last balanced `\boxed{}`, or an `Answer:` line.

Rules: the answer after the thinking counts first; a box inside the thinking is taken only where there is none after it,
and is told apart. Nothing is guessed from free text: 15 % of reference solutions cut just before their box would
"answer" right by their last number.

Does not know: whether an answer is right.
"""

import re
from dataclasses import dataclass

ANSWER_MARKS = ("</think>", "<|im_start|>answer")
"""Where thinking ends: R1 and its kin; s1.1 with its special tokens kept."""
_S1_BARE = re.compile(r"\nanswer\n")
"""s1.1 with its special tokens dropped reads `think\n…\nanswer\n…`."""
_ANSWER_LINE = re.compile(
    r"^[ \t>#*_]*(?:final\s+answer|answer)[ \t*_]*:[ \t*_]*(\S[^\n]*)$", re.IGNORECASE | re.MULTILINE
)
_BRACE = re.compile(r"\\(?:boxed|fbox)\s*\{|\\.|[{}]", re.DOTALL)


@dataclass(frozen=True, slots=True)
class Extract:
    """The answer's text, and whether it stood inside the thinking."""

    answer: str
    in_thinking: bool


def extract(text: str | None, reasoning: str | None, *, thinks: bool, finished: bool) -> Extract | None:
    """Find the answer of one output, or None.

    `thinks`: the model is one that thinks, so text without an end-of-thinking mark is all thinking.
    """
    thinking, answer = split_thinking(text or "", reasoning, thinks=thinks, finished=finished)
    found = last_box(answer)
    if found is None:
        found = _answer_line(answer, finished=finished)
    if found is not None:
        return Extract(found, in_thinking=False)
    found = last_box(thinking)
    return None if found is None else Extract(found, in_thinking=True)


def split_thinking(text: str, reasoning: str | None, *, thinks: bool, finished: bool) -> tuple[str, str]:
    """(thinking, answer). The server's own split wins; else the last mark; else all is the one or the other."""
    for mark in ANSWER_MARKS:
        before, found, after = text.rpartition(mark)
        if found:
            return f"{reasoning or ''}{before}", after
    if reasoning:
        return reasoning, text
    if text.startswith("think\n") and (bare := list(_S1_BARE.finditer(text))):
        return text[: bare[-1].start()], text[bare[-1].end() :]
    return (text, "") if thinks and not finished else ("", text)


def last_box(text: str) -> str | None:
    r"""Content of the last balanced, non-empty `\boxed{…}` or `\fbox{…}`, in one pass: loops may open thousands."""
    first = text.find("box")
    last: tuple[int, str] | None = None
    open_braces: list[tuple[int, int] | None] = []
    for token in _BRACE.finditer(text, max(first - 2, 0)) if first >= 0 else ():
        if token[0] == "}":
            box = open_braces.pop() if open_braces else None
            if (
                box
                and (last is None or box[0] > last[0])
                and (content := text[box[1] : token.start()].strip())
            ):
                last = (box[0], content)
        elif token[0].endswith("{") and token[0] != "\\{":
            open_braces.append((token.start(), token.end()) if len(token[0]) > 1 else None)
    return last and last[1]


def _answer_line(text: str, *, finished: bool) -> str | None:
    """The last `Answer:` or `Final Answer:` line; not one that the cut may have shortened."""
    matches = list(_ANSWER_LINE.finditer(text))
    if not matches or (not finished and matches[-1].end() == len(text)):
        return None
    answer = matches[-1].group(1).strip().rstrip("*_ ")
    return answer or None
