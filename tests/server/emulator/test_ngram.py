"""n-gram lookup: the proposer against its definition, and `speculate` against the proposer."""

from collections.abc import Sequence

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from server.config import Ngram
from server.emulator.engine.ngram import NgramProposer, speculate
from server.emulator.engine.sequence import Drafts, TokenSequence

tokens = st.lists(st.integers(0, 3), max_size=60)
bounds = st.tuples(st.integers(1, 3), st.integers(0, 3)).map(lambda pair: (pair[0], pair[0] + pair[1]))
drafts = st.integers(1, 6)


def by_definition(context: Sequence[int], k: int, min_n: int, max_n: int) -> list[int]:
    """The draft after the earliest occurrence of the longest matching suffix, computed directly."""
    for n in range(max_n, min_n - 1, -1):
        suffix = list(context[len(context) - n :])
        for start in range(len(context) - n):
            if len(suffix) == n and list(context[start : start + n]) == suffix:
                return list(context[start + n : start + n + k])
    return []


@given(tokens, drafts, bounds)
def test_a_draft_is_what_followed_the_earliest_longest_match(
    context: list[int], k: int, n: tuple[int, int]
) -> None:
    assert NgramProposer(k, *n, context).propose() == by_definition(context, k, *n)


@given(tokens, tokens, drafts, bounds)
def test_a_context_grown_in_pieces_is_the_context_given_whole(
    first: list[int], second: list[int], k: int, n: tuple[int, int]
) -> None:
    proposer = NgramProposer(k, *n, first)
    proposer.propose()
    proposer.extend(second)
    assert proposer.propose() == NgramProposer(k, *n, first + second).propose()


def test_a_draft_stops_where_the_model_s_length_does() -> None:
    proposer = NgramProposer(5, 1, 4, [1, 2, 3, 4, 5, 6, 1])
    assert proposer.propose(limit=2) == [2, 3]
    assert proposer.propose(limit=0) == []
    assert proposer.propose(limit=-3) == []


def test_a_single_token_repeated_drafts_only_what_the_context_holds() -> None:
    """As in vLLM, a draft does not go beyond the context: after `a a` it has one token, not k."""
    assert NgramProposer(5, 1, 4, [7, 7]).propose() == [7]
    assert NgramProposer(5, 1, 4, [7] * 6).propose() == [7, 7]


@given(st.lists(st.integers(0, 3), min_size=1, max_size=12), tokens, drafts, bounds)
def test_speculate_takes_the_same_steps_as_the_proposer(
    prompt: list[int], output: list[int], k: int, n: tuple[int, int]
) -> None:
    """The numbers of emitted, drafted and accepted tokens agree at every step, also at the end of the prompt."""
    proposer = NgramProposer(k, *n, prompt + output[:1])
    at, steps = 1, []
    while at < len(output):
        draft = proposer.propose()
        accepted = 0
        while accepted < len(draft) and output[at + accepted : at + accepted + 1] == [draft[accepted]]:
            accepted += 1
        emitted = output[at : at + accepted + 1]
        steps.append((len(emitted), len(draft), accepted))
        proposer.extend(emitted)
        at += len(emitted)
    batch = speculate(prompt, output, k, *n)
    assert list(zip(batch.emitted, batch.drafted, batch.accepted, strict=True)) == steps
    assert sum(batch.emitted) == max(0, len(output) - 1)


def grown(prompt: list[int], output: list[int], ngram: Ngram) -> Drafts:
    """The drafts of a text whose end is not known in advance."""
    sequence = TokenSequence(ids=prompt + output, prompt=len(prompt), end=len(output))
    sequence.emitted, sequence.grow = 1, lambda _tokens: None
    return Drafts(ngram, sequence)


def test_an_imposed_acceptance_does_not_depend_on_the_text() -> None:
    """Text that repeats itself has a draft in every step. Steps emit 1.75 tokens on average, and differ by at most one.

    Requests of one length do not end at the same step, as they would if each accepted the same numbers.
    """
    output = [1, 2, 3] * 100
    steps = speculate([1, 2, 3, 1, 2, 3], output, 5, 1, 4, imposed_length=1.75)
    assert set(steps.accepted[:-1].tolist()) == {0, 1}
    assert np.mean(steps.emitted) == pytest.approx(1.75, rel=0.05)
    ends = {len(speculate([n, 1, 2, 3], output, 5, 1, 4, imposed_length=1.75).emitted) for n in range(9)}
    assert len(ends) > 4
    assert sum(steps.emitted) == len(output) - 1
    drafts = grown([1, 2, 3, 1, 2, 3], output, Ngram(5, 1, 4, 1.75))
    drafted, accepted = drafts.ahead(100)
    assert accepted.tolist() == steps.accepted[:100].tolist()
    assert drafted.tolist() == steps.drafted[:100].tolist()


def test_large_token_ids_do_not_collide() -> None:
    """Ids near the end of a large vocabulary are packed without overlap."""
    a, b = 151_935, 151_934
    context = [a, b, a, 5, b, a, b]
    assert NgramProposer(3, 1, 4, context).propose() == by_definition(context, 3, 1, 4)
