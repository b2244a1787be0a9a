"""Reads a plan file and converts it to command-line arguments, so that the same checks apply to both.

An option gets the word that is written in the file, whatever YAML takes it for: `off`, `010` and `2026-01-01` stay as they are,
also as environment variables. Only three things keep the type that they have in YAML: true and false of an option without a
value, null, which leaves an option out, and what is inside a mapping that an option takes as JSON. Every mistake is a UsageError.

This module does not know what the options mean.
"""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from loadgen.errors import UsageError
from loadgen.files import shipped
from loadgen.option_types import LoadgenParser, meant
from loadgen.options import add_run_arguments
from loadgen.terminal import printable
from server.yaml_file import YamlFileError, read_yaml

KEYS = {
    *("configs", "models", "loads", "repeats", "run", "serve", "axes", "exclude", "only", "first"),
    *("requests", "warmup", "deadline", "residency", "parallel", "gpus", "bench", "backend", "start-timeout"),
    "search",
}
SEARCH_KEYS = {"over", "from", "to", "attain", "most", "limit"}
"""Options of a search, where the key `search` is a mapping instead of true."""
OF_OPTIONS = {"run", "axes", "exclude", "only", "first"}
"""The keys whose mappings hold options of a run, or values of such options."""


def arguments_of(path: Path) -> list[str]:
    """The plan as command-line arguments. A plan of this suite can be named from any folder. Raises UsageError."""
    if not path.is_file() and path.parent in (Path(), Path("plans")):
        plans = shipped("plans")
        ours = plans / path.with_suffix(".yaml").name
        if not ours.is_file():
            names = [plan.stem for plan in sorted(plans.glob("*.yaml"))]
            raise UsageError(f"--plan {path}: No such file{meant(path.stem, names)}")
        path = ours
    try:
        typed, written = read_yaml(path), read_yaml(path, as_text=True)
    except YamlFileError as error:
        raise UsageError(f"--plan {path}: {error}") from None
    known = ", ".join(sorted(KEYS))
    if not isinstance(typed, dict) or not isinstance(written, dict):
        raise UsageError(f"--plan {path}: must be a mapping with the keys {known}")
    if unknown := sorted(map(printable, map(str, written.keys() - KEYS))):
        raise UsageError(f"--plan {path}: unknown keys {unknown}{meant(unknown[0], sorted(KEYS))}")
    content = _options(typed, written)
    run = content.pop("run", None) or {}
    if not isinstance(run, dict):
        raise UsageError(f"--plan {path}: run: must be a mapping of options to values")
    search = typed.get("search", False)
    given = {} if isinstance(search, bool) else search
    if not isinstance(given, dict) or not given.keys() <= SEARCH_KEYS:
        keys = ", ".join(sorted(SEARCH_KEYS))
        raise UsageError(f"--plan {path}: search: write true, or a mapping with some of the keys {keys}")
    return option_words({**content, "search": search is not False, **given, **run})


def _options(typed: Mapping[str, Any], written: Mapping[str, Any]) -> dict[str, Any]:
    return {name: _value(name, typed.get(name, text), text) for name, text in written.items()}


def _value(name: str, typed: Any, written: Any) -> Any:
    """The value of the option `name`, which YAML reads as `typed`, in the form in which the option takes it."""
    if isinstance(typed, list):
        return [_value(name, *pair) for pair in zip(typed, written, strict=True)]
    if isinstance(typed, dict):
        if name == "serve":
            return _with_written_environment(typed, written)
        return _options(typed, written) if name in OF_OPTIONS else typed
    return typed if typed is None or (isinstance(typed, bool) and _is_flag(name)) else written


def _with_written_environment(typed: Any, written: Any) -> Any:
    """Options of `vllm serve`, which have types, with the values of every `env` as they are written."""
    if not isinstance(typed, dict) or not isinstance(written, dict):
        return typed
    return {
        name: written[name] if name == "env" else _with_written_environment(value, written.get(name))
        for name, value in typed.items()
    }


def _is_flag(name: str) -> bool:
    """Whether this is an option of a run that is given without a value."""
    try:
        run_parser().parse_args([f"--{name}"])
    except UsageError:
        return False
    return True


def run_parser() -> LoadgenParser:
    """A parser of only the options of a run."""
    parser = LoadgenParser(prog="python -m loadgen sweep", add_help=False, allow_abbrev=False)
    add_run_arguments(parser)
    return parser


def option_words(options: Mapping[str, Any]) -> list[str]:
    """Options as words of the command line. None and False leave an option out, and True gives it without a value."""
    words: list[str] = []
    for name, value in options.items():
        if value is True:
            words.append(f"--{name}")
        elif isinstance(value, dict) or (isinstance(value, list) and any(isinstance(v, dict) for v in value)):
            try:
                words += [f"--{name}", json.dumps(value, default=str)]  # a date has no form in JSON
            except TypeError as error:
                raise UsageError(f"{name}: {error}") from None
        elif value is not None and value is not False:
            words += [f"--{name}", ",".join(map(str, value)) if isinstance(value, list) else str(value)]
    return words
