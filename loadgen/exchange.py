"""What goes out and what came back: a Request is *what* to send, never *when*; an Exchange is one HTTP call as seen.

Rules: stamps are `time.perf_counter_ns`; a token event is a chunk whose completion-token count grew. An Exchange always
exists, however the call ended.
"""

from dataclasses import dataclass, field
from typing import Any

from loadgen.record import BudgetMode, Outcome

THINK_END = "</think>"
"""DeepSeek-R1 and most later models end their thinking with this tag; it is in the text where no reasoning parser runs."""


@dataclass(frozen=True, slots=True)
class ForcedAnswer:
    """The second call of budget mode `forced`: how thinking that hit its budget is made to answer."""

    tail: str
    """Appended to prompt + thinking that was cut while thinking."""
    max_tokens: int
    stop: tuple[str, ...] = ()
    ended: str = ""
    """Text that shows the thinking had ended by itself: what was cut is the answer, which goes on without the tail."""


@dataclass(frozen=True, slots=True)
class Request:
    """One problem at one budget, ready to send."""

    seq: int
    problem_id: str
    sample: int
    budget: int
    budget_mode: BudgetMode
    path: str
    """`/chat/completions` or `/completions`, below the target."""
    body: dict[str, Any]
    """JSON body, complete."""
    warmup: bool = False
    repeat: int = 0
    force: ForcedAnswer | None = None


@dataclass(slots=True)
class Exchange:
    """Stamps, token events, text and ending of one HTTP call. Times in ns of the monotonic clock."""

    sent_ns: int
    headers_ns: int | None = None
    end_ns: int | None = None
    arrival_ns: list[int] = field(default_factory=list)
    """One entry a token event."""
    tokens: list[int] = field(default_factory=list)
    """Tokens in each event; where the server reports none, see `token_source`."""
    pieces: list[tuple[str, str]] = field(default_factory=list)
    """(reasoning, content) text of each event."""
    token_ids: list[list[int]] | None = None
    """Ids of each event, where `return_token_ids` was asked."""
    first_answer_ns: int | None = None
    """First event with answer text after reasoning."""
    usage: dict[str, Any] | None = None
    """The last usage object seen."""
    token_source: str | None = None
    server_timings: dict[str, Any] | None = None
    fingerprint: str | None = None
    outcome: Outcome = "ok"
    status: int | None = None
    finish_reason: str | None = None
    stop_reason: str | int | None = None
    error: str | None = None
