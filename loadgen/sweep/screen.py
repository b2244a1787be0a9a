"""Shows the state of a whole sweep: a live table on a terminal, a line after each cell elsewhere, and `sweep status DIR`.

All of it comes from `sweep.json`, so that another shell sees the same. The remaining time is the forecast, corrected by the
cells that have ended, without the starts of servers. Memory and power of the GPUs are those of this moment.

This module does not know how cells run.
"""

import argparse
import json
import sys
import threading
from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

from loadgen.errors import UsageError
from loadgen.option_types import LoadgenParser
from loadgen.sweep.deadline import Pace
from loadgen.sweep.forecasts import duration
from loadgen.sweep.manifest import MANIFEST, Manifest
from loadgen.terminal import printable
from server.launch import gpus

REFRESH_S = 1.0


def rows(manifest: Manifest) -> list[tuple[str, str]]:
    """The name and the value of each row."""
    cells = manifest.cells
    states = Counter(entry.state for entry in cells)
    pace = Pace({entry.name: entry.forecast_s for entry in cells if entry.forecast_s is not None})
    for entry in cells:
        if entry.state == "done" and entry.wall_s is not None:
            pace.ended(entry.name, entry.wall_s)
    left = [entry.name for entry in cells if entry.state in {"planned", "running"}]
    left_s = pace.left_s(left)
    used = [f"{row['index']}: {row['used_gib']:.0f} GiB, {row['power_w']:.0f} W" for row in gpus.usage()]
    found = [
        ("done", f"{states['done']} of {len(cells)} cells"),
        ("failed", ", ".join(entry.name for entry in cells if entry.state == "failed")),
        ("running", ", ".join(entry.name for entry in cells if entry.state == "running")),
        ("left", f"{len(left)} cells" + (f", about {duration(left_s)}" if left_s else "") if left else ""),
        ("GPU", " · ".join(used)),
    ]
    return [(name, printable(value)) for name, value in found if value]


def line(manifest: Manifest) -> str:
    """The state as one line of text."""
    return "sweep: " + " · ".join(f"{name} {value}" for name, value in rows(manifest))


@contextmanager
def shown(manifest: Manifest, *, live: bool) -> Iterator[None]:
    """Shows the live table in the block. Other lines that are printed in the meantime appear above it."""
    if not live:
        yield
        return
    from rich.console import Console  # noqa: PLC0415  this import takes 50 ms, which only a live view needs
    from rich.live import Live  # noqa: PLC0415
    from rich.table import Table  # noqa: PLC0415

    ended = threading.Event()

    def table() -> Table:
        found = Table(show_header=False)
        for name, value in rows(manifest):
            found.add_row(name, value)
        return found

    def refresh() -> None:
        while not ended.wait(REFRESH_S):
            view.update(table(), refresh=True)

    with Live(table(), console=Console(stderr=True, markup=False), auto_refresh=False) as view:
        thread = threading.Thread(target=refresh, daemon=True)
        thread.start()
        try:
            yield
        finally:
            ended.set()
            thread.join()
            view.update(table(), refresh=True)


def status(argv: Sequence[str]) -> int:
    """`sweep status DIR`: prints the state of a sweep that runs, or has ended, in a folder. Returns the exit code."""
    parser = LoadgenParser(
        prog="python -m loadgen sweep status",
        description=status.__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("folder", type=Path, metavar="DIR", help="folder of the sweep")
    folder = parser.parse_args(argv).folder
    if not (folder / MANIFEST).is_file():
        raise UsageError(f"{folder}: no {MANIFEST} there: name the folder of a sweep")
    manifest = Manifest.read(folder)
    for name, value in rows(manifest):
        print(f"{name:<8} {value}", file=sys.stderr)
    print(json.dumps({"sweep": str(folder), **Counter(entry.state for entry in manifest.cells)}))
    return 0
