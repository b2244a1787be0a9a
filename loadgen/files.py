"""Writes a file completely or not at all, so that a reader never sees a part of it, and keeps results private.

This module does not know what a file contains or which files a run has (`loadgen.record` names those).
"""

import os
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path

PRIVATE = 0o077
"""The permissions that nobody but the owner of a result folder has: they hold prompts and answers."""


@contextmanager
def private_files() -> Iterator[None]:
    """In the block, only the owner can read the files and folders that this process and its children make."""
    before = os.umask(PRIVATE)
    try:
        yield
    finally:
        os.umask(before)


def write_atomically(path: Path, data: bytes | Iterable[bytes], *, sync: bool = False) -> None:
    """Replace the file at `path` with `data`, which is written to `<name>.partial` beside it first.

    With `sync`, the data is on the disk before the old file is replaced, so that not even a crash of the machine can lose
    both. Raises OSError, and then leaves the old file as it was.
    """
    partial = path.with_name(f"{path.name}.partial")
    with partial.open("wb") as file:
        file.writelines([data] if isinstance(data, bytes) else data)
        if sync:
            file.flush()
            os.fsync(file.fileno())
    partial.replace(path)
