"""Defines what is sent and what was received: a Request, and the Exchange that one HTTP call results in.

Stamps are nanoseconds of `time.perf_counter_ns`. A token event is a chunk that brought at least one token. Every call results
in an Exchange, whether it succeeded or failed.

This module does not know when a request is due or which values are computed from an Exchange.
"""

from dataclasses import dataclass, field
from typing import Any, Literal

Outcome = Literal[
    "ok",
    "http_error",
    "rate_limited",
    "server_error",
    "refused",
    "reset",
    "timeout",
    "cut",
    "malformed",
    "cancelled",
    "filtered",
]
TokenSource = Literal[
    "continuous_usage", "chunk_usage", "token_ids", "usage", "corrected_usage", "chunks_and_end", "chunks"
]
"""Where the counts of tokens come from (docs/metrics.md)."""
BudgetMode = Literal["cut", "forced", "native", "prompt"]

THINK_END = "</think>"
"""DeepSeek-R1 and most later models end their thinking with this tag; it is in the text where no reasoning parser runs."""


@dataclass(frozen=True, slots=True)
class ForcedAnswer:
    """The second call of budget mode `forced`, which asks for the answer after the reasoning reached its budget."""

    tail: str
    """Text that ends the reasoning; it is appended to the prompt and the reasoning so far."""
    ended: str
    """Text that shows that the reasoning had already ended. Then the answer was cut, and is continued without the tail."""
    max_tokens: int = 0
    """Limit of the second call."""


@dataclass(frozen=True, slots=True)
class Request:
    """One problem at one budget, ready to be sent."""

    seq: int
    problem_id: str
    sample: int
    budget: int
    budget_mode: BudgetMode
    path: str
    """Path of the endpoint below the target: `/chat/completions` or `/completions`."""
    body: dict[str, Any]
    """The complete JSON body."""
    warmup: bool = False
    repeat: int = 0
    force: ForcedAnswer | None = None


@dataclass(slots=True)
class Exchange:
    """Stamps, token events, text and outcome of one HTTP call."""

    sent_ns: int
    connect_ns: int | None = None
    """Time to open the connection; None where an open one was used or none could be opened."""
    reused: bool = False
    """The request was sent on a connection that was open already."""
    headers_ns: int | None = None
    end_ns: int | None = None
    arrival_ns: list[int] = field(default_factory=list)
    """Stamp of each token event."""
    tokens: list[int] = field(default_factory=list)
    """Number of tokens in each event; `token_source` says where the numbers come from."""
    pieces: list[tuple[str, str]] = field(default_factory=list)
    """(reasoning, content) text of each event."""
    token_ids: list[list[int]] | None = None
    """Token ids of each event, where the request asked for them with `return_token_ids`."""
    first_answer_ns: int | None = None
    """Stamp of the first event with answer text after reasoning."""
    usage: dict[str, Any] | None = None
    """The last usage object of the server, with `completion_tokens` as decided from all its counts."""
    token_source: TokenSource | None = None
    hidden_tokens: int = 0
    """Tokens that were generated before the first event and not shown. They are part of its number of tokens."""
    counts_disagree: str | None = None
    """Which counts contradict each other, with the numbers."""
    other_choices: bool = False
    """The response held further choices, which are not read."""
    streamed: bool = True
    """False for an answer in one JSON body, whose only event is the end of the body."""
    server_timings: dict[str, Any] | None = None
    outcome: Outcome = "ok"
    status: int | None = None
    finish_reason: str | None = None
    """The standard word where there is one for the server's reason, which is then in `finish_reason_sent`."""
    finish_reason_sent: str | None = None
    error: str | None = None
