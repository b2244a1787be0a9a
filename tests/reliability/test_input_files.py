"""Files that people write or download: an alias bomb, a deep nesting or a wrong text is one line."""

import json
from pathlib import Path

import pytest
import yaml
from hypothesis import given
from hypothesis import strategies as st

from analysis.__main__ import main as analysis
from loadgen.cli import main as loadgen
from loadgen.errors import UsageError
from loadgen.options import RunOptions
from loadgen.plan import datasets
from server.config import ConfigError, read_preset
from server.yaml_file import read_yaml

BOMB = "a0: &a0 [xxxxxxxxxx]\n" + "".join(f"a{n}: &a{n} [{', '.join([f'*a{n - 1}'] * 10)}]\n" for n in range(1, 12))
YAML = {
    "alias bomb": BOMB,
    "long text repeated": f"a: &a {'x' * 100_000}\nconfigs: [{', '.join(['*a'] * 1000)}]\n",
    "alias to itself": "configs: &a [*a]\n",
    "deep": "configs: " + "[" * 10_000 + "]" * 10_000,
    "deep mapping": "".join(f"{' ' * n}a:\n" for n in range(500)),
    "large": "x" * (2 << 20),
    "long number": f"repeats: {'9' * 5000}\n",
    "not UTF-8": "configs: \udcff\n",
    "mixed keys": "1: 2\nnull: 3\n",
}


@pytest.mark.parametrize("kind", YAML)
def test_a_hostile_yaml_file_is_one_line(kind: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = tmp_path / "hostile.yaml"
    path.write_bytes(YAML[kind].encode(errors="surrogateescape"))
    assert loadgen(["sweep", "--plan", str(path), "--models", "r1-distill-qwen-1.5b", "--dry-run"]) == 2
    messages = capsys.readouterr().err
    assert messages.count("\n") == 1
    assert len(messages) < 1000
    if kind not in ("long number", "mixed keys"):
        with pytest.raises(ConfigError, match=r"hostile\.yaml"):
            read_preset(str(path))


@given(
    st.recursive(
        st.none() | st.booleans() | st.integers() | st.text(),
        lambda inner: st.lists(inner) | st.dictionaries(st.text(), inner),
        max_leaves=20,
    )
)
def test_ordinary_yaml_is_read_as_before(tmp_path_factory: pytest.TempPathFactory, content: object) -> None:
    path = tmp_path_factory.getbasetemp() / "ordinary.yaml"
    path.write_text(yaml.safe_dump([content, content]))
    assert read_yaml(path) == [content, content]


@pytest.mark.parametrize(
    "line",
    [
        '{"a":' * 100_000,
        "[" * 100_000,
        '{"problem": "\\ud800", "answer": "1"}',
        '{"problem": "x", "answer": ' + "9" * 5000 + "}",
    ],
)
def test_a_hostile_data_set_is_one_line(line: str, tmp_path: Path) -> None:
    path = tmp_path / "data.jsonl"
    path.write_text(line + "\n")
    with pytest.raises(UsageError, match=r"data\.jsonl:1: "):
        datasets.load(RunOptions(dataset=str(path)))


@pytest.mark.parametrize(
    "content",
    ["[" * 100_000, '{"a":' * 100_000, json.dumps({"ttfts": [1e308], "itls": [["x"]], "output_lens": [1e999]})],
)
def test_a_hostile_import_is_one_line(content: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = tmp_path / "theirs.json"
    path.write_text(content)
    assert analysis(["import", str(path), "--out", str(tmp_path / "out")]) == 2
    assert capsys.readouterr().err.count("\n") == 1
