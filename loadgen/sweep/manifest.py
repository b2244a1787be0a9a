"""`sweep.json`: what a sweep was to run, what became of each cell, and on what machine.

Rules: written whole or not at all, after every change; cells may be noted from several threads. A cell that is begun
again moves what it has aside first: nothing is overwritten, and nothing that is half is read as a run.

Does not know: what a cell measures.
"""

import threading
from collections.abc import Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Literal, Self

import msgspec

from loadgen.files import write_atomically
from loadgen.record import RUN, RunInfo

MANIFEST = "sweep.json"
DISCARDED = "discarded"
_lock = threading.Lock()


class Entry(msgspec.Struct, kw_only=True):
    """One cell, as planned and as it went."""

    name: str
    config: str
    model: str
    load: str
    repeat: int = 0
    hash: str
    state: Literal["planned", "done", "failed"] = "planned"
    reason: str | None = None
    run_id: str | None = None
    verdict: str | None = None
    finished_at: str | None = None
    wall_s: float | None = None


class Manifest(msgspec.Struct, kw_only=True, omit_defaults=True):
    """The whole sweep."""

    schema: int = 1
    started_at: str
    argv: list[str]
    """Arguments with the plan file's in front: what `--resume` begins with."""
    folder: str
    cells: list[Entry]
    machine: dict[str, Any] = {}
    """Host, GPUs with UUID, driver, clocks and power limits."""
    servers: dict[str, dict[str, Any]] = {}
    """By configuration and model: image digest, command, engine version."""

    @classmethod
    def new(cls, out: Path, argv: Sequence[str], cells: list[Entry], machine: dict[str, Any]) -> Self:
        """A manifest with every cell planned."""
        return cls(started_at=_now(), argv=list(argv), folder=str(out), cells=cells, machine=machine)

    @classmethod
    def read(cls, out: Path) -> Self:
        """The manifest of a sweep that was begun. Raises FileNotFoundError, msgspec.DecodeError."""
        return msgspec.json.decode((out / MANIFEST).read_bytes(), type=cls)

    def write(self) -> None:
        """Replace `sweep.json`."""
        folder = Path(self.folder)
        folder.mkdir(parents=True, exist_ok=True)
        write_atomically(folder / MANIFEST, msgspec.json.format(msgspec.json.encode(self), indent=1))

    def planned(self) -> set[str]:
        """Names of the cells that are still to be run."""
        return {entry.name for entry in self.cells if entry.state != "done"}

    def inherit(self, old: "Manifest") -> None:
        """Keep what an earlier sweep finished: same name, same content hash, a whole run."""
        before = {entry.name: entry for entry in old.cells}
        for position, entry in enumerate(self.cells):
            was = before.get(entry.name)
            if (
                was
                and was.state == "done"
                and was.hash == entry.hash
                and (Path(self.folder) / entry.name / RUN).is_file()
            ):
                self.cells[position] = was
        self.started_at, self.servers = old.started_at, old.servers

    def clear(self, name: str) -> None:
        """Move aside what a cell that is to be run has in its folder."""
        folder, aside = Path(self.folder) / name, Path(self.folder) / DISCARDED
        if not folder.exists():
            return
        aside.mkdir(exist_ok=True)
        into = next(path for n in range(10_000) if not (path := aside / f"{name}-{n}").exists())
        folder.rename(into)
        if (into / RUN).exists():
            (into / RUN).rename(into / f"{RUN}.discarded")

    def done(self, name: str, run: RunInfo, wall_s: float) -> None:
        """Note that the cell's run is complete."""
        with _lock:
            entry = self._entry(name)
            entry.state, entry.reason, entry.run_id, entry.verdict = "done", None, run.run_id, run.verdict
            entry.finished_at, entry.wall_s = _now(), round(wall_s, 3)
            self.servers.setdefault(f"{entry.config}/{entry.model}", run.server)
            self.write()

    def failed(self, name: str, reason: str) -> None:
        """Note that the cell has no run, and why."""
        with _lock:
            entry = self._entry(name)
            entry.state, entry.reason, entry.finished_at = "failed", reason, _now()
            self.write()

    def _entry(self, name: str) -> Entry:
        return next(entry for entry in self.cells if entry.name == name)


def _now() -> str:
    return datetime.now(UTC).isoformat(timespec="seconds")
