"""The output of `python -m server`."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from server.__main__ import main


def run(*arguments: str, **environment: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "server", *arguments]
    return subprocess.run(
        command, env=os.environ | environment, capture_output=True, text=True, timeout=200, check=False
    )


def test_configs_lists_every_configuration_and_model() -> None:
    """The last line on stdout is JSON."""
    done = run("configs")
    found = json.loads(done.stdout.splitlines()[-1])
    assert done.returncode == 0
    assert found["configs"]["tp2-ngram"] == {"tensor_parallel_size": 2, "speculation": "ngram"}
    assert found["models"]["s1.1-7b"]["id"] == "simplescaling/s1.1-7B"


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (("emulate", "tp3", "--model", "s1.1-7b"), "unknown configuration 'tp3'"),
        (("emulate", "tp1", "--model", "gpt"), "unknown model 'gpt'"),
        (("emulate", "tp1", "--model", "s1.1-7b", "--gpu", "tpu"), "--gpu tpu: choose from"),
        (("emulate", "tp1", "--model", "s1.1-7b", "--engine-version", "9"), "--engine-version 9: choose from"),
        (("emulate", "tp1", "--model", "s1.1-7b", "--dataset", "none.jsonl"), "none.jsonl: no such file"),
        (("emulate", "tp1", "--model", "s1.1-7b", "--max-num-sequences", "3"), "max-num-sequences: not an option"),
        (("emulate", "tp1", "--model", "s1.1-7b", "--tensor-parallel-size", "8"), "does not divide the 28 attention heads"),
        (("emulate", "tp1", "--model", "s1.1-7b", "--fault", "flood=1"), "--fault flood=1: give KEY=NUMBER"),
        (("emulate", "tp1", "--model", "s1.1-7b", "--max-num-seqs", "two"), "an option added to"),
        (("up", "tp1", "--model", "x/y", "--gpus", "0", "--backend", "process", "--", "-tp", "2"), "needs 2 GPUs, --gpus names 1"),
        (("emulate", "tp1", "--model", "s1.1-7b", "--fault", "error=2"), "--fault error=2: give KEY=NUMBER"),
        (("emulate", "tp1", "--model", "s1.1-7b", "--fault", "stall=nan"), "--fault stall=nan: give KEY=NUMBER"),
        (("emulate", "tp1", "--model", "s1.1-7b", "--max-num-batched-tokens", "16"), "16 must be at least max-num-seqs, which is 256"),
        (("emulate", "tp1", "--model", "s1.1-7b", "--data-parallel-size", "2"), "data-parallel-size: 2 is not emulated"),
        (("emulate", "tp1", "--model", "s1.1-14b", "--gpu-memory-utilization", "0.2"), "do not fit into the KV cache"),
        (("emulate", "tp1", "--model", "s1.1-7b", "--port", "99999"), "--port 99999: must be"),
        (("emulate", "tp1", "--model", "s1.1-7b", "--speed", "0"), "--speed 0"),
        (("up", "tp1"), "required: --model"),
        (("up", "tp1", "--model", "x/y", "--port", "99999"), "--port 99999: must be"),
        (("up", "tp1", "--model", "x/y", "--gpus", "0,0"), "--gpus 0,0: write indices"),
        (("emulate", "tp1", "--model", "s1.1-7b", "-O3"), "-O3: not an option"),
        (("up", "tp1", "--model", "x/y", "--gpus", "0", "--backend", "process", "--", "-tp", "2", "-O3"), "needs 2 GPUs"),
        (("up", "tp2", "--model", "x/y", "--gpus", "0", "--backend", "process"), "needs 2 GPUs, --gpus names 1"),
        (("up", "tp1", "--model", "x/y", "--start-timeout", "nan"), "--start-timeout nan: must be"),
        (("gpu-exporter", "--gpus", "all"), "--gpus all: write indices"),
        (("relay", "9000-8000"), "relay 9000-8000: write a port"),
        (("launch", "tp1"), "invalid choice: 'launch'"),
    ],
)  # fmt: skip
def test_a_mistake_is_one_line_and_exit_2(
    arguments: tuple[str, ...], says: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main([*arguments]) == 2
    error = capsys.readouterr().err
    assert len(error.splitlines()) == 1
    assert says in error


def test_options_after_two_dashes_reach_the_server(tmp_path: Path) -> None:
    """The emulator refuses the option in this test and names it."""
    done = run(
        "up", "tp1", "--model", "s1.1-7b", "--backend", "emulator", "--", "--data-parallel-size", "2", THINKLOAD_STATE=str(tmp_path)
    )  # fmt: skip
    assert done.returncode == 2
    assert "data-parallel-size: 2 is not emulated" in done.stderr.splitlines()[-1]
