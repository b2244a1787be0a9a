"""A small run of `tests.fuzz.streams`, and what it says of answers that are not damaged."""

import json
import subprocess
import sys

from tests import ROOT
from tests.fuzz.mutated_answers import Answer, answer


def test_no_damaged_answer_is_valid_and_wrong() -> None:
    """Six hundred answers through the whole client: each one is a record, and most of the unchanged ones are VALID."""
    command = [sys.executable, "-m", "tests.fuzz.streams", "--answers", "600", "--seed", "5"]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=240, check=False)
    found = json.loads(done.stdout.splitlines()[-1])
    assert done.returncode == 0, done.stdout + done.stderr
    assert found["records"] == found["answers"] == 600
    assert found["unchanged_and_valid"] > found["unchanged"] / 2 > 20


def test_what_is_true_of_unchanged_answers() -> None:
    """Text comes first at 120 ms and then every 60 ms; the same index gives the same answer."""
    unchanged = [a for a in (answer(3, index) for index in range(200)) if not a.mutations]
    assert len(unchanged) > 20
    for found in unchanged:
        assert found.first_ms == {120}
        assert len(found.last_ms) == len(found.tokens) == 1
        assert b"".join(data for _, data in found.writes).endswith(b"data: [DONE]\n\n")
    assert answer(3, 7) == answer(3, 7)
    assert answer(3, 7) != answer(4, 7)


def test_every_mutation_changes_some_answers() -> None:
    """The check would be empty if a mutation never took place."""
    found: list[Answer] = [answer(3, index) for index in range(400)]
    names = {name for a in found for name in a.mutations}
    assert names == {"type", "number", "swap", "lose", "repeat", "byte", "cut"}
    assert {a.cut for a in found} == {True, False}
