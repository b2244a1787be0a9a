"""Every command of every page runs, or is listed here with what it needs that a test does not have.

The lines of a block that is marked `sh` run one after the other in an empty folder, against emulated servers on free ports.
Commands of other blocks have to be in `NEEDS`. The options of all commands exist, also of those within sentences and tables.

This file does not compare the output on a page with that of the command, because times differ from run to run.
"""

import importlib.util
import json
import os
import re
import shlex
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path

import pytest

from tests import ROOT
from tests.fixtures import make_records
from tests.fixtures.emulated import emulated
from tests.fixtures.parallel import free_port, made_once
from thinkload.__main__ import PROGRAM_OF

PAGES = [
    *(ROOT / name for name in ("README.md", "CONTRIBUTING.md", "plans/README.md", "prometheus/targets/README.md")),
    *sorted((ROOT / "docs").rglob("*.md")),
]
PROGRAM = re.compile(r"(?:[A-Z_]+=.* |host-\w\$ )?(?:python|make|docker|locust|thinkload|pip|pre-commit|uv|vllm|curl) ")
ENVIRONMENT = os.environ | {
    "PYTHONPATH": str(ROOT),
    "PYTHONSAFEPATH": "1",  # import from the checkout, not from the folder in which the commands run
    "PATH": f"{Path(sys.executable).parent}:{os.environ['PATH']}",
    "COLUMNS": "110",
}

MINUTES = "minutes, or an idle machine"
DOCKER = "Docker"
GPU = "GPUs"
HUB = "the Hub"
SYNOPSIS = "an overview of options, whose names are checked"
HOSTS = "several hosts"
PROMETHEUS = "Prometheus, with data of several minutes"
ELSEWHERE = "a test of its own"
NEEDS = {
    "README.md": {"make demo": ELSEWHERE},  # test_docs.py
    "CONTRIBUTING.md": {"make": MINUTES, "pre-commit": "a git checkout of one's own"},
    "plans/README.md": {"pip install": "a package registry", "python -m loadgen sweep": GPU},
    "docs/analysis.md": {"python -m analysis": SYNOPSIS},
    "docs/capacity.md": {"python -m loadgen": MINUTES},
    "docs/dashboards.md": {
        "docker compose": DOCKER,
        "make live": PROMETHEUS,
        "python -m loadgen": PROMETHEUS,
        "python -m grafana.render": PROMETHEUS,
    },
    "docs/deploy.md": {"python -m loadgen sweep --search": MINUTES, "python -m analysis recommend": MINUTES},
    "docs/distributed.md": {"RUN_AS=": DOCKER, "python -m loadgen gather results/distributed": DOCKER, "host-": HOSTS},
    "docs/models.md": {"python -m server preset": HUB},
    "docs/paper.md": {"python -m loadgen sweep": GPU},
    "docs/reliability.md": {"THINKLOAD_": MINUTES, "python -m tests.fuzz": MINUTES},
    "docs/serving.md": {
        "docker compose": DOCKER,
        "CONFIG=": DOCKER,
        "python -m server up": "vLLM, except with the emulator",
        "python -m server status": SYNOPSIS,
        "python -m loadgen sweep": MINUTES,
    },
}
"""For each page, the beginnings of the commands that no test runs as they are written there, and why."""


def blocks(page: Path) -> Iterator[tuple[str, list[str]]]:
    """Each block of a page with the language that it is marked with; continued lines are joined."""
    for language, block in re.findall(r"^```(\w*)\n(.*?)^```", page.read_text(), re.MULTILINE | re.DOTALL):
        yield language, re.sub(r"\\\n\s*", "", block).splitlines()


def name_of(page: Path) -> str:
    return page.relative_to(ROOT).as_posix()


def run_by_the_test(page: Path) -> list[str]:
    return [line for language, lines in blocks(page) if language == "sh" for line in lines if line]


@pytest.mark.parametrize("page", PAGES, ids=name_of)
def test_commands_that_no_test_runs_are_listed(page: Path) -> None:
    """Every command of a block that is not marked `sh` is in `NEEDS`, and every row of `NEEDS` has a command."""
    reasons = NEEDS.get(name_of(page), {})
    others = [line for language, lines in blocks(page) if language == "" for line in lines if PROGRAM.match(line)]
    assert [line for line in others if not line.startswith(tuple(reasons))] == []
    assert [start for start in reasons if not any(line.startswith(start) for line in others)] == []


KnownOptions = Callable[[str, str], set[str]]


@pytest.fixture
def known_options(tmp_path_factory: pytest.TempPathFactory) -> KnownOptions:
    """The options in the help of a command. Importing what a command needs takes seconds, so each help is made once."""

    def options(program: str, verb: str) -> set[str]:
        def save_help(folder: Path) -> None:
            command = [sys.executable, "-m", program, verb, "--help"]
            done = subprocess.run(command, env=ENVIRONMENT, capture_output=True, text=True, check=True)
            (folder / "help.txt").write_text(done.stdout)

        saved = made_once(tmp_path_factory, f"help-{program}-{verb}", save_help)
        return set(re.findall(r"--[a-z][\w-]*", (saved / "help.txt").read_text()))

    return options


def quoted_commands(page: Path) -> Iterator[list[str]]:
    """The words of every command `python -m …` of a page: from blocks, sentences and tables."""
    for code in re.findall(r"```.*?```|`[^`]+`", page.read_text(), re.DOTALL):
        joined = re.sub(r"\\\n\s*", "", code) if code.startswith("```") else code.replace("\n", " ")
        for command in re.findall(r"python -m (\w[^`\n#|&;]*)", joined):
            yield command.split(" -- ")[0].split()


@pytest.mark.parametrize("page", PAGES, ids=name_of)
def test_options_and_modules_of_commands_exist(page: Path, known_options: KnownOptions) -> None:
    """Each module can be imported, and each option of a command of the three programs is in the help of the command."""
    wrong = []
    for module, *words in quoted_commands(page):
        if module not in {"loadgen", "server", "analysis"}:
            if importlib.util.find_spec(module.rstrip(".,")) is None:
                wrong.append(module)
            continue
        verb = words[0] if words and words[0] in PROGRAM_OF else "run"
        options = {word.strip("[]()").split("=")[0] for word in words if word.lstrip("[(").startswith("--")}
        if options and (module == "loadgen" or verb != "run"):
            wrong += sorted(f"{module} {verb} {option}" for option in options - known_options(module, verb))
    assert wrong == []


class Session:
    """Runs the commands of one page; a server on port 8000 in the page is an emulated one on a free port."""

    def __init__(self, folder: Path, servers: ExitStack) -> None:
        self.folder = folder
        self.servers = servers
        self.targets: dict[str, str] = {}

    def run(self, line: str) -> None:
        """Run one line; a server is started in the background and asked for at its own address from then on."""
        if found := re.match(r"python -m server emulate (.*?) &", line):
            port = re.search(r" --port (\d+)", found[1])
            words = shlex.split(found[1].replace(port[0] if port else " --port", ""))
            target = self.servers.enter_context(emulated(*words))
            self.targets[port[1] if port else "8000"] = target
            return
        done = subprocess.run(
            ["bash", "-c", self._with_addresses(line)],
            cwd=self.folder,
            env=ENVIRONMENT,
            capture_output=True,
            text=True,
            check=False,
            timeout=200,
        )
        # A busy machine may miss a requirement, which is exit code 1 and no fault of the command.
        allowed = (0, 1) if "--require" in line else (0,)
        assert done.returncode in allowed, f"{line}\n{done.stderr[-2000:]}"
        assert "Traceback" not in done.stderr
        if re.match(r"python -m (loadgen|analysis)[^|>]*$", line):
            json.loads(done.stdout.splitlines()[-1])

    def _with_addresses(self, line: str) -> str:
        """The line for free ports. The default port of the metrics is that of another test, which looks at it from a container."""
        line = re.sub(r"^python -m loadgen(?: run| search| sweep)?(?= --)", r"\g<0> --metrics-port off", line)
        for port, target in self.targets.items():
            line = line.replace(f"http://127.0.0.1:{port}/v1", target)
        if "--target" not in line:
            line = re.sub(r"^python -m loadgen(?= --)", rf"\g<0> --target {self.targets.get('8000')}", line)
        port = str(free_port())
        return re.sub("^locust", f"locust --master-bind-port {port} --master-port {port}", line)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A folder with what the pages take from a checkout: Locust's file and the plans."""
    for name in ("loadgen", "plans"):
        (tmp_path / name).symlink_to(ROOT / name)
    return tmp_path


@pytest.mark.timeout(400)
@pytest.mark.parametrize("page", [page for page in PAGES if run_by_the_test(page)], ids=name_of)
def test_the_commands_of_a_page_run(page: Path, folder: Path) -> None:
    """The blocks `sh` of a page run from top to bottom. The preset that models.md shows and the runs of grading.md are given."""
    for _, lines in blocks(page):
        if lines[0].startswith('id: "Qwen/Qwen3-8B"'):
            (folder / "qwen3-8b.yaml").write_text("\n".join(lines))
    if page.name == "grading.md":
        make_records.main([str(folder / "results"), "--problems", "4", "--configs", "tp1"])
    with ExitStack() as servers:
        session = Session(folder, servers)
        for line in run_by_the_test(page):
            session.run(line)
