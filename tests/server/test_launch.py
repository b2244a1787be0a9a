"""Servers start, become ready and stop, and never leave anything behind."""

import json
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from server.launch import ports
from server.launch.processes import labelled
from server.launch.readiness import healthy
from tests import ROOT
from tests.fixtures.parallel import free_port, reserve_ports

STANDIN = ROOT / "tests" / "standin"
CAUSES = {  # for each example log in tests/logs, a part of the expected message
    "out-of-memory": "GPU out of memory",
    "kv-too-small": "KV cache too small",
    "unknown-flag": "vllm serve does not know --no-such-flag",
    "speculation-bounds": "bad speculative-config",
    "too-few-gpus": "needs 4 GPUs",
    "heads": "does not divide",
    "no-repository": "no model no-such-org/no-such-model",
    "hub-gated": "the Hugging Face Hub refuses",
    "engine-died": "the engine died at start",
}


@pytest.fixture
def state(tmp_path: Path) -> dict[str, str]:
    """An environment with a separate state folder and targets folder, and with the stand-in `vllm` first on PATH."""
    (tmp_path / "targets").mkdir()
    reserve_ports(tmp_path / "state")
    return {
        **os.environ,
        "PATH": f"{STANDIN}:{Path(sys.executable).parent}:{os.environ['PATH']}",
        "THINKLOAD_STATE": str(tmp_path / "state"),
        "THINKLOAD_TARGETS": str(tmp_path / "targets"),
        "DOCKER_HOST": "unix:///nonexistent/docker.sock",
    }


def server(state: dict[str, str], *arguments: str, **more: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "server", *arguments]
    return subprocess.run(
        command, env={**state, **more}, cwd=ROOT, capture_output=True, text=True, timeout=200, check=False
    )


def since_the_cause_s(state: dict[str, str]) -> float:
    """The seconds since the server wrote the last line of its log."""
    return time.time() - max(path.stat().st_mtime for path in Path(state["THINKLOAD_STATE"]).glob("*.log"))


def left(state: dict[str, str]) -> list[str]:
    """The names of servers that have a state file or a running process."""
    names = [path.stem for path in Path(state["THINKLOAD_STATE"]).glob("*.json")]
    logs = [path.stem for path in Path(state["THINKLOAD_STATE"]).glob("*.log")]
    return names + [name for name in logs if labelled(name)]


@contextmanager
def up(state: dict[str, str], *arguments: str) -> Iterator[dict[str, str]]:
    done = server(state, "up", *arguments)
    try:
        assert done.returncode == 0, done.stderr
        yield json.loads(done.stdout.splitlines()[-1])
    finally:
        server(state, "down", "--all")


@pytest.mark.parametrize("backend", ["emulator", "process"])
def test_up_status_logs_down(state: dict[str, str], backend: str, tmp_path: Path) -> None:
    """`up` returns after a token has been generated, `status` and `logs` show the server, and `down` removes everything."""
    port = free_port()
    with up(
        state, "tp2-ngram", "--model", "r1-distill-qwen-1.5b", "--backend", backend, "--port", str(port)
    ) as started:
        assert started["url"] == f"http://127.0.0.1:{port}/v1"
        status = json.loads(server(state, "status").stdout.splitlines()[-1])["servers"]
        assert [(row["config"], row["port"], row["healthy"]) for row in status] == [("tp2-ngram", port, True)]
        assert "http" in server(state, "logs", "tp2-ngram").stderr.lower()
        entries = json.loads((tmp_path / "targets" / f"{started['name']}.json").read_text())
        labels = entries[0]["labels"]
        assert {key: labels[key] for key in ("config", "model", "tp", "speculation")} == {
            "config": "tp2-ngram",
            "model": "deepseek-ai/DeepSeek-R1-Distill-Qwen-1.5B",
            "tp": "2",
            "speculation": "ngram",
        }
        assert "gpu_indices" not in entries[1]["labels"]  # no GPUs are known here
        assert json.loads(server(state, "down", "tp2-ngram").stdout)["ended"] == [started["name"]]
    assert not labelled(started["name"])
    assert not healthy(port)
    assert not list((tmp_path / "targets").iterdir())


def test_telemetry_is_that_of_the_servers_gpus(state: dict[str, str], tmp_path: Path) -> None:
    """Prometheus drops the series of the other GPUs of the host by this label."""
    options = ("--model", "r1-distill-qwen-1.5b", "--backend", "process", "--gpus", "2,3")
    with up(state, "tp2", *options) as started:
        entries = json.loads((tmp_path / "targets" / f"{started['name']}.json").read_text())
    assert [entry["labels"].get("gpu_indices") for entry in entries] == [None, ",2,3,"]
    assert entries[1]["targets"] == ["host.docker.internal:9400"]


@pytest.mark.parametrize("log", sorted(CAUSES))
def test_failure_is_one_line_within_five_seconds(state: dict[str, str], log: str) -> None:
    """The last lines of the log and then the reason are printed, the exit code is 2, and nothing runs."""
    done = server(state, "up", "tp1", "--model", "r1-distill-qwen-1.5b", "--backend", "process", STANDIN_FAIL=log)
    assert since_the_cause_s(state) < 5
    assert done.returncode == 2
    reason = done.stderr.splitlines()[-1]
    assert reason.startswith("server: ")
    assert CAUSES[log] in reason
    assert done.stderr.splitlines()[-2].startswith("  | ")
    assert not left(state)


def test_a_server_whose_engine_has_died_is_stopped(state: dict[str, str]) -> None:
    """If the log shows a failure but the process continues to run, the process is stopped within seconds."""
    more = {"STANDIN_FAIL": "kv-too-small", "STANDIN_HANG": "1"}
    done = server(state, "up", "tp1", "--model", "r1-distill-qwen-1.5b", "--backend", "process", **more)
    assert since_the_cause_s(state) < 5
    assert "KV cache too small" in done.stderr.splitlines()[-1]
    assert not left(state)


@pytest.mark.parametrize("failure", ["silent", "mute"])
def test_startup_timeout_is_reported(state: dict[str, str], failure: str) -> None:
    """The server prints nothing, or it is healthy and never generates."""
    arguments = ("up", "tp1", "--model", "r1-distill-qwen-1.5b", "--backend", "process", "--start-timeout", "1")
    done = server(state, *arguments, STANDIN_FAIL=failure)
    assert done.returncode == 2
    assert "not ready after 1 s" in done.stderr.splitlines()[-1]
    assert not left(state)


def test_a_kill_is_reported(state: dict[str, str]) -> None:
    words = ("up", "tp1", "--model", "r1-distill-qwen-1.5b", "--backend", "process")
    done = server(state, *words, STANDIN_FAIL="killed")
    assert done.returncode == 2
    assert "the server was killed before it was ready" in done.stderr.splitlines()[-1]


def test_taken_port_is_reported(state: dict[str, str]) -> None:
    with socket.socket() as holder:
        holder.bind(("127.0.0.1", 0))
        holder.listen()
        port = holder.getsockname()[1]
        done = server(
            state, "up", "tp1", "--model", "r1-distill-qwen-1.5b", "--backend", "emulator", "--port", str(port)
        )
    assert done.returncode == 2
    assert done.stderr.splitlines()[-1] == f"server: port {port} is taken: free it or choose another with --port"


def test_missing_docker_daemon_is_reported(state: dict[str, str]) -> None:
    done = server(state, "up", "tp1", "--model", "r1-distill-qwen-1.5b", "--backend", "docker")
    assert done.returncode == 2
    assert "no Docker daemon answers" in done.stderr.splitlines()[-1]


def test_missing_vllm_is_reported(state: dict[str, str]) -> None:
    done = server(state, "up", "tp1", "--model", "x/y", "--backend", "process", PATH="/usr/bin:/bin")
    assert done.returncode == 2
    assert "no command 'vllm' on PATH" in done.stderr.splitlines()[-1]


def test_unknown_configuration_is_reported(state: dict[str, str]) -> None:
    done = server(state, "up", "tp3", "--model", "r1-distill-qwen-1.5b", "--backend", "emulator")
    assert done.returncode == 2
    assert "tp3" in done.stderr.splitlines()[-1]


LAUNCHER = """
import sys, time
from server.launch.spec import Spec
from tests.fixtures.emulated import launched
with launched(Spec(config="tp1", model="r1-distill-qwen-1.5b", backend="process")) as server:
    print(server.name, flush=True)
    time.sleep(60)
"""


def launcher(state: dict[str, str]) -> tuple[subprocess.Popen[str], str]:
    process = subprocess.Popen([sys.executable, "-c", LAUNCHER], env=state, cwd=ROOT, stdout=subprocess.PIPE, text=True)
    assert process.stdout is not None
    return process, process.stdout.readline().strip()


def gone(name: str, within_s: float) -> bool:
    deadline = time.monotonic() + within_s
    while labelled(name) and time.monotonic() < deadline:
        time.sleep(0.05)
    return not labelled(name)


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGKILL])
def test_no_server_outlives_its_launcher(state: dict[str, str], number: int) -> None:
    """The server ends with the launcher after SIGINT, SIGTERM and SIGKILL, because a watchdog process notices it."""
    process, name = launcher(state)
    assert labelled(name)
    process.send_signal(number)
    process.communicate(timeout=200)
    assert gone(name, within_s=60)


def test_up_that_is_killed_before_its_server_is_ready_leaves_no_server(state: dict[str, str]) -> None:
    """Only a ready server continues to run after `up` has ended."""
    words = ("up", "tp1", "--model", "r1-distill-qwen-1.5b", "--backend", "process")
    process = subprocess.Popen(
        [sys.executable, "-m", "server", *words],
        env={**state, "STANDIN_FAIL": "silent"},
        cwd=ROOT,
        stderr=subprocess.PIPE,
        text=True,
    )
    assert process.stderr is not None
    name = process.stderr.readline().partition(":")[0]
    try:
        deadline = time.monotonic() + 60
        while not labelled(name) and time.monotonic() < deadline:
            time.sleep(0.05)  # its environment is readable a moment after it was started
        assert labelled(name)
    finally:
        process.kill()
        process.communicate(timeout=200)
    assert gone(name, within_s=60)


def test_down_all_stops_the_server_of_a_killed_launcher_and_watchdog(state: dict[str, str]) -> None:
    """The server is found by its label."""
    process, name = launcher(state)
    watchdogs = [
        int(folder.name)
        for folder in Path("/proc").glob("[0-9]*")
        if (folder / "stat").exists()
        and parent(folder) == process.pid
        and b"watchdog" in (folder / "cmdline").read_bytes()
    ]
    for pid in (*watchdogs, process.pid):
        os.kill(pid, signal.SIGKILL)
    process.communicate(timeout=200)
    assert len(watchdogs) == 1
    assert labelled(name)
    assert json.loads(server(state, "down", "--all").stdout)["ended"] == [name]
    assert not labelled(name)


def parent(folder: Path) -> int:
    return int((folder / "stat").read_text().rpartition(")")[2].split()[1])


def test_a_port_is_not_reused_until_prometheus_has_dropped_its_server(tmp_path: Path) -> None:
    """Otherwise the next configuration of a sweep would be scraped under the labels of the previous one."""
    ports.start_cooldown(8003, tmp_path)
    assert ports.cooling_down(tmp_path) == {8003}
    long_ago_s = time.time() - ports.COOLDOWN_S - 1
    os.utime(tmp_path / "port-8003", (long_ago_s, long_ago_s))
    assert ports.cooling_down(tmp_path) == frozenset()


def test_down_all_leaves_the_servers_of_another_checkout(state: dict[str, str], tmp_path: Path) -> None:
    """They end only with --everywhere."""
    with up(state, "tp1", "--model", "r1-distill-qwen-1.5b", "--backend", "emulator") as started:
        file = tmp_path / "state" / f"{started['name']}.json"
        saved = json.loads(file.read_text())
        file.write_text(json.dumps(saved | {"checkout": "/another/checkout"}))
        assert json.loads(server(state, "down", "--all").stdout)["ended"] == []
        assert labelled(started["name"])
        assert json.loads(server(state, "down", "--all", "--everywhere").stdout)["ended"] == [started["name"]]
    assert not labelled(started["name"])
