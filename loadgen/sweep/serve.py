"""The key `serve` of a plan: options of `vllm serve` and environment variables, for all servers, by configuration and by model.

Options have the format of a configuration file. Those of a model replace those of a configuration, which replace those of all;
null removes an option that the preset sets. `env` holds environment variables. `model` names a folder of weights that is
served instead of the preset's, for example one with random weights. Every mistake is a UsageError before anything starts.

This module does not know how a server is started.
"""

import re
from collections.abc import Iterable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from loadgen.errors import UsageError
from server.config import read_config

Options = dict[str, Any]
SETTINGS = ("all", "configs", "models")


@dataclass(frozen=True)
class ServePlan:
    """The options of every server of a sweep."""

    all: Options = field(default_factory=dict)
    configs: dict[str, Options] = field(default_factory=dict)
    models: dict[str, Options] = field(default_factory=dict)

    def options(
        self, config: str, model: str, acceptance: float | None = None, draft_tokens: int | None = None
    ) -> Options:
        """The options of `vllm serve` for one server."""
        found = {name: value for name, value in self._merged(config, model).items() if name != "env"}
        changed: Options = {} if draft_tokens is None else {"num_speculative_tokens": draft_tokens}
        if acceptance is not None:
            changed |= {"rejection_sample_method": "synthetic", "synthetic_acceptance_length": acceptance}
        if changed:
            before = read_config(config, found).get("speculative-config")
            found["speculative-config"] = {**(before or {}), **changed}
        return found

    def environment(self, config: str, model: str) -> dict[str, str]:
        """The environment variables of one server."""
        found: dict[str, str] = {}
        for options in self._of(config, model):
            found |= {name: str(value) for name, value in (options.get("env") or {}).items()}
        return found

    def title(self, model: str) -> str:
        """The model in the name of a cell: the last part of the served folder, if the plan names one, or of the preset's file."""
        folder = self._merged("", model).get("model", model)
        return str(folder).rstrip("/").rsplit("/", 1)[-1].removesuffix(".yaml")

    def _of(self, config: str, model: str) -> tuple[Options, ...]:
        return self.all, self.configs.get(Path(config).stem, {}), self.models.get(model, {})

    def _merged(self, config: str, model: str) -> Options:
        return {name: value for options in self._of(config, model) for name, value in options.items()}


def serve_plan(content: dict[str, Any], configs: Iterable[str], models: Iterable[str]) -> ServePlan:
    """Checks the content of the key `serve`. Raises UsageError."""
    if unknown := sorted(content.keys() - set(SETTINGS)):
        raise UsageError(f"serve: unknown key {unknown[0]!r}: choose from {', '.join(SETTINGS)}")
    _check("serve: all", content.get("all", {}))
    for kind, known in (("configs", {Path(name).stem for name in configs}), ("models", set(models))):
        of_each = content.get(kind, {})
        _mapping(f"serve: {kind}", of_each)
        for name, options in of_each.items():
            if name not in known:
                choices = ", ".join(sorted(known))
                raise UsageError(f"serve: {kind}: {name!r} is not in this sweep: choose from {choices}")
            _check(f"serve: {kind}: {name}", options)
    return ServePlan(**content)


def _mapping(where: str, value: object) -> None:
    if not isinstance(value, dict):
        raise UsageError(f"{where}: must be a mapping")


def _check(where: str, options: Any) -> None:
    _mapping(where, options)
    for name, value in options.items():
        if name == "env":
            _mapping(f"{where}: env", value)
            if wrong := [key for key in value if not re.fullmatch(r"[A-Za-z_][A-Za-z0-9_]*", str(key))]:
                raise UsageError(f"{where}: env: {wrong[0]!r} is not the name of an environment variable")
        elif not re.fullmatch(r"[a-z0-9][a-z0-9-]*", str(name)):
            raise UsageError(f"{where}: {name!r} is not an option of vllm serve: write it without dashes in front")
