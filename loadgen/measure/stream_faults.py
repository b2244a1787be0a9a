"""Counts what makes the figures of successful requests doubtful: their token counts, their delivery, and how they ended.

Each reason is one line with the numbers, and an example where the server's own numbers differ from answer to answer. Any
answer is enough for a reason about counts or endings, because a faultless server gives none. Joined reads and answers without
a token can be chance, so they have limits.

This module does not know the other reasons against a run (see `verdict`).
"""

from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field

from loadgen.measure.formulas import AT_END, CLUMPED_LIMIT
from loadgen.record import KNOWN_FINISH_REASONS, Record

CLUMPED_ANSWERS_SHARE = 0.05
"""Share of the answers that may arrive in clumps. On a busy machine single short answers do."""
HELD_BACK_EVENTS = 4
"""If at least this many events arrive together at the start of an answer, they were held back until then. Fewer can be chance."""
EMPTY_SHARE = 0.01
"""Share of the answers that may hold no token. A model can end its answer at once."""
END_TOKEN_SHARE = 0.01
"""How far TPOT may be off if what is taken as an end token was a second token of a chunk."""
NATIVE_SLACK_TOKENS = 32
"""How many reasoning tokens a native budget may be exceeded by: the sentence with which a server ends the reasoning."""
NAMED = 3
"""How many unknown finish reasons are named."""


@dataclass
class StreamFaults:
    """Counts over the measured requests."""

    answers: int = 0
    """Requests that succeeded."""
    disagree: int = 0
    example: str | None = None
    """The first contradiction between counts."""
    uncounted: int = 0
    """Answers for which chunks were counted as tokens, or nothing was counted."""
    unknown: Counter[str] = field(default_factory=Counter)
    """Unknown finish reasons."""
    whole: int = 0
    """Answers in one JSON body."""
    empty: int = 0
    clumped: set[int] = field(default_factory=set)
    """`seq` of the answers that arrived in clumps."""
    events: int = 0
    shared: float = 0.0
    """Token events, and how many of them arrived together with another one."""
    end_tokens: int = 0
    end_token_share: float = 0.0
    """Answers with one token in each chunk and an end token, and the largest share of such a token in one of them."""
    one_more: int = 0
    """Truncated answers, which have no end token, with one token more than chunks."""
    other_choices: int = 0
    over_budget: int = 0
    """Answers with more reasoning than their native budget allows."""
    unanswered: int = 0
    """Requests that met an idle connection which the server closed at that moment."""

    def add(self, record: Record) -> None:
        """Add one measured record."""
        if record.outcome == "reset" and record.connection_reused and "idle connection" in (record.error or ""):
            self.unanswered += 1
        if record.outcome != "ok":
            return
        self.answers += 1
        if record.counts_disagree is not None:
            self.disagree += 1
            self.example = self.example or record.counts_disagree
        elif record.token_source == "chunks" or (not record.streamed and record.token_source is None):  # noqa: S105 - no secret
            self.uncounted += 1
        if record.finish_reason is not None and record.finish_reason not in KNOWN_FINISH_REASONS:
            self.unknown[record.finish_reason] += 1
        self.whole += not record.streamed
        self.empty += record.e2e_s is None
        self.other_choices += record.other_choices
        if record.budget_mode == "native":
            self.over_budget += (record.reasoning_tokens or 0) > record.budget + NATIVE_SLACK_TOKENS
        if record.token_source == "chunks_and_end":  # noqa: S105 - no secret
            self.end_tokens += 1
            self.end_token_share = max(self.end_token_share, 1 / record.chunks)
        elif record.token_source in AT_END and record.finish_reason == "length":
            shown = (record.completion_tokens or 0) - (record.hidden_tokens or 0)
            self.one_more += shown == record.chunks + 1
        if record.clumped_share is not None:
            self.events += record.chunks
            self.shared += record.clumped_share * record.chunks
            held_back = record.tpot_s is None and record.clumped_share * record.chunks >= HELD_BACK_EVENTS
            if held_back or record.clumped_share > CLUMPED_LIMIT:
                self.clumped.add(record.seq)

    def reasons(self, *, stream_asked: bool) -> Iterator[str]:
        """Yield each reason against the run."""
        n = self.answers
        if self.disagree:
            yield f"token counts contradict each other in {self.disagree} of {n} answers, for example: {self.example}"
        if self.one_more and self.end_token_share > END_TOKEN_SHARE:
            yield (
                f"{self.end_tokens} of {n} answers count one token more than their chunks, taken as an end token, but so do {self.one_more} "
                f"truncated answers, which have none: TPOT may be too high by up to {self.end_token_share:.0%}"
            )
        if self.other_choices:
            yield f"{self.other_choices} of {n} answers came with further choices that nobody asked for: they used the server's time and are in no figure"
        if self.over_budget:
            yield (
                f"{self.over_budget} of {n} answers have over {NATIVE_SLACK_TOKENS} reasoning tokens more than their budget: the server does "
                "not keep thinking_token_budget, use --budget-mode forced or cut"
            )
        if self.uncounted:
            yield f"the server reports no number of tokens in {self.uncounted} of {n} answers: each chunk of a stream is counted as one token"
        if len(self.clumped) > CLUMPED_ANSWERS_SHARE * n:
            yield (
                f"{len(self.clumped)} of {n} answers arrived in clumps ({self.shared / self.events:.0%} of all token events came together "
                f"with another one; limit {CLUMPED_ANSWERS_SHARE:.0%} of the answers): the server, a proxy or this machine "
                "holds chunks back, so the times between their tokens are not measured and their TTFT may be too late"
            )
        if self.unknown:
            named = ", ".join(f"{reason!a} {count}" for reason, count in self.unknown.most_common(NAMED))
            yield f"unknown finish reasons ({named}): whether these answers are complete is not known"
        if self.whole and stream_asked:
            yield f"{self.whole} of {n} answers came in one JSON body although a stream was asked for: only their e2e is measured"
        if self.empty > EMPTY_SHARE * n:
            yield f"{self.empty} of {n} answers brought no token (limit {EMPTY_SHARE:.0%})"
        if self.unanswered:
            yield (
                f"requests that met an idle connection as the server closed it: {self.unanswered}. They failed by chance and "
                "not by the server's work"
            )
