"""Reads YAML files that people write or download, within bounds: an alias or a deep nesting cannot fill the memory.

This module does not know which files there are and what they mean.
"""

from pathlib import Path
from typing import Any

import yaml

MOST_BYTES = 1 << 20
MOST_CHARACTERS = 1 << 22
"""Limit of the content after every alias (`*name`) is replaced by what it stands for."""
DEEPEST = 32


def read_yaml(path: Path) -> Any:
    """Return the content of a YAML file. Raises OSError, or ValueError with one line that says what is wrong."""
    with path.open("rb") as file:
        data = file.read(MOST_BYTES + 1)
    if len(data) > MOST_BYTES:
        raise ValueError(f"is larger than {MOST_BYTES} bytes")
    try:
        _check_size(data)
        return yaml.safe_load(data)
    except yaml.YAMLError as error:
        raise ValueError(f"cannot be read as YAML: {' '.join(str(error).split())}") from None


def _check_size(data: bytes) -> None:
    """Raise ValueError where the content is too large or nested too deeply, before anything is built of it."""
    sizes: dict[str, int] = {}
    open_sizes: list[tuple[str | None, int]] = [(None, 0)]
    for event in yaml.parse(data, Loader=yaml.SafeLoader):
        if isinstance(event, yaml.CollectionStartEvent):
            open_sizes.append((event.anchor, 1))
            if len(open_sizes) > DEEPEST:
                raise ValueError(f"is nested deeper than {DEEPEST} levels")
            continue
        if isinstance(event, yaml.ScalarEvent):
            anchor, size = event.anchor, 1 + len(event.value)
        elif isinstance(event, yaml.CollectionEndEvent):
            anchor, size = open_sizes.pop()
        elif isinstance(event, yaml.AliasEvent):
            if event.anchor not in sizes:
                raise ValueError(f"uses *{event.anchor} before the end of what it stands for")
            anchor, size = None, sizes[event.anchor]
        else:
            continue
        if anchor is not None:
            sizes[anchor] = size
        outer, before = open_sizes[-1]
        open_sizes[-1] = (outer, before + size)
        if before + size > MOST_CHARACTERS:
            raise ValueError(f"has more than {MOST_CHARACTERS} characters where its aliases are replaced")
