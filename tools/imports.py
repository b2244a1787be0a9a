"""The import graph of this repository, read from the source text with `ast`. Nothing is imported or run.

A module is a file (`loadgen/run/merge.py` is `loadgen.run.merge`; a package's `__init__.py` is the package). A room is what
a newcomer sees on opening a folder: each file in it and each folder in it. Imports inside functions and under
`TYPE_CHECKING` count like all others.

This module does not know which imports are allowed (tests/project/test_layers.py) or how results are printed (house.py).
"""

import ast
import itertools
from collections.abc import Iterable, Iterator, Mapping
from graphlib import TopologicalSorter
from pathlib import Path

Graph = dict[str, set[str]]
"""Each module or room, and those that it imports."""

ROOT = Path(__file__).parent.parent
PROGRAMS = ("loadgen", "server", "analysis")
FOLDERS = (*PROGRAMS, "thinkload", "grafana", "benchmarks", "tools")
"""All folders with Python code except the tests."""


def sources(*folders: str, root: Path = ROOT) -> list[Path]:
    """All Python files in these folders, sorted."""
    return sorted(path for folder in folders for path in (root / folder).rglob("*.py"))


def module_name(path: Path, root: Path = ROOT) -> str:
    """`loadgen/run/merge.py` is `loadgen.run.merge`, `loadgen/run/__init__.py` is `loadgen.run`."""
    parts = path.relative_to(root).with_suffix("").parts
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


def imported_names(path: Path) -> Iterator[str]:
    """Everything that a file imports, as full dotted names: `from a.b import c` is `a.b.c`."""
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom) and node.module:
            yield from (f"{node.module}.{alias.name}" for alias in node.names)


def module_graph(paths: Iterable[Path], root: Path = ROOT) -> Graph:
    """The imports between these files. A name that is no module belongs to the module before its last dot."""
    names = {module_name(path, root): path for path in paths}
    graph: Graph = {name: set() for name in names}
    for name, path in names.items():
        for full in imported_names(path):
            target = full if full in names else full.rpartition(".")[0]
            if target in names and target != name:
                graph[name].add(target)
    return graph


def room_graph(graph: Mapping[str, set[str]], folder: str) -> Graph:
    """The imports between the rooms of one folder (dotted, such as `loadgen.run`)."""
    depth = folder.count(".") + 2

    def room(name: str) -> str | None:
        return ".".join(name.split(".")[:depth]) if name.startswith(f"{folder}.") else None

    rooms: Graph = {found: set() for name in graph if (found := room(name))}
    for name, targets in graph.items():
        if (source := room(name)) is not None:
            rooms[source] |= {other for t in targets if (other := room(t)) is not None and other != source}
    return rooms


def circles(graph: Mapping[str, set[str]]) -> list[list[str]]:
    """Groups of nodes that import each other, directly or through others, each sorted."""
    reached = {node: set(targets) for node, targets in graph.items()}
    for middle, node in itertools.product(graph, graph):
        if middle in reached[node]:
            reached[node] |= reached[middle]
    groups = {tuple(sorted(n for n in reached[node] if node in reached[n])) for node in graph}
    return [list(group) for group in sorted(groups) if len(group) > 1]


def longest_chain(graph: Mapping[str, set[str]]) -> list[str]:
    """The longest chain of imports, from the importing end. Raises graphlib.CycleError where the graph has a circle."""
    best: dict[str, list[str]] = {}
    for node in TopologicalSorter(graph).static_order():  # each after all that it imports
        best[node] = [node, *max((best[target] for target in sorted(graph[node])), key=len, default=[])]
    return max((best[node] for node in sorted(best)), key=len, default=[])
