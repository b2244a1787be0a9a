"""Read `search.json`, which `python -m loadgen search` writes into the folder whose subfolders are the runs of its probes.

The file is checked like any other input: its types, its size and its version. A file of a newer version is refused. A damaged
one is left out with a note, and the loads of its runs are then judged like those of any other runs.

This module does not know how a search decides.
"""

from pathlib import Path
from typing import Annotated, Literal

import msgspec

from analysis.errors import InputError
from loadgen.terminal import printable

SEARCH = "search.json"
SCHEMA = 1
MOST_BYTES = 1 << 20
Decision = Literal["pass", "fail", "undecided"]
Load = Annotated[float, msgspec.Meta(gt=0)]
"""Requests in flight, or requests per second."""


class Probe(msgspec.Struct):
    """One test of a load. A load that was tested again has several probes, and the last one decides."""

    run: str
    load: Load
    decision: Decision
    runs: Annotated[list[str], msgspec.Meta(max_length=10_000)] = []
    """All runs of the test, where it was extended."""


class Limit(msgspec.Struct):
    """The highest load that meets the SLO: between the highest one that passed and the lowest one that failed."""

    load: Load
    interval: tuple[Load | None, Load | None]


class Search(msgspec.Struct):
    """The result of one search."""

    schema_version: int
    over: Literal["streams", "rate"]
    slo: dict[str, Load]
    attain: Annotated[float, msgspec.Meta(gt=0, le=1)]
    probes: Annotated[list[Probe], msgspec.Meta(max_length=10_000)]
    limit: Limit | None = None

    def decisions(self) -> dict[str, Decision]:
        """The decision on the load of each run."""
        last = {probe.load: probe.decision for probe in self.probes}
        return {run: last[probe.load] for probe in self.probes for run in (probe.run, *probe.runs)}


def read_searches(root: Path, notes: list[str]) -> dict[str, Search]:
    """The searches at or below a folder, by the beginning of the names of their runs. Raises InputError for a newer version."""
    found = {}
    for path in sorted(root.rglob(SEARCH)):
        name = path.relative_to(root).as_posix()
        try:
            found[name.removesuffix(SEARCH)] = _read(path)
        except (ValueError, OSError, RecursionError) as error:
            notes.append(f"{name} cannot be read ({printable(str(error)[:200])}); its runs are used without it")
    return found


def _read(path: Path) -> Search:
    with path.open("rb") as file:
        text = file.read(MOST_BYTES + 1)
    if len(text) > MOST_BYTES:
        raise ValueError(f"larger than {MOST_BYTES} bytes")
    version = msgspec.json.decode(text, type=_Version).schema_version
    if version > SCHEMA:
        raise InputError(
            f"{path}: schema_version is {version}, and this version reads up to {SCHEMA}: use a newer version"
        )
    return msgspec.json.decode(text, type=Search)


class _Version(msgspec.Struct):
    schema_version: int
