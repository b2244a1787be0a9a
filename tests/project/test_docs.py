"""The README tells the truth: its tree is the repository, its commands run."""

import json
import os
import re
import shlex
import signal
import socket
import subprocess
import sys
import time
import urllib.request
from collections.abc import Iterator
from fnmatch import fnmatch
from pathlib import Path

import pytest

from tests import ROOT

README = (ROOT / "README.md").read_text()
ENVIRONMENT = {**os.environ, "PYTHONPATH": str(ROOT), "COLUMNS": "110"}


def blocks(language: str) -> list[list[str]]:
    found = re.findall(rf"^```{language}\n(.*?)^```", README, re.MULTILINE | re.DOTALL)
    return [block.strip().splitlines() for block in found]


def tree_entries() -> Iterator[str]:
    """Paths of the README's file tree, from its indentation."""
    stack: list[str] = []
    for line in blocks("tree")[0]:
        name = line.split("  ")[0] if not line.startswith(" ") else line.strip().split("  ")[0]
        depth = (len(line) - len(line.lstrip())) // 2
        stack = [*stack[:depth], name.rstrip("/")]
        yield "/".join(stack)


def test_every_path_of_the_tree_exists() -> None:
    missing = [entry for entry in tree_entries() if not list(ROOT.glob(entry))]
    assert not missing


def test_every_tracked_top_level_path_is_in_the_tree() -> None:
    """A new room or root file without a phrase in the README fails here."""
    listed = subprocess.run(["git", "ls-files"], cwd=ROOT, capture_output=True, text=True, check=False)
    if listed.returncode:
        pytest.skip("not a git checkout")
    top = {line.split("/")[0] for line in listed.stdout.splitlines()}
    hidden = {name for name in top if name.startswith(".") and name not in {".ci", ".env.example"}}
    listed_here = {entry.split("/")[0] for entry in tree_entries()}
    assert not [name for name in top - hidden if not any(fnmatch(name, entry) for entry in listed_here)]


def test_every_make_target_of_the_readme_exists() -> None:
    targets = set(re.findall(r"\bmake ([a-z-]+)", README))
    defined = set(re.findall(r"^([a-z-]+):", (ROOT / "Makefile").read_text(), re.MULTILINE))
    assert targets
    assert targets <= defined


@pytest.fixture
def port() -> int:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        return int(free.getsockname()[1])


def wait_for(url: str, timeout_s: float = 60) -> None:
    deadline = time.monotonic() + timeout_s
    while time.monotonic() < deadline:
        try:
            with urllib.request.urlopen(url, timeout=1):
                return
        except OSError:
            time.sleep(0.1)
    pytest.fail(f"nothing answered at {url} within {timeout_s:.0f} s")


def test_the_commands_run(tmp_path: Path, port: int) -> None:
    """The block after «by hand», line by line, from an empty folder; only the port is changed."""
    commands = [line for line in blocks("sh")[1] if line and not line.startswith("#")]
    background: list[subprocess.Popen[bytes]] = []
    try:
        for command in commands:
            words = shlex.split(command.split(" # ")[0].split(" & ")[0])
            words[0] = sys.executable
            if words[2] == "server" and "emulate" in words:
                words += ["--port", str(port)]
                background.append(subprocess.Popen(words, cwd=tmp_path, env=ENVIRONMENT))
                wait_for(f"http://127.0.0.1:{port}/health")
                continue
            if words[2] == "loadgen":
                words += ["--target", f"http://127.0.0.1:{port}/v1"]
            done = subprocess.run(
                words, cwd=tmp_path, env=ENVIRONMENT, capture_output=True, text=True, check=False, timeout=180
            )
            assert done.returncode == 0, f"{command}\n{done.stderr[-2000:]}"
            json.loads(done.stdout.splitlines()[-1])
    finally:
        for process in background:
            process.send_signal(signal.SIGTERM)
            process.wait(timeout=20)


@pytest.mark.timeout(300)
def test_the_demo_ends_in_a_report(tmp_path: Path) -> None:
    """`make demo`, with this interpreter's environment instead of a fresh one, and faster than a VALID run may be."""
    done = subprocess.run(
        [
            "make",
            "-C",
            str(ROOT),
            "-o",
            ".venv/.installed",
            "demo",
            f"BIN={Path(sys.executable).parent}",
            f"RESULTS={tmp_path}",
            "DEMO_SPEED=20",
        ],
        capture_output=True,
        text=True,
        check=False,
        timeout=240,
    )
    assert done.returncode == 0, done.stderr[-3000:]
    answer = json.loads(
        done.stdout.splitlines()[-2 if done.stdout.splitlines()[-1].startswith("make") else -1]
    )
    page = Path(answer["page"])
    assert page.stat().st_size < 5_000_000
    assert "emulated" in page.read_text()
