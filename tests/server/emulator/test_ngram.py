"""n-gram lookup: the proposer and the steps of a text against their definition."""

from collections.abc import Sequence

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from server.emulator.engine.drafts import Drafts, steps_of
from server.emulator.engine.ngram import NgramProposer
from server.emulator.engine.sequence import TokenSequence
from server.speculation import Ngram, of_length

tokens = st.lists(st.integers(0, 3), max_size=60)
settings = st.builds(
    lambda k, low, more, v2: Ngram(k, low, low + more, v2_runner=v2),
    st.integers(1, 6),
    st.integers(1, 3),
    st.integers(0, 3),
    st.booleans(),
)
V1, V2 = Ngram(5, 1, 4), Ngram(5, 1, 4, v2_runner=True)


def by_definition(context: Sequence[int], ngram: Ngram) -> list[int]:
    """The draft of either model runner, computed directly from its definition."""
    k, draft = ngram.num_speculative_tokens, []
    for n in range(ngram.prompt_lookup_max, ngram.prompt_lookup_min - 1, -1):
        suffix = list(context[len(context) - n :])
        starts = [at for at in range(len(context) - n) if list(context[at : at + n]) == suffix]
        if starts:
            start = (max(starts) if ngram.v2_runner else min(starts)) + n
            draft = list(context[start : start + k])
            break
    return draft + [context[-1]] * (k - len(draft)) if ngram.v2_runner and context else draft


@given(tokens, settings)
def test_a_draft_is_the_one_of_the_definition(context: list[int], ngram: Ngram) -> None:
    assert NgramProposer(ngram, context).propose() == by_definition(context, ngram)


@given(tokens, tokens, settings)
def test_a_context_grown_in_pieces_is_the_context_given_whole(
    first: list[int], second: list[int], ngram: Ngram
) -> None:
    proposer = NgramProposer(ngram, first)
    proposer.propose()
    proposer.extend(second)
    assert proposer.propose() == NgramProposer(ngram, first + second).propose()


def test_the_runners_take_different_occurrences() -> None:
    """The suffix `1 2` occurs twice: V1 drafts what followed the first time, V2 what followed the second time."""
    context = [1, 2, 3, 8, 1, 2, 4, 9, 1, 2]
    assert NgramProposer(V1, context).propose() == [3, 8, 1, 2, 4]
    assert NgramProposer(V2, context).propose() == [4, 9, 1, 2, 2]


def test_only_the_v2_runner_drafts_without_a_match() -> None:
    assert NgramProposer(V1, [1, 2, 3]).propose() == []
    assert NgramProposer(V2, [1, 2, 3]).propose() == [3] * 5


def test_a_single_token_repeated_drafts_only_what_the_context_holds() -> None:
    """As in vLLM's V1 runner, a draft does not go beyond the context: after `a a` it has one token, not k."""
    assert NgramProposer(V1, [7, 7]).propose() == [7]
    assert NgramProposer(V1, [7] * 6).propose() == [7, 7]


@given(st.lists(st.integers(0, 3), min_size=1, max_size=12), tokens, settings)
def test_the_steps_of_a_text_are_those_of_the_definition(prompt: list[int], output: list[int], ngram: Ngram) -> None:
    """The numbers of drafted and accepted tokens agree at every step, also at the end of the prompt."""
    at, steps = 1, []
    while at < len(output):
        draft, accepted = by_definition(prompt + output[:at], ngram), 0
        while accepted < len(draft) and output[at + accepted : at + accepted + 1] == [draft[accepted]]:
            accepted += 1
        steps.append((len(draft), accepted))
        at += accepted + 1
    assert list(zip(*steps_of(prompt, output, ngram), strict=True)) == steps


def grown(prompt: list[int], output: list[int], ngram: Ngram) -> Drafts:
    """The drafts of a text whose end is not known in advance."""
    sequence = TokenSequence(ids=prompt + output, prompt=len(prompt), end=len(output))
    sequence.emitted, sequence.grow = 1, lambda _tokens: None
    return Drafts(ngram, sequence)


def test_an_imposed_acceptance_does_not_depend_on_the_text() -> None:
    """Text that repeats itself has a draft in every step. Steps emit 1.75 tokens on average, and differ by at most one.

    Requests of one length do not end at the same step, as they would if each accepted the same numbers.
    """
    output, imposed = [1, 2, 3] * 100, Ngram(5, 1, 4, acceptance=of_length(1.75, 5))
    drafted, accepted = steps_of([1, 2, 3, 1, 2, 3], output, imposed)
    assert set(accepted[:-1]) == {0, 1}
    assert np.mean(accepted) + 1 == pytest.approx(1.75, rel=0.05)
    ends = {len(steps_of([n, 1, 2, 3], output, imposed)[0]) for n in range(9)}
    assert len(ends) > 4
    drafts = grown([1, 2, 3, 1, 2, 3], output, imposed)
    first = drafts.ahead(100)
    assert first[0].tolist() == drafted[:100]
    assert first[1].tolist() == accepted[:100]


def test_large_token_ids_do_not_collide() -> None:
    """Ids near the end of a large vocabulary are packed without overlap."""
    a, b = 151_935, 151_934
    context = [a, b, a, 5, b, a, b]
    assert NgramProposer(V1, context).propose() == by_definition(context, V1)
