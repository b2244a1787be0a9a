"""What a sweep is made of: cells, their order, their names and their content hashes. Pure: nothing starts here.

A cell is one configuration × model × load point × repeat; its budgets are inside it. Rules: a cell's hash covers all that
its numbers depend on, so a changed plan never passes for a finished one. Repeats are interleaved: every cell once, then
every cell again in the opposite order, so that a drift which is linear in time cancels between a cell's repeats.

Does not know: how a server is started, or how a run is made.
"""

import dataclasses
import hashlib
import json
import re
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from itertools import groupby
from pathlib import Path
from typing import Any, Literal

import yaml

from loadgen.errors import UsageError
from loadgen.option_types import positive
from loadgen.options import RunOptions


@dataclass(frozen=True)
class LoadPoint:
    """One load point: a closed loop of N streams, or an open loop of R requests a second."""

    kind: Literal["closed", "open"]
    value: float

    @property
    def name(self) -> str:
        """`c32` or `r2.5`: part of a cell's name."""
        return f"{'c' if self.kind == 'closed' else 'r'}{self.value:g}"

    def applied(self, options: RunOptions) -> RunOptions:
        """The options with this load."""
        if self.kind == "closed":
            return dataclasses.replace(options, concurrency=int(self.value), rate=None)
        return dataclasses.replace(options, rate=self.value, concurrency=None)


@dataclass(frozen=True)
class Cell:
    """One run of a sweep."""

    config: str
    model: str
    load: LoadPoint
    repeat: int = 0

    @property
    def name(self) -> str:
        """Folder name, unique in the sweep."""
        parts = [Path(self.config).stem, self.model.rsplit("/", 1)[-1], self.load.name]
        name = "_".join(parts) + (f"_repeat{self.repeat + 1}" if self.repeat else "")
        return re.sub(r"[^A-Za-z0-9._-]", "-", name)


def loads(text: str) -> tuple[LoadPoint, ...]:
    """`1,32` are closed loops; `0.5/s,2/s` are open ones."""
    return tuple(_load(part.strip()) for part in text.split(","))


def _load(text: str) -> LoadPoint:
    if text.endswith("/s"):
        return LoadPoint("open", positive(text.removesuffix("/s")))
    if not text.isdigit() or int(text) == 0:
        raise UsageError(f"{text!r} is no load point: write 1,32 for closed loops, 2/s for an open one")
    return LoadPoint("closed", int(text))


def load_of(options: RunOptions) -> LoadPoint:
    """The one load point that the run options alone name."""
    return LoadPoint("open", options.rate) if options.rate else LoadPoint("closed", options.concurrency or 16)


def cells(
    configs: Iterable[str], models: Iterable[str], points: Iterable[LoadPoint], repeats: int
) -> list[Cell]:
    """Every cell once a repeat, in running order: those of one server together, every second repeat backwards."""
    points = tuple(points)
    pairs = [(config, model) for model in models for config in configs]
    ordered: list[Cell] = []
    for repeat in range(repeats):
        once = [Cell(config, model, point, repeat) for config, model in pairs for point in points]
        ordered += once[::-1] if repeat % 2 else once
    return ordered


def by_server(order: Iterable[Cell]) -> Iterator[tuple[tuple[str, str], list[Cell]]]:
    """Neighbouring cells that one server can answer."""
    for key, group in groupby(order, key=lambda cell: (cell.config, cell.model)):
        yield key, list(group)


KEYS = {"configs", "models", "loads", "repeats", "run"}


def arguments_of(path: Path) -> list[str]:
    """A plan file as command-line arguments, so that both are checked by the same rules. Raises UsageError."""
    try:
        content = yaml.safe_load(path.read_text())
    except OSError as error:
        raise UsageError(f"--plan {path}: {error.strerror}") from None
    except (UnicodeDecodeError, yaml.YAMLError) as error:
        raise UsageError(f"--plan {path}: no YAML: {' '.join(str(error).split())}") from None
    if not isinstance(content, dict) or not content.keys() <= KEYS:
        unknown = sorted(set(content) - KEYS) if isinstance(content, dict) else "no mapping"
        raise UsageError(f"--plan {path}: {unknown}: a plan has the keys {', '.join(sorted(KEYS))}")
    run = content.get("run") or {}
    if not isinstance(run, dict):
        raise UsageError(f"--plan {path}: run: must be a mapping of options to values")
    arguments: list[str] = []
    for key, value in {
        **{k: v for k, v in content.items() if k != "run"},
        **run,
    }.items():
        if isinstance(value, bool):
            arguments += [f"--{key}"] if value else []
        else:
            arguments += [f"--{key}", ",".join(map(str, value)) if isinstance(value, list) else str(value)]
    return arguments


UNHASHED = {
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
"""Options that say where results go and how one watches, not what is measured."""


def content_hash(cell: Cell, options: RunOptions, parts: dict[str, Any]) -> str:
    """Sixteen hex digits of what the cell's numbers depend on: options, files (in `parts`), load, repeat."""
    asked = {k: v for k, v in dataclasses.asdict(options).items() if k not in UNHASHED}
    whole = {"cell": dataclasses.asdict(cell), "options": asked, "parts": parts}
    return hashlib.sha256(json.dumps(whole, sort_keys=True, default=str).encode()).hexdigest()[:16]
