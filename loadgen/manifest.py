"""`sweep.json`: what a sweep was to run, what became of each cell, and on what machine.

Rules: written whole or not at all, after every change. Does not know: what a cell measures.
"""

import argparse
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Literal, Self

import msgspec

from loadgen.record import RunInfo

MANIFEST = "sweep.json"


class Entry(msgspec.Struct, kw_only=True, omit_defaults=True):
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
    argv: dict[str, Any]
    folder: str
    cells: list[Entry]
    machine: dict[str, Any] = {}

    @classmethod
    def new(cls, out: Path, args: argparse.Namespace, cells: list[Entry]) -> Self:
        """A manifest with every cell planned, written."""
        given = {key: value for key, value in vars(args).items() if not callable(value)}
        manifest = cls(started_at=_now(), argv=given, folder=str(out), cells=cells)
        manifest.write()
        return manifest

    @classmethod
    def read(cls, out: Path) -> Self:
        """The manifest of a sweep that was begun. Raises FileNotFoundError, msgspec.DecodeError."""
        return msgspec.json.decode((out / MANIFEST).read_bytes(), type=cls)

    def write(self) -> None:
        """Replace `sweep.json`."""
        folder = Path(self.folder)
        folder.mkdir(parents=True, exist_ok=True)
        partial = folder / (MANIFEST + ".partial")
        partial.write_bytes(msgspec.json.format(msgspec.json.encode(self, enc_hook=str), indent=1))
        partial.replace(folder / MANIFEST)

    def done(self, name: str, run: RunInfo, wall_s: float) -> None:
        """Note that the cell's run is complete."""
        entry = self._entry(name)
        entry.state, entry.reason, entry.run_id, entry.verdict = "done", None, run.run_id, run.verdict
        entry.finished_at, entry.wall_s = _now(), round(wall_s, 3)
        self.write()

    def failed(self, name: str, reason: str) -> None:
        """Note that the cell has no run, and why."""
        entry = self._entry(name)
        entry.state, entry.reason, entry.finished_at = "failed", reason, _now()
        self.write()

    def _entry(self, name: str) -> Entry:
        return next(entry for entry in self.cells if entry.name == name)


def _now() -> str:
    return datetime.now(UTC).isoformat(timespec="seconds")
