"""Reads the list of served models and chooses the one that the run asks for.

Servers write the list as `{"data": [...]}`, as a bare array, or as `{"models": [...]}`, and the length of the context under
several names, sometimes as a string. A model that is not in the list can be asked for by --model, because gateways do not
list everything that they serve. A name that is nearly a listed one is a typing mistake and is refused.

This module does not know whether the server really answers for the model (see probe.py).
"""

import difflib
import re
from typing import Annotated, Any, NamedTuple

import msgspec

from loadgen.errors import UsageError
from loadgen.options import RunOptions
from loadgen.target.control_api import ControlApi, ControlResponse, lenient
from loadgen.terminal import printable

MODELS_LIMIT = 2000
"""Of a longer list only the beginning is searched for similar names."""
SIMILAR = 0.8

Tokens = Annotated[int, msgspec.Meta(gt=0, le=10**9)]


class _Row(msgspec.Struct):
    """The fields of a listed model that matter here."""

    id: str = ""
    name: str = ""
    max_model_len: Tokens | None = None
    context_length: Tokens | None = None
    context_window: Tokens | None = None
    max_context_length: Tokens | None = None


class ServedModel(NamedTuple):
    """The model that the run asks for."""

    id: str
    max_model_len: int | None = None
    others: str = ""
    """What the server lists, where this model is not in the list."""


def choose(options: RunOptions, api: ControlApi, response: ControlResponse) -> ServedModel:
    """Return the model that --model names, or the first listed one. Raises UsageError where the server cannot be used."""
    _check_response(options, api, response)
    models = listed(response.json())
    if not models and options.model is None:
        hint = "check that --target ends with /v1, or give --model"
        raise UsageError(f"{api.target}/models lists no model (HTTP {response.status}): {hint}")
    found = next((model for model in models if options.model in (None, model.id)), None)
    if found is not None:
        return found
    name = options.model or ""
    names = printable(", ".join(model.id for model in models[:5]), 400)
    if (similar := similar_name(name, [model.id for model in models[:MODELS_LIMIT]])) is not None:
        meant = f"it serves {names}; did you mean {printable(similar, 200)!r}?"
        raise UsageError(f"--model {name!r} is not served at {api.target}: {meant}")
    return ServedModel(name, others=names)


def _check_response(options: RunOptions, api: ControlApi, response: ControlResponse) -> None:
    """Raise UsageError where the response shows that the server cannot be used. With --model, it need not list its models."""
    status, named = response.status, options.model is not None
    refused = status in (401, 403)
    key = options.api_key_env or ("--header" if options.headers else None)
    rules = [
        (not response.reached or (status is None and not named), f"no server at {api.target} ({response.error}): start one (python -m server emulate tp1) or give --target"),
        (refused and key is None, f"{api.target} requires a key (HTTP {status}): name the variable that holds it with --api-key-env NAME"),
        (refused and not named, f"{api.target} rejects the key in {key} (HTTP {status})"),
        (status == 503 and not named, f"{api.target} is not ready (HTTP 503): wait until its /health answers"),
    ]  # fmt: skip
    for wrong, message in rules:
        if wrong:
            raise UsageError(message)


def listed(said: Any) -> list[ServedModel]:
    """Return the models of a list in any of its shapes. An id that cannot be printed on one line is not a model's."""
    rows = said
    if isinstance(said, dict):
        rows = next((said[key] for key in ("data", "models") if isinstance(said.get(key), list)), [])
    if not isinstance(rows, list):
        return []
    found = []
    for said_row in rows:
        row = _Row(id=said_row) if isinstance(said_row, str) else lenient(said_row, _Row)
        name = row.id or row.name
        lengths = (row.max_model_len, row.context_length, row.context_window, row.max_context_length)
        if name and len(name) <= 500 and name.isprintable():
            found.append(ServedModel(name, next((length for length in lengths if length is not None), None)))
    return found


def similar_name(name: str, names: list[str]) -> str | None:
    """Return the listed name that was probably meant, or None.

    Names with other numbers in them, such as another size or date, are other models.
    """
    alike = {other.lower(): other for other in names if _numbers(other) == _numbers(name)}
    for lower, other in alike.items():
        if lower.rpartition("/")[2] == name.lower().rpartition("/")[2]:
            return other
    matches = difflib.get_close_matches(name.lower(), list(alike), n=1, cutoff=SIMILAR)
    return alike[matches[0]] if matches else None


def _numbers(name: str) -> list[str]:
    return re.findall(r"\d+", name)
