"""Read the tables of regular expressions, in which a name in angle brackets stands for an earlier expression.

This module does not know what the expressions mean.
"""

import re
import tomllib
from pathlib import Path
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any


class Expressions(SimpleNamespace):
    """Compiled expressions by name."""

    if TYPE_CHECKING:

        def __getattribute__(self, name: str, /) -> re.Pattern[str]: ...


def read_table(name: str) -> dict[str, Any]:
    """Read a TOML file of this package."""
    return tomllib.loads((Path(__file__).parent / name).read_text("utf-8"))


def filled(pattern: str, parts: dict[str, str]) -> str:
    """Put the parts into a pattern. What is no name of a part stays, and so does the name of a group, `(?P<name>…)`."""
    return re.sub(r"(?<!\?P)<(\w+)>", lambda found: parts.get(found[1], found[0]), pattern)


def filled_in_turn(patterns: dict[str, Any], parts: dict[str, str]) -> dict[str, str]:
    """Return the parts and the patterns, each of which may contain those before it. A list has alternatives."""
    known = dict(parts)
    for name, pattern in patterns.items():
        known[name] = filled(pattern if isinstance(pattern, str) else "|".join(pattern), known)
    return known


def expressions(table: dict[str, Any], words: dict[str, str] | None = None, flags: int = 0) -> Expressions:
    """Return the compiled expressions of `[patterns]` by name. They may contain the words and the expressions of `[parts]`."""
    known = filled_in_turn(table["patterns"], filled_in_turn(table.get("parts", {}), words or {}))
    return Expressions(**{name: re.compile(known[name], flags) for name in table["patterns"]})
