"""vLLM's own parser takes every configuration, as the launcher gives it (`make test-vllm` makes the environment)."""

import json
import os
import subprocess
from pathlib import Path

import pytest

from server.config import CONFIGS, config_file, names, read_config
from server.launch import Spec
from server.launch.commands import vllm_arguments
from tests import ROOT

pytestmark = [pytest.mark.vllm, pytest.mark.timeout(300)]

PYTHON = ROOT / ".venv-vllm" / "bin" / "python"


def test_every_configuration_is_parsed_as_it_is_meant() -> None:
    """Nothing is dropped on the way: 0.26 loses booleans that are false, so no file has one."""
    python = Path(os.environ.get("THINKLOAD_VLLM_PYTHON", PYTHON))
    if not python.is_file():
        pytest.skip(f"no vLLM at {python}: make test-vllm")
    specs = {
        name: Spec(config=name, model="r1-distill-qwen-7b", backend="process") for name in names(CONFIGS)
    }
    asked = {name: vllm_arguments(spec, str(config_file(name)), 8000) for name, spec in specs.items()}
    done = subprocess.run(
        [python, ROOT / "tests" / "vllm" / "parse_arguments.py"],
        input=json.dumps(asked),
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    for name, understood in json.loads(done.stdout.splitlines()[-1]).items():
        config = read_config(name)
        assert understood["tensor_parallel_size"] == config["tensor-parallel-size"]
        assert understood["speculative_config"] == config.get("speculative-config")
        assert understood["enable_prefix_caching"] is False
        assert understood["async_scheduling"] is (False if name.endswith("-sync") else None)
        assert understood["max_model_len"] == config["max-model-len"]
        assert understood["max_num_batched_tokens"] == config["max-num-batched-tokens"]
        assert understood["generation_config"] == "vllm"
        assert understood["reasoning_parser"] == "deepseek_r1"
        assert understood["dtype"] == "bfloat16"
        assert understood["quantization"] == config.get("quantization")
