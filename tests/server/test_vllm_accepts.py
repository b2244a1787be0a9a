"""vLLM's own argument parser accepts every configuration as the launcher passes it (`make test-vllm` installs vLLM)."""

import json
import os
import subprocess
from pathlib import Path

import pytest

from server.config import CONFIGS, config_file, names, read_config
from server.launch.commands import vllm_arguments
from server.launch.spec import Spec
from tests import ROOT

pytestmark = [pytest.mark.vllm, pytest.mark.timeout(300)]

PYTHON = ROOT / ".venv-vllm" / "bin" / "python"


def test_every_configuration_is_parsed_as_intended() -> None:
    """No option is lost. vLLM 0.26 ignores booleans that are false, so no file contains one."""
    python = Path(os.environ.get("THINKLOAD_VLLM_PYTHON", PYTHON))
    if not python.is_file():
        pytest.skip(f"no vLLM at {python}: make test-vllm")
    specs = {name: Spec(config=name, model="r1-distill-qwen-7b", backend="process") for name in names(CONFIGS)}
    arguments = {name: vllm_arguments(spec, str(config_file(name)), 8000) for name, spec in specs.items()}
    done = subprocess.run(
        [python, ROOT / "tests" / "vllm" / "parse_arguments.py"],
        input=json.dumps(arguments),
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    for name, parsed in json.loads(done.stdout.splitlines()[-1]).items():
        config = read_config(name)
        assert parsed["tensor_parallel_size"] == config["tensor-parallel-size"]
        assert parsed["speculative_config"] == config.get("speculative-config")
        assert parsed["enable_prefix_caching"] is False
        assert parsed["async_scheduling"] is (False if name.endswith("-sync") else None)
        assert parsed["max_model_len"] == config["max-model-len"]
        assert parsed["max_num_batched_tokens"] == config["max-num-batched-tokens"]
        assert parsed["generation_config"] == "vllm"
        assert parsed["reasoning_parser"] == "deepseek_r1"
        assert parsed["dtype"] == "bfloat16"
        assert parsed["quantization"] == config.get("quantization")
