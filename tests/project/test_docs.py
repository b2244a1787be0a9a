"""The documentation is true: the README's tree and commands, links between pages, paths of files, and the index of decisions."""

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
DECISIONS = ROOT / "docs/decisions"
PAGES = [ROOT / "README.md", ROOT / "CONTRIBUTING.md", *sorted((ROOT / "docs").rglob("*.md"))]
ROOM = "loadgen|server|analysis|grafana|prometheus|tests|benchmarks|plans|docs"
PATH = re.compile(rf"`((?:{ROOM})/[\w./-]+)`")
ENVIRONMENT = {**os.environ, "PYTHONPATH": str(ROOT), "COLUMNS": "110"}


def blocks(language: str) -> list[list[str]]:
    found = re.findall(rf"^```{language}\n(.*?)^```", README, re.MULTILINE | re.DOTALL)
    return [block.strip().splitlines() for block in found]


def tree_entries() -> Iterator[str]:
    """The paths of the README's file tree, computed from its indentation."""
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
    """Every tracked folder or file at the top level is listed in the README's tree."""
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


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_links_and_paths_of_a_page_exist(page: Path) -> None:
    """Relative links lead to a file and, where they name one, to a heading; a path in backticks exists in the repository."""
    text = page.read_text()
    missing = [path for path in PATH.findall(text) if "NAME" not in path and not (ROOT / path).exists()]
    for link in re.findall(r"\]\(([^)\s]+)\)", text):
        name, _, anchor = link.partition("#")
        target = page.parent / name if name else page
        if "://" not in link and not (target.exists() and (not anchor or anchor in anchors(target))):
            missing.append(link)
    assert not missing


def anchors(page: Path) -> set[str]:
    """The anchors that GitHub gives to the headings of a page."""
    headings = re.findall(r"^#+ (.*)$", page.read_text(), re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-") for heading in headings}


def test_every_decision_has_a_status_and_a_row_in_the_index() -> None:
    """A decision is under 40 lines, and the index repeats its title and status."""
    index = (DECISIONS / "README.md").read_text()
    for page in DECISIONS.glob("0*.md"):
        lines = page.read_text().splitlines()
        number, title = lines[0].removeprefix("# ").split(". ", 1)
        status = lines[2].removeprefix("Status: ")
        assert int(page.name[:4]) == int(number)
        assert f"| [{number}]({page.name}) | {title} | {status} |" in index
        assert len(lines) < 40


def test_a_decision_that_code_refers_to_exists() -> None:
    """`docs/decisions/NNNN` in a comment or docstring is the number of a page."""
    for folder in ("loadgen", "server", "analysis", "benchmarks", "grafana"):
        for path in (ROOT / folder).rglob("*.py"):
            for number in re.findall(r"decisions/(\d{4})", path.read_text()):
                assert list(DECISIONS.glob(f"{number}-*.md")), f"{path}: no decision {number}"


def test_contributing_is_short_and_names_the_map() -> None:
    """CONTRIBUTING.md has at most 60 lines and points to the map of the code."""
    text = (ROOT / "CONTRIBUTING.md").read_text()
    assert len(text.splitlines()) <= 60
    assert "docs/architecture.md" in text


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
    """The commands of the README's section "By hand" run one after the other in an empty folder, with another port."""
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
            process.wait(timeout=200)


@pytest.mark.timeout(300)
def test_the_demo_ends_in_a_report(tmp_path: Path) -> None:
    """`make demo` ends in a report. The test uses the installed environment, and a speed too high for a VALID run."""
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
