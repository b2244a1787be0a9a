"""Shows the state of a whole sweep: a live table on a terminal, a line after each cell elsewhere, and `sweep status DIR`.

All of it comes from `sweep.json`, so that another shell sees the same. The remaining time is the forecast, corrected by the
cells that have ended, without the starts of servers. Memory and power of the GPUs are those of this moment.

This module does not know how cells run.
"""

import argparse
import json
import sys
from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

from loadgen.errors import UsageError
from loadgen.lock import in_use
from loadgen.option_types import LoadgenParser
from loadgen.sweep.deadline import Pace
from loadgen.sweep.manifest import MANIFEST, Manifest
from loadgen.terminal import duration_text, printable
from server.launch import gpus

REFRESH_S = 1.0
FAILED_ROWS = 4
"""The number of failed cells that are named with their reason."""


def rows(manifest: Manifest, *, alive: bool = True) -> list[tuple[str, str]]:
    """The name and the value of each row. `alive` says whether the sweep is still running."""
    cells = manifest.cells
    states = Counter(entry.state for entry in cells)
    left = [entry.name for entry in cells if entry.state in {"planned", "running"}]
    failed = [f"{entry.name}: {entry.reason}" for entry in cells if entry.state == "failed"]
    if len(failed) > FAILED_ROWS:
        failed[FAILED_ROWS:] = [f"{len(failed) - FAILED_ROWS} more"]
    running = ", ".join(entry.name for entry in cells if entry.state == "running")
    nothing = "no cell: servers are starting or stopping" if left and alive else ""
    left_s = Pace(cells).left_s(left)
    about = f", about {duration_text(left_s)} without starts of servers" if left_s else ""
    remaining = f"{len(left)} of {len(cells)} cells{about}"
    used = [f"{row['index']}: {row['used_gib']:.0f} GiB, {row['power_w']:.0f} W" for row in gpus.usage()]
    found = [
        ("done", f"{states['done']} of {len(cells)} cells"),
        *(("failed", text) for text in failed),
        ("running" if alive else "interrupted", running or nothing),
        ("left", remaining if left else ""),
        ("GPU", " · ".join(used)),
    ]
    return [(name, printable(value)) for name, value in found if value]


def line(manifest: Manifest) -> str:
    """The state as one line of text, with the number of failed cells."""
    shown = [f"{name} {value}" for name, value in rows(manifest) if name != "failed"]
    if failed := sum(entry.state == "failed" for entry in manifest.cells):
        shown.insert(1, f"failed {failed}")
    return "sweep: " + " · ".join(shown)


@contextmanager
def shown(manifest: Manifest, *, live: bool) -> Iterator[None]:
    """Shows the live table in the block. Other lines that are printed in the meantime appear above it."""
    if not live:
        yield
        return
    from rich.console import Console  # noqa: PLC0415  this import takes 50 ms, which only a live view needs
    from rich.live import Live  # noqa: PLC0415
    from rich.table import Table  # noqa: PLC0415
    from rich.text import Text  # noqa: PLC0415

    def table() -> Table:
        found = Table(show_header=False, expand=True)  # a table as wide as its text would change its width
        found.add_column(no_wrap=True)
        found.add_column(ratio=1, overflow="fold")
        for name, value in rows(manifest):
            found.add_row(name, Text(value))
        return found

    console = Console(stderr=True)
    with Live(console=console, get_renderable=table, refresh_per_second=1 / REFRESH_S):
        yield


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
    manifest, alive = Manifest.read(folder), in_use(folder)
    how_to_continue = "" if alive or not manifest.planned() else f": continue with --resume {folder}"
    state = "running" if alive else f"not running{how_to_continue}"
    for name, value in [("sweep", printable(state)), *rows(manifest, alive=alive)]:
        print(f"{name:<12}{value}", file=sys.stderr)
    print(json.dumps({"sweep": str(folder), **Counter(entry.state for entry in manifest.cells)}))
    return 0
