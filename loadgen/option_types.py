"""Text from a command line to a value, or a UsageError that quotes the text and shows a right one.

Does not know: which option a value is for (argparse puts its name before the message), or how values go together (options.py).
"""

import argparse
import json
import re
from typing import Any, NoReturn
from urllib.parse import urlsplit

from loadgen.errors import UsageError

SLO_NAMES = ("ttft", "tpot", "e2e", "ttft_due", "e2e_due")


class LoadgenParser(argparse.ArgumentParser):
    """argparse whose errors are UsageErrors: one line, no usage block before it."""

    def error(self, message: str) -> NoReturn:
        """Raise instead of printing a page; `--help` has the page."""
        raise UsageError(f"{message.removeprefix('argument ')} (see {self.prog} --help)")


class Header(argparse.Action):
    """Collects `Name: value` pairs."""

    def __call__(
        self, _parser: Any, namespace: argparse.Namespace, values: Any, _option: str | None = None
    ) -> None:
        """Add one pair."""
        name, colon, value = str(values).partition(":")
        if not colon or not name.strip():
            raise UsageError(f"--header {values!r}: write 'NAME: VALUE'")
        namespace.headers = (*getattr(namespace, "headers", ()), (name.strip(), value.strip()))


class Label(argparse.Action):
    """Collects `key=value` pairs."""

    def __call__(
        self, _parser: Any, namespace: argparse.Namespace, values: Any, _option: str | None = None
    ) -> None:
        """Add one pair."""
        name, equals, value = str(values).partition("=")
        if not equals or not name:
            raise UsageError(f"--label {values!r}: write KEY=VALUE")
        namespace.labels = {**getattr(namespace, "labels", {}), name: value}


def budgets(text: str) -> tuple[int, ...]:
    """`1024,4096` or `1k,4k`, ascending, each once."""
    found = {_budget(part.strip()) for part in text.split(",")}
    return tuple(sorted(found))


def _budget(text: str) -> int:
    match = re.fullmatch(r"(\d+)([kK]?)", text)
    if not match or int(match[1]) == 0:
        raise UsageError(f"{text!r} is no number of tokens: write e.g. 1024,4096 or 1k,4k")
    return int(match[1]) * (1024 if match[2] else 1)


def _number(text: str, least: float, what: str) -> float:
    try:
        value = float(text)
    except ValueError:
        value = float("nan")
    if not least <= value < float("inf"):
        raise UsageError(f"{text!r} is no {what}")
    return value


def number(text: str) -> float:
    """A number, zero or above."""
    return _number(text, 0.0, "number of zero or above")


def positive(text: str) -> float:
    """A number above zero."""
    return _number(text, 1e-9, "number above zero")


def seconds(text: str) -> float:
    """`30`, `30s`, `200ms` or `2m`, above zero."""
    for unit, factor in (("ms", 1e-3), ("s", 1.0), ("m", 60.0), ("h", 3600.0), ("", 1.0)):
        if text.endswith(unit) and text.removesuffix(unit)[-1:].isdigit():
            return _number(text.removesuffix(unit), 1e-9, "time above zero") * factor
    raise UsageError(f"{text!r} is no time: write seconds, or 200ms, 2m")


def share(text: str) -> float:
    """A number above zero, at most one."""
    if (value := positive(text)) > 1:
        raise UsageError(f"{text!r} is above one")
    return value


def whole(text: str) -> int:
    """A whole number, zero or above."""
    if not re.fullmatch(r"\d+", text):
        raise UsageError(f"{text!r} is no whole number of zero or above")
    return int(text)


def count(text: str) -> int:
    """A whole number above zero."""
    if not re.fullmatch(r"\d+", text) or int(text) == 0:
        raise UsageError(f"{text!r} is no whole number above zero")
    return int(text)


def web(text: str) -> str:
    """An http(s) URL."""
    parts = urlsplit(text)
    if parts.scheme not in ("http", "https") or not parts.hostname:
        raise UsageError(f"{text!r} is no http(s) URL")
    return text


def port(text: str) -> int:
    """A TCP port; `off` is -1."""
    if text == "off":
        return -1
    if not re.fullmatch(r"\d{1,5}", text) or int(text) > 65535:
        raise UsageError(f"{text!r} is no port: write 9464 or off")
    return int(text)


def workers(text: str) -> int | None:
    """A number of processes; `auto` is None."""
    return None if text == "auto" else count(text)


def arrival(text: str) -> str:
    """`poisson`, `constant`, `gamma:B`, `burst:N` or `burst`."""
    name, _, parameter = text.partition(":")
    if text not in ("poisson", "constant", "burst") and not (name in ("gamma", "burst") and parameter):
        raise UsageError(f"{text!r}: write poisson, constant, gamma:B (e.g. gamma:0.5), burst or burst:N")
    if parameter:
        count(parameter) if name == "burst" else positive(parameter)
    return text


def ramp(text: str) -> tuple[tuple[float, float], ...]:
    """`RATE:SECONDS,…` steps."""
    steps = [part.partition(":") for part in text.split(",")]
    if not all(colon for _, colon, _ in steps):
        raise UsageError(f"{text!r}: write RATE:SECONDS steps, e.g. 1:30,2:30,4:30")
    return tuple((positive(rate), seconds(duration)) for rate, _, duration in steps)


def slo(text: str) -> dict[str, float]:
    """`ttft=0.5,tpot=20ms,e2e=30`, in seconds."""
    pairs = [part.strip().partition("=") for part in text.split(",")]
    if wrong := [name for name, equals, _ in pairs if name not in SLO_NAMES or not equals]:
        raise UsageError(f"{wrong[0]!r}: write {'|'.join(SLO_NAMES)}=SECONDS, e.g. ttft=0.5,tpot=20ms")
    return {name: seconds(value) for name, _, value in pairs}


def json_object(text: str) -> dict[str, Any]:
    """A JSON object."""
    try:
        value = json.loads(text)
    except ValueError as error:
        raise UsageError(f"no JSON ({error}): write e.g. '{{\"top_k\": 20}}'") from None
    if not isinstance(value, dict):
        raise UsageError("no JSON object: write e.g. '{\"top_k\": 20}'")
    return value
