"""`python -m server preset`: a preset from a config.json, for the launcher, the emulator and the simulation."""

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import yaml
from hypothesis import given
from hypothesis import strategies as st

from server.__main__ import main
from server.config import ConfigError, load_model, model_file, read_preset
from server.launch.commands import vllm_arguments
from server.launch.spec import Spec
from server.preset import preset
from tests import ROOT

DENSE = {
    "model_type": "qwen3",
    "hidden_size": 4096,
    "num_hidden_layers": 36,
    "num_attention_heads": 32,
    "num_key_value_heads": 8,
    "head_dim": 128,
    "intermediate_size": 12288,
    "vocab_size": 151936,
    "torch_dtype": "bfloat16",
    "tie_word_embeddings": False,
}


def model(folder: Path, **config: Any) -> str:
    folder.mkdir(exist_ok=True)
    (folder / "config.json").write_text(json.dumps(config))
    return str(folder)


def saved(folder: Path, **config: Any) -> Path:
    path = folder / "my.yaml"
    path.write_text(preset(model(folder / "weights", **config)))
    return path


def test_the_emulator_and_the_launcher_read_it(tmp_path: Path) -> None:
    path = saved(tmp_path, **DENSE)
    read = load_model(str(path))
    assert (read.name, read.id, read.weight_bytes) == ("my", str(tmp_path / "weights"), 2.0)
    shape = {name: getattr(read.shape, name) for name in read.shape.__annotations__}
    assert shape == {name: value for name, value in DENSE.items() if name in shape} | {"extra_parameters": 0}
    words = vllm_arguments(Spec(config="tp1", model=str(path)), "tp1.yaml", 8000)
    assert words[0] == str(tmp_path / "weights")
    assert words[words.index("--dtype") + 1] == "bfloat16"


def test_a_sweep_simulates_it_by_path(tmp_path: Path) -> None:
    path = saved(tmp_path, **DENSE)
    command = [
        sys.executable,
        "-m",
        "loadgen",
        "sweep",
        "--configs",
        "tp1",
        "--models",
        str(path),
        "--backend",
        "simulate",
    ]
    done = subprocess.run(
        [*command, "--dataset", "sample", "--budgets", "64", "--out", str(tmp_path / "out")],
        cwd=ROOT, capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    run = json.loads((tmp_path / "out/tp1_my_c16/run.json").read_text())
    assert (run["preset"], run["model"]) == ("my", str(tmp_path / "weights"))


def test_values_that_config_json_leaves_out_are_marked(tmp_path: Path) -> None:
    config = {
        key: value
        for key, value in DENSE.items()
        if key not in ("num_key_value_heads", "head_dim", "tie_word_embeddings")
    }
    path = saved(tmp_path, **config)
    assert "assumed: num_key_value_heads, head_dim, tie_word_embeddings" in path.read_text()
    shape = load_model(str(path)).shape
    assert (shape.num_key_value_heads, shape.head_dim, shape.tie_word_embeddings) == (32, 128, False)


def test_a_model_of_images_and_text_nests_its_language_model(tmp_path: Path) -> None:
    assert load_model(str(saved(tmp_path, vision_config={}, text_config=DENSE))).shape.num_hidden_layers == 36


@pytest.mark.parametrize(
    "key", ["num_experts", "num_local_experts", "n_routed_experts", "kv_lora_rank", "mamba_d_state"]
)
def test_what_the_emulator_cannot_time_is_launched_but_not_emulated(
    key: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = saved(tmp_path, **DENSE, **{key: 64})
    assert "cannot be emulated" in capsys.readouterr().err
    assert read_preset(str(path))["id"] == str(tmp_path / "weights")
    with pytest.raises(ConfigError, match="shape: missing"):
        load_model(str(path))


def test_quantized_weights_are_named(tmp_path: Path) -> None:
    assert load_model(str(saved(tmp_path, **DENSE, quantization_config={"quant_method": "awq"}))).weight_bytes < 1
    assert "# quantization" in saved(tmp_path, **DENSE, quantization_config={"quant_method": "new\n: x"}).read_text()


def test_a_reasoning_model_is_recognized_by_its_name(tmp_path: Path) -> None:
    content = yaml.safe_load(preset(model(tmp_path / "DeepSeek-R1-Distill-Llama-8B", **DENSE)))
    assert (content["prompt"], content["reasoning-parser"]) == ("r1", "deepseek_r1")


@pytest.mark.parametrize(
    ("content", "says"),
    [
        (b"{", "not JSON"),
        (b"[]", "must be a JSON object"),
        (b"[" * 100_000, "not JSON"),
        (b'{"hidden_size": 8}', "missing required"),
        (json.dumps(DENSE | {"hidden_size": "x"}).encode(), "config.json"),
        (b" " * 2**21, "larger than 1 MiB"),
    ],
)
def test_a_mistake_is_one_line(content: bytes, says: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "config.json").write_bytes(content)
    assert main(["preset", str(tmp_path)]) == 2
    error = capsys.readouterr().err
    assert error.count("\n") == 1
    assert says in error


@given(
    values=st.dictionaries(
        st.sampled_from([*DENSE, "text_config", "quantization_config", "num_experts"]),
        st.none() | st.integers() | st.text() | st.just(DENSE),
    )
)
def test_any_config_json_is_a_preset_or_one_line(
    values: dict[str, Any], tmp_path_factory: pytest.TempPathFactory
) -> None:
    folder = tmp_path_factory.getbasetemp() / "any"
    try:
        content = yaml.safe_load(preset(model(folder, **values)))
    except ConfigError as error:
        content = {"id": str(folder)} if "\n" not in str(error) else {}
    assert content["id"] == str(folder)


@pytest.mark.parametrize(
    ("name", "says"),
    [
        ("r1-distil-qwen-7b", "did you mean r1-distill-qwen-7b?"),
        ("simplescaling/s1.1-7b", "did you mean simplescaling/s1.1-7B?"),
        ("Qwen/Qwen3-8B", "python -m server preset Qwen/Qwen3-8B > my.yaml"),
    ],
)  # fmt: skip
def test_an_unknown_model_gets_a_suggestion(name: str, says: str) -> None:
    with pytest.raises(ConfigError) as caught:
        load_model(name)
    assert says in str(caught.value)


def test_only_a_name_that_is_nearly_a_presets_is_refused_by_the_launcher() -> None:
    assert model_file("Qwen/Qwen3-8B") is None
    assert model_file("gpt2") is None
    with pytest.raises(ConfigError, match=r"did you mean s1.1-7b\?"):
        model_file("s1-7b")
