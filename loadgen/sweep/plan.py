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
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from itertools import groupby
from pathlib import Path
from typing import Any

from loadgen.errors import UsageError
from loadgen.option_types import LoadPoint
from loadgen.options import RunOptions
from loadgen.sweep.axes import ACCEPTANCE, SHORT, Rule, Variant, check_used, matches, option_words, text_of
from server.config import read_config
from server.yaml_file import YamlFileError, read_yaml


@dataclass(frozen=True)
class Cell:
    """One run of a sweep."""

    config: str
    model: str
    load: LoadPoint
    repeat: int = 0
    variant: Variant = field(default_factory=Variant)
    title: str = ""
    """The model in the cell's name; empty for the last part of the model."""

    @property
    def config_name(self) -> str:
        """The configuration, with the acceptance that is imposed on it."""
        imposed = self.variant.acceptance
        return Path(self.config).stem + ("" if imposed is None else f"-a{imposed:g}")

    @property
    def server_name(self) -> str:
        """The part of the name that all cells of one server have in common."""
        return _plain(f"{self.config_name}_{self.title or self.model.rsplit('/', 1)[-1]}")

    @property
    def name(self) -> str:
        """The name of the cell's folder, which is unique in the sweep."""
        axes = [f"{SHORT.get(name, f'{name}-')}{value}" for name, value in self.variant.axes]
        repeat = [f"repeat{self.repeat + 1}"] if self.repeat else []
        return "_".join([self.server_name, _plain("_".join([self.load.name, *axes, *repeat]))])

    @property
    def facts(self) -> dict[str, set[str]]:
        """What the rules of a plan can select cells by."""
        load = f"{self.load.value:g}" + ("/s" if self.load.kind == "open" else "")
        return {
            "config": {self.config, Path(self.config).stem},
            "model": {self.model, self.title or self.model},
            "load": {load},
            "repeat": {str(self.repeat + 1)},
            ACCEPTANCE: {text_of(self.variant.acceptance)},
            **{name: {value} for name, value in self.variant.axes},
        }

    def applied(self, options: RunOptions) -> RunOptions:
        """The options of this cell's run."""
        return dataclasses.replace(self.load.applied(options), **dict(self.variant.changes))


def _plain(name: str) -> str:
    return re.sub(r"[^A-Za-z0-9._-]", "-", name)


CellResult = tuple[Cell, str | None]
"""A cell that has ended, with the reason of its failure, or None."""


def cells(
    configs: Iterable[str],
    models: Iterable[str],
    points: Iterable[LoadPoint],
    repeats: int,
    variants: Iterable[Variant] = (Variant(),),
) -> list[Cell]:
    """The cells in running order: those of one server together, and every second repeat in the opposite order.

    An acceptance is imposed only on a configuration that speculates; another one has its cells once.
    """
    points, variants = tuple(points), tuple(variants)
    once = [
        Cell(config, model, point, 0, variant)
        for model in models
        for config in configs
        for variant in _variants_of(config, variants)
        for point in points
    ]
    ordered: list[Cell] = []
    for repeat in range(repeats):
        again = [dataclasses.replace(cell, repeat=repeat) for cell in once]
        ordered += again[::-1] if repeat % 2 else again
    return ordered


def _variants_of(config: str, variants: Sequence[Variant]) -> Sequence[Variant]:
    acceptance = variants[0].acceptance
    if all(variant.acceptance is None for variant in variants) or read_config(config).get(
        "speculative-config"
    ):
        return variants
    return [dataclasses.replace(v, acceptance=None) for v in variants if v.acceptance == acceptance]


def selected(
    order: Sequence[Cell], exclude: Sequence[Rule], only: Sequence[Rule], first: Sequence[Rule]
) -> list[Cell]:
    """The cells that no rule of `exclude` and, if there are any, a rule of `only` matches.

    Those that a rule of `first` matches come first, in the order of these rules. Raises UsageError.
    """
    facts = [cell.facts for cell in order]
    for name, given in (("exclude", exclude), ("only", only), ("first", first)):
        check_used(name, given, facts)
    kept = [
        cell
        for cell in order
        if not any(matches(rule, cell.facts) for rule in exclude)
        and (not only or any(matches(rule, cell.facts) for rule in only))
    ]
    ranks = {
        cell.name: next((rank for rank, rule in enumerate(first) if matches(rule, cell.facts)), len(first))
        for cell in kept
    }
    return sorted(kept, key=lambda cell: ranks[cell.name])


def by_server(order: Iterable[Cell], *, merged: bool = False) -> list[list[Cell]]:
    """The successive cells of the same server; with `merged`, all cells of a server, in the order of the servers' first cells."""
    found: list[list[Cell]] = []
    for name, group in groupby(order, key=lambda cell: cell.server_name):
        known = next((cells for cells in found if cells[0].server_name == name), None) if merged else None
        if known is None:
            found.append(list(group))
        else:
            known.extend(group)
    return found


PLAN_KEYS = {
    *("configs", "models", "loads", "repeats", "run", "serve", "axes", "exclude", "only", "first"),
    *("requests", "warmup", "deadline", "residency", "parallel", "gpus", "bench", "backend", "start-timeout"),
    "search",
}
SEARCH_KEYS = {"over", "from", "to", "attain", "most", "limit"}
"""Options of a search, where the key `search` is a mapping instead of true."""


def arguments_of(path: Path) -> list[str]:
    """Converts a plan file to command-line arguments, so that the same checks apply to both. Raises UsageError."""
    content = _read_plan(path)
    run = content.pop("run", None) or {}
    if not isinstance(run, dict):
        raise UsageError(f"--plan {path}: run: must be a mapping of options to values")
    search = content.pop("search", False)
    given = {} if isinstance(search, bool) else search
    if not isinstance(given, dict) or not given.keys() <= SEARCH_KEYS:
        keys = ", ".join(sorted(SEARCH_KEYS))
        raise UsageError(f"--plan {path}: search: write true, or a mapping with some of the keys {keys}")
    return option_words({**content, "search": search is not False, **given, **run})


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
    "verbose",
    "requirements",
    "abort_after",
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
