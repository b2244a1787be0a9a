"""The axes of a plan beside configurations, models and loads, and the rules that select cells.

An axis is an option of a run with several values, or one of two settings of a speculating server: `draft-tokens`, the number of
draft tokens in a step, and `acceptance`, the number of tokens that every step emits by synthetic rejection sampling. Each value
is converted by the command line's own parser, so that the same checks apply. Every mistake is a UsageError.

This module does not know how cells are ordered or run.
"""

import itertools
import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Annotated, Any

import msgspec

from loadgen.errors import UsageError
from loadgen.sweep.plan_file import option_words, run_parser
from server.speculation import MOST

ACCEPTANCE, DRAFT_TOKENS = "acceptance", "draft-tokens"
SHORT = {"temperature": "t", "budget": "o", "budgets": "o"}
"""How an axis appears in the name of a cell; other axes appear with their whole name."""
Tokens = Annotated[int, msgspec.Meta(ge=1, le=MOST)]
Length = Annotated[float, msgspec.Meta(ge=1, le=MOST + 1)]
"""A step emits its accepted draft tokens and one more."""
NO_AXES = {"concurrency", "rate", "repeats", "target", "model", "out", "resume", "dry_run", "progress", "requests", "warmup"}  # fmt: skip
"""Options that a sweep sets itself, or that loads, models and repeats set."""


@dataclass(frozen=True)
class Variant:
    """One combination of the values of all axes."""

    acceptance: float | None = None
    draft_tokens: int | None = None
    axes: tuple[tuple[str, str], ...] = ()
    """Name and value of each axis, as they are written."""
    changes: tuple[tuple[str, Any], ...] = ()
    """Fields of RunOptions, with their values."""

    @property
    def of_server(self) -> tuple[float | None, int | None]:
        """The part of which each value needs a server of its own."""
        return self.acceptance, self.draft_tokens


def variants(axes: Mapping[str, Any]) -> list[Variant]:
    """All combinations, with the settings of servers as the outermost loops, because each value needs a server of its own."""
    for name, values in axes.items():
        if not isinstance(values, list) or not values:
            raise UsageError(f"axes: {name}: write a list of values, for example temperature: [0, 1]")
    if {"budget", "budgets"} <= axes.keys():
        raise UsageError("axes: budget and budgets are the same option: write one of them")
    numbers = f"a number from 1 to {MOST}, or null for that of the configuration"
    drafts = [_of_server(DRAFT_TOKENS, value, Tokens, numbers) for value in axes.get(DRAFT_TOKENS, [None])]
    lengths = "the tokens of a step, for example 1.75, or null for those of the text"
    acceptances = [_of_server(ACCEPTANCE, value, Length, lengths) for value in axes.get(ACCEPTANCE, [None])]
    others = {name: values for name, values in axes.items() if name not in (ACCEPTANCE, DRAFT_TOKENS)}
    combinations = [dict(zip(others, values, strict=True)) for values in itertools.product(*others.values())]
    return [
        Variant(
            acceptance,
            draft_tokens,
            tuple((name, "none" if value is None else str(value)) for name, value in values.items()),
            tuple(field for name, value in values.items() for field in _fields(name, value)),
        )
        for draft_tokens in drafts
        for acceptance in acceptances
        for values in combinations
    ]


def _of_server(name: str, value: object, type_: Any, hint: str) -> Any:
    """The value of a setting of servers, or None for null. Raises UsageError, which ends with the hint."""
    if value is None or value == "none":
        return None
    try:
        return msgspec.convert(value, type_, strict=False)
    except msgspec.ValidationError:
        raise UsageError(f"axes: {name}: {value!r}: write {hint}") from None


def _fields(option: str, value: Any) -> Iterator[tuple[str, Any]]:
    """The fields of RunOptions that the option sets to this value. Raises UsageError."""
    found = vars(run_parser().parse_args(option_words({"budgets" if option == "budget" else option: value})))
    if refused := sorted(NO_AXES & found.keys()):
        raise UsageError(f"axes: {option}: {refused[0]} cannot be an axis: use loads, models or repeats")
    yield from found.items()


def text_of(value: Any) -> str:
    """A value as rules compare it: 1, 1.0 and the text 1e0 are equal, and null is `none`."""
    if value is None:
        return "none"
    try:
        return repr(float(str(value))).removesuffix(".0")
    except ValueError:
        return str(value)


Rule = dict[str, set[str]]
"""For each name of an axis, the values that a cell may have."""


def rules(text: str) -> list[Rule]:
    """Converts a JSON list of mappings, such as `[{"config": "tp1", "temperature": [0, 1]}]`. Raises UsageError."""
    try:
        found = json.loads(text)
    except ValueError:
        found = None
    if not isinstance(found, list) or not all(isinstance(rule, dict) and rule for rule in found):
        raise UsageError(f"{text!r}: write a list of mappings, for example [{{config: tp1, load: [1, 32]}}]")
    return [
        {name: {text_of(v) for v in (value if isinstance(value, list) else [value])} for name, value in rule.items()}
        for rule in found
    ]  # fmt: skip


def matches(rule: Rule, facts: Mapping[str, set[str]]) -> bool:
    """Whether a cell with these facts has one of the wanted values of every axis. Raises UsageError for an unknown axis."""
    if unknown := sorted(rule.keys() - facts.keys()):
        raise UsageError(f"{unknown[0]!r} is not an axis: choose from {', '.join(facts)}")
    return all(wanted & facts[name] for name, wanted in rule.items())
