"""Derives from one run at the largest budget the Exchange that every smaller budget would have had.

With greedy decoding, a reply under budget b is the first b tokens of the longer reply, at the same arrival times: its text
ends after token b, and its latency ends at the chunk that held token b. A reply that ended within b is unchanged. A reply
that failed after token b is a success at budget b, and one that failed before is the same failure.

A chunk with several tokens (speculative decoding) can hold tokens on both sides of b. Its token ids are then kept as a
PendingCut, and the server's `/detokenize` gives the missing text after the run, outside the measured time. Where that is not
possible, the text ends at the start of the chunk and the record says `cut_at: "chunk"`.

This module does not know that load changes latency (a second budget that is really run shows how much), or how text is
graded.
"""

import dataclasses
from dataclasses import dataclass
from itertools import accumulate

from loadgen.exchange import Exchange

CONTEXT_IDS = 8
"""Number of token ids before the chunk that are decoded with it, because text depends on its neighbors (spaces, characters)."""


@dataclass(frozen=True, slots=True)
class PendingCut:
    """A chunk that holds tokens on both sides of the budget, whose text is still to be cut."""

    before: tuple[int, ...]
    """Token ids just before the chunk."""
    kept: tuple[int, ...]
    """Token ids of the chunk that are within the budget."""
    piece: tuple[str, str]
    """(reasoning, content) text of the whole chunk."""


def derive(exchange: Exchange, budget: int) -> tuple[Exchange, PendingCut | None]:
    """Return the exchange at a smaller budget, and the chunk whose text is still to be cut, if any."""
    ends = list(accumulate(exchange.tokens))
    if not ends or ends[-1] < budget or (ends[-1] == budget and exchange.finish_reason == "stop"):
        return exchange, None
    last = next(i for i, end in enumerate(ends) if end >= budget)
    kept = budget - (ends[last - 1] if last else 0)
    straddles = kept < exchange.tokens[last]
    pieces = exchange.pieces[: last + (not straddles)]
    cut = dataclasses.replace(
        exchange,
        arrival_ns=exchange.arrival_ns[: last + 1],
        tokens=[*exchange.tokens[:last], kept],
        pieces=[*pieces, ("", "")] if straddles else pieces,
        token_ids=exchange.token_ids[: last + 1] if exchange.token_ids else None,
        end_ns=exchange.arrival_ns[last],
        usage=_usage(exchange, budget),
        server_timings=None,
        outcome="ok",
        finish_reason="length",
        error=None,
    )
    if cut.first_answer_ns is not None and cut.first_answer_ns > exchange.arrival_ns[last]:
        cut.first_answer_ns = None
    return cut, _pending_cut(exchange, last, kept) if straddles else None


def _usage(exchange: Exchange, budget: int) -> dict[str, object]:
    """Return the usage object that the server would have sent. Reasoning tokens are not known before the end of a reply."""
    prompt = {k: v for k, v in (exchange.usage or {}).items() if k.startswith("prompt_tokens")}
    return prompt | {"completion_tokens": budget}


def _pending_cut(exchange: Exchange, last: int, kept: int) -> PendingCut:
    ids = exchange.token_ids or []
    known = len(ids) > last and len(ids[last]) == exchange.tokens[last]
    before = [i for event in ids[max(0, last - CONTEXT_IDS) : last] for i in event][-CONTEXT_IDS:]
    return PendingCut(tuple(before), tuple(ids[last][:kept]) if known else (), exchange.pieces[last])
