"""Merges the files that several processes have written, `records.<name>.jsonl` and `chunks.<name>.bin`, into those of the run.

This module does not know what started the processes, or whether the merged run is complete.
"""

import heapq
import os
from collections.abc import Iterable, Iterator, Mapping
from operator import itemgetter
from pathlib import Path

import msgspec

from loadgen.chunks import CHUNKS, drop_torn_frame, encode_frame, read_chunks
from loadgen.errors import naming_full_disk
from loadgen.files import named_errors
from loadgen.record import RECORDS, Record, record_lines
from loadgen.run.record_writer import drop_torn_line


def record_files(folder: Path) -> list[Path]:
    """The record files of the processes."""
    return sorted(folder.glob("records.*.jsonl"))


def chunk_files(folder: Path) -> list[Path]:
    """The chunk files of the processes."""
    return sorted(folder.glob("chunks.*.bin"))


def merge_workers(folder: Path) -> None:
    """Append the files of worker processes to those of the run, without incomplete lines and frames, and delete them.

    Records are appended in the order in which their requests ended, as in a run of one process: intervals depend on it.
    No record is added twice, so a merge that a crash or a full disk has interrupted can be repeated. A frame may then be there
    twice; both copies are equal. Damaged lines are kept. Raises DiskFullError.
    """
    with naming_full_disk(folder):
        parts = record_files(folder)
        drop_torn_line(folder / RECORDS)
        recorded = {record.seq for _, record in _lines(folder / RECORDS) if record is not None} if parts else set()
        for part in parts:
            drop_torn_line(part)
        lines = heapq.merge(*map(_in_time, parts), key=itemgetter(0))
        _append(folder / RECORDS, (line for _, line, record in lines if record is None or record.seq not in recorded))
        for part in parts:
            part.unlink()
        drop_torn_frame(folder / CHUNKS)
        for part in chunk_files(folder):
            drop_torn_frame(part)
            _append(folder / CHUNKS, [part.read_bytes()])
            part.unlink()


def merge_hosts(folders: Iterable[Path], records: Mapping[int, Record], out: Path) -> None:
    """Write `records` in the order of `seq` into the folder `out`, and their chunks from the files in `folders`."""
    for name in (RECORDS, CHUNKS):
        (out / name).unlink(missing_ok=True)
    encoder = msgspec.json.Encoder()
    _append(out / RECORDS, (encoder.encode(records[seq]) + b"\n" for seq in sorted(records)))
    parts = sorted(path for folder in folders for path in chunk_files(folder))
    frames = (chunks for part in parts for chunks in read_chunks(part) if chunks.seq in records)
    _append(out / CHUNKS, (encode_frame(*chunks) for chunks in frames))


def _append(path: Path, pieces: Iterable[bytes]) -> None:
    with named_errors(path), path.open("ab") as file:
        file.writelines(pieces)
        file.flush()
        os.fsync(file.fileno())


def _in_time(path: Path) -> Iterator[tuple[float, bytes, Record | None]]:
    """The lines of a file with the time at which the request ended; a damaged line has the time of the one before it."""
    end_s = 0.0
    for line, record in _lines(path):
        if record is not None and record.end_s is not None:
            end_s = record.end_s
        yield end_s, line, record


def _lines(path: Path) -> Iterator[tuple[bytes, Record | None]]:
    if path.exists():
        yield from record_lines(path)
