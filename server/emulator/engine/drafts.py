"""What speculation drafts for one sequence and how many of the draft tokens are accepted, decode step by step.

n-gram lookup and suffix decoding find tokens, which are compared with the text, unless their acceptance is imposed. A drafter with
weights drafts k tokens in every step, and how many are accepted is drawn from the curve of its settings. The draws depend on
the prompt only, so that batches and configurations do not change them.

This module does not know batches or time.
"""

import random
from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from server.emulator.engine.ngram import NgramProposer
from server.emulator.engine.sequence import TokenSequence
from server.emulator.engine.suffix import SuffixProposer
from server.speculation import Ngram, Speculation, Suffix

TextSteps = tuple[list[int], list[int]]
"""The numbers of drafted and of accepted tokens of each decode step of a complete text."""


def _proposer(settings: Speculation, context: Sequence[int]) -> NgramProposer | SuffixProposer | None:
    """What drafts tokens of the text; None for a drafter with weights."""
    if isinstance(settings, Ngram):
        return NgramProposer(settings, context)
    return SuffixProposer(settings, context) if isinstance(settings, Suffix) else None


class Drafts:
    """The steps of one sequence, computed as far as they are asked for."""

    def __init__(self, settings: Speculation, sequence: TokenSequence, steps: TextSteps | None = None) -> None:
        """`steps` are those of the sequence if they were computed before."""
        self._sequence, self._settings = sequence, settings
        self.next = 0
        """Number of steps already taken."""
        self.drafted, self.accepted = map(list, steps or ([], []))
        self._position = len(sequence.ids) if steps else sequence.known
        # The context of the next step ends with the last known token, which is not part of the key of the draws.
        self._draws = random.Random(0 if steps else hash(tuple(sequence.ids[: self._position - 1])))
        self._proposer = None if steps else _proposer(settings, sequence.ids[: self._position])

    def reach(self, steps: int) -> None:
        """Compute at least `steps` steps beyond those taken."""
        missing = self.next + steps - len(self.drafted)
        if missing <= 0:
            return
        self._sequence.reach((steps + 1) * (1 + self._settings.num_speculative_tokens))
        for _ in range(missing):
            self._draft()

    def whole_text(self) -> TextSteps:
        """All steps of a complete text."""
        while self._position < len(self._sequence.ids):
            self._draft()
        return self.drafted, self.accepted

    def _draft(self) -> None:
        ids, position, imposed = self._sequence.ids, self._position, self._settings.acceptance
        draft = self._proposer.propose() if self._proposer else []
        drafted, accepted = len(draft) if self._proposer else self._settings.num_speculative_tokens, 0
        if imposed is None:
            for token in draft:
                if position + accepted >= len(ids) or ids[position + accepted] != token:
                    break
                accepted += 1
        elif drafted:
            output = position - self._sequence.prompt
            accepted = min(drafted, imposed.accepted(self._draws.random(), output))
        self.drafted.append(drafted)
        self.accepted.append(accepted)
        if self._proposer:
            self._proposer.extend(ids[position : position + accepted + 1])
        self._position += accepted + 1

    def ahead(self, steps: int) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
        """The numbers of drafted and of accepted tokens in each of the next `steps` steps."""
        self.reach(steps)
        window = slice(self.next, self.next + steps)
        return np.array(self.drafted[window]), np.array(self.accepted[window])


def steps_of(prompt: list[int], output: list[int], settings: Speculation) -> TextSteps:
    """All steps of a complete text."""
    sequence = TokenSequence(ids=prompt + output, prompt=len(prompt), end=len(output), emitted=1)
    return Drafts(settings, sequence).whole_text()
