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
from loadgen.record import RunInfo
from loadgen.sweep.axes import ACCEPTANCE, DRAFT_TOKENS, SHORT, Rule, Variant, matches, text_of
from loadgen.sweep.serve import Options, ServePlan
from server.config import read_config

EMULATED = {"emulator", "simulate"}
"""The backends without a real server."""


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
    serve: Options = field(default_factory=dict)
    """Options of `vllm serve` for its server, beside those of the configuration."""
    environment: dict[str, str] = field(default_factory=dict)
    """Environment variables of its server."""

    @property
    def config_name(self) -> str:
        """The configuration, with the number of draft tokens and the acceptance where the plan sets them."""
        imposed, draft_tokens = self.variant.of_server
        drafts = "" if draft_tokens is None else f"-k{draft_tokens}"
        return Path(self.config).stem + drafts + ("" if imposed is None else f"-a{imposed:g}")

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
    def overrides(self) -> Options:
        """The same options for an emulated server, which has no weights."""
        return {name: value for name, value in self.serve.items() if name != "model"}

    @property
    def tensor_parallel_size(self) -> int:
        """The number of GPUs that its server needs."""
        return int(read_config(self.config, self.overrides)["tensor-parallel-size"])

    @property
    def facts(self) -> dict[str, set[str]]:
        """What the rules of a plan can select cells by."""
        facts: dict[str, set[Any]] = {
            "config": {self.config, Path(self.config).stem},
            "model": {self.model, self.title or self.model},
            "load": {self.load.value if self.load.kind == "closed" else f"{self.load.value:g}/s"},
            "repeat": {self.repeat + 1},
            ACCEPTANCE: {self.variant.acceptance},
            DRAFT_TOKENS: {self.variant.draft_tokens},
            **{name: {value} for name, value in self.variant.axes},
        }
        return {name: {text_of(value) for value in values} for name, values in facts.items()}

    def applied(self, options: RunOptions) -> RunOptions:
        """The options of this cell's run."""
        return dataclasses.replace(self.load.applied(options), **dict(self.variant.changes))


def _plain(name: str) -> str:
    return re.sub(r"[^A-Za-z0-9._-]", "-", name)


CellResult = tuple[Cell, str]
"""A cell that has ended, and what became of it in one line."""


def outcome(run: RunInfo) -> str:
    """What became of a cell whose run is complete: its verdict, with the first reason against it."""
    more = f" (and {len(run.reasons) - 1} more in run.json)" if len(run.reasons) > 1 else ""
    return f"done, {run.verdict}" + (f": {run.reasons[0]}{more}" if run.reasons else "")


def cells(
    configs: Iterable[str],
    models: Iterable[str],
    points: Iterable[LoadPoint],
    repeats: int,
    variants: Iterable[Variant] = (Variant(),),
    *,
    serve: ServePlan | None = None,
) -> list[Cell]:
    """The cells in running order: those of one server together, and every second repeat in the opposite order.

    Draft tokens and acceptance are those of configurations that speculate; another one has its cells once.
    """
    points, variants, serve = tuple(points), tuple(variants), serve or ServePlan()
    once = [
        Cell(
            config,
            model,
            point,
            variant=variant,
            title=serve.title(model),
            serve=serve.options(config, model, *variant.of_server),
            environment=serve.environment(config, model),
        )
        for model in models
        for config in configs
        for variant in _variants_of(config, variants, serve.options(config, model))
        for point in points
    ]
    ordered: list[Cell] = []
    for repeat in range(repeats):
        again = [dataclasses.replace(cell, repeat=repeat) for cell in once]
        ordered += again[::-1] if repeat % 2 else again
    return ordered


def _variants_of(config: str, variants: Sequence[Variant], serve: Options) -> Sequence[Variant]:
    first, plain = variants[0].of_server, (None, None)
    if all(one.of_server == plain for one in variants) or read_config(config, serve).get("speculative-config"):
        return variants
    once = (variant for variant in variants if variant.of_server == first)
    return [dataclasses.replace(variant, acceptance=None, draft_tokens=None) for variant in once]


def selected(order: Sequence[Cell], exclude: Sequence[Rule], only: Sequence[Rule], first: Sequence[Rule]) -> list[Cell]:
    """The cells that no rule of `exclude` and, if there are any, a rule of `only` matches.

    Those that a rule of `first` matches come first, in the order of these rules. Raises UsageError.
    """
    for option, rules in (("exclude", exclude), ("only", only), ("first", first)):
        for rule in rules:  # one that applies to no cell is probably a spelling mistake
            if not any(matches(rule, cell.facts) for cell in order):
                shown = ", ".join(f"{name}: {'|'.join(sorted(values))}" for name, values in rule.items())
                raise UsageError(f"--{option}: no cell has {shown}")
    kept = [
        cell
        for cell in order
        if not any(matches(rule, cell.facts) for rule in exclude)
        and (not only or any(matches(rule, cell.facts) for rule in only))
    ]
    if not kept:
        raise UsageError("--exclude and --only leave no cell: remove one of their rules")

    def rank(cell: Cell) -> int:
        return next((place for place, rule in enumerate(first) if matches(rule, cell.facts)), len(first))

    return sorted(kept, key=rank)


def by_server(order: Sequence[Cell], *, merged: bool = False) -> list[list[Cell]]:
    """The successive cells of the same server; with `merged`, all cells of a server, in the order of the servers' first cells."""
    if merged:
        servers = list(dict.fromkeys(cell.server_name for cell in order))
        order = sorted(order, key=lambda cell: servers.index(cell.server_name))
    return [list(group) for _, group in groupby(order, key=lambda cell: cell.server_name)]


NOT_HASHED = {
    "out",
    "resume",
    "progress",
    "quiet",
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
