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

from loadgen.ask import Asker
from loadgen.exchange import Exchange, Request

THINK_END = "</think>"
CONTEXT_IDS = 8
"""Ids decoded before the cut chunk, so that what depends on neighbours (a leading space, a split character) is right."""


@dataclass(frozen=True, slots=True)
class Straddle:
    """A chunk that holds tokens on both sides of the budget."""

    before: tuple[int, ...]
    """Ids just before the chunk."""
    kept: tuple[int, ...]
    """Ids of the chunk that the budget still pays for."""
    piece: tuple[str, str]
    """(reasoning, content) text of the whole chunk."""


def derive(exchange: Exchange, budget: int) -> tuple[Exchange, Straddle | None]:
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


def _straddle(exchange: Exchange, last: int, kept: int) -> Straddle:
    ids = exchange.token_ids or []
    known = len(ids) > last and len(ids[last]) == exchange.tokens[last]
    before = [i for event in ids[max(0, last - CONTEXT_IDS) : last] for i in event][-CONTEXT_IDS:]
    return Straddle(tuple(before), tuple(ids[last][:kept]) if known else (), exchange.pieces[last])


def derived_request(request: Request, budget: int, seq: int) -> Request:
    """The request that a derived record answers."""
    return dataclasses.replace(request, budget=budget, seq=seq)


class Detokenizer:
    """Cuts a chunk's text after a token, by the server's own tokenizer."""

    def __init__(self, ask: Asker, model: str) -> None:
        self._ask = ask
        self._model = model
        self._known: dict[tuple[int, ...], str | None] = {}

    def cut(self, straddle: Straddle) -> tuple[str, str] | None:
        """(reasoning, content) of the part that the budget pays for; None where the server can't tell."""
        if not straddle.kept:
            return None
        before = self._text(straddle.before)
        both = self._text(straddle.before + straddle.kept)
        if before is None or both is None:
            return None
        return split_piece(straddle.piece, whole_characters(both).removeprefix(whole_characters(before)))

    def _text(self, ids: tuple[int, ...]) -> str | None:
        if not ids:
            return ""
        if ids not in self._known:
            answer = self._ask.post(
                f"{self._ask.root}/detokenize", {"model": self._model, "tokens": list(ids)}
            )
            said = answer.json()
            prompt = said.get("prompt") if isinstance(said, dict) else None
            self._known[ids] = prompt if isinstance(prompt, str) else None
        return self._known[ids]


def whole_characters(text: str) -> str:
    """Text without the incomplete character at its end, which a server holds back."""
    return text.rstrip("\ufffd")


def split_piece(piece: tuple[str, str], part: str) -> tuple[str, str] | None:
    """A beginning of the chunk's text, as (reasoning, content); None where `part` is no beginning of it.

    Where a parser took `</think>` out between the two, the part may hold it.
    """
    reasoning, content = piece
    head, tag, rest = part.partition(THINK_END)
    if reasoning and content and tag:
        ok = reasoning.strip() == head.strip() and content.startswith(rest.lstrip("\n")[: len(content)])
        return (reasoning, rest.lstrip("\n")) if ok else None
    text = reasoning or content
    if not text.startswith(part):
        return None
    return (part, "") if reasoning else ("", part)
