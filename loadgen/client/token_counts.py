"""Decides how many tokens each chunk of an answer brought, and which of the server's counts agrees with the stream.

A server can count in each chunk (`continuous_usage_stats`), by token ids, once at the end, or not at all, and these counts
can contradict each other and the stream. Three facts decide: a chunk with text holds at least one token; counts that grow
from chunk to chunk must end at the total; and prompt and completion must add up to the total, where reasoning tokens can be
missing from the completion. The result names the source that was used. Where no reading makes all numbers agree, `disagree`
says in one line what contradicts what, with the numbers.

This module does not know JSON, timestamps or outcomes.
"""

from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from itertools import pairwise
from operator import sub
from typing import NamedTuple

from loadgen.client.stream_chunk import TokenUsage
from loadgen.exchange import TokenSource

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
    """The tokens of an answer; without `tokens`, what the usage says about the whole answer."""

    total: int | None
    """All output tokens; None where the server reported no count that can be used."""
    source: TokenSource | None = "usage"
    hidden: int = 0
    """Tokens that were generated before the first chunk and are not shown. They are part of the first entry's tokens."""
    disagree: str | None = None
    tokens: Sequence[int] = ()
    """Tokens of each entry; 0 where its text belongs to the entry before it, or where it is no token event."""

    @property
    def visible(self) -> int | None:
        """Tokens that the chunks can have brought."""
        return None if self.total is None else self.total - self.hidden


def settle(log: StreamLog) -> Settled:
    """Return the tokens of each entry and of the answer."""
    kept = _token_events(log)
    part = replace(
        log,
        counts=[log.counts[i] or None for i in kept],
        ids=None if log.ids is None else [log.ids[i] for i in kept],
        texts=[log.texts[i] for i in kept],
    )
    found = _with_hidden(_settle_entries(part))
    by_entry = dict(zip(kept, found.tokens, strict=True))
    return found._replace(tokens=[by_entry.get(i, 0) for i in range(len(log.counts))])


def settle_whole(log: StreamLog) -> Settled:
    """Return the tokens of an answer that came in one JSON body. Nothing is guessed where the server counts none."""
    found = _reported(StreamLog(texts=log.texts, usage=log.usage, reasoning=True), in_chunks=False)
    source = None if found.total is None else found.source
    return found._replace(tokens=[found.total or 0] * len(log.texts), source=source, hidden=0)


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
    return Settled(total, "continuous_usage", tokens=tokens)


def _token_events(log: StreamLog) -> list[int]:
    """Return the numbers of the entries that can be token events: all but some of those before the first text.

    A chunk without text before the first text can hold a token (vLLM, where a parser holds its text back). It holds none
    where it only says who speaks, or where the first text does not raise its count, or where text comes without counts.
    """
    counts, ids = log.counts, log.ids or [None] * len(log.counts)
    first = next((i for i, text in enumerate(log.texts) if text or ids[i]), None)
    if first is None:
        return [i for i in range(len(counts)) if i not in log.roles]
    after = counts[first] or 0
    early = [i for i in range(first) if i not in log.roles and (counts[i] or 0) < after]
    return early + list(range(first, len(counts)))


def _settle_entries(log: StreamLog) -> Settled:
    known = [count for count in log.counts if count]
    if known and (log.counts[0] or 2 * len(known) > len(log.counts)):
        return _from_each_chunk(log, known, _reported(log, in_chunks=True))
    reported = _reported(log, in_chunks=False)
    return _evenly(log, reported) if log.ids is None else _from_ids(log, reported)


def _from_each_chunk(log: StreamLog, known: list[int], reported: Settled) -> Settled:
    """Return the tokens of a stream whose chunks carry counts. These can grow, count each chunk alone, or repeat the total."""
    chunks, last = sum(log.texts), known[-1]
    total, visible, why = reported.total, reported.visible, reported.disagree
    steps = [b - a for a, b in pairwise(known)]
    falls = any(step < 0 for step in steps)
    rises = any(step > 0 for step in steps)
    pairs = zip(pairwise(log.counts), log.texts[1:], strict=True)
    flat = sum(text and a is not None and a == b for (a, b), text in pairs)
    each = [count or int(text) for count, text in zip(log.counts, log.texts, strict=True)]
    alone = 4 * flat <= chunks or (rises and last >= chunks)
    grows = not falls and (alone if visible is None else 2 * flat <= chunks)
    exact = visible is not None and sum(each) == visible != last
    few = _too_few(last, chunks)
    if grows and not exact and (visible is None or visible - last in (0, 1)):
        grown = _growth(log)
        if why is None and sum(grown) > (visible or last):
            why = f"{sum(grown) - last} chunks brought text after the last count, which is {last} tokens"
        return reported._replace(tokens=grown, source="continuous_usage", total=total or last, disagree=why or few)
    ids = [len(i or ()) for i in log.ids or ()]
    if ids and visible is not None and visible - sum(ids) in (0, 1):
        return reported._replace(tokens=ids, source="token_ids")
    if visible is not None and visible - sum(each) in (0, 1):
        return reported._replace(tokens=each, source="chunk_usage")
    if not falls and (2 * flat > chunks or not rises) and few is None and visible in (None, last):
        return _evenly(log, reported._replace(total=total or last))
    return _contradictory(log, known, each, reported, may_grow=not falls and few is None)


def _contradictory(log: StreamLog, known: list[int], each: list[int], reported: Settled, *, may_grow: bool) -> Settled:
    """Return the likeliest tokens of a stream in which no reading of the chunks' counts agrees with the rest."""
    last, visible, numbers = known[-1], reported.visible, f"the counts of the chunks ({_some(known)})"
    if visible is None:
        why = f"{numbers} fall or repeat, and no total confirms their sum of {sum(each)}"
        return Settled(sum(each), "chunk_usage", 0, why, each)
    why = reported.disagree or f"{numbers} do not lead to the total of {visible}"
    if may_grow and last > visible:
        return Settled(last, "continuous_usage", 0, why, _growth(log))
    return _evenly(log, reported._replace(disagree=why))


def _from_ids(log: StreamLog, reported: Settled) -> Settled:
    """Return the tokens of a stream whose chunks carry token ids and no counts."""
    ids = [len(i or ()) for i in log.ids or ()]
    found = reported._replace(tokens=ids, source="token_ids", total=reported.total or sum(ids))
    if reported.visible is None or reported.visible - sum(ids) in (0, 1):
        return found
    why = reported.disagree or f"{sum(ids)} token ids came, but the usage says {reported.total} tokens"
    return found._replace(total=max(reported.total or 0, sum(ids)), hidden=0, disagree=why)


def _evenly(log: StreamLog, reported: Settled) -> Settled:
    """Return one token for each chunk with text. Where a total is known, the formulas divide it between the chunks.

    A total of one more is taken as one token in each chunk and an end token that has none: where several tokens share a
    chunk, a whole answer seldom has only one such chunk.
    """
    chunks, visible = sum(log.texts), reported.visible
    found = reported._replace(tokens=[int(text) for text in log.texts])
    if visible is None:
        return found._replace(source="chunks" if chunks else None)
    if chunks == 0:
        unseen = f"the usage says {found.total} tokens, but no chunk brought text" if (found.total or 0) > 1 else None
        return found._replace(hidden=0, disagree=found.disagree or unseen)
    if (few := _too_few(visible, chunks)) is not None:
        return found._replace(source="chunks", total=chunks, hidden=0, disagree=found.disagree or few)
    if log.complete and visible == chunks + 1:
        return found._replace(source="chunks_and_end")
    return found


def _reported(log: StreamLog, *, in_chunks: bool) -> Settled:
    """Return what the last usage object says about the whole answer. With `in_chunks`, the chunks carry counts too."""
    usage, chunks = log.usage, sum(log.texts)
    if usage is None:
        return Settled(None)
    why = None if usage.unusable is None else f"{usage.unusable} is not a number of tokens"
    prompt, total, completion = usage.prompt_tokens, usage.total_tokens, usage.completion_tokens
    if completion and not in_chunks and log.counts and log.counts[-1] is None and not log.has_total:
        why = why or f"text came after the last count, which is {completion} tokens"
    added = None if prompt is None or total is None else total - prompt
    if log.other_choices:
        several = None if in_chunks else f"the usage of {completion} tokens counts several choices"
        return Settled(None, disagree=why or several)
    if completion is None or (completion == 0 and chunks):  # some servers send a 0 that stays 0
        if added is None or added <= 0:
            return Settled(None, disagree=why)
        why = why or f"completion_tokens is missing, and total_tokens − prompt_tokens is {added}"
        return Settled(added, "corrected_usage", 0, why)
    return _completed(log, usage, completion, added, why, in_chunks=in_chunks)


def _completed(
    log: StreamLog, usage: TokenUsage, completion: int, added: int | None, why: str | None, *, in_chunks: bool
) -> Settled:
    """Return the total where the server counts `completion` tokens, and total minus prompt is `added`."""
    chunks, reasoning = sum(log.texts), usage.reasoning() or 0
    if added is not None and added > completion:
        if added != completion + reasoning:
            why = why or f"completion_tokens is {completion}, but total_tokens − prompt_tokens is {added}"
        hidden = 0 if log.reasoning or _too_few(completion, chunks) else added - completion
        return Settled(added, "corrected_usage", hidden, why)
    if added is not None and added < completion:
        why = why or f"completion_tokens is {completion}, but total_tokens − prompt_tokens is only {added}"
    if reasoning > completion:
        why = why or f"completion_tokens is {completion}, but reasoning_tokens is {reasoning}"
    if in_chunks:
        return Settled(completion if log.has_total else None, "usage", 0, why)
    shown = completion - reasoning
    hides = shown > 0 and chunks > 0 and not log.reasoning and _too_few(shown, chunks) is None
    return Settled(completion, "usage", reasoning if hides else 0, why)


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
