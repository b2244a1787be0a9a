"""`python -m loadgen sweep`: each cell's server started, loaded, taken down; the one place that imports `server`.

Rules: the plan is printed before anything starts. A failed cell is written down and the next one runs. `sweep.json` is
rewritten whole after every cell, so a sweep that was killed can be resumed: a cell is done when its folder holds a
finished `run.json` and its content hash is the plan's.

Does not know: how a request is sent (session), or how a server is started (server.launch).
"""

import argparse
import dataclasses
import json
import sys
import time
from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from loadgen import options as run_options
from loadgen import plan as plans
from loadgen.manifest import Entry, Manifest
from loadgen.options import RunOptions, UsageError
from loadgen.plan import Cell
from server.launch import Launcher, LaunchFailedError, Server, Spec

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
    """Run the sweep; 0 when every cell is done, 1 when one failed."""
    options = run_options.from_args(args)
    order = _order(args, options)
    out = options.out or Path("results") / f"{datetime.now(UTC):%Y%m%d-%H%M%S}-sweep"
    if out.exists():
        raise UsageError(f"--out {out} exists: choose another folder, or --resume {out}")
    print(f"sweep of {len(order)} cells into {out}", file=sys.stderr)
    manifest = Manifest.new(out, args, [_entry(cell, options, args) for cell in order])
    for cell, failure in _run_all(args, options, order, out, manifest):
        print(f"sweep: {cell.name}: {failure or 'done'}", file=sys.stderr)
    failed = [entry.name for entry in manifest.cells if entry.state != "done"]
    print(
        json.dumps(
            {"sweep": str(out), "cells": len(order), "done": len(order) - len(failed), "failed": failed}
        )
    )
    return 1 if failed else 0


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


def _run_all(
    args: argparse.Namespace, options: RunOptions, order: list[Cell], out: Path, manifest: Manifest
) -> Iterator[tuple[Cell, str | None]]:
    """Each cell with why it failed, or None; one server for neighbouring cells of a configuration and model."""
    with Launcher(say=lambda line: print(line, file=sys.stderr)) as launcher:
        for (config, model), group in plans.by_server(order):
            log = out / "logs" / f"{group[0].name}.log"
            try:
                with launcher.launched(_spec(args, options, config, model, log)) as server:
                    for cell in group:
                        yield cell, _run_cell(cell, server, options, out, manifest)
            except LaunchFailedError as error:
                for cell in group:
                    manifest.failed(cell.name, error.reason)
                    yield cell, error.reason


def _spec(args: argparse.Namespace, options: RunOptions, config: str, model: str, log: Path) -> Spec:
    emulate = ["--seed", str(options.seed)]
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


def _run_cell(cell: Cell, server: Server, options: RunOptions, out: Path, manifest: Manifest) -> str | None:
    from loadgen import session  # noqa: PLC0415 - heavy; `sweep --help` does without

    began = time.monotonic()
    cell_options = dataclasses.replace(
        cell.load.applied(options),
        target=f"http://127.0.0.1:{server.port}/v1",
        out=out / cell.name,
        repeats=1,
        config_name=cell.config,
        server={**options.server, **_known(server)},
    )
    run = session.execute(cell_options)
    manifest.done(cell.name, run, time.monotonic() - began)
    return None


def _known(server: Server) -> dict[str, Any]:
    return {"backend": server.backend, **server.describe()}
