"""Finds, reads and writes files: each is written completely or not at all, and results are private.

A reader never sees a part of a file. A file of a newer schema is refused, because its fields may mean something else. This
module does not know what a file contains or which files a run has (`loadgen.record` names those).
"""

import importlib.metadata
import os
import subprocess
from collections.abc import Iterable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import TypeVar

import msgspec

from loadgen.errors import UsageError

T = TypeVar("T")
PRIVATE = 0o077
"""The permissions that nobody but the owner of a result folder has: they hold prompts and answers."""


def cache_folder() -> Path:
    """Return the folder of this suite in the user's cache: what can be deleted at any time."""
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "thinkload"


def shipped(name: str) -> Path:
    """Return the path of a file or folder at the top level of a checkout, or of its copy in an installation."""
    checkout = Path(__file__).parents[1]
    if (checkout / "pyproject.toml").is_file():
        return checkout / name
    inside = f"share/thinkload/{name}"
    for file in importlib.metadata.files("thinkload") or []:
        _, found, after = file.as_posix().partition(inside)
        if found and after[:1] in ("", "/"):
            path = Path(str(file.locate()))
            return path.parents[after.count("/") - 1] if after else path
    return checkout / name


def git(*arguments: str) -> str | None:
    """Ask git about the checkout of this code. None where this is no checkout, or git is missing or fails."""
    root = Path(__file__).parents[1]
    if not (root / ".git").exists():
        return None
    try:
        done = subprocess.run(["git", "-C", root, *arguments], capture_output=True, text=True, timeout=10, check=False)
    except (OSError, subprocess.TimeoutExpired):
        return None
    return done.stdout.strip() if done.returncode == 0 else None


@contextmanager
def named_errors(path: Path) -> Iterator[None]:
    """Put `path` into an OSError of the block that names no file, such as that of a write to a full disk."""
    try:
        yield
    except OSError as error:
        if error.errno is not None:  # otherwise its text would be lost
            error.filename = error.filename or str(path)
        raise


@contextmanager
def private_files() -> Iterator[None]:
    """In the block, only the owner can read the files and folders that this process and its children make."""
    before = os.umask(PRIVATE)
    try:
        yield
    finally:
        os.umask(before)


def make_private(folder: Path) -> None:
    """Let only the owner read a folder and what is in it. What belongs to somebody else stays as it is."""
    for path in (folder.resolve(), *folder.rglob("*")):
        if not path.is_symlink() and (mode := path.stat().st_mode) & PRIVATE:
            with suppress(PermissionError):
                path.chmod(mode & ~PRIVATE)


def write_atomically(path: Path, data: bytes | Iterable[bytes], *, sync: bool = False) -> None:
    """Replace the file at `path` with `data`, which is written to `<name>.partial` beside it first.

    With `sync`, the data is on the disk before the old file is replaced, so that not even a crash of the machine can lose
    both. Raises OSError, and then leaves the old file as it was.
    """
    partial = path.with_name(f"{path.name}.partial")
    with named_errors(path), partial.open("wb") as file:
        file.writelines([data] if isinstance(data, bytes) else data)
        if sync:
            file.flush()
            os.fsync(file.fileno())
    partial.replace(path)


def read_json(path: Path, kind: type[T], hint: str, newest: int = 0) -> T:
    """Read a file, with a schema up to `newest` if it has one. Raises UsageError, which ends with `hint`."""
    try:
        found = msgspec.json.decode(path.read_bytes(), type=kind)
    except (ValueError, RecursionError, OSError) as error:
        raise UsageError(f"{path} cannot be read ({error}): {hint}") from None
    if (schema := getattr(found, "schema", 0)) > newest:
        written = f"{path} has schema {schema}, and this version reads up to {newest}"
        raise UsageError(f"{written}: use a newer version, or {hint}")
    return found


def write_json(path: Path, content: msgspec.Struct) -> None:
    """Replace a private file by an object as JSON. Raises OSError."""
    with private_files():
        write_atomically(path, msgspec.json.format(msgspec.json.encode(content), indent=1))
