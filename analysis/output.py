"""Print the result of a command as one line of JSON that a pipe or a log can hold, and write all of it to a file.

This module does not know what a result contains.
"""

import argparse
import json
from pathlib import Path
from typing import Any

from analysis.errors import InputError

MOST_BYTES = 4000
"""A longer line is cut by some logs, and a write of it to a pipe may be split."""


def add_json(parser: argparse.ArgumentParser) -> None:
    """The option `--json`."""
    parser.add_argument("--json", type=Path, metavar="FILE", help="also write the complete result as JSON to this file")


def print_result(result: dict[str, Any], optional: tuple[str, ...], file: Path | None = None) -> None:
    """Print the result in one line; `optional` keys are left out, the first ones first, where it would be too long."""
    if file is not None:
        write(result, file, "--json")
    left_out: list[str] = []
    line = json.dumps(result)
    for name in optional:
        if len(line) < MOST_BYTES:
            break
        left_out.append(name)
        kept = {key: value for key, value in result.items() if key not in left_out}
        line = json.dumps(kept | {"left_out": left_out})
    print(line)


def write(result: dict[str, Any], path: Path, option: str) -> None:
    """Write a result as indented JSON. Raises InputError."""
    write_text(json.dumps(result, indent=1) + "\n", path, option)


def write_text(text: str, path: Path, option: str) -> None:
    """Write the file that an option names. Raises InputError."""
    try:
        path.write_text(text, encoding="utf-8")
    except OSError as error:
        raise InputError(f"{option} {path}: {error.strerror}; give a file that can be written") from error
