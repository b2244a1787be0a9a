"""Serving configurations: names mean what they say, and differ in nothing else."""

import re
from pathlib import Path

import pytest
import yaml

from server.config import CONFIGS, ConfigError, names, read_config

SIX = ("tp1", "tp2", "tp4", "tp1-ngram", "tp2-ngram", "tp4-ngram")
NGRAM = {"method": "ngram", "num_speculative_tokens": 5, "prompt_lookup_min": 1, "prompt_lookup_max": 4}


def read(name: str) -> dict[str, object]:
    return dict(yaml.safe_load((CONFIGS / f"{name}.yaml").read_text()))


def rest(config: dict[str, object]) -> dict[str, object]:
    return {
        key: value
        for key, value in config.items()
        if key not in {"tensor-parallel-size", "speculative-config"}
    }


@pytest.mark.parametrize("name", SIX)
def test_the_six_differ_only_in_tensor_parallelism_and_speculation(name: str) -> None:
    """A difference between two of them is then a difference of what their names say."""
    config = read(name)
    assert rest(config) == rest(read("tp1"))
    assert config["tensor-parallel-size"] == int(name[2])
    assert config.get("speculative-config") == (NGRAM if name.endswith("ngram") else None)


def test_nothing_is_left_to_the_engine_version() -> None:
    """Prefix caching, generation config and lengths are written out. `no-…: true`, since 0.26 ignores `…: false`."""
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
    """An example differs from its baseline in what it is an example of."""
    extra = set(rest(read(name)).items()) - set(rest(read("tp1")).items())
    assert extra <= {("no-async-scheduling", True), ("quantization", "fp8")}


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("tensor-parallel-size: [1", "cannot be read as YAML"),
        ("tensor-parallel-size: many", "tensor-parallel-size: Expected `int`"),
        ("tensor-parallel-size: 0", "tensor-parallel-size: must be at least 1"),
        ("speculative-config: ngram", "speculative-config: not JSON"),
        ("speculative-config: [ngram]", "speculative-config: must be a mapping"),
        ("- tp1", "must be a mapping"),
        ("", "must be a mapping"),
    ],
)
def test_a_broken_file_is_one_line(text: str, says: str, tmp_path: Path) -> None:
    """Whatever backend would read it: file and key are named before anything starts."""
    path = tmp_path / "own.yaml"
    path.write_text(text)
    with pytest.raises(ConfigError) as error:
        read_config(str(path))
    assert str(error.value).startswith(f"{path}: ")
    assert says in str(error.value)
    assert "\n" not in str(error.value)


def test_keys_may_be_spelt_as_vllm_takes_them(tmp_path: Path) -> None:
    """Underscores, and speculative-config as JSON text."""
    path = tmp_path / "own.yaml"
    path.write_text('tensor_parallel_size: 2\nspeculative-config: \'{"method": "ngram"}\'\n')
    assert read_config(str(path)) == {"tensor-parallel-size": 2, "speculative-config": {"method": "ngram"}}


def test_compose_reserves_as_many_gpus_as_a_configuration_needs() -> None:
    """`docker-compose.yml` takes the count from server/gpus.yaml, by the configuration's name."""
    services = yaml.safe_load((CONFIGS.parent / "gpus.yaml").read_text())["services"]
    counts = {
        name: service["deploy"]["resources"]["reservations"]["devices"][0]["count"]
        for name, service in services.items()
    }
    assert counts == {name: read(name)["tensor-parallel-size"] for name in names(CONFIGS)}


def test_keys_are_options_of_vllm_serve(shared: Path) -> None:
    """Against the help text of vLLM 0.32.0 (its own parser is tried where it is installed: test_vllm_accepts.py)."""
    known = set(
        re.findall(
            r"--([a-z0-9-]+)", (shared / "reference/vllm-samples/vllm-serve-help-0.32.0.txt").read_text()
        )
    )
    unknown = {key for name in names(CONFIGS) for key in read(name) if key not in known}
    assert not unknown


def test_the_images_lock_has_the_versions_of_the_lock() -> None:
    """requirements-server.lock is what requirements.lock says, for the image alone (`make lock` makes both)."""

    def pins(name: str) -> set[str]:
        lines = (CONFIGS.parent.parent / name).read_text().splitlines()
        return {
            line.split(" ")[0].rstrip("\\").strip()
            for line in lines
            if "==" in line and not line.startswith("#")
        }

    assert pins("requirements-server.lock") <= pins("requirements.lock")
