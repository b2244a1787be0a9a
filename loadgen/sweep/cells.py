"""Cells one after the other: a server for each configuration and model, a run for each load point on it.

Rules: whatever fails in a cell is written down and the next one runs; Ctrl-C ends the sweep, not only the cell.
Does not know: what is still to be run (command), or how to run several at once (side_by_side).
"""

import argparse
import contextlib
import dataclasses
import shutil
import sys
import time
import traceback
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path

from loadgen.options import RunOptions
from loadgen.plan import datasets
from loadgen.record import SERVER_LOG, RunInfo
from loadgen.sweep.manifest import Manifest
from loadgen.sweep.plan import Cell, by_server
from server.config import ConfigError
from server.launch import Launcher, LaunchFailedError, RunningServer, Spec, announce, gpu_metrics

Execute = Callable[[RunOptions], RunInfo]


def execute(options: RunOptions) -> RunInfo:
    """One run, in this process."""
    from loadgen.run import run as session  # noqa: PLC0415 - heavy; `sweep --help` does without

    return session.execute(options)


@dataclass
class Cells:
    """Runs cells; `execute` does one run."""

    args: argparse.Namespace
    options: RunOptions
    manifest: Manifest
    execute: Execute = field(default=execute)

    @property
    def out(self) -> Path:
        """The sweep's folder."""
        return Path(self.manifest.folder)

    def run(self, order: list[Cell]) -> Iterator[tuple[Cell, str | None]]:
        """Each cell with why it failed, or None."""
        with Launcher(say) as launcher:
            for _, group in by_server(order):
                yield from self.group(launcher, group)

    def group(self, launcher: Launcher, group: list[Cell]) -> Iterator[tuple[Cell, str | None]]:
        """Cells of one server."""
        spec, left = self.spec(group[0]), list(group)
        try:
            with launcher.launched(spec) as server, gpu_metrics(server, launcher) as telemetry:
                while left:
                    cell = left.pop(0)
                    yield cell, self.cell(cell, server, dataclasses.replace(spec, telemetry=telemetry))
        except Exception as error:  # noqa: BLE001 - one server's failure, ours included, must not cost the others
            if not isinstance(error, LaunchFailedError | ConfigError):
                traceback.print_exc()
            for line in getattr(error, "tail", ()):
                say(f"  | {line}")
            for cell in left:
                self.manifest.failed(cell.name, str(error))
                yield cell, str(error)

    def spec(self, cell: Cell) -> Spec:
        """The server that a cell wants."""
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

    def cell(self, cell: Cell, server: RunningServer, spec: Spec) -> str | None:
        """Load the server with one cell; why that failed, or None. KeyboardInterrupt where the run was interrupted."""
        began = time.monotonic()
        run_id = f"{self.out.name}.{cell.name}"
        announce(server, dataclasses.replace(spec, run=run_id))
        try:
            run = self.execute(self.cell_options(cell, server, run_id, spec.telemetry))
        except Exception as error:  # noqa: BLE001 - one cell's failure, ours included, must not cost the others
            traceback.print_exc()
            self.manifest.failed(cell.name, f"{type(error).__name__}: {error}")
            return f"{type(error).__name__}: {error}"
        if any("interrupted" in reason for reason in run.reasons):
            raise KeyboardInterrupt
        with contextlib.suppress(FileNotFoundError):
            shutil.copyfile(server.log, self.out / cell.name / SERVER_LOG)
        self.manifest.done(cell.name, run, time.monotonic() - began)
        return None

    def cell_options(self, cell: Cell, server: RunningServer, run_id: str, telemetry: str | None) -> RunOptions:
        """Options of the cell's run."""
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


def say(line: str) -> None:
    """To people."""
    print(line, file=sys.stderr)
