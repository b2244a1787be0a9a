"""n-gram prompt lookup, as vLLM V1 proposes it, over a request's real token ids.

The rule: of the suffixes of the context min_n to max_n long, the longest that occurred before; of its occurrences the
earliest; the draft is what followed it there, up to k tokens and no further than the context reaches. Occurrences may
overlap the suffix itself. `NgramProposer` serves a running request, `speculate` a whole known text at once.
Knows nothing of requests, batches or time.
"""

import dataclasses
from collections.abc import Iterable, Sequence

import numpy as np
from numpy.typing import NDArray

BITS = 20  # a token id in a packed n-gram: every vocabulary served has fewer than a million


class NgramProposer:
    """One request's context and its index; `extend` costs the same for each token however long the context."""

    def __init__(self, k: int, min_n: int, max_n: int, tokens: Iterable[int] = ()) -> None:
        self.k, self.min_n, self.max_n = k, min_n, max_n
        self.tokens: list[int] = []
        # for each length: packed n-gram -> where its earliest occurrence ends
        self._ends: list[dict[int, int]] = [{} for _ in range(min_n, max_n + 1)]
        self._masks = [(1 << (BITS * n)) - 1 for n in range(min_n, max_n + 1)]
        self._packed = 0  # the last max_n tokens
        self.extend(tokens)

    def extend(self, tokens: Iterable[int]) -> None:
        """Append to the context. The n-grams that ended at its old end become findable now."""
        packed, context = self._packed, self.tokens
        widest = self._masks[-1]
        shortest, lengths = self.min_n, tuple(zip(self._masks, self._ends, strict=True))
        for token in tokens:
            end = len(context)
            # A shorter context has no such n-gram; its zero padding must not look like one.
            for mask, ends in lengths[: end - shortest + 1] if end >= shortest else ():
                ends.setdefault(packed & mask, end)
            context.append(token)
            packed = ((packed << BITS) | token) & widest
        self._packed = packed

    def propose(self, limit: int | None = None) -> list[int]:
        """The draft after the context as it stands, at most `limit` tokens (what the model's length leaves)."""
        k = self.k if limit is None else min(self.k, limit)
        longest = min(self.max_n, len(self.tokens) - 1)
        for n in range(longest, self.min_n - 1, -1):
            start = self._ends[n - self.min_n].get(self._packed & self._masks[n - self.min_n])
            if start is not None:
                return self.tokens[start : start + max(k, 0)]
        return []


@dataclasses.dataclass(frozen=True, slots=True)
class Steps:
    """The decode steps of one known output, in order; the prefill's step and its token are left out."""

    emitted: NDArray[np.int64]  # tokens a step
    drafted: NDArray[np.int64]
    accepted: NDArray[np.int64]
    matched: NDArray[np.int64]  # the length of the suffix found, 0 where none was


def speculate(prompt: Sequence[int], output: Sequence[int], k: int, min_n: int, max_n: int) -> Steps:
    """What n-gram speculation does over a text known whole: equal, step by step, to NgramProposer verified."""
    tokens = np.asarray([*prompt, *output], dtype=np.int64)
    starts, matched = _lookup(tokens, min_n, max_n)
    here = np.arange(len(tokens))
    drafted = np.where(matched > 0, np.minimum(k, here + 1 - starts), 0)
    accepted = _agreement(tokens, starts, drafted, k)
    visited = _walk(accepted.tolist(), len(prompt), len(tokens))
    left = len(tokens) - 1 - visited
    return Steps(
        emitted=np.minimum(accepted[visited] + 1, left),
        drafted=drafted[visited],
        accepted=accepted[visited],
        matched=matched[visited],
    )


def _lookup(tokens: NDArray[np.int64], min_n: int, max_n: int) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """For a context ending at each place: where the draft starts, and how long the suffix found is (0: none)."""
    total = len(tokens)
    starts, matched = np.zeros(total, dtype=np.int64), np.zeros(total, dtype=np.int64)
    # Ranks instead of ids: n-grams are packed pairwise and ranked anew, so that no length overflows 64 bits.
    ranks = np.unique(tokens, return_inverse=True)[1].astype(np.int64)
    grams = ranks
    for n in range(1, max_n + 1):
        if n > total:
            break
        if n > 1:
            grams = np.unique(grams[:-1] * total + ranks[n - 1 :], return_inverse=True)[1].astype(np.int64)
        if n < min_n:
            continue
        first = np.full(len(grams), total, dtype=np.int64)
        np.minimum.at(first, grams, np.arange(len(grams)))
        earliest = first[grams]
        found = np.flatnonzero(earliest < np.arange(len(grams)))
        starts[found + n - 1] = earliest[found] + n
        matched[found + n - 1] = n
    return starts, matched


def _agreement(
    tokens: NDArray[np.int64], starts: NDArray[np.int64], drafted: NDArray[np.int64], k: int
) -> NDArray[np.int64]:
    """How many tokens of each place's draft the text then follows."""
    total = len(tokens)
    here = np.arange(total)
    accepted = np.zeros(total, dtype=np.int64)
    live = drafted > 0
    for j in range(k):
        nxt = here + 1 + j
        live = live & (j < drafted) & (nxt < total)
        live[live] = tokens[starts[live] + j] == tokens[nxt[live]]
        accepted += live
    return accepted


def _walk(accepted: list[int], prompt_length: int, total: int) -> NDArray[np.int64]:
    """The places where a step begins: after the prefill's token, then past what each step emitted."""
    visited = []
    at = prompt_length  # the prefill has emitted this token; the next step's context ends here
    while at < total - 1:
        visited.append(at)
        at += accepted[at] + 1
    return np.asarray(visited, dtype=np.int64)
