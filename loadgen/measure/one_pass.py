"""One run at the largest budget → the Exchange that every smaller budget would have had.

With greedy decoding a reply under budget b is the first b tokens of the longer reply, and they arrived when they arrived:
text cut after token b, latency to the chunk that held it. A reply that ended within b is the same reply.

A chunk with several tokens (n-gram speculation) can straddle b. Its ids are kept as a Straddle and the server's
`/detokenize` cuts its text after the run, off the hot path; where that can't be, the text ends at the chunk's start and
the record says `cut_at: "chunk"`.

Rules: pure, but for `Detokenizer`. Failed requests derive nothing a shorter run would not have shown: a reply that broke
after token b gives budget b its whole answer, one that broke before gives the failure.

Does not know: that load changes latency (the re-run budget shows it), or how text is graded.
"""

import dataclasses
from dataclasses import dataclass
from itertools import accumulate

from loadgen.exchange import Exchange, Request

CONTEXT_IDS = 8
"""Ids decoded before the cut chunk, so that what depends on neighbours (a leading space, a split character) is right."""


@dataclass(frozen=True, slots=True)
class PendingCut:
    """A chunk that holds tokens on both sides of the budget."""

    before: tuple[int, ...]
    """Ids just before the chunk."""
    kept: tuple[int, ...]
    """Ids of the chunk that the budget still pays for."""
    piece: tuple[str, str]
    """(reasoning, content) text of the whole chunk."""


def derive(exchange: Exchange, budget: int) -> tuple[Exchange, PendingCut | None]:
    """The exchange at a smaller budget, and the chunk that its text still lacks a part of."""
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
        stop_reason=None,
        error=None,
    )
    if cut.first_answer_ns is not None and cut.first_answer_ns > exchange.arrival_ns[last]:
        cut.first_answer_ns = None
    return cut, _straddle(exchange, last, kept) if straddles else None


def _usage(exchange: Exchange, budget: int) -> dict[str, object]:
    """Counts as the server would have said them; reasoning tokens are not known before the end."""
    prompt = {k: v for k, v in (exchange.usage or {}).items() if k.startswith("prompt_tokens")}
    return prompt | {"completion_tokens": budget}


def _straddle(exchange: Exchange, last: int, kept: int) -> PendingCut:
    ids = exchange.token_ids or []
    known = len(ids) > last and len(ids[last]) == exchange.tokens[last]
    before = [i for event in ids[max(0, last - CONTEXT_IDS) : last] for i in event][-CONTEXT_IDS:]
    return PendingCut(tuple(before), tuple(ids[last][:kept]) if known else (), exchange.pieces[last])


def derived_request(request: Request, budget: int, seq: int) -> Request:
    """The request that a derived record answers."""
    return dataclasses.replace(request, budget=budget, seq=seq)
