"""n-gram prompt lookup over token ids, with the same drafts as each of vLLM's two model runners.

Of all suffixes of the context with a length from min_n to max_n, the longest one that also occurs earlier is used. An
occurrence may overlap the suffix. The draft consists of the tokens that follow it, up to k tokens and not beyond the end
of the context. The two model runners differ in two points:

- V1 takes the earliest occurrence. Without an occurrence it drafts nothing.
- V2 takes the rightmost one. It always drafts k tokens: empty places hold the last token of the context.

`NgramProposer` is used while a text grows, `speculate` for a text that is known completely and whose drafts are verified. This
module does not know requests, batches or time, or which runner serves a configuration (model_runner.py).
"""

import dataclasses
from collections.abc import Callable, Iterable, Sequence

import numpy as np
from numpy.typing import NDArray

from server.speculation import Ngram

BITS = 20  # bits of a token id in a packed n-gram; every supported vocabulary has fewer than 2**20 tokens


class NgramProposer:
    """The context of one request and an index of its n-grams. The cost of `extend` per token is independent of its length."""

    def __init__(self, ngram: Ngram, tokens: Iterable[int] = ()) -> None:
        self.ngram = ngram
        self.tokens: list[int] = []
        lengths = range(ngram.prompt_lookup_min, ngram.prompt_lookup_max + 1)
        # for each length: packed n-gram -> position after the occurrence that the runner takes
        self._ends: list[dict[int, int]] = [{} for _ in lengths]
        self._masks = [(1 << (BITS * n)) - 1 for n in lengths]
        self._packed = 0  # the last prompt_lookup_max tokens
        self.extend(tokens)

    def extend(self, tokens: Iterable[int]) -> None:
        """Append tokens to the context and add the n-grams that now lie before its end to the index."""
        packed, context = self._packed, self.tokens
        widest, shortest = self._masks[-1], self.ngram.prompt_lookup_min
        keep: Callable[[dict[int, int], int, int], object] = (
            dict.__setitem__ if self.ngram.v2_runner else dict.setdefault
        )
        lengths = tuple(zip(self._masks, self._ends, strict=True))
        for token in tokens:
            end = len(context)
            # A context shorter than n has no n-gram of that length; its zero padding must not be indexed.
            for mask, ends in lengths[: end - shortest + 1] if end >= shortest else ():
                keep(ends, packed & mask, end)
            context.append(token)
            packed = ((packed << BITS) | token) & widest
        self._packed = packed

    def propose(self) -> list[int]:
        """The draft for the current context, which holds at least one token."""
        k, draft = self.ngram.num_speculative_tokens, []
        available = len(self.tokens) - self.ngram.prompt_lookup_min
        for mask, ends in reversed(list(zip(self._masks, self._ends, strict=True))[: max(available, 0)]):
            start = ends.get(self._packed & mask)
            if start is not None:
                draft = self.tokens[start : start + k]
                break
        return draft + self.tokens[-1:] * (k - len(draft)) if self.ngram.v2_runner else draft


@dataclasses.dataclass(frozen=True, slots=True)
class Steps:
    """The decode steps of one known output, in order. The prefill step and its token are not included."""

    emitted: NDArray[np.int64]  # tokens per step
    drafted: NDArray[np.int64]
    accepted: NDArray[np.int64]
    matched: NDArray[np.int64]  # length of the matching suffix, 0 if none was found


def speculate(prompt: Sequence[int], output: Sequence[int], ngram: Ngram) -> Steps:
    """The decode steps of a completely known text; the same steps as with NgramProposer and verification."""
    tokens, k = np.asarray([*prompt, *output], dtype=np.int64), ngram.num_speculative_tokens
    starts, matched = _lookup(tokens, ngram)
    here = np.arange(len(tokens))
    found = np.where(matched > 0, np.minimum(k, here + 1 - starts), 0)
    drafted = np.full_like(found, k) if ngram.v2_runner else found
    accepted = _accepted(tokens, starts, found, drafted)
    visited = _step_positions(accepted.tolist(), len(prompt), len(tokens))
    left = len(tokens) - 1 - visited
    return Steps(
        emitted=np.minimum(accepted[visited] + 1, left),
        drafted=drafted[visited],
        accepted=accepted[visited],
        matched=matched[visited],
    )


def _lookup(tokens: NDArray[np.int64], ngram: Ngram) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """For a context that ends at each position: where the draft starts and the length of the suffix found (0: none)."""
    occurrence = _previous if ngram.v2_runner else _earliest
    total = len(tokens)
    starts, matched = np.zeros(total, dtype=np.int64), np.zeros(total, dtype=np.int64)
    # Ranks replace ids, and n-grams are ranked again after each extension, so that no packed value overflows 64 bits.
    ranks = np.unique(tokens, return_inverse=True)[1].astype(np.int64)
    grams = ranks
    for n in range(1, min(ngram.prompt_lookup_max, total) + 1):
        if n > 1:
            grams = np.unique(grams[:-1] * total + ranks[n - 1 :], return_inverse=True)[1].astype(np.int64)
        if n < ngram.prompt_lookup_min:
            continue
        places = occurrence(grams)
        found = np.flatnonzero(places < np.arange(len(grams)))
        starts[found + n - 1] = places[found] + n
        matched[found + n - 1] = n
    return starts, matched


def _earliest(grams: NDArray[np.int64]) -> NDArray[np.int64]:
    """For each position, where its n-gram occurs first; the position itself if it does not occur before."""
    return np.unique(grams, return_index=True)[1][grams]


def _previous(grams: NDArray[np.int64]) -> NDArray[np.int64]:
    """For each position, where its n-gram occurs last before it; the position itself if it does not occur before."""
    order, places = np.argsort(grams, kind="stable"), np.arange(len(grams))
    again = grams[order[1:]] == grams[order[:-1]]
    places[order[1:][again]] = order[:-1][again]
    return places


def _accepted(
    tokens: NDArray[np.int64], starts: NDArray[np.int64], found: NDArray[np.int64], drafted: NDArray[np.int64]
) -> NDArray[np.int64]:
    """For each position, how many tokens of its draft equal the text that follows.

    The first `found` tokens of a draft stand at `starts`; the others repeat the token at the position.
    """
    here = np.arange(len(tokens))
    accepted, matching = np.zeros(len(tokens), dtype=np.int64), np.ones(len(tokens), dtype=bool)
    for j in range(int(drafted.max(initial=0))):
        nxt = here + 1 + j
        matching &= (j < drafted) & (nxt < len(tokens))
        place = np.where(j < found, starts + j, here)[matching]
        matching[matching] = tokens[place] == tokens[nxt[matching]]
        accepted += matching
    return accepted


def _step_positions(accepted: list[int], prompt_length: int, total: int) -> NDArray[np.int64]:
    """The positions at which decode steps begin."""
    visited = []
    # The context of the first decode step ends with the token that the prefill has emitted.
    position = prompt_length
    while position < total - 1:
        visited.append(position)
        position += accepted[position] + 1
    return np.asarray(visited, dtype=np.int64)
