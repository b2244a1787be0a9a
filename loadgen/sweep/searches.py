"""`sweep --search`: a cell is a search for the capacity of its server, instead of one run at a given load.

Each budget has a search of its own. The folder of a cell holds search.json and one folder for each run, as that of
`python -m loadgen search` does. A cell that was interrupted is searched again from its beginning when the sweep is resumed.

This module does not know where the server is, or whether there is one (see simulate.py).
"""

import argparse
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from loadgen.errors import UsageError
from loadgen.option_types import LoadPoint
from loadgen.options import RunOptions
from loadgen.search import result
from loadgen.search.probes import load_point
from loadgen.search.result import SearchFile
from loadgen.sweep.manifest import Manifest


@dataclass(frozen=True, kw_only=True)
class SearchedLoad(LoadPoint):
    """The loads of a search. Where one load point is needed, it is the lowest of them."""

    last: float
    attain: float
    most: int

    @property
    def name(self) -> str:
        """The part of a cell's name that stands for its load."""
        return "search"

    def file(self, options: RunOptions) -> SearchFile:
        """What a search with these options is for, without a result."""
        return SearchFile(
            target=options.target, over="streams" if self.kind == "closed" else "rate", slo=options.slo,
            attain=self.attain, first=self.value, last=self.last, most=self.most,
        )  # fmt: skip


def searched_load(args: argparse.Namespace) -> SearchedLoad:
    """Return the loads that the command line asks for. Raises UsageError."""
    if args.loads or args.bench:
        raise UsageError("--search chooses the loads itself: leave out --loads and --bench")
    point = load_point(args.over, args.lowest)
    return SearchedLoad(kind=point.kind, value=point.value, last=args.highest, attain=args.attain, most=args.most)


def axes(args: argparse.Namespace, options: RunOptions) -> dict[str, Any]:
    """Return the axes of the plan, with the budgets as one of them."""
    given: dict[str, Any] = args.axes
    return given if {"budget", "budgets"} & given.keys() else given | {"budget": list(options.budgets)}


def lines(manifest: Manifest) -> Iterator[str]:
    """Yield the result of each search that has ended."""
    for entry in manifest.cells:
        if entry.state == "done":
            found = SearchFile.read(Path(manifest.folder) / entry.name)
            yield f"{entry.name}: {result.lines(found)[0]}"
