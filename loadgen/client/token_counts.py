"""Decides how many tokens each chunk of an answer brought, and which of the server's counts agrees with the stream.

A server can count in each chunk (`continuous_usage_stats`), by token ids, once at the end, or not at all, and these counts
can contradict each other and the stream. Three facts decide: a chunk with text holds at least one token; counts that grow
from chunk to chunk must end at the total; and prompt and completion must add up to the total, where reasoning tokens can be
missing from the completion. The result names the source that was used. Where no reading makes all numbers agree, `disagree`
says in one line what contradicts what, with the numbers.

This module does not know JSON, timestamps or outcomes.
"""

from dataclasses import dataclass, field, replace
from itertools import pairwise
from operator import sub
from typing import NamedTuple

from loadgen.client.stream_chunk import TokenUsage
from loadgen.exchange import TokenSource

DROPPED = -1
"""Number of tokens of an entry that is no token event."""
SPARE_SHARE = 0.02
"""Some servers split the text of a token between two chunks, for example where the reasoning ends. So many more chunks than
tokens, and at least one, contradict nothing: they change a time per token by no more than this."""


@dataclass(slots=True)
class StreamLog:
    """What a stream said about tokens. Its entries are the chunks with text, token ids or a count that changed."""

    counts: list[int | None] = field(default_factory=list)
    """Completion tokens in the usage of each entry."""
    ids: list[list[int] | None] | None = None
    """Token ids of each entry; None where no entry had any."""
    texts: list[bool] = field(default_factory=list)
    """Whether each entry brought text, of any kind."""
    roles: list[int] = field(default_factory=list)
    """Entries without text whose chunk says who speaks."""
    others: list[int] = field(default_factory=list)
    """Entries with text that is neither answer nor reasoning, such as the arguments of a tool."""
    usage: TokenUsage | None = None
    """The last usage object."""
    has_total: bool = False
    """The last usage object came after the last entry, so it counts the whole answer."""
    reasoning: bool = False
    """Reasoning text came."""
    complete: bool = False
    """The model ended the answer itself, with a token that need not have a chunk."""
    other_choices: bool = False
    """Other choices than the first came, and the usage of the whole answer counts them too."""


class Settled(NamedTuple):
    """The tokens of an answer."""

    tokens: list[int]
    """Tokens of each entry; 0 where its text belongs to the entry before it, DROPPED where it is no token event."""
    source: TokenSource | None
    total: int | None
    """All output tokens; None where the server reported no count that can be used."""
    hidden: int = 0
    """Tokens that were generated before the first chunk and are not shown. They are part of the first entry's tokens."""
    disagree: str | None = None


class _Reported(NamedTuple):
    """What the usage says about the whole answer."""

    total: int | None
    source: TokenSource = "usage"
    hidden: int = 0
    disagree: str | None = None

    @property
    def visible(self) -> int | None:
        """Tokens that the chunks can have brought."""
        return None if self.total is None else self.total - self.hidden


def settle(log: StreamLog) -> Settled:
    """Return the tokens of each entry and of the answer."""
    counts = _without_early_counts(log)
    kept = [i for i, count in enumerate(counts) if count != DROPPED]
    part = replace(
        log,
        counts=[counts[i] or None for i in kept],
        ids=None if log.ids is None else [log.ids[i] for i in kept],
        texts=[log.texts[i] for i in kept],
    )
    found = _settle_entries(part)
    tokens = [DROPPED] * len(counts)
    for i, count in zip(kept, found.tokens, strict=True):
        tokens[i] = count
    return found._replace(tokens=tokens)


def settle_whole(log: StreamLog) -> Settled:
    """Return the tokens of an answer that came in one JSON body. Nothing is guessed where the server counts none."""
    whole = StreamLog(texts=[True] if any(log.texts) else [], usage=log.usage, reasoning=True)
    total, source, _, why = _reported(whole, in_chunks=False)
    tokens = [total or 0] * len(log.texts)
    return Settled(tokens, None if total is None else source, total, 0, why)


def settle_usual(log: StreamLog) -> Settled | None:
    """Return the result where the counts grow with every chunk and agree with the total, as vLLM's do; otherwise None.

    It needs no `texts`, but the first entry must have brought text. It is the fast path: nothing else is computed.
    """
    counts, usage = log.counts, log.usage
    if not counts or usage is None or None in counts or log.roles or log.other_choices:
        return None
    tokens: list[int] = [counts[0], *map(sub, counts[1:], counts)]  # type: ignore[list-item]  # none is None
    total = usage.completion_tokens
    if total is None or total - counts[-1] not in (0, 1) or min(tokens) < 1:  # type: ignore[operator]
        return None
    if usage.total_tokens != (usage.prompt_tokens or 0) + total or (usage.reasoning() or 0) > total:
        return None
    return Settled(tokens, "continuous_usage", total)


def _without_early_counts(log: StreamLog) -> list[int | None]:
    """Return the counts, with DROPPED for entries before the first text that are no token event.

    A chunk without text before the first text can hold a token (vLLM, where a parser holds its text back). It holds none
    where it only says who speaks, or where the first text does not raise its count, or where text comes without counts.
    """
    counts = list(log.counts)
    ids = log.ids or [None] * len(counts)
    first = next((i for i, text in enumerate(log.texts) if text or ids[i]), len(counts))
    for i in range(first):
        after = counts[first] if first < len(counts) else None
        if i in log.roles or (first < len(counts) and (after is None or (counts[i] or 0) >= after)):
            counts[i] = DROPPED
    return counts


def _settle_entries(log: StreamLog) -> Settled:
    known = [count for count in log.counts if count]
    if known and (log.counts[0] or 2 * len(known) > len(log.counts)):
        return _with_hidden(_from_each_chunk(log, known, _reported(log, in_chunks=True)))
    reported = _reported(log, in_chunks=False)
    return _with_hidden(_evenly(log, reported) if log.ids is None else _from_ids(log, reported))


def _from_each_chunk(log: StreamLog, known: list[int], reported: _Reported) -> Settled:
    """Return the tokens of a stream whose chunks carry counts. These can grow, count each chunk alone, or repeat the total."""
    chunks, last = sum(log.texts), known[-1]
    falls = any(b < a for a, b in pairwise(known))
    pairs = zip(pairwise(log.counts), log.texts[1:], strict=True)
    flat = sum(text and a is not None and a == b for (a, b), text in pairs)
    total, source, hidden, why = reported
    visible = reported.visible
    each = [count or int(text) for count, text in zip(log.counts, log.texts, strict=True)]
    rises = any(b > a for a, b in pairwise(known))
    alone = 4 * flat <= chunks or (rises and last >= chunks)
    grows = not falls and (alone if visible is None else 2 * flat <= chunks)
    exact = visible is not None and sum(each) == visible != last
    if grows and not exact and (visible is None or visible - last in (0, 1)):
        grown = _growth(log)
        if why is None and sum(grown) > (visible or last):
            why = f"{sum(grown) - last} chunks brought text after the last count, which is {last} tokens"
        return Settled(grown, "continuous_usage", total or last, hidden, why or _too_few(last, chunks))
    ids = [len(i or ()) for i in log.ids or ()]
    if ids and visible is not None and visible - sum(ids) in (0, 1):
        return Settled(ids, "token_ids", total, hidden, why)
    if visible is not None and visible - sum(each) in (0, 1):
        return Settled(each, "chunk_usage", total, hidden, why)
    repeats = not falls and (2 * flat > chunks or not rises) and _too_few(last, chunks) is None
    if repeats and visible in (None, last):
        return _evenly(log, _Reported(total or last, source, hidden, why))
    return _contradictory(log, known, each, reported)


def _contradictory(log: StreamLog, known: list[int], each: list[int], reported: _Reported) -> Settled:
    """Return the likeliest tokens of a stream in which no reading of the chunks' counts agrees with the rest."""
    chunks, last = sum(log.texts), known[-1]
    falls = any(b < a for a, b in pairwise(known))
    visible, why = reported.visible, reported.disagree
    if visible is None:
        why = (
            f"the counts of the chunks ({_some(known)}) fall or repeat, and no total confirms their sum of {sum(each)}"
        )
        return Settled(each, "chunk_usage", sum(each), 0, why)
    why = why or f"the counts of the chunks ({_some(known)}) do not lead to the total of {visible}"
    if not falls and last > visible and _too_few(last, chunks) is None:
        return Settled(_growth(log), "continuous_usage", last, 0, why)
    return _evenly(log, reported._replace(disagree=why))


def _from_ids(log: StreamLog, reported: _Reported) -> Settled:
    """Return the tokens of a stream whose chunks carry token ids and no counts."""
    ids = [len(i or ()) for i in log.ids or ()]
    total, _, hidden, why = reported
    if total is None or total - hidden - sum(ids) in (0, 1):
        return Settled(ids, "token_ids", total or sum(ids), hidden, why)
    why = why or f"{sum(ids)} token ids came, but the usage says {total} tokens"
    return Settled(ids, "token_ids", max(total, sum(ids)), 0, why)


def _evenly(log: StreamLog, reported: _Reported) -> Settled:
    """Return one token for each chunk with text. Where a total is known, the formulas divide it between the chunks.

    A total of one more is taken as one token in each chunk and an end token that has none: where several tokens share a
    chunk, a whole answer seldom has only one such chunk.
    """
    chunks = sum(log.texts)
    tokens = [int(text) for text in log.texts]
    total, source, hidden, why = reported
    if total is None:
        return Settled(tokens, "chunks" if chunks else None, None, 0, why)
    if chunks == 0:
        if total > 1:
            why = why or f"the usage says {total} tokens, but no chunk brought text"
        return Settled(tokens, source, total, 0, why)
    if (few := _too_few(total - hidden, chunks)) is not None:
        return Settled(tokens, "chunks", chunks, 0, why or few)
    if log.complete and total - hidden == chunks + 1:
        source = "chunks_and_end"
    return Settled(tokens, source, total, hidden, why)


def _reported(log: StreamLog, *, in_chunks: bool) -> _Reported:
    """Return what the last usage object says about the whole answer. With `in_chunks`, the chunks carry counts too."""
    usage, chunks = log.usage, sum(log.texts)
    if usage is None:
        return _Reported(None)
    why = None if usage.unusable is None else f"{usage.unusable} is not a number of tokens"
    prompt, total, completion = usage.prompt_tokens, usage.total_tokens, usage.completion_tokens
    added = None if prompt is None or total is None else total - prompt
    if log.other_choices:
        several = None if in_chunks else f"the usage of {completion} tokens counts several choices"
        return _Reported(None, disagree=why or several)
    if completion is None or (completion == 0 and chunks):  # some servers send a 0 that stays 0
        if added is None or added <= 0:
            return _Reported(None, disagree=why)
        why = why or f"completion_tokens is missing, and total_tokens − prompt_tokens is {added}"
        return _Reported(added, "corrected_usage", 0, why)
    return _completed(log, usage, completion, added, why, in_chunks=in_chunks)


def _completed(
    log: StreamLog, usage: TokenUsage, completion: int, added: int | None, why: str | None, *, in_chunks: bool
) -> _Reported:
    """Return the total where the server counts `completion` tokens, and total minus prompt is `added`."""
    chunks, reasoning = sum(log.texts), usage.reasoning() or 0
    if added is not None and added > completion:
        if added != completion + reasoning:
            why = why or f"completion_tokens is {completion}, but total_tokens − prompt_tokens is {added}"
        hidden = 0 if log.reasoning or _too_few(completion, chunks) else added - completion
        return _Reported(added, "corrected_usage", hidden, why)
    if added is not None and added < completion:
        why = why or f"completion_tokens is {completion}, but total_tokens − prompt_tokens is only {added}"
    if reasoning > completion:
        why = why or f"completion_tokens is {completion}, but reasoning_tokens is {reasoning}"
    if in_chunks:
        return _Reported(completion if log.has_total else None, "usage", 0, why)
    shown = completion - reasoning
    hides = shown > 0 and chunks > 0 and not log.reasoning and _too_few(shown, chunks) is None
    return _Reported(completion, "usage", reasoning if hides else 0, why)


def _with_hidden(found: Settled) -> Settled:
    """Count the hidden tokens into the first entry with tokens, so that no time between chunks is divided by them."""
    first = next((i for i, count in enumerate(found.tokens) if count), None)
    if first is None or not found.hidden:
        return found._replace(hidden=0)
    tokens = list(found.tokens)
    tokens[first] += found.hidden
    return found._replace(tokens=tokens)


def _growth(log: StreamLog) -> list[int]:
    """Return by how much each count exceeds the one before. Text without a count is one token until a count corrects it."""
    tokens, before = [], 0
    for count, text in zip(log.counts, log.texts, strict=True):
        new = int(text) if count is None else max(0, count - before)
        before += new
        tokens.append(new)
    return tokens


def _too_few(tokens: int, chunks: int) -> str | None:
    """Return what is wrong where more chunks brought text than there are tokens."""
    if chunks <= tokens + max(1, int(chunks * SPARE_SHARE)):
        return None
    return f"the server counts {tokens} tokens, but {chunks} chunks brought text"


def _some(counts: list[int]) -> str:
    """Return the first counts of a stream, as text."""
    return ", ".join(map(str, counts[:4])) + (", …" if len(counts) > 4 else "")
