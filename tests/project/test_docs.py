"""The documentation is true: the README's tree, links between pages, paths of files, targets of make, and the index of decisions."""

import json
import re
import subprocess
import sys
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


def test_every_make_target_of_the_pages_exists() -> None:
    """`make TARGET` within code, in any page."""
    targets = {
        found for page in PAGES for found in re.findall(r"(?:`|^)make ([a-z-]+)", page.read_text(), re.MULTILINE)
    }
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


def run_make(target: str, *variables: str) -> subprocess.CompletedProcess[str]:
    """Run a target of the Makefile with the environment of the tests in place of .venv."""
    command = ["make", "-C", str(ROOT), "-o", ".venv/.installed", target, f"BIN={Path(sys.executable).parent}"]
    return subprocess.run([*command, *variables], capture_output=True, text=True, check=False, timeout=240)


def test_the_notebook_runs(tmp_path: Path) -> None:
    """`make notebook` runs every cell on a study that it simulates, and the notebook is committed without outputs."""
    cells = json.loads((ROOT / "docs/analysis.ipynb").read_text())["cells"]
    assert [cell for cell in cells if cell.get("outputs")] == []
    (tmp_path / "docs").mkdir()
    done = run_make("notebook", f"NOTEBOOK_FOLDER={tmp_path}/docs")
    assert done.returncode == 0, done.stderr[-3000:]
    assert "simulated" in done.stdout
    assert f"In [{len(cells) - 1}]:" in done.stdout


@pytest.mark.timeout(300)
def test_the_demo_ends_in_a_report(tmp_path: Path) -> None:
    """`make demo` ends in a report. The test uses the installed environment, and a speed too high for a VALID run."""
    done = run_make("demo", f"RESULTS={tmp_path}", "DEMO_SPEED=20")
    assert done.returncode == 0, done.stderr[-3000:]
    answer = json.loads(done.stdout.splitlines()[-2 if done.stdout.splitlines()[-1].startswith("make") else -1])
    page = Path(answer["page"])
    assert page.stat().st_size < 5_000_000
    assert "emulated" in page.read_text()
