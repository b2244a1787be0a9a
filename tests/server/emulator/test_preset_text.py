"""Whatever the `text` section of a model preset holds, it gives outputs or one line that names the wrong key."""

import math
from pathlib import Path
from typing import Any

import pytest
import yaml
from hypothesis import given
from hypothesis import strategies as st

from server.__main__ import main
from server.config import ConfigError
from server.emulator.text.outcome import GREEDY, TextStatistics, outline
from server.emulator.text.problems import KnownProblem
from tests import ROOT

PROBLEMS = [KnownProblem(f"p{level}", "1 + 3?", "4", "4", level) for level in (1, 5)]
LEVELS = dict.fromkeys(range(1, 6), 0.5)


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ({"wrong_longer": "x"}, "wrong_longer"),
        ({"wrong_longer": -1}, "wrong_longer"),
        ({"answer_tokens": True}, "answer_tokens"),
        ({"answer_tokens": 100_000}, "answer_tokens: must be fewer"),
        ({"spread": math.nan}, "spread"),
        ({"loops_right": 2}, "loops_right"),
        ({"length_mu": LEVELS | {3: 1000}}, "length_mu"),
        ({"accuracy": LEVELS | {3: "half"}}, "accuracy"),
        ({"accuracy": LEVELS | {3: 1e-300}}, "accuracy"),
        ({"accuracy": LEVELS | {"3rd": 0.5}}, "accuracy: must have a value for each level"),
        ({"forced": {"early": 0.5}}, "forced"),
        ({"forced": [0.5]}, "forced"),
        ({"detours": {"Wait": "often"}}, "detours"),
        ([1], "text: must be a mapping"),
        ({7: 1, "a": 1}, "unknown key 7, a"),
    ],
    ids=str,
)
def test_a_value_that_cannot_be_used_is_one_line(text: Any, says: str) -> None:
    with pytest.raises(ConfigError) as refused:
        TextStatistics.of({"id": "m", "text": text})
    assert str(refused.value).startswith("m: text: ")
    assert says in str(refused.value)
    assert str(refused.value).isprintable()


NUMBERS = st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=3)
LEVEL_VALUES = st.fixed_dictionaries(dict.fromkeys(range(1, 6), st.floats(0, 20)))
VALUES = NUMBERS | LEVEL_VALUES | st.dictionaries(st.integers(0, 9000), st.floats(0, 1), max_size=4)
KEYS = sorted(TextStatistics.__dataclass_fields__)


@given(st.dictionaries(st.sampled_from(KEYS), VALUES, max_size=4))
def test_every_section_is_refused_or_gives_outputs(text: dict[str, Any]) -> None:
    try:
        statistics = TextStatistics.of({"id": "m", "text": text})
    except ConfigError:
        return
    for problem in PROBLEMS:
        for sample in (GREEDY, "1"):
            assert outline("m", statistics, problem, sample).thinking_tokens >= 60


def test_the_command_refuses_it_before_it_starts(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    preset = yaml.safe_load((ROOT / "server" / "models" / "r1-distill-qwen-1.5b.yaml").read_text())
    preset["text"]["wrong_longer"] = "x"
    path = tmp_path / "damaged.yaml"
    path.write_text(yaml.safe_dump(preset))
    assert main(["emulate", "tp1", "--model", str(path), "--port", "0"]) == 2
    message = capsys.readouterr().err
    assert "wrong_longer" in message
    assert message.count("\n") == 1
