"""Writes `records.jsonl` so that no finished record is lost: the file is append-only, and each record is one write.

Rules: when `append` returns, the operating system has the record, so `kill -9` cannot lose it. The record is on the disk
within SYNC_S seconds, so a power failure loses no older record. A last line that a crash has left incomplete is removed
before anything is appended. When the disk is full, the incomplete line is removed and DiskFullError ends the run.

This module does not know what a record contains, or which requests are missing (`loadgen.run.resume`).
"""

import mmap
import os
import threading
from collections.abc import Callable
from pathlib import Path

import msgspec

from loadgen.errors import DiskFullError
from loadgen.record import Record
from loadgen.redaction import Redactor

SYNC_S = 1.0
"""Seconds between two calls of fsync. One call takes 1 to 30 ms, which would delay the requests."""


class RecordWriter:
    """Appends records to one file.

    `redactor` removes secrets from every line, in case a server has repeated them. `also_sync` is called after each fsync.
    """

    def __init__(self, path: Path, redactor: Redactor, also_sync: Callable[[], None] = lambda: None) -> None:
        self.path = path
        self._also_sync = also_sync
        self._redactor = redactor
        self._sync_error: OSError | None = None
        drop_torn_line(path)
        self._file = os.open(path, os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o666)
        self._size = os.fstat(self._file).st_size
        self._encoder = msgspec.json.Encoder()
        self._dirty = False
        self._closing = threading.Event()
        self._syncer = threading.Thread(target=self._sync_in_batches, name="fsync", daemon=True)
        self._syncer.start()

    def append(self, record: Record) -> None:
        """Write one record. Raises DiskFullError."""
        line = self._redactor.line(self._encoder.encode(record)) + b"\n"
        try:
            if self._sync_error is not None:
                raise self._sync_error
            written = os.write(self._file, line)
            if written < len(line):  # a disk that is nearly full accepts a part of the line
                written += os.write(self._file, line[written:])
        except OSError as error:
            os.ftruncate(self._file, self._size)
            raise DiskFullError(f"{self.path}: {error.strerror}") from error
        self._size += written
        self._dirty = True

    def close(self) -> None:
        """Write everything to the disk and close the file. Raises DiskFullError."""
        self._closing.set()
        self._syncer.join()
        os.close(self._file)
        if self._sync_error is not None:
            raise DiskFullError(f"{self.path}: {self._sync_error.strerror}") from self._sync_error

    def _sync_in_batches(self) -> None:
        while not self._closing.wait(SYNC_S):
            self._sync()
        self._sync()

    def _sync(self) -> None:
        if self._dirty:
            self._dirty = False
            try:
                os.fsync(self._file)
                self._also_sync()
            except OSError as error:  # some file systems notice only now that the disk is full
                self._sync_error = error


def drop_torn_line(path: Path) -> int:
    """Remove a last line that has no newline, and return the number of bytes that were removed."""
    size = path.stat().st_size if path.exists() else 0
    if size == 0:
        return 0
    with path.open("r+b") as file:
        with mmap.mmap(file.fileno(), size, access=mmap.ACCESS_READ) as content:
            end = content.rfind(b"\n") + 1
        file.truncate(end)
    return size - end
