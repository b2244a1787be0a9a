"""n-gram prompt lookup over token ids, with the same result as vLLM V1's proposer.

Of all suffixes of the context with a length from min_n to max_n, the longest one that also occurs earlier is used, and
of its occurrences the earliest one. The draft consists of the tokens that follow it there: up to k tokens, but not beyond
the end of the context. An occurrence may overlap the suffix. `NgramProposer` is used while a text grows, `speculate` for
a text that is known completely. This module does not know requests, batches or time.
"""

import dataclasses
import random
from collections.abc import Iterable, Sequence

import numpy as np
from numpy.typing import NDArray

BITS = 20  # bits of a token id in a packed n-gram; every supported vocabulary has fewer than 2**20 tokens


class NgramProposer:
    """The context of one request and an index of its n-grams. The cost of `extend` per token is independent of its length."""

    def __init__(self, k: int, min_n: int, max_n: int, tokens: Iterable[int] = ()) -> None:
        self.k, self.min_n, self.max_n = k, min_n, max_n
        self.tokens: list[int] = []
        # for each length: packed n-gram -> position after its earliest occurrence
        self._ends: list[dict[int, int]] = [{} for _ in range(min_n, max_n + 1)]
        self._masks = [(1 << (BITS * n)) - 1 for n in range(min_n, max_n + 1)]
        self._packed = 0  # the last max_n tokens
        self.extend(tokens)

    def extend(self, tokens: Iterable[int]) -> None:
        """Append tokens to the context and add the n-grams that now lie before its end to the index."""
        packed, context = self._packed, self.tokens
        widest = self._masks[-1]
        shortest, lengths = self.min_n, tuple(zip(self._masks, self._ends, strict=True))
        for token in tokens:
            end = len(context)
            # A context shorter than n has no n-gram of that length; its zero padding must not be indexed.
            for mask, ends in lengths[: end - shortest + 1] if end >= shortest else ():
                ends.setdefault(packed & mask, end)
            context.append(token)
            packed = ((packed << BITS) | token) & widest
        self._packed = packed

    def propose(self, limit: int | None = None) -> list[int]:
        """The draft for the current context, at most `limit` tokens (as many as the model's context length allows)."""
        k = self.k if limit is None else min(self.k, limit)
        longest = min(self.max_n, len(self.tokens) - 1)
        for n in range(longest, self.min_n - 1, -1):
            start = self._ends[n - self.min_n].get(self._packed & self._masks[n - self.min_n])
            if start is not None:
                return self.tokens[start : start + max(k, 0)]
        return []


@dataclasses.dataclass(frozen=True, slots=True)
class Steps:
    """The decode steps of one known output, in order. The prefill step and its token are not included."""

    emitted: NDArray[np.int64]  # tokens per step
    drafted: NDArray[np.int64]
    accepted: NDArray[np.int64]
    matched: NDArray[np.int64]  # length of the matching suffix, 0 if none was found


def imposed_draws(prompt: Sequence[int]) -> random.Random:
    """The random numbers for `imposed_acceptance` of a request, which depend on its prompt only."""
    return random.Random(hash(tuple(prompt)))


def imposed_acceptance(draws: random.Random, length: float) -> int:
    """How many draft tokens the next drafted step accepts, so that steps emit `length` tokens on average.

    Like vLLM's synthetic rejection sampling, this does not depend on the text, and steps differ by at most one token.
    """
    return int(length - 1) + (draws.random() < (length - 1) % 1)


def speculate(
    prompt: Sequence[int],
    output: Sequence[int],
    k: int,
    min_n: int,
    max_n: int,
    *,
    imposed_length: float | None = None,
) -> Steps:
    """The decode steps of a completely known text; the same steps as with NgramProposer and verification."""
    tokens = np.asarray([*prompt, *output], dtype=np.int64)
    starts, matched = _lookup(tokens, min_n, max_n)
    here = np.arange(len(tokens))
    drafted = np.where(matched > 0, np.minimum(k, here + 1 - starts), 0)
    accepted = _accepted(tokens, starts, drafted, k)
    if imposed_length is None:
        visited = _step_positions(accepted.tolist(), len(prompt), len(tokens))
    else:
        visited = _impose(drafted.tolist(), accepted, prompt, imposed_length)
    left = len(tokens) - 1 - visited
    return Steps(
        emitted=np.minimum(accepted[visited] + 1, left),
        drafted=drafted[visited],
        accepted=accepted[visited],
        matched=matched[visited],
    )


def _lookup(tokens: NDArray[np.int64], min_n: int, max_n: int) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """For a context that ends at each position: where the draft starts and the length of the suffix found (0: none)."""
    total = len(tokens)
    starts, matched = np.zeros(total, dtype=np.int64), np.zeros(total, dtype=np.int64)
    # Ranks replace ids, and n-grams are ranked again after each extension, so that no packed value overflows 64 bits.
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


def _accepted(
    tokens: NDArray[np.int64], starts: NDArray[np.int64], drafted: NDArray[np.int64], k: int
) -> NDArray[np.int64]:
    """For each position, how many tokens of its draft equal the text that follows."""
    total = len(tokens)
    here = np.arange(total)
    accepted = np.zeros(total, dtype=np.int64)
    matching = drafted > 0
    for j in range(k):
        nxt = here + 1 + j
        matching = matching & (j < drafted) & (nxt < total)
        matching[matching] = tokens[starts[matching] + j] == tokens[nxt[matching]]
        accepted += matching
    return accepted


def _impose(
    drafted: list[int], accepted: NDArray[np.int64], prompt: Sequence[int], length: float
) -> NDArray[np.int64]:
    """The positions at which decode steps begin if acceptance is imposed. Writes the imposed numbers into `accepted`."""
    visited, draws, position = [], imposed_draws(prompt), len(prompt)
    while position < len(drafted) - 1:
        visited.append(position)
        if drafted[position]:
            accepted[position] = min(drafted[position], imposed_acceptance(draws, length))
        position += int(accepted[position]) + 1
    return np.asarray(visited, dtype=np.int64)


def _step_positions(accepted: list[int], prompt_length: int, total: int) -> NDArray[np.int64]:
    """The positions at which decode steps begin."""
    visited = []
    # The context of the first decode step ends with the token that the prefill has emitted.
    position = prompt_length
    while position < total - 1:
        visited.append(position)
        position += accepted[position] + 1
    return np.asarray(visited, dtype=np.int64)
