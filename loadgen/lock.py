"""One process at a time writes to a result folder.

The lock is a `flock` on a file in the folder, so the system releases it when its holder ends, even by `kill -9`. Worker
processes inherit it: as long as one of them may still write, nobody else can take it. Locust's master and its sender processes
share it. Whoever is refused is told the holder's process and the time since when it holds the lock.

This module does not know what the files of a folder contain.
"""

import fcntl
import os
import platform
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from datetime import UTC, datetime
from pathlib import Path

import msgspec

from loadgen.errors import UsageError
from loadgen.terminal import say

LOCK = "run.lock"
WAIT_S = 10.0
"""How long to wait where the holder has ended, because its worker processes end soon after it."""
POLL_S = 0.05


class Holder(msgspec.Struct):
    """The content of the lock's file: who took the lock last."""

    pid: int
    since: str
    """Wall-clock time, ISO 8601 in UTC."""
    host: str

    @property
    def alive(self) -> bool:
        """Whether this process has not ended, as far as it can be known on this host."""
        if self.host != platform.node():
            return True
        with suppress(OSError, IndexError):
            return Path(f"/proc/{self.pid}/stat").read_text().rpartition(")")[2].split()[0] not in "ZX"
        try:
            os.kill(self.pid, 0)
        except ProcessLookupError:
            return False
        except PermissionError:
            pass
        return True


@contextmanager
def locked(folder: Path, *, shared: bool = False) -> Iterator[int]:
    """Hold the lock of a folder in the block. Yields its descriptor, for child processes that write to the folder too.

    Raises UsageError where another process holds it, or where the file cannot be made. With `shared`, others that share it
    may hold it too.
    """
    try:
        file = os.open(folder / LOCK, os.O_RDWR | os.O_CREAT, 0o600)
    except OSError as error:
        raise UsageError(f"{folder / LOCK}: {error.strerror}: make room, or choose another folder") from None
    try:
        _take(file, folder, fcntl.LOCK_SH if shared else fcntl.LOCK_EX)
        if not shared or _holder(file) is None:
            _write_holder(file)
        yield file
    finally:
        os.close(file)


def in_use(folder: Path) -> bool:
    """Whether a process holds the lock of the folder now."""
    try:
        with (folder / LOCK).open("rb") as file:
            fcntl.flock(file, fcntl.LOCK_SH | fcntl.LOCK_NB)  # closing the file releases it at once
    except BlockingIOError:
        return True
    except OSError:
        pass
    return False


def _take(file: int, folder: Path, kind: int) -> None:
    deadline_s = time.monotonic() + WAIT_S
    while True:
        try:
            return fcntl.flock(file, kind | fcntl.LOCK_NB)
        except BlockingIOError:
            holder = _holder(file)
        except OSError as error:
            return say(f"{folder}: cannot be locked ({error.strerror}): let no other process write to it")
        if time.monotonic() > deadline_s or (holder is not None and holder.alive):
            raise UsageError(f"{folder} is in use by {_named(holder)}: wait until it has ended")
        time.sleep(POLL_S)


def _named(holder: Holder | None) -> str:
    if holder is None:
        return "another process"
    where = "" if holder.host == platform.node() else f" on {holder.host}"
    workers = "" if holder.alive else "worker processes of "
    return f"{workers}process {holder.pid}{where}, since {holder.since}"


def _holder(file: int) -> Holder | None:
    try:
        return msgspec.json.decode(os.pread(file, 4096, 0), type=Holder)
    except (OSError, ValueError):
        return None


def _write_holder(file: int) -> None:
    holder = Holder(os.getpid(), datetime.now(UTC).isoformat(timespec="seconds"), platform.node())
    with suppress(OSError):  # on a full disk the lock holds nevertheless
        os.ftruncate(file, 0)
        os.pwrite(file, msgspec.json.encode(holder), 0)
