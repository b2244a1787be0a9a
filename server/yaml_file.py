"""Reads a YAML file that somebody else may have written: configurations, model presets and plans of sweeps.

Rules: a file is limited in size, in nesting and in the size it has when every alias is replaced by its value, because a
short file with nested aliases can stand for gigabytes. Every error is one line without the name of the file.

This module does not know what a file should contain.
"""

import copy
import functools
from pathlib import Path

import yaml

MAX_SIZE = 128 * 2**10
"""Characters of a file, and of its values after aliases have been replaced."""
MAX_DEPTH = 32
"""Nested lists and mappings."""


class _TextLoader(yaml.SafeLoader):
    """Reads every plain scalar as the text that it is, so that `off`, `010` and a date stay as they are written."""


# Of the plain scalars with a meaning, only the merge key `<<` keeps it.
_TextLoader.yaml_implicit_resolvers = {"<": yaml.SafeLoader.yaml_implicit_resolvers["<"]}


class YamlFileError(Exception):
    """A file that cannot be read. The message is one line, which the caller begins with the name of the file."""


def read_yaml(path: Path, *, as_text: bool = False) -> object:
    """The content of the file, with numbers, truth values, dates and null as text if `as_text` is given. Raises YamlFileError."""
    try:
        with path.open("rb") as file:
            data = file.read(MAX_SIZE + 1)
    except OSError as error:
        raise YamlFileError(error.strerror or str(error)) from error
    if len(data) > MAX_SIZE:
        raise YamlFileError(f"is larger than {MAX_SIZE // 1024} KiB")
    return copy.deepcopy(_content(data, as_text))


@functools.lru_cache(maxsize=64)  # a sweep reads the same few files for every cell
def _content(data: bytes, as_text: bool) -> object:
    try:
        text = data.decode()
        _check_size(text)
        return yaml.load(text, _TextLoader if as_text else yaml.SafeLoader)  # noqa: S506 - both are safe
    # PyYAML raises errors of many types for a scalar that does not fit its tag, such as the date 2026-13-45.
    except (yaml.YAMLError, ArithmeticError, AttributeError, LookupError, TypeError, ValueError) as error:
        raise YamlFileError(f"cannot be read as YAML: {' '.join(str(error).split())}") from error


def _check_size(text: str) -> None:
    """Raise YamlFileError if the values are nested too deeply or too large with their aliases replaced.

    The parser's events are enough for this: they come without recursion, and before any value is built.
    """
    size = 0
    sizes: dict[str | None, int] = {}
    begun: list[tuple[str | None, int]] = []
    for event in yaml.parse(text, Loader=yaml.SafeLoader):
        if isinstance(event, yaml.AliasEvent):
            if any(anchor == event.anchor for anchor, _ in begun):
                raise YamlFileError(f"the alias *{event.anchor} stands inside its own value")
            size += sizes.get(event.anchor, 0)
        elif isinstance(event, yaml.ScalarEvent):
            sizes[event.anchor] = 1 + len(event.value)
            size += sizes[event.anchor]
        elif isinstance(event, yaml.CollectionStartEvent):
            begun.append((event.anchor, size))
            size += 1
        elif isinstance(event, yaml.CollectionEndEvent):
            anchor, before = begun.pop()
            sizes[anchor] = size - before
        if len(begun) > MAX_DEPTH:
            raise YamlFileError(f"values are nested more than {MAX_DEPTH} levels deep")
        if size > MAX_SIZE:
            raise YamlFileError(f"its aliases stand for more than {MAX_SIZE // 1024} KiB: write fewer of them")
