"""Defines the errors that end a run or a command, and the exit codes.

This module does not know how an error is shown (`say` in loadgen/terminal.py).
"""

import argparse
import errno
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

FAILED, USAGE, SUSPECT, INVALID = 1, 2, 3, 4
"""Exit codes (docs/ci.md). FAILED: a requirement does not hold, most requests failed, or there was no room on the disk."""


class DiskFullError(Exception):
    """A record could not be written. The records before it are complete."""


NO_ROOM = {errno.ENOSPC, errno.EDQUOT, errno.EFBIG, errno.EROFS}


@contextmanager
def naming_full_disk(path: Path) -> Iterator[None]:
    """Raise DiskFullError with the name of the file, instead of an OSError of the block."""
    try:
        yield
    except OSError as error:
        raise DiskFullError(f"{error.filename or path}: {error.strerror}") from error


class UsageError(argparse.ArgumentTypeError):
    """A mistake in how a command was used, as one line that says what is wrong and what to do.

    The command ends with exit code 2.
    """


def check_rules(rules: Iterable[tuple[Any, str]]) -> None:
    """Raise UsageError with the message of the first rule that is broken. A rule is what must not be so, and its message."""
    for wrong, message in rules:
        if wrong:
            raise UsageError(message)
