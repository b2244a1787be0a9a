"""The fuzz test of control endpoints finds what it looks for, and a small part of it passes (real sockets and processes)."""

import json
import random
from pathlib import Path

import pytest

from tests.fixtures.hostile_control import HEALTHY, SLOW, Case, ControlServer, damaged_case
from tests.fuzz.control import HANG_S, MEMORY_MB, Outcome, Worker, fuzz, problem, serving, words

RESULT, REFUSAL = '{"worst": "good"}\n', "loadgen: no server at http://x: start one\n"
CASES = 40


def test_results_and_refusals_in_one_line_are_right() -> None:
    assert problem(Outcome(0, RESULT, "GOOD    server\n", 1.0, 50.0), 0.5) is None
    assert problem(Outcome(2, "", REFUSAL, 1.0, 50.0), 0.5) is None


@pytest.mark.parametrize(
    "outcome",
    [
        Outcome(None, "", "", 30.0, 0.0),
        Outcome(1, "", "Traceback (most recent call last):\n  …\nKeyError: 1\n", 1.0, 50.0),
        Outcome(0, RESULT, "GOOD    \x1b[2J\n", 1.0, 50.0),
        Outcome(0, RESULT, "", HANG_S + 1.0, 50.0),
        Outcome(0, RESULT, "", 1.0, MEMORY_MB + 1.0),
        Outcome(2, "", REFUSAL + "loadgen: VALID\n", 1.0, 50.0),
        Outcome(2, "", "", 1.0, 50.0),
        Outcome(0, "", "", 1.0, 50.0),
        Outcome(-11, "", "", 1.0, 50.0),
    ],
    ids=["killed", "traceback", "control", "slow", "large", "two-lines", "no-line", "no-result", "signal"],
)
def test_everything_else_is_a_problem(outcome: Outcome) -> None:
    assert problem(outcome, 0.5)


def test_a_seed_gives_the_same_cases_and_all_kinds_of_them() -> None:
    endpoints, commands, damages = set(), set(), set()
    for n in range(200):  # one after the other, because some have 40 MB
        case = damaged_case(random.Random(f"1/{n}"), n)
        assert case == damaged_case(random.Random(f"1/{n}"), n)
        endpoints.add(case.endpoint)
        commands.add(case.command)
        damages.add(case.damage)
    assert endpoints == set(HEALTHY)
    assert commands == {"doctor", "run"}
    assert damages & set(SLOW)


@pytest.mark.timeout(300)
def test_damaged_control_answers_never_end_a_command() -> None:
    """`python -m tests.fuzz.control` runs 2,000 cases. How long they take is judged there, and not on a busy test machine."""
    found, asked = fuzz(CASES, seed=4, processes=2)
    assert asked == CASES
    wrong = {case.number: (case, what) for case, outcome, what in found if what and not what.startswith("took")}
    assert wrong == {}


@pytest.mark.parametrize("damage", ["trickle", "trickle-head", "silent", "no-answer"])
def test_a_late_answer_to_the_probe_of_native_budgets_refuses_no_server(damage: str, tmp_path: Path) -> None:
    """A slow server may keep the budget. The command says what it does not know, and measures."""
    case = Case(0, "run", "probe", damage, json.dumps(HEALTHY["probe"]).encode(), 0)
    server, worker = ControlServer(), Worker()
    server.cases[0] = case
    try:
        with serving(server):
            outcome = worker.run(words(case, server.target(case), tmp_path / "run"))
    finally:
        worker.close()
    assert outcome.code in (0, 1), outcome.stderr
    assert "warning: --budget-mode native: the probe of 48 tokens has no answer" in outcome.stderr
    assert json.loads(outcome.stdout.splitlines()[-1])["outcomes"] == {"ok": 2}
