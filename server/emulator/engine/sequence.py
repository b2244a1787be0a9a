"""One sequence being generated, and what the engine says of it.

A stream's future text is known, as far as asked: so where it ends and what speculation will do with it are facts of the
stream, not of the batch. Does not know scheduling or time.
"""

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

from server.config import Ngram
from server.emulator.engine.ngram import NgramProposer, speculate


@dataclass(slots=True, eq=False)
class TokenSequence:
    """One sequence being generated. The caller fills the first block, the engine the rest."""

    key: str
    ids: list[int]
    """Prompt, then everything the model would say: drafts are verified against it."""
    prompt: int
    """How many of `ids` are prompt."""
    end: int
    """Output tokens until it ends, at least 1, as far as is known."""
    grow: Callable[[int], None] | None = None
    """Called before output beyond `ids` is looked at: makes at least so many output tokens known, or lowers `end`."""
    salt: str | None = None
    arrived_s: float = 0.0
    queued_s: float = 0.0
    """Arrival at the engine; the caller may set `arrived_s` to when the client's request came."""

    computed: int = 0
    emitted: int = 0
    cached: int = -1
    preemptions: int = 0
    scheduled_s: float | None = None
    first_s: float | None = None
    last_s: float | None = None
    state: str = "waiting"
    blocks: list[int] = field(default_factory=list)
    hashes: list[int] = field(default_factory=list)
    drafts: "Drafts | None" = None
    drafted: list[int] = field(default_factory=list)
    """Draft tokens of each decode step that had any, and below those accepted."""
    accepted: list[int] = field(default_factory=list)
    steps: int = 0

    @property
    def known(self) -> int:
        """Tokens so far: prompt and output."""
        return self.prompt + self.emitted

    def reach(self, tokens: int) -> None:
        """Know `tokens` more output tokens, or where the output ends."""
        if self.grow and len(self.ids) - self.known < tokens and len(self.ids) - self.prompt < self.end:
            self.grow(self.emitted + tokens)


class Drafts:
    """What n-gram lookup drafts for one stream, and how much of it the text to come confirms, step after step.

    Where the text is known whole it is worked out at once; where it still grows, as far as asked.
    """

    def __init__(self, ngram: Ngram, stream: TokenSequence) -> None:
        width, low, high = ngram.num_speculative_tokens, ngram.prompt_lookup_min, ngram.prompt_lookup_max
        self._stream, self._width = stream, width
        self._at = stream.known
        self.next = 0
        self.drafted: list[int] = []
        self.accepted: list[int] = []
        self._proposer: NgramProposer | None = None
        if stream.grow:
            self._proposer = NgramProposer(width, low, high, stream.ids[: self._at])
        else:
            # The last known token is where the next step's context ends: to `speculate`, the prefill's own.
            steps = speculate(stream.ids[: self._at - 1], stream.ids[self._at - 1 :], width, low, high)
            self.drafted, self.accepted = steps.drafted.tolist(), steps.accepted.tolist()

    def reach(self, steps: int) -> None:
        """Know at least `steps` steps beyond those taken; past the end of the text nothing is drafted."""
        missing = self.next + steps - len(self.drafted)
        if missing <= 0:
            return
        if self._proposer is None:
            self.drafted += [0] * missing
            self.accepted += [0] * missing
            return
        self._stream.reach((steps + 1) * (1 + self._width))
        for _ in range(missing):
            self._look(self._proposer)

    def _look(self, proposer: NgramProposer) -> None:
        ids, at = self._stream.ids, self._at
        draft = proposer.propose()
        right = 0
        for token in draft:
            if at + right >= len(ids) or ids[at + right] != token:
                break
            right += 1
        self.drafted.append(len(draft))
        self.accepted.append(right)
        proposer.extend(ids[at : at + right + 1])
        self._at += right + 1

    def ahead(self, steps: int) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
        """Drafted and accepted in the next `steps` steps."""
        self.reach(steps)
        window = slice(self.next, self.next + steps)
        return np.array(self.drafted[window]), np.array(self.accepted[window])


@dataclass(slots=True)
class EngineStep:
    """One step under way."""

    start_s: float
    end_s: float
    work: list[tuple[TokenSequence, int]]
    """Each stream and the tokens computed for it."""
    tokens: int
    rows: int
    context: int
    pairs: float
    lag_s: float


@dataclass(slots=True)
class StepOutput:
    """What leaves the engine: one step's tokens, or those of many equal ones."""

    times: Any
    """When each step's tokens leave, an array."""
    tokens: list[tuple[TokenSequence, int]]
    """Each stream's tokens over all steps."""
    each: Any = None
    """Tokens by stream and step, an array; None: one each."""


@dataclass(slots=True)
class Totals:
    """Counters that only grow."""

    steps: int = 0
    prompt_tokens: int = 0
    computed_prompt_tokens: int = 0
    cached_tokens: int = 0
    queried_tokens: int = 0
    generation_tokens: int = 0
    preemptions: int = 0
    drafts: int = 0
    draft_tokens: int = 0
    accepted_tokens: int = 0
    accepted_at: list[int] = field(default_factory=list)
