"""YAML files of other people: aliases, nesting and odd values are refused in one line, at once, and in little memory."""

from collections.abc import Callable
from pathlib import Path

import pytest
import yaml
from hypothesis import given
from hypothesis import strategies as st

from loadgen.cli import main as loadgen
from server.__main__ import main as server
from server.config import ConfigError, load_model, load_serving
from server.yaml_file import MAX_DEPTH, MAX_SIZE, YamlFileError, read_yaml
from tests import ROOT

LEVELS = 12
BOMB = "a0: &a0 [x, x, x, x, x, x, x, x, x]\n" + "".join(
    f"a{level}: &a{level} [{', '.join([f'*a{level - 1}'] * 9)}]\n" for level in range(1, LEVELS)
)
MERGE_BOMB = "a0: &a0 {x: 1}\n" + "".join(
    f"a{level}: &a{level} {{<<: [{', '.join([f'*a{level - 1}'] * 9)}]}}\n" for level in range(1, LEVELS)
)
LONG_TEXT = "a: &a " + "x" * 50_000 + "\nb: [" + "*a, " * 1_000 + "]\n"
BAD = {
    "bomb": (BOMB, "its aliases stand for more than"),
    "merge-bomb": (MERGE_BOMB, "its aliases stand for more than"),
    "long-text": (LONG_TEXT, "its aliases stand for more than"),
    "inside-itself": ("a: &a [*a]", "the alias *a stands inside its own value"),
    "deep-flow": ("a: " + "[" * 50_000, "nested more than"),
    "deep-mapping": ("a: " + "{a: " * 20_000, "nested more than"),
    "deep-block": ("- " * 50_000 + "a", "nested more than"),
    "large": ("a: " + "x" * MAX_SIZE, "is larger than"),
    "date": ("tensor-parallel-size: 2026-13-45", "cannot be read as YAML"),
    "digits": ("tensor-parallel-size: " + "9" * 5_000, "cannot be read as YAML"),
    "tag": ("tensor-parallel-size: !!bool maybe", "cannot be read as YAML"),
    "object": ("a: !!python/object/apply:os.getpid []", "cannot be read as YAML"),
    "no-utf-8": ("a: \udcff", "cannot be read as YAML"),
    "control": ("a: \x1b[2J", "cannot be read as YAML"),
}


@pytest.fixture
def own(tmp_path: Path) -> Path:
    return tmp_path / "own.yaml"


@pytest.mark.parametrize("kind", sorted(BAD))
def test_a_hostile_file_is_one_line_for_every_reader(own: Path, kind: str) -> None:
    text, says = BAD[kind]
    own.write_bytes(text.encode(errors="surrogateescape"))
    for read in (load_serving, load_model):
        with pytest.raises(ConfigError) as error:
            read(str(own))
        message = str(error.value)
        assert message.startswith(f"{own}: ")
        assert says in message
        assert message.isprintable()
        assert len(message) < 1_000


@pytest.mark.parametrize("kind", ["bomb", "deep-flow", "digits"])
@pytest.mark.parametrize(
    "command",
    [
        (loadgen, "sweep", "--plan", "{}"),
        (server, "emulate", "{}", "--model", "r1-distill-qwen-1.5b"),
        (server, "emulate", "tp1", "--model", "{}"),
    ],
    ids=["plan", "configuration", "preset"],
)
def test_a_command_ends_with_one_line(
    own: Path,
    kind: str,
    command: tuple[Callable[[list[str]], int], *tuple[str, ...]],
    capsys: pytest.CaptureFixture[str],
) -> None:
    own.write_text(BAD[kind][0])
    program, *words = command
    assert program([word.format(own) for word in words]) == 2
    said = capsys.readouterr().err
    assert len(said.splitlines()) == 1
    assert str(own) in said
    assert BAD[kind][1] in said


def test_aliases_and_nesting_within_the_limits_are_read(own: Path) -> None:
    own.write_text("common: &common {a: 1}\nb: {<<: *common, c: 2}\nd: [*common, *common]\n")
    assert read_yaml(own) == {"common": {"a": 1}, "b": {"a": 1, "c": 2}, "d": [{"a": 1}, {"a": 1}]}
    own.write_text("[" * MAX_DEPTH + "]" * MAX_DEPTH)
    assert isinstance(read_yaml(own), list)


@given(st.recursive(st.text("ab&*<:[]{}\n ") | st.integers() | st.dates(), st.lists, max_leaves=8))
def test_what_pyyaml_writes_is_read_back(tmp_path_factory: pytest.TempPathFactory, value: object) -> None:
    path = tmp_path_factory.mktemp("yaml") / "own.yaml"
    shared = {"first": value, "second": [value, value]}  # written with aliases
    path.write_text(yaml.safe_dump(shared))
    assert read_yaml(path) == shared


@given(st.text("&*ab:[]{}-!<>|,'\"# \n", max_size=40))
def test_any_text_is_a_value_or_one_line(tmp_path_factory: pytest.TempPathFactory, text: str) -> None:
    path = tmp_path_factory.mktemp("yaml") / "own.yaml"
    path.write_text(text)
    try:
        content = read_yaml(path)
    except YamlFileError as error:
        message = str(error)
    else:
        message = ""
        assert content == yaml.safe_load(text)
    assert message.isprintable()


@pytest.mark.parametrize(
    "line",
    [
        "data-parallel-size: [1]",
        "speculative-config: {method: [ngram]}",
        "max-model-len: " + "9" * 400 + "k",
        "max-model-len: ²k",
        '"\\e[2J": 1',
        "speculative-config: '" + "[" * 5_000 + "'",
    ],
)
def test_an_odd_value_in_a_configuration_is_one_line(own: Path, line: str) -> None:
    own.write_text(line)
    with pytest.raises(ConfigError) as error:
        load_serving(str(own))
    assert str(error.value).isprintable()


@pytest.mark.parametrize("change", [("dtype: bfloat16", "dtype: [bfloat16]"), ("heads: 12", "heads: 0")])
def test_an_odd_value_in_a_preset_is_one_line(own: Path, change: tuple[str, str]) -> None:
    preset = (ROOT / "server" / "models" / "r1-distill-qwen-1.5b.yaml").read_text()
    assert change[0] in preset
    own.write_text(preset.replace(*change))
    with pytest.raises(ConfigError):
        load_model(str(own))
