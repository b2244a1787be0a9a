"""Suffix decoding over token ids, as in Snowflake's ArcticInference, which vLLM calls (csrc/suffix_decoding/suffix_tree.cc).

For each length m, the last m tokens of the context are looked up in the context itself. The draft follows the most frequent
next token from there, as long as its estimated probability is at least min_token_prob, for at most m × max_spec_factor tokens.
Of the drafts for all m, the one with the largest sum of probabilities is taken, and the longest match among equals. Between
equally frequent tokens the one that occurred first is taken, where the original takes any.

Rules: the context is that of one request (max_cached_requests 0). A draft and the match before it together have at most
max_tree_depth tokens. This module does not know requests, batches or time.
"""

from collections import defaultdict
from collections.abc import Iterable, Iterator

from server.speculation import Suffix


class SuffixProposer:
    """The context of one request, and where each token occurs in it."""

    def __init__(self, settings: Suffix, tokens: Iterable[int] = ()) -> None:
        self.settings = settings
        self.tokens: list[int] = []
        self._after: defaultdict[int, list[int]] = defaultdict(list)
        """For each token, the positions that follow its occurrences."""
        self.extend(tokens)

    def extend(self, tokens: Iterable[int]) -> None:
        """Append tokens to the context."""
        for token in tokens:
            self.tokens.append(token)
            self._after[token].append(len(self.tokens))

    def propose(self) -> list[int]:
        """The draft for the current context, which holds at least one token."""
        best, best_matched, best_score = list[int](), 0, 0.0
        # Probabilities are at most 1, so that a draft that may be longer than the best score is worth a look.
        for longest, matched, ends in sorted(self._matches(), reverse=True):
            if longest < best_score:
                break
            draft, score = self._path(ends, longest)
            if (score, matched) > (best_score, best_matched):
                best, best_matched, best_score = draft, matched, score
        return best

    def _matches(self) -> Iterator[tuple[int, int, list[int]]]:
        """For each length of a match: the longest draft that it allows, the length, and where the occurrences end."""
        settings, tokens, end = self.settings, self.tokens, len(self.tokens)
        depth = settings.suffix_decoding_max_tree_depth
        ends = self._after[tokens[-1]]
        for matched in range(1, min(end, depth)):
            if matched > 1:
                wanted = tokens[end - matched]
                ends = [place for place in ends if place >= matched and tokens[place - matched] == wanted]
            if len(ends) < 2:  # only the end of the context itself
                return
            longest = int(matched * settings.suffix_decoding_max_spec_factor + 1e-6)
            yield min(settings.num_speculative_tokens, longest, depth - matched), matched, ends

    def _path(self, ends: list[int], longest: int) -> tuple[list[int], float]:
        """The most frequent continuation of the occurrences that end at `ends`, and the sum of its probabilities."""
        draft: list[int] = []
        probability, score = 1.0, 0.0
        while len(draft) < longest:
            following: defaultdict[int, list[int]] = defaultdict(list)
            for place in ends:
                if place < len(self.tokens):
                    following[self.tokens[place]].append(place + 1)
            if not following:
                break
            token, chosen = max(following.items(), key=lambda item: len(item[1]))
            probability *= len(chosen) / len(ends)
            if probability < self.settings.suffix_decoding_min_token_prob:
                break
            draft.append(token)
            score += probability
            ends = chosen
        return draft, score
