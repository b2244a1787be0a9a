"""Reads a prompt: which problem it asks, how much thinking it already contains, and how much of the answer.

Rules: a problem is found by its whole text, whatever surrounds it, so chat prompts and raw prompts are read alike. This
module does not know models or what will be answered.
"""

import dataclasses
from collections.abc import Sequence

from server.emulator.text.problems import KnownProblem, unknown_problem
from server.emulator.text.tokenizer import END_THINK, R1_ASSISTANT, THINK

# After the last of these in a prompt begins the model's own output, in the chat format of each model family.
OUTPUT_STARTS = (R1_ASSISTANT, "<|im_start|>assistant\n")
S1_THINK, S1_ANSWER = "<|im_start|>think", "<|im_start|>answer"


@dataclasses.dataclass(frozen=True, slots=True)
class PromptMatch:
    """What a prompt asks and already contains."""

    problem: KnownProblem
    opened: bool
    """Whether the prompt contains the start-of-thinking token; otherwise the model writes it."""
    thinking: str
    """The part of the thinking that the prompt contains."""
    answer: str | None
    """What the prompt contains after the end of the thinking; None if the thinking has not ended."""


class ProblemFinder:
    """Finds the problem inside a prompt in one pass over the prompt, independent of the size of the dataset."""

    PREFIX = 16

    def __init__(self, problems: Sequence[KnownProblem]) -> None:
        self._by_prefix: dict[str, list[KnownProblem]] = {}
        for problem in problems:
            if prefix := problem.problem[: self.PREFIX]:
                self._by_prefix.setdefault(prefix, []).append(problem)
        for same_prefix in self._by_prefix.values():  # the longest first: one problem may begin with another
            same_prefix.sort(key=lambda problem: -len(problem.problem))
        self._lengths = sorted({len(prefix) for prefix in self._by_prefix}, reverse=True)

    def match(self, prompt: str) -> PromptMatch:
        """The problem that is asked, and what the prompt already contains of the model's output."""
        start = max((prompt.rfind(s) + len(s) for s in OUTPUT_STARTS if s in prompt), default=len(prompt))
        return _match_output(self.find(prompt[:start]) or unknown_problem(prompt), prompt[start:])

    def find(self, prompt: str) -> KnownProblem | None:
        """The last problem in the prompt, because examples and earlier messages come before the question."""
        found, position = None, 0
        while position < len(prompt):
            here = self._at(prompt, position)
            found = here or found
            position += len(here.problem) if here else 1
        return found

    def _at(self, prompt: str, position: int) -> KnownProblem | None:
        for length in self._lengths:
            for problem in self._by_prefix.get(prompt[position : position + length], ()):
                if prompt.startswith(problem.problem, position):
                    return problem
        return None


def _match_output(problem: KnownProblem, output: str) -> PromptMatch:
    """Split what the prompt contains of the output, in the format of R1 or of s1."""
    for opening, ending in ((THINK, END_THINK), (S1_THINK, S1_ANSWER)):
        if opening in output or ending in output:
            _, _, after = output.rpartition(opening) if opening in output else ("", "", output)
            thinking, ended, answer = after.partition(ending)
            return PromptMatch(
                problem, opened=True, thinking=thinking.removeprefix("\n"), answer=answer if ended else None
            )
    return PromptMatch(problem, opened=False, thinking="", answer=None)
