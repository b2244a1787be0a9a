"""Imports point downhill only."""

import ast
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests import ROOT

ROOMS = ("server", "loadgen", "analysis", "benchmarks", "tests")
ALLOWED = {
    "server": {"server"},
    "loadgen": {"loadgen"},
    "analysis": {"analysis", "loadgen.record"},
    "loadgen/sweep": {"loadgen", "server"},  # the one place that starts a server and then loads it
}


def imported(path: Path) -> Iterator[str]:
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom) and node.module:
            yield from (f"{node.module}.{alias.name}" for alias in node.names)


@pytest.mark.parametrize("path", sorted(p for r in ROOMS[:3] for p in (ROOT / r).rglob("*.py")), ids=str)
def test_rooms_import_downhill(path: Path) -> None:
    """server, loadgen and analysis do not import each other, save analysis → loadgen.record and the sweep."""
    name = path.relative_to(ROOT).as_posix()
    allowed = ALLOWED.get(name.rpartition("/")[0], ALLOWED[name.split("/")[0]])
    for module in imported(path):
        if module.split(".")[0] in ROOMS:
            assert any(f"{module}.".startswith(f"{prefix}.") for prefix in allowed), (
                f"{name} imports {module}"
            )
