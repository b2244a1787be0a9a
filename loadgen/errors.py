"""Defines the errors that end a run or a command, and prints messages for people.

Messages for people go to stderr; stdout is for programs. A message is one line, whatever the server or a file put into it.
"""

import argparse
import errno
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from loadgen.terminal import printable

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


def say(text: str) -> None:
    """Print a message to stderr as one line, without control characters."""
    print(f"loadgen: {printable(text)}", file=sys.stderr)
