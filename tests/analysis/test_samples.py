"""Majority vote and pass@k, compared to results calculated by hand."""

import numpy as np
import pandas as pd
import pytest

from analysis.tables.repeated_sampling import _votes, majority, pass_at_k


@pytest.mark.parametrize(
    ("votes", "right"),
    [
        ([0, 0, 5], 1),  # two correct answers and one wrong answer
        ([5, 5, 0], 0),
        ([0, 5], 1),  # in a tie the first candidate wins
        ([5, 0], 0),
        ([-1, -1, 0], 1),  # an output without an answer does not vote
        ([-1, -1, -1], 0),
        ([5, 6, 0, 0], 1),  # different wrong answers do not add up
    ],
)
def test_majority(votes: list[float], right: int) -> None:
    """Correct answers are one candidate, and different wrong answers are different candidates."""
    assert majority(np.array([votes], dtype=float)).tolist() == [right]


def test_pass_at_k_is_unbiased() -> None:
    """If 1 of 4 samples is correct, a draw of 2 contains it in half of the cases; if none is correct, never."""
    assert pass_at_k(4, np.array([1.0, 0.0, 4.0]), 2).tolist() == [0.5, 0.0, 1.0]
    assert pass_at_k(4, np.array([1.0]), 1).tolist() == [0.25]


def test_a_wrong_answer_in_two_notations_is_one_candidate() -> None:
    """The vote of a correct answer is 0, and that of an output without an answer is -1."""
    group = pd.DataFrame(
        {"answer": ["5", r"\frac{1}{2}", r"\dfrac{1}{2}.", "x=3", None], "correct": [1, 0, 0, 0, 0]}
    )
    votes = _votes(group).tolist()
    assert (votes[0], votes[1] == votes[2], votes[4]) == (0, True, -1)
    assert len(set(votes)) == 4
