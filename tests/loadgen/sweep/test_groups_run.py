"""Servers of a group stand beside each other: one is awake, the others are paused, and a dead one fails one cell only."""

import json
import os
import random
import re
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

import pytest

from loadgen.cli import main
from loadgen.lock import in_use
from loadgen.record import find_runs, read_run
from loadgen.sweep.vllm_bench import in_words
from server.launch import processes
from server.launch.processes import pids_of
from server.launch.spec import Spec
from tests import ROOT
from tests.fixtures.emulated import launched
from tests.fixtures.swarm import until
from tests.fixtures.terminal import ANSI, on_a_terminal
from tests.loadgen.sweep.kills import SMALL, VICTIMS, Sweep


@pytest.fixture
def sweep(tmp_path: Path) -> Iterator[Sweep]:
    found = Sweep(tmp_path, SMALL)
    yield found
    for pid, _ in found.processes():
        with suppress(ProcessLookupError):
            os.kill(pid, signal.SIGKILL)
    if found.process is not None:
        found.process.wait()


def test_killed_processes_cost_no_cell(sweep: Sweep) -> None:
    """`kill -9` of each kind of process while a cell runs; `python -m tests.loadgen.sweep.kills` does it in a larger sweep."""
    for victim in VICTIMS:
        sweep.kill(victim, random.Random(victim))
    sweep.finish()
    sweep.check(cells=4)


def test_a_paused_server_uses_no_time_and_continues(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """All its processes are stopped (T), it ends in spite of the pause, and it leaves nothing."""
    monkeypatch.setenv("THINKLOAD_STATE", str(tmp_path))
    with launched(Spec(config="tp1", model="r1-distill-qwen-1.5b")) as server:
        saved = processes.running()[0]
        server.pause()
        while {state(pid) for pid in pids_of(saved)} != {"T"}:
            time.sleep(0.01)  # a signal reaches a process when it is scheduled next
        server.wake()
        while "T" in {state(pid) for pid in pids_of(saved)}:
            time.sleep(0.01)
        server.pause()
    assert pids_of(saved) == []


def state(pid: int) -> str:
    return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]


def run_plan(tmp_path: Path, plan: str) -> tuple[subprocess.CompletedProcess[str], Path]:
    """Runs a plan with the stand-in for `vllm`."""
    (tmp_path / "plan.yaml").write_text(plan)
    environment = {
        **os.environ,
        "PATH": f"{ROOT / 'tests' / 'standin'}:{Path(sys.executable).parent}:{os.environ['PATH']}",
        "THINKLOAD_STATE": str(tmp_path / "state"),
        "STANDIN_SPEED": "4",
    }
    out = tmp_path / "out"
    command = [sys.executable, "-m", "loadgen", "sweep", "--plan", str(tmp_path / "plan.yaml"), "--out", str(out)]
    done = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True, check=False)
    return done, out


GROUP = """
backend: process
configs: [tp1, tp1-ngram]
models: [r1-distill-qwen-1.5b]
loads: [2]
axes: {temperature: [0]}
requests: 2x
residency: group
run: {dataset: sample, budgets: 64, metrics-port: off, progress: none}
"""


def test_a_server_that_does_not_fit_starts_alone_later(tmp_path: Path) -> None:
    """Its first start runs out of GPU memory beside the other one. One line says so, and every cell is done."""
    fails = f"{{env: {{STANDIN_FAIL: out-of-memory, STANDIN_ONCE: {tmp_path / 'once'}}}}}"
    serve = f"serve: {{all: {{kv-cache-memory-bytes: 5G}}, configs: {{tp1-ngram: {fails}}}}}\n"
    done, out = run_plan(tmp_path, GROUP + serve)
    assert done.returncode == 0, done.stderr
    said = [line for line in done.stderr.splitlines() if "GPU memory" in line]
    assert said == [
        "sweep: tp1-ngram_r1-distill-qwen-1.5b does not fit into GPU memory beside the others, of which 1 started: it starts alone later"
    ]
    assert len(find_runs(out)) == 2


def test_the_record_says_what_stood_beside_a_cell(tmp_path: Path) -> None:
    done, out = run_plan(tmp_path, GROUP + "serve: {all: {kv-cache-memory-bytes: 5G}}\n")
    assert done.returncode == 0, done.stderr
    beside = read_run(out / "tp1_r1-distill-qwen-1.5b_c2_t0").server["beside"]
    assert beside == [{"server": "tp1-ngram_r1-distill-qwen-1.5b", "gpus": [0], "state": "paused"}]


def test_a_folder_is_served_and_both_clients_measure_it(tmp_path: Path) -> None:
    """`model` names the weights, `env` reaches the server, and vLLM's client gets the prompts of our requests."""
    weights = tmp_path / "weights" / "tiny"
    weights.mkdir(parents=True)
    model = f"{{model: {weights}, env: {{STANDIN_MODEL: r1-distill-qwen-1.5b}}}}"
    done, out = run_plan(tmp_path, GROUP + f"bench: vllm\nserve: {{models: {{r1-distill-qwen-1.5b: {model}}}}}\n")
    assert done.returncode == 0, done.stderr
    assert [folder.name for folder in find_runs(out)] == ["tp1-ngram_tiny_c2_t0", "tp1_tiny_c2_t0"]
    run = read_run(out / "tp1_tiny_c2_t0")
    assert run.server["environment"] == {"STANDIN_MODEL": "r1-distill-qwen-1.5b"}
    assert str(weights) in run.server["command"]
    for cell in json.loads((out / "sweep.json").read_text())["cells"]:
        assert cell["bench"].keys() == {"tpot_s", "ttft_s", "e2e_s"}
        assert all(theirs > 0 for _, theirs in cell["bench"].values())
        assert cell["bench"]["e2e_s"][0] > 0  # a busy machine joins tokens, and then there is no time per token
    assert not list(out.rglob("*prompts*"))


def test_a_failure_of_the_client_of_vllm_fails_no_cell(tmp_path: Path) -> None:
    done, out = run_plan(tmp_path, GROUP + "bench: vllm\nserve: {all: {env: {STANDIN_BENCH_FAIL: 1}}}\n")
    assert done.returncode == 0, done.stderr
    assert len(find_runs(out)) == done.stderr.count("vLLM's client has failed: CalledProcessError") == 2
    assert all("failed" in cell["bench"] for cell in json.loads((out / "sweep.json").read_text())["cells"])


def test_a_mean_that_was_not_measured_is_named_as_such() -> None:
    found = in_words({"tpot_s": [None, 0.0125], "e2e_s": [1.5, 1.5]})
    assert found.endswith("tpot_s none and 12.5 ms, e2e_s 1.50 s and 1.50 s")


def test_status_shows_a_sweep_from_its_folder(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "plan.yaml").write_text(GROUP)
    words = ["--plan", str(tmp_path / "plan.yaml"), "--backend", "simulate", "--out", str(tmp_path / "out")]
    assert main(["sweep", *words]) == 0
    capsys.readouterr()
    assert main(["sweep", "status", str(tmp_path / "out")]) == 0
    printed = capsys.readouterr()
    assert json.loads(printed.out)["done"] == 2
    assert "2 of 2 cells" in printed.err
    assert printed.err.startswith("sweep       not running\n")
    assert main(["sweep", "status", str(tmp_path)]) == 2
    assert "no sweep.json there" in capsys.readouterr().err


@pytest.mark.parametrize("columns", [80, 160])
def test_a_terminal_shows_one_screen(tmp_path: Path, columns: int) -> None:
    """Nothing is wider than the terminal or stands in a line of the table, and each cell has a result, but no block of its own."""
    (tmp_path / "plan.yaml").write_text(GROUP.replace("progress: none", "progress: auto"))
    words = ["--plan", str(tmp_path / "plan.yaml"), "--backend", "emulator", "--speed", "4"]
    seen = on_a_terminal(
        columns, "sweep", *words, "--out", str(tmp_path / "out"), THINKLOAD_STATE=str(tmp_path / "state")
    )
    lines = [line.rstrip() for line in ANSI.sub("", seen).replace("\r", "\n").splitlines()]
    assert max(len(line) for line in lines if not line.startswith("{")) <= columns  # JSON is for programs
    borders = [line for line in lines if re.search("[┌┐└┘]", line)]
    assert borders
    assert all(re.fullmatch("[┌└]─+[┬┴]─+[┐┘]", line) and len(line) == columns for line in borders)
    assert any("2 of 2 cells" in line for line in lines)
    assert len([line for line in lines if line.startswith("sweep: tp1") and ": done, " in line]) == 2
    assert not [line for line in lines if line.startswith("requests ")]


def test_status_says_whether_the_sweep_runs(sweep: Sweep, capsys: pytest.CaptureFixture[str]) -> None:
    """A killed sweep leaves its cells as running in sweep.json."""
    sweep.kill("sweep", random.Random(0))
    until(lambda: not in_use(sweep.out))
    assert main(["sweep", "status", str(sweep.out)]) == 0
    said = capsys.readouterr().err
    assert f"continue with --resume {sweep.out}" in said
    assert "interrupted" in said


def test_a_deadline_leaves_cells_for_a_resume(sweep: Sweep) -> None:
    """The sweep ends by itself with cells left, and nothing is left running."""
    sweep.arguments += ["--deadline", "8"]
    assert sweep.start().wait() == 130
    states = {cell["state"] for cell in sweep.cells()}
    assert "planned" in states
    assert "running" not in states
    sweep.check_nothing_left()
