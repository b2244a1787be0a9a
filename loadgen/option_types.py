"""Converts the text of a command-line argument to a value.

A text that is not valid raises a UsageError that quotes it and shows a valid one.

This module does not know which option a value is for (argparse puts its name before the message) or which values can be
combined (see `loadgen.options`).
"""

import argparse
import json
import re
from typing import Any, NoReturn
from urllib.parse import urlsplit

from loadgen.errors import UsageError

SLO_NAMES = ("ttft", "tpot", "e2e", "ttft_due", "e2e_due")


class LoadgenParser(argparse.ArgumentParser):
    """An ArgumentParser that raises UsageError instead of printing its usage and exiting."""

    def error(self, message: str) -> NoReturn:
        """Raise the error as one line that refers to `--help`."""
        raise UsageError(f"{message.removeprefix('argument ')} (see {self.prog} --help)")


def header(text: str) -> tuple[str, str]:
    """Parse `NAME: VALUE`."""
    name, colon, value = (part.strip() for part in text.partition(":"))
    if not colon or not name:
        raise UsageError(f"{text!r}: write 'NAME: VALUE'")
    return name, value


def label(text: str) -> tuple[str, str]:
    """Parse `KEY=VALUE`."""
    key, equals, value = text.partition("=")
    if not equals or not key:
        raise UsageError(f"{text!r}: write KEY=VALUE")
    return key, value


def budgets(text: str) -> tuple[int, ...]:
    """Parse `1024,4096` or `1k,4k` to distinct numbers of tokens, in ascending order."""
    return tuple(sorted({_budget(part.strip()) for part in text.split(",")}))


def _budget(text: str) -> int:
    match = re.fullmatch(r"(\d+)([kK]?)", text)
    if not match or int(match[1]) == 0:
        raise UsageError(f"{text!r} is not a number of tokens: write for example 1024,4096 or 1k,4k")
    return int(match[1]) * (1024 if match[2] else 1)


def _number(text: str, least: float, kind: str) -> float:
    try:
        value = float(text)
    except ValueError:
        value = float("nan")
    if not least <= value < float("inf"):
        raise UsageError(f"{text!r} is not a {kind}")
    return value


def number(text: str) -> float:
    """Parse a number that is zero or above."""
    return _number(text, 0.0, "number of zero or above")


def positive(text: str) -> float:
    """Parse a number above zero."""
    return _number(text, 1e-9, "number above zero")


def seconds(text: str) -> float:
    """Parse a time above zero, such as `30`, `30s`, `200ms` or `2m`, to seconds."""
    for unit, factor in (("ms", 1e-3), ("s", 1.0), ("m", 60.0), ("h", 3600.0), ("", 1.0)):
        if text.endswith(unit) and text.removesuffix(unit)[-1:].isdigit():
            return _number(text.removesuffix(unit), 1e-9, "time above zero") * factor
    raise UsageError(f"{text!r} is not a time: write seconds, or for example 200ms or 2m")


def share(text: str) -> float:
    """Parse a number above zero and at most one."""
    if (value := positive(text)) > 1:
        raise UsageError(f"{text!r} is above one")
    return value


def whole(text: str) -> int:
    """Parse a whole number that is zero or above."""
    if not re.fullmatch(r"\d+", text):
        raise UsageError(f"{text!r} is not a whole number of zero or above")
    return int(text)


def count(text: str) -> int:
    """Parse a whole number above zero."""
    if not re.fullmatch(r"\d+", text) or int(text) == 0:
        raise UsageError(f"{text!r} is not a whole number above zero")
    return int(text)


def web(text: str) -> str:
    """Parse an http or https URL."""
    parts = urlsplit(text)
    if parts.scheme not in ("http", "https") or not parts.hostname:
        raise UsageError(f"{text!r} is not an http(s) URL")
    return text


def route(text: str) -> str:
    """Parse the endpoint: `chat`, `completions`, or a path below the target that begins with a slash."""
    if text not in ("chat", "completions") and not re.fullmatch(r"/[\w./~%:@+-]+", text, re.ASCII):
        raise UsageError(
            f"{text!r}: write chat, completions, or a path below --target such as /api/chat (a query belongs to --target)"
        )
    return text


def port(text: str) -> int:
    """Parse a TCP port; `off` becomes -1."""
    if text == "off":
        return -1
    if not re.fullmatch(r"\d{1,5}", text) or int(text) > 65535:
        raise UsageError(f"{text!r} is not a port: write for example 9464, or off")
    return int(text)


def workers(text: str) -> int | None:
    """Parse a number of processes; `auto` becomes None."""
    return None if text == "auto" else count(text)


def arrival(text: str) -> str:
    """Check the name of an arrival process: `poisson`, `constant`, `gamma:B`, `burst:N` or `burst`."""
    name, _, parameter = text.partition(":")
    if text not in ("poisson", "constant", "burst") and not (name in ("gamma", "burst") and parameter):
        raise UsageError(
            f"{text!r}: write poisson, constant, gamma:B (for example gamma:0.5), burst or burst:N"
        )
    if parameter:
        count(parameter) if name == "burst" else positive(parameter)
    return text


def ramp(text: str) -> tuple[tuple[float, float], ...]:
    """Parse `RATE:SECONDS,…` to (rate, seconds) steps."""
    steps = [part.partition(":") for part in text.split(",")]
    if not all(colon for _, colon, _ in steps):
        raise UsageError(f"{text!r}: write RATE:SECONDS steps, for example 1:30,2:30,4:30")
    return tuple((positive(rate), seconds(duration)) for rate, _, duration in steps)


def slo(text: str) -> dict[str, float]:
    """Parse `ttft=0.5,tpot=20ms,e2e=30` to seconds by metric."""
    pairs = [part.strip().partition("=") for part in text.split(",")]
    if wrong := [name for name, equals, _ in pairs if name not in SLO_NAMES or not equals]:
        raise UsageError(f"{wrong[0]!r}: write {'|'.join(SLO_NAMES)}=SECONDS, for example ttft=0.5,tpot=20ms")
    return {name: seconds(value) for name, _, value in pairs}


def json_object(text: str) -> dict[str, Any]:
    """Parse a JSON object."""
    try:
        value = json.loads(text)
    except ValueError as error:
        raise UsageError(f"the text is not JSON ({error}): write for example '{{\"top_k\": 20}}'") from None
    if not isinstance(value, dict):
        raise UsageError("the text is not a JSON object: write for example '{\"top_k\": 20}'")
    return value
