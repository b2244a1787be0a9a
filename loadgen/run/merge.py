"""TODO docstring."""

import os
from collections.abc import Iterable, Iterator
from pathlib import Path

import msgspec

from loadgen.chunks import CHUNKS, drop_torn_frame
from loadgen.record import RECORDS
from loadgen.run.record_writer import drop_torn_line


def merge_workers(folder: Path) -> None:
    """Append what worker processes wrote to the run's own files: whole lines and frames only, no record twice.

    A crash in here is mended by doing it again. A frame that is there twice then is the same twice.
    """
    parts = sorted(folder.glob("records.*.jsonl"))
    seen = {_seq(line) for line in _lines(folder / RECORDS)} if parts else set()
    for part in parts:
        drop_torn_line(part)
        _append(folder / RECORDS, (line for line in _lines(part) if _seq(line) not in seen))
        part.unlink()
    drop_torn_frame(folder / CHUNKS)
    for part in sorted(folder.glob("chunks.*.bin")):
        drop_torn_frame(part)
        _append(folder / CHUNKS, [part.read_bytes()])
        part.unlink()


def _append(path: Path, pieces: Iterable[bytes]) -> None:
    with path.open("ab") as file:
        file.writelines(pieces)
        file.flush()
        os.fsync(file.fileno())


def _lines(path: Path) -> Iterator[bytes]:
    if path.exists():
        with path.open("rb") as file:
            yield from file


class _Numbered(msgspec.Struct):
    seq: int


_numbered = msgspec.json.Decoder(_Numbered)


def _seq(line: bytes) -> int:
    return _numbered.decode(line).seq
