"""Which loads a search tests, with servers whose decisions are known."""

from collections.abc import Callable

import pytest
from hypothesis import given
from hypothesis import strategies as st

from loadgen.search.bracket import RATIO, Bracket, Over, Step, crossing
from loadgen.search.decision import Decision

Judge = Callable[[float], Decision]


def found(judge: Judge, over: Over = "streams", first: float = 1, last: float = 256) -> Bracket:
    """Search with a server that `judge` describes. A share of 1 or 0 stands for a pass or a fail."""
    bracket = Bracket(over, first, last, 0.95)
    for _ in range(200):
        step = bracket.next()
        if step is None:
            return bracket
        decision = judge(step.load)
        bracket.add(step, decision, {"pass": 1.0, "fail": 0.0, "undecided": 0.95}[decision], 100)
    raise AssertionError("the search does not end")


def up_to(limit: float) -> Judge:
    return lambda load: "pass" if load <= limit else "fail"


@given(st.integers(1, 255))
def test_streams_are_found_exactly(limit: int) -> None:
    bracket = found(up_to(limit))
    assert (bracket.passed, bracket.failed, bracket.stopped()) == (limit, limit + 1, "resolved")
    assert bracket.best() == limit
    assert bracket.repeated == {limit, limit + 1}


@given(st.floats(0.2, 250))
def test_rates_are_found_within_five_percent(limit: float) -> None:
    bracket = found(up_to(limit), "rate", 0.1)
    assert bracket.passed is not None
    assert bracket.failed is not None
    assert bracket.passed <= limit < bracket.failed <= bracket.passed * RATIO * 1.01


def test_the_order_of_the_tests() -> None:
    """Doubling to 8, bisection between 4 and 8, and both ends again with new requests."""
    tested: list[float] = []

    def judge(load: float) -> Decision:
        tested.append(load)
        return "pass" if load <= 5 else "fail"

    found(judge)
    assert tested == [1, 2, 4, 8, 6, 5, 5, 6]


def test_loads_that_only_look_good_are_decided_where_they_become_an_end() -> None:
    """Brief tests of 1, 2 and 4 decide nothing; after 8, 6 and 5 have failed, 4 is tested thoroughly."""
    bracket, thorough = Bracket("streams", 1, 64, 0.95), []
    while (step := bracket.next()) is not None:
        good: Decision = "pass" if step.thorough else "undecided"
        bracket.add(step, good if step.load <= 4 else "fail", 1.0 if step.load <= 4 else 0.0, 100)
        thorough += [step.load] if step.thorough else []
    assert thorough == [6, 5, 4, 4, 5]
    assert bracket.passed == 4


def test_a_server_that_never_fails_and_one_that_fails_at_once() -> None:
    never = found(up_to(1000))
    assert (never.passed, never.failed, never.stopped(), never.best()) == (256, None, "never failed", 256)
    at_once = found(up_to(0))
    assert at_once.stopped() == "failed at the lowest load"
    assert at_once.best() is None


def test_a_server_that_was_faster_for_a_while_is_tested_again() -> None:
    """The first ten tests pass up to 100 streams; later only 12 do."""
    count = 0

    def judge(load: float) -> Decision:
        nonlocal count
        count += 1
        return "pass" if load <= (100 if count <= 10 else 12) else "fail"

    bracket = found(judge)
    assert (bracket.passed, bracket.failed) == (12, 13)


def test_a_server_that_was_cold_at_first_is_not_given_up() -> None:
    """The first test fails; its repetition passes."""
    count = 0

    def judge(load: float) -> Decision:
        nonlocal count
        count += 1
        return "pass" if load <= (20 if count > 1 else 0) else "fail"

    bracket = found(judge)
    assert (bracket.passed, bracket.failed, bracket.stopped()) == (20, 21, "resolved")


def test_both_sides_of_an_undecided_load_are_tested() -> None:
    """Loads from 10 to 14 stay undecided: the certain result is from 9 to 15, and the estimate is between them."""
    bracket = found(lambda load: "pass" if load < 10 else "undecided" if load < 15 else "fail")
    assert (bracket.passed, bracket.failed, bracket.stopped()) == (9, 15, "undecided")
    assert 9 <= (bracket.best() or 0) < 15


@given(st.data(), st.sampled_from(["streams", "rate"]))
def test_every_search_ends_with_a_bracket(data: st.DataObject, over: Over) -> None:
    """Whatever the tests say, also where they contradict each other."""
    decisions: st.SearchStrategy[Decision] = st.sampled_from(["pass", "fail", "undecided"])
    bracket = found(lambda _load: data.draw(decisions), over, 1, data.draw(st.sampled_from([1, 2, 64])))
    passed, failed, best = bracket.passed, bracket.failed, bracket.best()
    assert passed is None or failed is None or passed < failed
    assert (best is None) == (passed is None)
    if passed is not None:
        assert passed <= (best or 0.0)
    if failed is not None and best is not None:
        assert best < failed


def test_a_repetition_that_stays_undecided_undoes_only_what_it_speaks_against() -> None:
    bracket = Bracket("streams", 1, 8, 0.95, {4: "pass", 5: "fail"})
    bracket.add(Step(4, fresh=True), "undecided", 0.96, 100)
    bracket.add(Step(5, fresh=True), "undecided", 0.96, 100)
    assert bracket.decisions == {4: "pass", 5: "undecided"}


def test_where_a_line_through_the_misses_crosses_the_share() -> None:
    """Misses of 1 % at 1 and of 4 % at 3: their logarithm is a line, which is 2 % at 2. The half miss is negligible here."""
    shares = {1.0: (0.99, 10**7), 3.0: (0.96, 10**7)}
    assert crossing(shares, 0.98) == pytest.approx(2.0, rel=1e-4)
    assert crossing(shares | {9.0: (0.0, 10**7)}, 0.98) == pytest.approx(2.0, rel=1e-4)
    assert crossing({1.0: (0.9, 100), 3.0: (0.99, 100)}, 0.95) is None
    assert crossing({1.0: (0.96, 100), 3.0: (0.5, 100)}, 0.95) is None
