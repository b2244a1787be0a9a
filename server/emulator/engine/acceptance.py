"""Chooses the acceptance of drafts that the emulator does not verify against the text: a number, a published curve or a file.

In this order: the option `--acceptance`, the configuration's synthetic rejection sampling, the environment variable
THINKLOAD_ACCEPTANCE, and, for a drafter with weights, the published curve of its method (acceptance.yaml). The variable has no
effect on a real vLLM, so that one plan serves both. A file has the keys of an entry of acceptance.yaml; its `accepted_at` may
also map the number of output tokens from which on a list holds to that list.

Rules: a curve is never extended to draft positions that it has no figure for. Every mistake is one line. This module does not
know what a drafter costs (drafter.py).
"""

from collections.abc import Mapping
from dataclasses import replace
from functools import cache
from itertools import pairwise
from pathlib import Path
from typing import Any

import yaml

from server.config import ConfigError, read_mapping
from server.speculation import MOST, Acceptance, Drafter, Speculation, of_length, rates

VARIABLE = "THINKLOAD_ACCEPTANCE"
FIGURES = ("accepted_at", "lengths")


@cache
def published() -> dict[str, Any]:
    """The published curves, each with its source, and the default curve of each method."""
    content: dict[str, Any] = yaml.safe_load(Path(__file__).with_suffix(".yaml").read_text())
    return content


def with_acceptance(settings: Speculation, asked: str | None, environment: Mapping[str, str]) -> Speculation:
    """The settings with the acceptance that is used. Raises ConfigError."""
    default = published()["default"].get(settings.method) if isinstance(settings, Drafter) else None
    if asked is None and settings.acceptance is not None:
        return settings
    where, name = ("--acceptance", asked) if asked else (VARIABLE, environment.get(VARIABLE) or default)
    if name is None:
        return settings
    tokens = settings.num_speculative_tokens
    try:
        found = _named(name, tokens)
    except ValueError as error:
        raise ConfigError(f"{where} {name}: {error}") from error
    spans = tuple((start, at[:tokens]) for start, at in found.spans)
    if (known := min(len(at) for _, at in spans)) < tokens:
        raise ConfigError(
            f"{where} {name}: has figures for {known} draft tokens, and num_speculative_tokens is {tokens}: "
            f"name another curve or a number of tokens a step"
        )
    return replace(settings, acceptance=replace(found, spans=spans))


def _named(name: str, tokens: int) -> Acceptance:
    """The acceptance of a number, a name or a file. Raises ValueError and ConfigError."""
    try:
        number = float(name)
    except ValueError:
        pass
    else:
        return of_length(number, tokens)
    curves: dict[str, dict[str, Any]] = published()["curves"]
    if name in curves:
        return _curve(name, curves[name])
    path = Path(name)
    if path.suffix not in {".yaml", ".yml"} or not path.is_file():
        raise ValueError(f"write a number, the name of a .yaml file, or one of {', '.join(curves)}")
    return _curve(path.name, read_mapping(path))


def _curve(name: str, entry: Mapping[str, Any]) -> Acceptance:
    """A curve with the keys of an entry of acceptance.yaml. Raises ValueError."""
    if unknown := sorted(entry.keys() - {"source", *FIGURES}):
        raise ValueError(f"unknown key {unknown[0]!r}: choose from source, {', '.join(FIGURES)}")
    given, lengths = (entry.get(key) for key in FIGURES)
    source = entry.get("source", "a file")
    if (given is None) == (lengths is None) or not isinstance(source, str) or not source.isprintable():
        raise ValueError(f"needs either {' or '.join(FIGURES)}, and a source in one line of text")
    if lengths is not None:
        given = _differences(lengths)
    by_start = given if isinstance(given, dict) else {0: given}
    starts = list(by_start)
    if not all(type(start) is int for start in starts) or starts[:1] != [0] or starts != sorted(starts):
        raise ValueError("accepted_at: give the numbers of output tokens in ascending order, from 0 on")
    if len(starts) > MOST:
        raise ValueError(f"accepted_at: has more than {MOST} parts of the output")
    return Acceptance(name, source[:200], tuple((start, rates(at)) for start, at in by_start.items()))


def _differences(lengths: Any) -> list[float]:
    """The shares by position that follow from tokens of a step by number of draft tokens. Raises ValueError."""
    numbers = isinstance(lengths, list) and all(type(length) in (int, float) for length in lengths)
    if not numbers or not 1 <= len(lengths) <= MOST:
        raise ValueError(f"lengths: write up to {MOST} numbers, tokens of a step with 1, 2, 3 … draft tokens")
    return [round(after - before, 6) for before, after in pairwise([1.0, *lengths])]
