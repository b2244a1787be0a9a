"""Servers of a group stand beside each other: one is awake, the others are paused, and a dead one fails one cell only."""

import json
import os
import random
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from loadgen.record import find_runs, read_run
from server.launch import Launcher, Spec, processes
from server.launch.processes import pids_of
from tests.loadgen.sweep.kills import VICTIMS, Sweep


@pytest.fixture
def sweep(tmp_path: Path) -> Iterator[Sweep]:
    found = Sweep(tmp_path)
    yield found
    for pid, _ in found.processes():
        os.kill(pid, signal.SIGKILL)


def test_the_record_says_what_stood_beside_a_cell(sweep: Sweep) -> None:
    """All six servers fit on two GPUs. Each run names the five others, of which at least four were paused."""
    sweep.finish()
    sweep.check()
    for folder in find_runs(sweep.out):
        beside = read_run(folder).server["beside"]
        assert len({each["server"] for each in beside}) == 5
        assert [each["state"] for each in beside].count("paused") >= 4
    assert (sweep.out.parent / "sweep.log").read_text().count("ready at") == 6


@pytest.mark.parametrize("victim", VICTIMS)
def test_a_killed_process_costs_no_cell(victim: str, sweep: Sweep) -> None:
    """`kill -9` while a cell runs; `python -m tests.loadgen.sweep.kills` does it twenty times."""
    said = sweep.kill(victim, random.Random(VICTIMS.index(victim)))
    assert "running" in said
    sweep.finish()
    sweep.check()


def test_a_paused_server_uses_no_time_and_continues(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """All its processes are stopped (T), it ends in spite of the pause, and it leaves nothing."""
    monkeypatch.setenv("THINKLOAD_STATE", str(tmp_path))
    with (
        Launcher() as launcher,
        launcher.launched(Spec(config="tp1", model="r1-distill-qwen-1.5b")) as server,
    ):
        saved = processes.running()[0]
        server.pause()
        assert {state(pid) for pid in pids_of(saved)} == {"T"}
        server.wake()
        assert "T" not in {state(pid) for pid in pids_of(saved)}
        server.pause()
    assert pids_of(saved) == []


def state(pid: int) -> str:
    return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]


def test_a_deadline_leaves_cells_for_a_resume(sweep: Sweep) -> None:
    """The first sweep ends by itself with cells left, and the resumed one completes them."""
    sweep.arguments += ["--deadline", "12"]
    code = sweep.start().wait(timeout=110)
    assert code == 130
    assert "planned" in {cell["state"] for cell in sweep.cells()}
    assert "running" not in {cell["state"] for cell in sweep.cells()}
    done = subprocess.run(
        [sys.executable, "-m", "loadgen", "sweep", "--resume", str(sweep.out), "--deadline", "10m"],
        env=sweep.environment,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout.splitlines()[-1])["left"] == []
    sweep.check()
