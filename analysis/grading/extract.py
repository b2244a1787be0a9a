r"""Find the answer in an output: the last balanced `\boxed{}`, or an `Answer:` line.

Rules: an answer after the reasoning takes precedence. A box inside the reasoning is used only if there is no answer after it, and the
result says so. Nothing is guessed from other text: if the last number counted as the answer, 15 % of the reference solutions
would be correct when they are cut just before their box.

This module does not know whether an answer is correct.
"""

import re
from dataclasses import dataclass

END_OF_REASONING = ("</think>", "<|im_start|>answer")
"""Marks at the end of the reasoning: of R1 and similar models, and of s1.1 with its special tokens."""
_S1_BARE = re.compile(r"\nanswer\n")
"""Without its special tokens, an output of s1.1 is `think\n…\nanswer\n…`."""
_ANSWER_LINE = re.compile(
    r"^[ \t>#*_]*(?:final\s+answer|answer)[ \t*_]*:[ \t*_]*(\S[^\n]*)$", re.IGNORECASE | re.MULTILINE
)
_BRACE = re.compile(r"\\(?:boxed|fbox)\s*\{|\\.|[{}]", re.DOTALL)


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
    found = last_box(answer)
    if found is None:
        found = _answer_line(answer, finished=finished)
    if found is not None:
        return Extract(found, in_thinking=False)
    found = last_box(thinking)
    return None if found is None else Extract(found, in_thinking=True)


def split_thinking(text: str, reasoning: str | None, *, thinks: bool, finished: bool) -> tuple[str, str]:
    """Split an output into reasoning and answer: at the last mark, or as the server split it, or all of it is one of the two."""
    for mark in END_OF_REASONING:
        before, found, after = text.rpartition(mark)
        if found:
            return f"{reasoning or ''}{before}", after
    if reasoning:
        return reasoning, text
    if text.startswith("think\n") and (bare := list(_S1_BARE.finditer(text))):
        return text[: bare[-1].start()], text[bare[-1].end() :]
    return (text, "") if thinks and not finished else ("", text)


def last_box(text: str) -> str | None:
    r"""Return the content of the last balanced, non-empty `\boxed{…}` or `\fbox{…}`, in one pass, because a repetitive output may open thousands."""
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
    """Return the last `Answer:` or `Final Answer:` line, unless the output was cut within it."""
    matches = list(_ANSWER_LINE.finditer(text))
    if not matches or (not finished and matches[-1].end() == len(text)):
        return None
    answer = matches[-1].group(1).strip().rstrip("*_ ")
    return answer or None
