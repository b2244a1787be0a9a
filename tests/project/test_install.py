"""The installed package, in an environment and a folder of its own: the command `thinkload` and the files that belong to it.

The dependencies are those of this environment, so that only the package itself is installed.
"""

import json
import os
import shutil
import site
import subprocess
import sys
from pathlib import Path

import pytest

from tests import ROOT
from tests.fixtures.parallel import made_once
from thinkload.__main__ import PROGRAM_OF, renamed

SOURCE = ("server", "loadgen", "analysis", "benchmarks", "thinkload", "plans", "prometheus", "grafana")


def run(command: Path, *arguments: str, cwd: Path) -> subprocess.CompletedProcess[str]:
    env = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"} | {"COLUMNS": "100"}
    return subprocess.run(
        [command, *arguments], cwd=cwd, env=env, capture_output=True, text=True, timeout=250, check=False
    )


@pytest.fixture(scope="module")
def thinkload(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The command, installed with pip from a copy of the source."""
    return made_once(tmp_path_factory, "installed", install) / "home" / "bin" / "thinkload"


def install(folder: Path) -> None:
    source, home = folder / "source", folder / "home"
    source.mkdir()
    for name in SOURCE:
        shutil.copytree(ROOT / name, source / name, ignore=shutil.ignore_patterns("__pycache__"))
    for path in ROOT.iterdir():
        if path.is_file():
            shutil.copy(path, source)
    subprocess.run([sys.executable, "-m", "venv", home], check=True)
    done = run(home / "bin" / "pip", "install", "--no-deps", "--disable-pip-version-check", str(source), cwd=home)
    if done.returncode and "setuptools" in done.stderr and not os.environ.get("CI"):
        pytest.skip("no package registry gives the setuptools that builds the package")
    assert done.returncode == 0, done.stderr
    packages = next(home.glob("lib/python3.*/site-packages"))
    (packages / "dependencies.pth").write_text("\n".join(site.getsitepackages()))


def test_it_says_its_version_and_its_commands(thinkload: Path, tmp_path: Path) -> None:
    assert run(thinkload, "--version", cwd=tmp_path).stdout.startswith("thinkload ")
    overview = run(thinkload, cwd=tmp_path).stdout
    assert set(PROGRAM_OF) <= set(overview.split())
    done = run(thinkload, "swep", cwd=tmp_path)
    assert (done.returncode, done.stderr) == (2, "thinkload: 'swep' is not a command: did you mean sweep?\n")


HELP_OF_ALL = """
import contextlib, io, json, sys
from thinkload.__main__ import PROGRAM_OF, main
texts = {}
for verb in PROGRAM_OF:
    sys.argv, text, code = ["thinkload", verb, "--help"], io.StringIO(), None
    with contextlib.redirect_stdout(text):
        try:
            code = main()
        except SystemExit as end:
            code = end.code
    texts[verb] = (code or 0, text.getvalue())
print(json.dumps(texts))
"""
"""One interpreter shows the help of every command, because each would import most of the packages again."""


@pytest.fixture(scope="module")
def helps(thinkload: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, tuple[int, str]]:
    done = run(thinkload.with_name("python"), "-c", HELP_OF_ALL, cwd=tmp_path_factory.mktemp("help"))
    assert done.returncode == 0, done.stderr
    return dict(json.loads(done.stdout))


@pytest.mark.parametrize("verb", PROGRAM_OF)
def test_every_command_shows_its_help_under_its_own_name(verb: str, helps: dict[str, tuple[int, str]]) -> None:
    code, text = helps[verb]
    assert code == 0
    assert text.startswith(f"usage: thinkload {verb}")
    assert "python -m" not in text


def test_the_command_itself_shows_a_help(thinkload: Path, tmp_path: Path) -> None:
    done = run(thinkload, "sweep", "--help", cwd=tmp_path)
    assert (done.returncode, done.stdout.splitlines()[0].startswith("usage: thinkload sweep")) == (0, True)


def test_plans_presets_and_configurations_are_found_from_any_folder(thinkload: Path, tmp_path: Path) -> None:
    done = run(thinkload, "sweep", "--plan", "smoke", "--dry-run", cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout)["cells"]
    wrong = run(thinkload, "sweep", "--plan", "papr", cwd=tmp_path)
    assert wrong.stderr == "loadgen: --plan papr: No such file: did you mean paper?\n"


def test_files_copies_what_compose_and_prometheus_need(thinkload: Path, tmp_path: Path) -> None:
    done = run(thinkload, "files", "mine", cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    for name in (
        "docker-compose.yml",
        "Dockerfile",
        ".env.example",
        "plans",
        "prometheus",
        "grafana/dashboards",
        "server",
        "loadgen",
    ):
        copied, ours = tmp_path / "mine" / name, ROOT / name
        assert copied.is_dir() == ours.is_dir()
        assert copied.exists()
    boards = [path.name for path in (tmp_path / "mine/grafana/dashboards").iterdir()]
    assert sorted(boards) == sorted(path.name for path in (ROOT / "grafana/dashboards").iterdir())
    assert "exists" in run(thinkload, "files", "mine", cwd=tmp_path).stderr


def test_a_run_and_its_report_from_an_empty_folder(thinkload: Path, tmp_path: Path) -> None:
    arguments = ("--configs", "tp1", "--models", "r1-distill-qwen-1.5b", "--backend", "simulate", "--dataset", "sample")
    done = run(thinkload, "sweep", *arguments, "--budgets", "128", "--out", "study", cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    page = run(thinkload, "report", "study", "--page-only", cwd=tmp_path)
    assert page.returncode == 0, page.stderr
    assert (tmp_path / "study/report/index.html").is_file()


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("python -m loadgen sweep --plan x", "thinkload sweep --plan x"),
        ("python -m loadgen run [options]", "thinkload run [options]"),
        ("python -m loadgen --rate 4", "thinkload run --rate 4"),
        ("python -m analysis report results/x", "thinkload report results/x"),
        ("see python -m server", "see thinkload"),
    ],
)
def test_commands_in_a_help_text_are_renamed(text: str, expected: str) -> None:
    assert renamed(text) == expected
