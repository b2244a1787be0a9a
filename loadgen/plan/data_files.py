"""Reads the rows of a data file: JSON lines, JSON, CSV or Parquet, chosen by the name of the file.

A row is a mapping of field names to values, with the place where it stands (`data.csv: row 3`) for messages. Rows are read one
after the other, so that only what a run needs of them stays in memory. A file is limited in size, because somebody else may
have written it. Every mistake is a UsageError.

This module does not know which fields a problem has.
"""

import csv
import json
import re
from collections.abc import Iterator
from itertools import chain
from pathlib import Path
from typing import Any, NamedTuple, TextIO

from loadgen.errors import UsageError

MAX_BYTES = 2**30
"""Size of a file, and for Parquet of what it contains without compression. ShareGPT has 0.7 GB."""
CELL_CHARACTERS = 2**24
SUFFIXES = (".jsonl", ".json", ".csv", ".tsv", ".parquet")


class Row(NamedTuple):
    """One row of a file."""

    where: str
    """Its place, for messages."""
    key: str
    """Its name within the file, such as `line/3`."""
    fields: dict[str, Any]


def read_rows(path: Path) -> Iterator[Row]:
    """Yield the rows of a file with their places. Raises UsageError."""
    try:
        if path.exists() and not path.is_file():  # a pipe could be read once only, and a device may have no end
            raise UsageError(f"--dataset {path}: is no regular file: copy its content to a file")
        if path.stat().st_size > MAX_BYTES:
            raise UsageError(f"--dataset {path}: is larger than {MAX_BYTES >> 30} GiB: take a part of it")
        if path.suffix == ".parquet":
            yield from _parquet(path)
            return
        # Editors on Windows put a byte-order mark at the start. Within a text, other characters than \n can end a line.
        with path.open(encoding="utf-8-sig", newline="\n") as file:
            yield from _csv(path, file) if path.suffix in (".csv", ".tsv") else _json(path, file)
    except (OSError, UnicodeDecodeError) as error:
        reason = (error.strerror or "unreadable") if isinstance(error, OSError) else "not UTF-8"
        raise UsageError(f"--dataset {path}: {reason}: give {', '.join(SUFFIXES)} in UTF-8") from None


def _json(path: Path, file: TextIO) -> Iterator[Row]:
    """Rows of JSON lines, or of one JSON document: a list, an object in which one key holds the list, or one row."""
    document = file.read() if path.suffix == ".json" else ""
    if not document or _has_lines(document):
        file.seek(0)
        for number, line in enumerate(file, start=1):
            if line.strip():
                yield _row(f"{path}:{number}", f"line/{number}", _decoded(f"{path}:{number}", line))
        return
    rows = _decoded(str(path), document)
    if isinstance(rows, dict):
        lists = [value for value in rows.values() if isinstance(value, list)]
        rows = lists[0] if len(lists) == 1 else [rows]
    for number, row in enumerate(rows if isinstance(rows, list) else [rows], start=1):
        yield _row(f"{path}: row {number}", f"row/{number}", row)


def _has_lines(text: str) -> bool:
    """Whether the text is a JSON object on its first line, and more after it."""
    first, _, rest = text.strip().partition("\n")
    try:
        return bool(rest) and isinstance(json.loads(first), dict)
    except (ValueError, RecursionError):
        return False


def _decoded(where: str, text: str) -> Any:
    try:
        value = json.loads(text)
        json.dumps(value, ensure_ascii=False).encode()  # half of a surrogate pair could not be sent
    except (ValueError, RecursionError) as error:
        raise UsageError(f"{where}: this is not JSON ({error}): correct the file") from None
    return value


def _row(where: str, key: str, value: Any) -> Row:
    if not isinstance(value, dict):
        raise UsageError(f"{where}: this is not a JSON object: write one object for each problem")
    return Row(where, key, value)


def _csv(path: Path, file: TextIO) -> Iterator[Row]:
    header = file.readline()
    delimiter = max("\t;,", key=header.count)
    csv.field_size_limit(CELL_CHARACTERS)
    try:
        reader = csv.DictReader(chain([header], file), delimiter=delimiter, strict=True)
        names = [name for name in reader.fieldnames or () if name]
        if twice := [name for name in names if names.count(name) > 1]:
            raise UsageError(f"{path}: the first line has the name {twice[0]!r} twice: rename one of the columns")
        for number, row in enumerate(reader, start=1):
            if None in row:
                raise UsageError(f"{path}: row {number}: has more cells than the first line has names")
            yield Row(f"{path}: row {number}", f"row/{number}", row)
    except csv.Error as error:
        where = f"{path}: after line {reader.line_num}"
        hint = "correct the file (is a quotation mark not closed?)"
        raise UsageError(f"{where}: cannot be read as CSV ({error}): {hint}") from None


def _parquet(path: Path) -> Iterator[Row]:
    try:
        import pyarrow as pa  # noqa: PLC0415  It is not among the dependencies of the load generator.
        import pyarrow.parquet as pq  # noqa: PLC0415
    except ImportError:
        raise UsageError(f"--dataset {path}: to read Parquet, pip install pyarrow") from None
    try:
        with pq.ParquetFile(path) as file:
            groups = (file.metadata.row_group(number) for number in range(file.metadata.num_row_groups))
            if sum(group.total_byte_size for group in groups) > MAX_BYTES:
                raise UsageError(f"--dataset {path}: holds more than {MAX_BYTES >> 30} GiB: take a part of it")
            rows = (row for batch in file.iter_batches(batch_size=1000) for row in batch.to_pylist())
            for number, row in enumerate(rows, start=1):
                yield Row(f"{path}: row {number}", f"row/{number}", row)
    except (pa.ArrowException, ValueError) as error:
        reason = str(error).split("\n")[0][:160]
        raise UsageError(f"--dataset {path}: is no Parquet file ({reason}): get it again") from None


SHARD = re.compile(r"-(\d{5})-of-(\d{5})$")
"""The end of the name of a file that is one of several parts."""


def files_of(folder: Path | str, names: list[str], part: str | None) -> list[str]:
    """Return the files that hold a split of a data set in the layout of the Hub, which are the parts of one file.

    `names` are paths within the folder. The part is a split, `CONFIGURATION/SPLIT`, or one of the paths. Raises UsageError, and
    FileNotFoundError where only some parts of the file are there.
    """
    if part in names:
        return [part]
    data = [name for name in sorted(names) if Path(name).suffix in SUFFIXES and not name.startswith(".")]
    words = set((part or "").split("/")) - {""}
    groups = _groups(data, words) or _groups(data, words - {"train"})  # the Hub's name of what has no other
    if len(groups) != 1:
        found = ", ".join(list(groups or _groups(data, set()))[:8]) or "no data file"
        what = f"several files fit {part!r}" if groups else f"no file fits {part!r}"
        hint = f"write {folder}:SPLIT, {folder}:CONFIGURATION/SPLIT or {folder}:FILE"
        raise UsageError(f"--dataset {folder}: {what if part else 'which part'}? It has {found}: {hint}")
    files = next(iter(groups.values()))
    shard = SHARD.search(Path(files[0]).stem)
    if shard is not None and len(files) != int(shard[2]):
        raise FileNotFoundError(f"only {len(files)} of {int(shard[2])} parts of {files[0]} are there")
    return files


def paths_of(folder: Path, name: str, part: str | None) -> list[Path]:
    """Return the files below a folder that hold a split (see `files_of`). `name` is the data set's in messages."""
    names = [path.relative_to(folder).as_posix() for path in folder.rglob("*") if path.is_file()]
    return [folder / file for file in files_of(name, names, part)]


def _groups(data: list[str], words: set[str]) -> dict[str, list[str]]:
    """The files whose names have all the words, by what the names of the parts of one file have in common."""
    groups: dict[str, list[str]] = {}
    for name in data:
        path = Path(name)
        stem = SHARD.sub("", path.stem)
        if words <= {*path.parts[:-1], path.stem, stem, *re.split(r"[-_.]", stem)}:
            groups.setdefault(f"{path.with_name(stem)}{path.suffix}", []).append(name)
    return groups
