"""n-gram prompt lookup over token ids, with the same drafts as each of vLLM's two model runners.

Of all suffixes of the context with a length from min_n to max_n, the longest one that also occurs earlier is used. An
occurrence may overlap the suffix. The draft consists of the tokens that follow it, up to k tokens and not beyond the end
of the context. The two model runners differ in two points:

- V1 takes the earliest occurrence. Without an occurrence it drafts nothing.
- V2 takes the rightmost one. It always drafts k tokens: empty places hold the last token of the context.

This module does not know requests, batches or time, whether drafts are accepted (drafts.py), or which runner serves a
configuration (model_runner.py).
"""

from collections.abc import Callable, Iterable

from server.speculation import Ngram

BITS = 20  # bits of a token in a packed n-gram; every supported vocabulary has fewer than 2**20 - 1 tokens


class NgramProposer:
    """The context of one request and an index of its n-grams. The cost of `extend` per token is independent of its length."""

    def __init__(self, ngram: Ngram, tokens: Iterable[int] = ()) -> None:
        self.ngram = ngram
        self.tokens: list[int] = []
        lengths = range(ngram.prompt_lookup_max, ngram.prompt_lookup_min - 1, -1)
        self._lengths = [(n, (1 << (BITS * n)) - 1, dict[int, int]()) for n in lengths]
        """Each length, longest first: its mask, and packed n-gram -> position after the occurrence that the runner takes."""
        self._packed = 0  # the last prompt_lookup_max tokens
        self.matched = 0
        """Length of the suffix that the last draft continues, 0 if none was found."""
        self.extend(tokens)

    def extend(self, tokens: Iterable[int]) -> None:
        """Append tokens to the context and add the n-grams that now lie before its end to the index."""
        packed, widest = self._packed, self._lengths[0][1]
        keep: Callable[[dict[int, int], int, int], object] = (
            dict.__setitem__ if self.ngram.v2_runner else dict.setdefault
        )
        for end, token in enumerate(tokens, len(self.tokens)):
            for _, mask, ends in self._lengths:
                keep(ends, packed & mask, end)
            # An n-gram that begins before the context has zeros there, so no token may be packed as zero.
            packed = ((packed << BITS) | (token + 1)) & widest
            self.tokens.append(token)
        self._packed = packed

    def propose(self) -> list[int]:
        """The draft for the current context, which holds at least one token."""
        k, draft, self.matched = self.ngram.num_speculative_tokens, [], 0
        for n, mask, ends in self._lengths:
            start = ends.get(self._packed & mask)
            if start is not None:
                draft, self.matched = self.tokens[start : start + k], n
                break
        return draft + self.tokens[-1:] * (k - len(draft)) if self.ngram.v2_runner else draft
