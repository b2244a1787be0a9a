"""Serving configurations differ only in what their names say."""

import os
import re
import subprocess
from pathlib import Path
from typing import get_args

import pytest
import yaml

from loadgen.plan.prompts import STYLES
from server.config import CONFIGS, MODELS, ConfigError, Style, load_model, model_file, names, read_config
from server.launch.commands import MEASUREMENT_OPTIONS, vllm_arguments
from server.launch.spec import Spec

SIX = ("tp1", "tp2", "tp4", "tp1-ngram", "tp2-ngram", "tp4-ngram")
NGRAM = {"method": "ngram", "num_speculative_tokens": 5, "prompt_lookup_min": 1, "prompt_lookup_max": 4}


def read(name: str) -> dict[str, object]:
    return dict(yaml.safe_load((CONFIGS / f"{name}.yaml").read_text()))


def rest(config: dict[str, object]) -> dict[str, object]:
    return {key: value for key, value in config.items() if key not in {"tensor-parallel-size", "speculative-config"}}


@pytest.mark.parametrize("name", SIX)
def test_the_six_differ_only_in_tensor_parallelism_and_speculation(name: str) -> None:
    """A difference between two results is then caused by what the names of the configurations say."""
    config = read(name)
    assert rest(config) == rest(read("tp1"))
    assert config["tensor-parallel-size"] == int(name[2])
    assert config.get("speculative-config") == (NGRAM if name.endswith("ngram") else None)


def test_nothing_depends_on_defaults_of_the_engine_version() -> None:
    """Prefix caching, generation config and lengths are explicit. vLLM 0.26 ignores `…: false`, so no file contains it."""
    config = read("tp1")
    assert config["no-enable-prefix-caching"] is True
    assert config["generation-config"] == "vllm"
    assert {
        "max-model-len",
        "max-num-seqs",
        "max-num-batched-tokens",
        "gpu-memory-utilization",
        "seed",
    } <= config.keys()
    assert not [key for name in names(CONFIGS) for key, value in read(name).items() if value is False]


@pytest.mark.parametrize("tp", [1, 2, 4])
def test_matched_baselines_turn_async_scheduling_off_and_nothing_else(tp: int) -> None:
    sync = read(f"tp{tp}-sync")
    assert sync.pop("no-async-scheduling") is True
    assert sync == read(f"tp{tp}")


@pytest.mark.parametrize("name", sorted(set(names(CONFIGS)) - {*SIX}))
def test_examples_keep_the_common_settings(name: str) -> None:
    """An example differs from its baseline only in the option that it shows."""
    extra = set(rest(read(name)).items()) - set(rest(read("tp1")).items())
    assert extra <= {("no-async-scheduling", True), ("quantization", "fp8")}


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("tensor-parallel-size: [1", "cannot be read as YAML"),
        ("tensor-parallel-size: many", "tensor-parallel-size: Expected `int`"),
        ("tensor-parallel-size: 0", "tensor-parallel-size: Expected `int` >= 1"),
        ("speculative-config: ngram", "speculative-config: not JSON"),
        ("speculative-config: [ngram]", "speculative-config: must be a mapping"),
        ("- tp1", "must be a mapping"),
        ("", "must be a mapping"),
    ],
)
def test_a_broken_file_is_one_line(text: str, says: str, tmp_path: Path) -> None:
    """The error names the file and the key, for every backend and before anything starts."""
    path = tmp_path / "own.yaml"
    path.write_text(text)
    with pytest.raises(ConfigError) as error:
        read_config(str(path))
    assert str(error.value).startswith(f"{path}: ")
    assert says in str(error.value)
    assert "\n" not in str(error.value)


def test_keys_are_accepted_in_every_spelling_of_vllm(tmp_path: Path) -> None:
    """Keys may contain underscores, and speculative-config may be JSON text."""
    path = tmp_path / "own.yaml"
    path.write_text('tensor_parallel_size: 2\nspeculative-config: \'{"method": "ngram"}\'\n')
    assert read_config(str(path)) == {"tensor-parallel-size": 2, "speculative-config": {"method": "ngram"}}


def test_a_preset_is_found_by_name_id_and_path() -> None:
    path = MODELS / "s1.1-7b.yaml"
    assert [model_file(name) for name in ("s1.1-7b", "simplescaling/s1.1-7B", str(path))] == [path] * 3
    assert model_file("meta-llama/Llama-3.1-8B") is None
    with pytest.raises(ConfigError, match=r"model none\.yaml: no such file"):
        model_file("none.yaml")


@pytest.mark.parametrize("line", ["id: [a]", "prompt: R1", "reasoning-parser: [deepseek_r1]"])
def test_a_mistake_in_a_preset_is_one_line(line: str, tmp_path: Path) -> None:
    (tmp_path / "my.yaml").write_text(f"{(MODELS / 's1.1-7b.yaml').read_text()}\n{line}\n")
    with pytest.raises(ConfigError, match=f"my.yaml: {line.partition(':')[0]}: ") as refused:
        load_model(str(tmp_path / "my.yaml"))
    assert "\n" not in str(refused.value)


@pytest.mark.parametrize("model", ["r1-distill-qwen-14b", "simplescaling/s1.1-7B", "meta-llama/Llama-3.1-8B"])
def test_the_entry_point_of_compose_finds_presets_by_the_same_rules(model: str, tmp_path: Path) -> None:
    """server/vllm.sh starts `vllm serve` with the model id, the dtype and the reasoning parser of the preset."""
    (tmp_path / "vllm").write_text('#!/bin/sh\necho "$@"\n')
    (tmp_path / "vllm").chmod(0o755)
    environment = {"PATH": f"{tmp_path}:{os.environ['PATH']}", "THINKLOAD_MODELS": str(MODELS)}
    command = ["sh", str(CONFIGS.parent / "vllm.sh"), model]
    words = subprocess.run(command, env=environment, capture_output=True, text=True, check=True).stdout.split()
    spec = Spec(config="tp1", model=model)
    expected = [word for word in vllm_arguments(spec, "tp1", 8000) if word not in MEASUREMENT_OPTIONS]
    assert words[:2] == ["serve", expected[0]]
    assert set(words[2:]) == set(expected[1:]) - {"--config", "tp1", "--host", "127.0.0.1", "--port", "8000"}


def test_keys_are_options_of_vllm_serve(shared: Path) -> None:
    """Checked against the help text of vLLM 0.32.0; test_vllm_accepts.py uses vLLM's parser where it is installed."""
    known = set(
        re.findall(r"--([a-z0-9-]+)", (shared / "reference/vllm-samples/vllm-serve-help-0.32.0.txt").read_text())
    )
    unknown = {key for name in names(CONFIGS) for key in read(name) if key not in known}
    assert not unknown


def test_the_images_lock_has_the_versions_of_the_lock() -> None:
    """requirements-server.lock is a subset of requirements.lock, for the image (`make lock` writes both)."""

    def pins(name: str) -> set[str]:
        lines = (CONFIGS.parent.parent / name).read_text().splitlines()
        return {line.split(" ")[0].rstrip("\\").strip() for line in lines if "==" in line and not line.startswith("#")}

    assert pins("requirements-server.lock") <= pins("requirements.lock")


def test_a_preset_can_name_every_prompt_style() -> None:
    """The programs do not import each other, so that the names stand twice."""
    assert set(get_args(Style)) == STYLES.keys()
