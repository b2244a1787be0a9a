"""Runs the cells one after the other: one server for each configuration and model, and one run on it for each load point.

A failure in a cell is recorded, and the next cell runs. Ctrl-C ends the whole sweep, not only the current cell. This module
does not know which cells remain to be run (see command.py), or how several run at once (see parallel.py).
"""

import argparse
import contextlib
import dataclasses
import shutil
import sys
import time
import traceback
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

from loadgen.errors import NO_ROOM, UsageError
from loadgen.files import private_files
from loadgen.options import RunOptions
from loadgen.plan import datasets
from loadgen.record import SERVER_LOG, RunInfo
from loadgen.sweep.manifest import Manifest
from loadgen.sweep.plan import Cell, CellResult, by_server
from loadgen.terminal import printable
from server.config import ConfigError
from server.launch import Launcher, LaunchFailedError, RunningServer, Spec, announce, gpu_metrics

Execute = Callable[[RunOptions], RunInfo]


def report(line: str) -> None:
    """Prints one line of progress, without control characters."""
    print(printable(line), file=sys.stderr)


@dataclass
class CellRunner:
    """Runs cells and records their states in the manifest. `execute` executes one run; a pool of processes can call it."""

    args: argparse.Namespace
    options: RunOptions
    manifest: Manifest
    execute: Execute

    @property
    def out(self) -> Path:
        """The folder of the sweep."""
        return Path(self.manifest.folder)

    def run(self, order: list[Cell]) -> Iterator[CellResult]:
        """Runs all cells."""
        with Launcher(report) as launcher:
            for _, group in by_server(order):
                yield from self.run_group(launcher, group)

    def run_group(self, launcher: Launcher, group: list[Cell]) -> Iterator[CellResult]:
        """Starts one server and runs its cells. If the server fails, the remaining cells have failed."""
        spec, remaining = self.server_spec(group[0]), list(group)
        try:
            with launcher.launched(spec) as server, gpu_metrics(server, launcher) as telemetry:
                while remaining:
                    cell = remaining.pop(0)
                    yield cell, self._run_cell(cell, server, dataclasses.replace(spec, telemetry=telemetry))
        except Exception as error:  # no failure of one server, not even a bug, may stop the others
            if isinstance(error, OSError) and error.errno in NO_ROOM:
                raise  # no other cell could be recorded
            if not isinstance(error, LaunchFailedError | ConfigError):
                traceback.print_exc()
            for line in getattr(error, "tail", ()):
                report(f"  | {line}")
            for cell in remaining:
                self.manifest.failed(cell.name, str(error))
                yield cell, str(error)

    def server_spec(self, cell: Cell) -> Spec:
        """The server that the cell needs."""
        args, options = self.args, self.options
        emulate = ["--seed", str(options.seed), "--dataset", datasets.load(options.dataset).path]
        emulate += ["--speed", str(args.speed)] if args.speed else []
        emulate += ["--gpu", options.gpu] if options.gpu else []
        return Spec(
            config=cell.config,
            model=cell.model,
            backend=args.backend,
            image=args.image,
            emulate=tuple(emulate),
            log=self.out / "logs" / f"{cell.name}.log",
            start_timeout_s=args.start_timeout,
        )

    def _run_cell(self, cell: Cell, server: RunningServer, spec: Spec) -> str | None:
        """Runs one cell and returns the reason of a failure, or None. Raises KeyboardInterrupt after an interrupted run."""
        started_s = time.monotonic()
        run_id = f"{self.out.name}.{cell.name}"
        announce(server, dataclasses.replace(spec, run=run_id))
        try:
            run = self.execute(self._run_options(cell, server, run_id, spec.telemetry))
        except Exception as error:  # noqa: BLE001 - no failure of one cell, not even a bug, may stop the others
            if not isinstance(error, UsageError):
                traceback.print_exc()
            self.manifest.failed(cell.name, f"{type(error).__name__}: {error}")
            return f"{type(error).__name__}: {error}"
        if any("interrupted" in reason for reason in run.reasons):
            raise KeyboardInterrupt
        with contextlib.suppress(FileNotFoundError), private_files():
            shutil.copyfile(server.log, self.out / cell.name / SERVER_LOG)
        self.manifest.done(cell.name, run, time.monotonic() - started_s)
        return None

    def _run_options(
        self, cell: Cell, server: RunningServer, run_id: str, telemetry: str | None
    ) -> RunOptions:
        return dataclasses.replace(
            cell.load.applied(self.options),
            target=f"http://127.0.0.1:{server.port}/v1",
            out=self.out / cell.name,
            run_id=run_id,
            repeats=1,
            config_name=Path(cell.config).stem,
            num_gpus=len(server.gpus) or self.options.num_gpus,
            gpu_metrics=telemetry or self.options.gpu_metrics,
            server={**self.options.server, "backend": server.backend, **server.describe()},
        )
