"""`python -m loadgen sweep`: each cell's server started, loaded, taken down; the one place that imports `server`.

Rules: the plan is printed before anything starts. A failed cell is written down and the next one runs. `sweep.json` is
rewritten whole after every cell, so a sweep that was killed can be resumed: a cell is done when its folder holds a
finished `run.json` and its content hash is the plan's.

Does not know: how a request is sent (session), or how a server is started (server.launch).
"""

import argparse
import dataclasses
import json
import shutil
import sys
import time
import traceback
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path

from loadgen import datasets
from loadgen import options as run_options
from loadgen import plan as plans
from loadgen.manifest import Entry, Manifest
from loadgen.options import RunOptions, UsageError
from loadgen.plan import Cell
from server.config import ConfigError
from server.launch import Launcher, LaunchFailedError, Server, Spec, announce

EXAMPLES = """examples:
  python -m loadgen sweep --configs tp1,tp1-ngram,tp2 --models r1-distill-qwen-1.5b --backend emulator --dataset sample
  python -m loadgen sweep --configs tp1,tp2 --models r1-distill-qwen-14b --backend docker --loads 1,32 --repeats 2
  python -m loadgen sweep --resume results/20261122-0310-sweep"""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Arguments of the sweep, then every option of a run."""
    parser.formatter_class = argparse.RawDescriptionHelpFormatter
    parser.epilog = EXAMPLES
    group = parser.add_argument_group("what to sweep")
    group.add_argument("--configs", metavar="C,…", help="serving configurations, as in server/configs")
    group.add_argument("--models", metavar="M,…", help="model presets, as in server/models, or model ids")
    group.add_argument(
        "--loads",
        type=plans.loads,
        metavar="L,…",
        help="load points: 1,32 (streams), 2/s (rate) [--concurrency or --rate]",
    )
    group.add_argument(
        "--backend",
        choices=("emulator", "process", "docker"),
        default="emulator",
        help="how servers are started [emulator]",
    )
    group.add_argument(
        "--speed", type=float, metavar="X", help="backend emulator: divide the emulator's waiting by X"
    )
    group.add_argument(
        "--start-timeout",
        type=float,
        default=900.0,
        metavar="S",
        help="longest a server may take to be ready [900]",
    )
    run_options.add_run_arguments(parser)


def main(args: argparse.Namespace) -> int:
    """Run the sweep; 0 when every cell is done, 1 when one failed, 130 when it was interrupted."""
    options = run_options.from_args(args)
    order = _order(args, options)
    out = options.out or Path("results") / f"{datetime.now(UTC):%Y%m%dT%H%M%SZ}-sweep"
    if out.exists():
        raise UsageError(f"--out {out} exists: choose another folder, or --resume {out}")
    _say(f"sweep: {len(order)} cells into {out}")
    manifest = Manifest.new(out, args, [_entry(cell, options, args) for cell in order])
    try:
        for cell, failure in Sweep(args, options, out, manifest).run(order):
            _say(f"sweep: {cell.name}: {failure or 'done'}")
    except KeyboardInterrupt:
        _say(f"sweep: interrupted; go on with --resume {out}")
    left = [entry.name for entry in manifest.cells if entry.state == "planned"]
    failed = [entry.name for entry in manifest.cells if entry.state == "failed"]
    print(json.dumps({"sweep": str(out), "cells": len(order), "failed": failed, "left": left}))
    return 130 if left else 1 if failed else 0


def _say(line: str) -> None:
    print(line, file=sys.stderr)


def _order(args: argparse.Namespace, options: RunOptions) -> list[Cell]:
    if not args.configs or not args.models:
        raise UsageError("name what to sweep: --configs tp1,tp2 --models r1-distill-qwen-1.5b")
    points = args.loads or (plans.load_of(options),)
    return plans.cells(args.configs.split(","), args.models.split(","), points, options.repeats)


def _entry(cell: Cell, options: RunOptions, args: argparse.Namespace) -> Entry:
    digest = plans.content_hash(cell, options, {"backend": args.backend, "speed": args.speed})
    return Entry(
        name=cell.name,
        config=cell.config,
        model=cell.model,
        load=cell.load.name,
        repeat=cell.repeat,
        hash=digest,
    )


@dataclass
class Sweep:
    """A sweep that is running."""

    args: argparse.Namespace
    options: RunOptions
    out: Path
    manifest: Manifest

    def run(self, order: list[Cell]) -> Iterator[tuple[Cell, str | None]]:
        """Each cell with why it failed, or None; one server for neighbouring cells of a configuration and model."""
        with Launcher(_say) as launcher:
            for (config, model), group in plans.by_server(order):
                spec = self.spec(config, model, self.out / "logs" / f"{group[0].name}.log")
                try:
                    with launcher.launched(spec) as server:
                        for cell in group:
                            yield cell, self.cell(cell, server, spec)
                except (LaunchFailedError, ConfigError) as error:
                    for cell in group:
                        self.manifest.failed(cell.name, str(error))
                        yield cell, str(error)

    def spec(self, config: str, model: str, log: Path) -> Spec:
        """The server that a configuration and model want."""
        args, options = self.args, self.options
        emulate = ["--seed", str(options.seed), "--dataset", datasets.load(options.dataset).path]
        emulate += ["--speed", str(args.speed)] if args.speed else []
        emulate += ["--gpu", options.gpu] if options.gpu else []
        return Spec(
            config=config,
            model=model,
            backend=args.backend,
            emulate=tuple(emulate),
            log=log,
            start_timeout_s=args.start_timeout,
        )

    def cell(self, cell: Cell, server: Server, spec: Spec) -> str | None:
        """Load the server with one cell; why that failed, or None. KeyboardInterrupt where the run was interrupted."""
        from loadgen.session import execute  # noqa: PLC0415 - heavy; `sweep --help` does without

        began = time.monotonic()
        run_id = f"{self.out.name}.{cell.name}"
        announce(server, dataclasses.replace(spec, run=run_id))
        try:
            run = execute(self.cell_options(cell, server, run_id))
        except Exception as error:  # noqa: BLE001 - one cell's failure, ours included, must not cost the others
            traceback.print_exc()
            self.manifest.failed(cell.name, f"{type(error).__name__}: {error}")
            return f"{type(error).__name__}: {error}"
        if any("interrupted" in reason for reason in run.reasons):
            raise KeyboardInterrupt
        shutil.copyfile(server.log, self.out / cell.name / "server.log")
        self.manifest.done(cell.name, run, time.monotonic() - began)
        return None

    def cell_options(self, cell: Cell, server: Server, run_id: str) -> RunOptions:
        """Options of the cell's run."""
        return dataclasses.replace(
            cell.load.applied(self.options),
            target=f"http://127.0.0.1:{server.port}/v1",
            out=self.out / cell.name,
            run_id=run_id,
            repeats=1,
            config_name=Path(cell.config).stem,
            server={**self.options.server, "backend": server.backend, **server.describe()},
        )
