"""The cells of a sweep: their order, their names and their content hashes. Nothing is started here.

A cell is one configuration × model × load point × repeat, and contains all its budgets. Its hash covers everything that its
numbers depend on, so that a cell of a changed plan is never taken for a finished one. Repeats are interleaved: all cells run
once, then all cells run again in the opposite order, so that a drift that is linear in time cancels between the repeats of a
cell.

This module does not know how a server is started, or how a run works.
"""

import dataclasses
import hashlib
import json
import re
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from itertools import groupby
from pathlib import Path
from typing import Any

from loadgen.errors import UsageError
from loadgen.option_types import LoadPoint
from loadgen.options import RunOptions
from server.yaml_file import YamlFileError, read_yaml


@dataclass(frozen=True)
class Cell:
    """One run of a sweep."""

    config: str
    model: str
    load: LoadPoint
    repeat: int = 0

    @property
    def name(self) -> str:
        """The name of the cell's folder, which is unique in the sweep."""
        parts = [Path(self.config).stem, self.model.rsplit("/", 1)[-1], self.load.name]
        name = "_".join(parts) + (f"_repeat{self.repeat + 1}" if self.repeat else "")
        return re.sub(r"[^A-Za-z0-9._-]", "-", name)


CellResult = tuple[Cell, str | None]
"""A cell that has ended, with the reason of its failure, or None."""


def cells(
    configs: Iterable[str], models: Iterable[str], points: Iterable[LoadPoint], repeats: int
) -> list[Cell]:
    """The cells in running order: those of one server together, and every second repeat in the opposite order."""
    points = tuple(points)
    pairs = [(config, model) for model in models for config in configs]
    ordered: list[Cell] = []
    for repeat in range(repeats):
        once = [Cell(config, model, point, repeat) for config, model in pairs for point in points]
        ordered += once[::-1] if repeat % 2 else once
    return ordered


def by_server(order: Iterable[Cell]) -> Iterator[tuple[tuple[str, str], list[Cell]]]:
    """Groups of successive cells that use the same server, each with its configuration and model."""
    for key, group in groupby(order, key=lambda cell: (cell.config, cell.model)):
        yield key, list(group)


PLAN_KEYS = {"configs", "models", "loads", "repeats", "run"}


def arguments_of(path: Path) -> list[str]:
    """Converts a plan file to command-line arguments, so that the same checks apply to both. Raises UsageError."""
    content = _read_plan(path)
    run = content.pop("run", None) or {}
    if not isinstance(run, dict):
        raise UsageError(f"--plan {path}: run: must be a mapping of options to values")
    arguments: list[str] = []
    for key, value in {**content, **run}.items():
        if isinstance(value, bool):
            arguments += [f"--{key}"] if value else []
        else:
            arguments += [f"--{key}", ",".join(map(str, value)) if isinstance(value, list) else str(value)]
    return arguments


def _read_plan(path: Path) -> dict[str, Any]:
    try:
        content = read_yaml(path)
    except YamlFileError as error:
        raise UsageError(f"--plan {path}: {error}") from None
    if not isinstance(content, dict):
        raise UsageError(f"--plan {path}: must be a mapping with the keys {', '.join(sorted(PLAN_KEYS))}")
    if unknown := sorted(map(str, set(content) - PLAN_KEYS)):
        raise UsageError(f"--plan {path}: unknown keys {unknown}: choose from {', '.join(sorted(PLAN_KEYS))}")
    return content


NOT_HASHED = {
    "out",
    "resume",
    "progress",
    "metrics_port",
    "metrics_host",
    "argv",
    "dry_run",
    "strict",
    "server",
    "target",
}
"""Options that determine where results go and how progress is shown, but not what is measured."""


def content_hash(cell: Cell, options: RunOptions, parts: dict[str, Any]) -> str:
    """Sixteen hexadecimal digits of everything the cell's numbers depend on: options, files (in `parts`), load and repeat."""
    measured = {key: value for key, value in dataclasses.asdict(options).items() if key not in NOT_HASHED}
    measured["headers"] = [name for name, _ in options.headers]  # a new key does not change what is measured
    whole = {"cell": dataclasses.asdict(cell), "options": measured, "parts": parts}
    return hashlib.sha256(json.dumps(whole, sort_keys=True, default=str).encode()).hexdigest()[:16]
