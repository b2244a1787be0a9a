"""Imports point downhill only, between the three programs and between the rooms inside each; folders stay small."""

from pathlib import Path

import pytest

from tests import ROOT
from tools.imports import PROGRAMS, circles, imported_names, longest_chain, module_graph, module_name, sources

ALLOWED = {
    "server": ("server",),
    "loadgen": ("loadgen",),
    "loadgen/sweep": ("loadgen", "server"),  # the one room that starts a server and then loads it
    "analysis": (
        "analysis",
        "loadgen.record",
        "loadgen.chunks",
        "loadgen.measure.quantiles",
        "loadgen.measure.steady_window",
        "loadgen.terminal",
        "loadgen.files",
        "loadgen.option_types",
        "loadgen.measure.dependence",
    ),
}
"""What the files of a program, or of one room of it, may import of this repository."""

FLOORS = {
    "loadgen": (
        ("sweep", "distributed", "checks"),
        ("search",),
        ("run",),
        ("live", "target"),
        ("plan", "measure", "client"),
    ),
    "analysis": (
        ("report", "recommend", "compare", "claims", "grade", "import_", "contents"),
        ("traffic",),
        ("advice",),
        ("page",),
        ("figures",),
        ("tables",),
        ("data",),
        ("noise",),
        ("grading", "foreign", "stats", "format"),
    ),
    "server.emulator": (("simulated_cell", "forecast"), ("api",), ("engine", "text")),
}
"""Rooms from the top floor to the ground floor: a room imports from its own room and from floors below it only."""

SAME_FLOOR = {
    ("analysis", "report", "contents"),
    ("analysis", "report", "recommend"),
    ("analysis", "contents", "claims"),
    ("server.emulator", "forecast", "simulated_cell"),
}
"""(program, importing room, imported room) of one floor where the import is allowed: a command uses the result of another."""

FILES_LIMIT = 20
GRAPH = module_graph(sources(*PROGRAMS))


@pytest.mark.parametrize("path", sources(*PROGRAMS), ids=lambda path: str(path.relative_to(ROOT)))
def test_programs_import_downhill(path: Path) -> None:
    """server, loadgen and analysis do not import each other, save for analysis → loadgen's files and the sweep."""
    name = path.relative_to(ROOT).as_posix()
    allowed = ALLOWED.get(name.rpartition("/")[0], ALLOWED[name.split("/")[0]])
    for module in imported_names(path):
        if module.split(".")[0] in {*PROGRAMS, "benchmarks", "tests", "tools"}:
            assert f"{module}.".startswith(tuple(f"{prefix}." for prefix in allowed)), f"{name} imports {module}"


@pytest.mark.parametrize("package", FLOORS)
def test_rooms_import_downhill(package: str) -> None:
    """No file imports from a floor above its own, nor from another room on its own floor."""
    floors = {room: floor for floor, rooms in enumerate(FLOORS[package]) for room in rooms}
    wrong = []
    for source, targets in GRAPH.items():
        for target in targets:
            upper, lower = _room(source, package), _room(target, package)
            if upper in floors and lower in floors and upper != lower:
                same = (package, upper, lower) in SAME_FLOOR
                if floors[upper] > floors[lower] or (floors[upper] == floors[lower] and not same):
                    wrong.append(f"{source} imports {target}")
    assert wrong == []


def _room(module: str, package: str) -> str:
    return module.removeprefix(f"{package}.").split(".")[0] if module.startswith(f"{package}.") else ""


def test_ground_files_import_no_room() -> None:
    """The files directly in loadgen/ that every room uses know no room, except the command line and its options."""
    ground = ("errors", "option_types", "exchange", "record", "clock", "chunks", "terminal", "redaction")
    rooms = {room for floor in FLOORS["loadgen"] for room in floor}
    wrong = [
        f"{name} imports {target}"
        for name in (f"loadgen.{file}" for file in ground)
        for target in GRAPH[name]
        if _room(target, "loadgen") in rooms
    ]
    assert wrong == []


def test_there_is_no_circle_and_no_long_chain() -> None:
    """No file imports itself through others, and no chain of imports is longer than fifteen files."""
    assert circles(GRAPH) == []
    assert len(longest_chain(GRAPH)) <= 15


def test_every_folder_can_be_overseen() -> None:
    """At most twenty Python files a folder, in the programs and in the tests."""
    folders = {path.parent for path in sources(*PROGRAMS, "benchmarks", "grafana", "tools", "tests")}
    counts = {str(folder.relative_to(ROOT)): len(list(folder.glob("*.py"))) for folder in folders}
    assert {name: count for name, count in counts.items() if count > FILES_LIMIT} == {}


def test_module_names() -> None:
    """A package's `__init__.py` is the package."""
    assert module_name(ROOT / "loadgen" / "run" / "__init__.py") == "loadgen.run"
    assert module_name(ROOT / "loadgen" / "record.py") == "loadgen.record"
