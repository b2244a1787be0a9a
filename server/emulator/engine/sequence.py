"""The data that the engine's modules share: sequences, steps, step outputs and counters.

The future text of a sequence is known as far as the engine asks for it. Where the sequence ends and which draft tokens
are accepted therefore depend on the sequence alone, not on the batch. This module does not know scheduling or time.
"""

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any


@dataclass(slots=True, eq=False)
class TokenSequence:
    """One sequence that is being generated. The caller sets the first group of fields, the engine the second."""

    ids: list[int]
    """Prompt tokens, followed by all output tokens known so far. Draft tokens are verified against them."""
    prompt: int
    """Number of prompt tokens."""
    end: int
    """Number of output tokens after which the sequence ends, as far as is known; at least 1."""
    grow: Callable[[int], None] | None = None
    """Called with a number of output tokens before they are read. It must extend `ids` that far or lower `end`.

    None: `ids` is complete.
    """
    salt: str | None = None
    """Prefix-cache salt: only sequences with the same salt share blocks."""
    arrived_s: float = 0.0
    """When the API server received the request."""
    queued_s: float = 0.0
    """When the sequence reached the engine."""

    computed: int = 0
    """Tokens whose keys and values are in the KV cache."""
    emitted: int = 0
    """Output tokens so far."""
    cached: int = -1
    """Prompt tokens found in the prefix cache; -1 before the sequence is scheduled."""
    preemptions: int = 0
    scheduled_s: float | None = None
    first_s: float | None = None
    last_s: float | None = None
    state: str = "waiting"
    blocks: list[int] = field(default_factory=list)
    hashes: list[int] = field(default_factory=list)
    drafts: Any = None
    """Its steps of speculation (drafts.py); None before the first of them."""
    drafted: list[int] = field(default_factory=list)
    """Number of draft tokens in each decode step that had any."""
    accepted: list[int] = field(default_factory=list)
    """Number of accepted draft tokens in the same steps."""
    steps: int = 0

    @property
    def known(self) -> int:
        """Number of prompt and output tokens so far."""
        return self.prompt + self.emitted

    def reach(self, tokens: int) -> None:
        """Make `tokens` further output tokens known, or the end of the output."""
        if self.grow and len(self.ids) - self.known < tokens and len(self.ids) - self.prompt < self.end:
            self.grow(self.emitted + tokens)


@dataclass(slots=True)
class EngineStep:
    """One step that the engine has begun."""

    start_s: float
    end_s: float
    work: list[tuple[TokenSequence, int]]
    """Each sequence with the number of tokens computed for it."""
    tokens: int
    context: int
    """Tokens whose keys and values attention reads."""
    pairs: float
    """Pairs of tokens that attention computes during prefill."""


@dataclass(slots=True)
class StepOutput:
    """Output of one step, or of several steps that emit tokens for the same sequences."""

    times: Any
    """When the output of each step leaves the engine: an array or list, in seconds."""
    tokens: list[tuple[TokenSequence, int]]
    """Each sequence with its number of tokens over all these steps."""
    each: Any = None
    """Number of tokens by sequence and step (an array), or None if every entry is 1."""


@dataclass(slots=True)
class Totals:
    """Counters that only increase. Prompt tokens are counted when a sequence emits its first token."""

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
    """Accepted draft tokens by position."""
