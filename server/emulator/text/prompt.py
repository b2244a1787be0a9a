"""What a prompt asks of the model: which problem, how much thinking it already holds, what it has begun to answer.

Rules: a problem is found by its whole text, whatever surrounds it; a chat's and a raw prompt's are read alike.
Knows nothing of tokens, models or what will be answered.
"""

import dataclasses
import hashlib
import json
import re
from collections.abc import Mapping, Sequence
from pathlib import Path

# Where the model's own turn begins, in each family's prompt; the last one in the prompt counts.
TURNS = ("<｜Assistant｜>", "<|im_start|>assistant\n")
MARK = re.compile(r"<[|｜][^<>]*[|｜]>|</?think>")
THINK, END_THINK = "<think>", "</think>"
S1_THINK, S1_ANSWER = "<|im_start|>think", "<|im_start|>answer"


@dataclasses.dataclass(frozen=True, slots=True)
class KnownProblem:
    """A row of the dataset; a prompt that holds none of them is a stranger with no solution."""

    unique_id: str
    problem: str
    solution: str
    answer: str
    level: int = 3
    subject: str = ""


@dataclasses.dataclass(frozen=True, slots=True)
class PromptMatch:
    """A prompt, understood."""

    problem: KnownProblem
    opened: bool  # the prompt holds the beginning of the thinking; else the model opens it
    thinking: str  # what the prompt already holds of it
    answer: str | None  # what the prompt holds after the thinking's end; None: it has not ended


def read_problems(path: Path) -> list[KnownProblem]:
    """A JSONL dataset in MATH-500's schema; only `problem` and `answer` must be there."""
    rows = [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines() if line.strip()]
    return [as_problem(row, number) for number, row in enumerate(rows)]


def as_problem(row: Mapping[str, object], number: int = 0) -> KnownProblem:
    """One row; a level that is no number ("Level 5") is read from its digit."""
    level = re.search(r"\d", str(row.get("level", 3)))
    return KnownProblem(
        unique_id=str(row.get("unique_id", number)),
        problem=str(row["problem"]).strip(),
        solution=str(row.get("solution", "")),
        answer=str(row.get("answer", "")),
        level=min(5, max(1, int(level.group()))) if level else 3,
        subject=str(row.get("subject", "")),
    )


def stranger(prompt: str) -> KnownProblem:
    """A prompt of no dataset, as a problem in its own words, with some number for an answer."""
    digest = hashlib.blake2b(prompt.encode(), digest_size=8)
    words = MARK.sub(" ", prompt)[-2000:].strip()
    answer = str(int.from_bytes(digest.digest()) % 100)
    return KnownProblem(unique_id=f"stranger/{digest.hexdigest()}", problem=words, solution="", answer=answer)


class Finder:
    """Finds the problem inside a prompt in one pass over the prompt, however large the dataset."""

    HEAD = 16

    def __init__(self, problems: Sequence[KnownProblem]) -> None:
        self._by_head: dict[str, list[KnownProblem]] = {}
        for problem in problems:
            if head := problem.problem[: self.HEAD]:
                self._by_head.setdefault(head, []).append(problem)
        for same_head in self._by_head.values():
            same_head.sort(
                key=lambda problem: -len(problem.problem)
            )  # the longest that fits, not a part of it
        self._lengths = sorted({len(head) for head in self._by_head}, reverse=True)

    def understand(self, prompt: str) -> PromptMatch:
        """The problem asked, and what the prompt already holds of the model's own turn."""
        turn = max((prompt.rfind(mark) + len(mark) for mark in TURNS if mark in prompt), default=len(prompt))
        return understand_turn(self.find(prompt[:turn]) or stranger(prompt), prompt[turn:])

    def find(self, prompt: str) -> KnownProblem | None:
        """The problem that stands last in the prompt: after examples or earlier turns comes the question."""
        found, at = None, 0
        while at < len(prompt):
            here = self._at(prompt, at)
            found = here or found
            at += len(here.problem) if here else 1
        return found

    def _at(self, prompt: str, at: int) -> KnownProblem | None:
        for length in self._lengths:
            for problem in self._by_head.get(prompt[at : at + length], ()):
                if prompt.startswith(problem.problem, at):
                    return problem
        return None


def understand_turn(problem: KnownProblem, turn: str) -> PromptMatch:
    """The model's own turn so far, in R1's marks or in s1's."""
    for opening, ending in ((THINK, END_THINK), (S1_THINK, S1_ANSWER)):
        if opening in turn or ending in turn:
            _, _, after = turn.rpartition(opening) if opening in turn else ("", "", turn)
            thinking, ended, answer = after.partition(ending)
            return PromptMatch(
                problem, opened=True, thinking=thinking.removeprefix("\n"), answer=answer if ended else None
            )
    return PromptMatch(problem, opened=False, thinking="", answer=None)
