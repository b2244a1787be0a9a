"""Keep the tables of a large study between calls, so that a command on unchanged results answers at once.

A table depends on the files of the runs and on the code that computes it. The key of a study is a hash of both: of the path, the
size and the time of change of each file, and of this package. Tables are in `$XDG_CACHE_HOME/thinkload/tables/KEY/`. Where all
keys together take more than MOST_BYTES, those that were used least recently are removed. A table that cannot be read or written
is computed, which is slower and not an error.

This module does not know what a table means.
"""

import hashlib
import importlib.metadata
import json
import os
import shutil
from collections.abc import Callable, Iterable
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pandas as pd
import pyarrow as pa

MOST_BYTES = 2 << 30
LEAST_ROWS = 20_000
"""The tables of fewer requests take less than a second, and are not kept."""
PACKAGES = ("numpy", "pandas", "pyarrow", "scipy", "math-verify")
"""Libraries whose version may change a table."""
FACTS = b"thinkload"
"""Key of the schema's metadata that holds what belongs to a table."""


def key_of(files: Iterable[Path], about: str) -> str:
    """The key of a study, from its files and from what else decides how they are read."""
    found = [about, *(f"{name} {importlib.metadata.version(name)}" for name in PACKAGES)]
    for path in files:
        if path.exists():
            status = path.stat()
            found.append(f"{path.resolve()} {status.st_size} {status.st_mtime_ns} {status.st_ino}")
    digest = hashlib.sha256("\n".join(found).encode())
    package = Path(__file__).parents[1]
    of_loadgen = [package.parent / "loadgen" / "record.py", *(package.parent / "loadgen" / "measure").glob("*.py")]
    for source in sorted([*package.rglob("*.py"), *package.rglob("*.toml"), *of_loadgen]):
        digest.update(source.read_bytes())
    return digest.hexdigest()[:32]


@dataclass(slots=True)
class Tables:
    """The tables of one study that are kept, in one folder."""

    folder: Path
    kept: bool = True
    """Whether tables are written; those that exist are read."""

    def get(self, name: str, compute: Callable[[], pd.DataFrame], *parameters: Any) -> pd.DataFrame:
        """A table by its name and the parameters of its computation, read or else computed and kept."""
        found = self.read(name, *parameters)
        if found is not None:
            return found[0]
        table = compute()
        self.write(table, {}, name, *parameters)
        return table

    def read(self, name: str, *parameters: Any) -> tuple[pd.DataFrame, dict[str, Any]] | None:
        """A table that was kept, with its facts."""
        try:
            with pa.memory_map(str(self._path(name, parameters))) as file:
                table = pa.ipc.open_file(file).read_all()
            os.utime(self.folder)
            return table.to_pandas(), json.loads(table.schema.metadata[FACTS])
        except (OSError, pa.ArrowException, ValueError, KeyError, TypeError):
            return None

    def write(self, table: pd.DataFrame, facts: dict[str, Any], name: str, *parameters: Any) -> None:
        """Keep a table, with facts that JSON can hold."""
        path = self._path(name, parameters)
        partial = path.with_suffix(f".{os.getpid()}")
        try:
            if not self.kept:
                return
            rows = pa.Table.from_pandas(table, preserve_index=False)
            metadata = {**(rows.schema.metadata or {}), FACTS: json.dumps(facts).encode()}
            self.folder.mkdir(parents=True, exist_ok=True, mode=0o700)
            options = pa.ipc.IpcWriteOptions(compression="lz4")
            with (
                pa.OSFile(str(partial), "wb") as file,
                pa.ipc.new_file(file, rows.schema.with_metadata(metadata), options=options) as out,
            ):
                out.write_table(rows.replace_schema_metadata(metadata))
            del rows
            pa.default_memory_pool().release_unused()
            partial.replace(path)
            _prune(self.folder.parent)
        except (OSError, pa.ArrowException):
            with suppress(OSError):
                partial.unlink()

    def _path(self, name: str, parameters: tuple[Any, ...]) -> Path:
        digest = hashlib.sha256(repr(parameters).encode()).hexdigest()[:8]
        return self.folder / f"{name}-{digest}.arrow"


def _prune(root: Path) -> None:
    """Remove the keys that were used least recently, where all take too much."""
    folders = sorted(root.iterdir(), key=lambda folder: folder.stat().st_mtime, reverse=True)
    total = 0
    for folder in folders:
        total += sum(file.stat().st_size for file in folder.iterdir())
        if total > MOST_BYTES:
            shutil.rmtree(folder, ignore_errors=True)
