"""`sweep.json`: the cells that a sweep was asked to run, the state of each cell, and the machine.

The file is replaced as a whole after every change, and several threads may change it. Before a cell runs again, the files of
its earlier attempt are moved to another folder, so that nothing is overwritten and no incomplete run is read as a run.

This module does not know what a cell measures.
"""

import threading
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Literal, Self

import msgspec

from loadgen.files import read_json, write_json
from loadgen.record import RUN, RunInfo
from loadgen.search.result import FILE as SEARCH
from server.launch.spec import OWNER

MANIFEST = "sweep.json"
DISCARDED = "discarded"
SCHEMA = 1
_lock = threading.Lock()


class Entry(msgspec.Struct, kw_only=True):
    """One cell: its plan and its state."""

    name: str
    config: str
    model: str
    load: str
    repeat: int = 0
    hash: str
    state: Literal["planned", "running", "done", "failed"] = "planned"
    reason: str | None = None
    run_id: str | None = None
    verdict: str | None = None
    finished_at: str | None = None
    wall_s: float | None = None
    bench: dict[str, Any] | None = None
    """The means of this suite's client and of vLLM's own client, in seconds, if both were asked for."""
    forecast_s: float | None = None
    """The wall-clock time that the cell was expected to take, without the start of its server."""


class Manifest(msgspec.Struct, kw_only=True, omit_defaults=True):
    """The content of `sweep.json`."""

    schema: int = SCHEMA
    started_at: str
    argv: list[str]
    """The arguments of the command, with those of the plan file first and without the values of headers."""
    folder: str
    cells: list[Entry]
    machine: dict[str, Any] = {}
    """The host, and the GPUs with their UUID, driver, clocks and power limits."""
    owner: str = ""
    """The label of the servers that this sweep starts."""
    servers: dict[str, dict[str, Any]] = {}
    """For each configuration and model: the image digest, the command and the engine version."""

    @classmethod
    def new(cls, out: Path, argv: Sequence[str], cells: list[Entry], machine: dict[str, Any]) -> Self:
        """A manifest in which every cell is planned."""
        return cls(started_at=_now(), argv=list(argv), folder=str(out), cells=cells, machine=machine, owner=OWNER)

    @classmethod
    def read(cls, out: Path) -> Self:
        """Reads the manifest of an earlier sweep. Raises UsageError."""
        return read_json(out / MANIFEST, cls, "start a new sweep in another folder", SCHEMA)

    def write(self) -> None:
        """Replaces `sweep.json`. Raises OSError."""
        write_json(Path(self.folder) / MANIFEST, self)

    def planned(self) -> set[str]:
        """The names of the cells that still have to run."""
        return {entry.name for entry in self.cells if entry.state != "done"}

    def inherit(self, old: "Manifest") -> None:
        """Keeps the cells that an earlier sweep has finished: with the same name, the same hash and a complete run or search."""
        finished = {(entry.name, entry.hash): entry for entry in old.cells if entry.state == "done"}
        for position, entry in enumerate(self.cells):
            if any((Path(self.folder) / entry.name / file).is_file() for file in (RUN, SEARCH)):
                self.cells[position] = finished.get((entry.name, entry.hash), entry)
        self.started_at, self.servers = old.started_at, old.servers

    def discard(self, name: str) -> None:
        """Moves the folder of a cell that runs again to `discarded/`, and renames its run.json and search.json, so that no reader finds them."""
        folder, discarded = Path(self.folder) / name, Path(self.folder) / DISCARDED
        if not folder.exists():
            return
        discarded.mkdir(exist_ok=True)
        target = next(path for n in range(10_000) if not (path := discarded / f"{name}-{n}").exists())
        folder.rename(target)
        for path in [*target.rglob(RUN), *target.rglob(SEARCH)]:
            path.rename(path.with_name(f"{path.name}.discarded"))

    @contextmanager
    def _changed(self, name: str) -> Iterator[Entry]:
        """The entry of a cell, which may be changed in the block; `sweep.json` is replaced after it."""
        with _lock:
            yield next(entry for entry in self.cells if entry.name == name)
            self.write()

    def running(self, name: str) -> None:
        """Records that the cell's run has begun."""
        with self._changed(name) as entry:
            entry.state = "running"

    def interrupted(self) -> None:
        """Records that no cell is running any more: those that were will run again."""
        with _lock:
            for entry in self.cells:
                entry.state = "planned" if entry.state == "running" else entry.state
            self.write()

    def done(self, name: str, run: RunInfo, wall_s: float, bench: dict[str, Any] | None = None) -> None:
        """Records that the cell's run is complete, after `wall_s` seconds, and what another client measured."""
        with self._changed(name) as entry:
            entry.state, entry.reason, entry.run_id, entry.verdict = "done", None, run.run_id, run.verdict
            entry.finished_at, entry.wall_s, entry.bench = _now(), round(wall_s, 3), bench
            self.servers.setdefault(f"{entry.config}/{entry.model}", run.server)

    def failed(self, name: str, reason: str) -> None:
        """Records that the cell has failed, and why."""
        with self._changed(name) as entry:
            entry.state, entry.reason, entry.finished_at = "failed", reason, _now()


def _now() -> str:
    return datetime.now(UTC).isoformat(timespec="seconds")
