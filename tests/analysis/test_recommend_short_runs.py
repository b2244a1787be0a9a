"""What `recommend` does with runs without a steady window, and with derived budgets of several streams."""

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from tests import ROOT


def python(*words: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", *words], cwd=ROOT, capture_output=True, text=True, timeout=240, check=False
    )


def recommended(folder: Path, *options: str) -> tuple[dict[str, Any], str]:
    """Simulate 49 requests for each budget and recommend the fastest setting."""
    words = [
        "--configs",
        "tp1",
        "--models",
        "r1-distill-qwen-1.5b",
        "--dataset",
        "sample",
        "--backend",
        "simulate",
    ]
    done = python("loadgen", "sweep", *words, *options, "--out", str(folder / "study"))
    assert done.returncode == 0, done.stderr
    found = python("analysis", "recommend", str(folder / "study"), "--objective", "latency")
    assert found.returncode == 0, found.stderr
    return json.loads(found.stdout.splitlines()[-1]), found.stderr


@pytest.mark.parametrize(("streams", "warns"), [(2, False), (32, True)])
def test_a_run_without_a_steady_window_is_used_with_a_warning(
    streams: int, warns: bool, tmp_path: Path
) -> None:
    found, words = recommended(tmp_path, "--budgets", "1024", "--loads", str(streams))
    assert found["deploy"]["n"] == 49
    assert ("too short for a steady window" in words) is warns


@pytest.mark.parametrize(("streams", "budget"), [(1, 1024), (8, 8192)])
def test_derived_budgets_are_recommended_for_one_stream_only(
    streams: int, budget: int, tmp_path: Path
) -> None:
    """The smaller budget is always faster, but with eight streams its derived latency is too long, as the check shows."""
    options = ("--budgets", "1024,8192", "--one-pass", "--loads", str(streams))
    found, _ = recommended(tmp_path, *options)
    assert found["deploy"]["budget"] == budget
    assert found["deploy"]["n"] == 49, "the requests of the check are no ordinary requests"
