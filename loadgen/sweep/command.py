"""`python -m loadgen sweep`: runs the cells of a plan, each on a server that the sweep starts and stops.

The plan is printed before anything starts. A failure in a cell is recorded, and the next cell runs. `sweep.json` is replaced
after every cell, so that a sweep that was killed can be resumed. A cell is finished when its folder contains a complete run and
its content hash is that of the plan; all other cells run from their beginning.

This module does not know how a request is sent, how a server is started, or how a cell is simulated.
"""

import argparse
import dataclasses
import json
from collections.abc import Iterator, Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from loadgen import options as run_options
from loadgen.errors import UsageError
from loadgen.files import private_files
from loadgen.lock import locked
from loadgen.measure.steady_window import enough_requests
from loadgen.option_types import LoadgenParser, count, load_points, positive, seconds
from loadgen.options import RunOptions
from loadgen.plan import datasets
from loadgen.plan.budgets import sent_budgets
from loadgen.record import RunInfo
from loadgen.run import environment
from loadgen.run.manifest import make_folder
from loadgen.sweep import parallel, plan, simulate
from loadgen.sweep.cells import CellRunner, report
from loadgen.sweep.manifest import MANIFEST, Entry, Manifest
from loadgen.sweep.plan import Cell, CellResult
from loadgen.target.preflight import check_lengths
from loadgen.target.server_info import ServerInfo
from server.config import ConfigError, read_config, read_preset
from server.emulator.engine import hardware
from server.emulator.forecast import forecast
from server.launch import docker_backend, gpus
from server.launch.spec import BACKENDS as SERVER_BACKENDS

EXAMPLES = """examples:
  python -m loadgen sweep --configs tp1,tp1-ngram,tp2 --models r1-distill-qwen-1.5b --backend emulator --dataset sample
  python -m loadgen sweep --configs tp1,tp2 --models r1-distill-qwen-14b --backend docker --loads 1,32 --repeats 2
  python -m loadgen sweep --plan plans/paper.yaml --backend simulate
  python -m loadgen sweep --plan plans/smoke.yaml --dry-run
  python -m loadgen sweep --resume results/20261122T031000Z-sweep"""
BACKENDS = (*SERVER_BACKENDS, "simulate")
EMULATED = {"emulator", "simulate"}


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Adds the arguments of a sweep, and then all options of a run."""
    group = parser.add_argument_group("what to sweep")
    add = group.add_argument
    add(
        "--plan",
        type=Path,
        metavar="FILE",
        help="YAML file with configs, models, loads, repeats and run: {options}; options on the command line override it",
    )
    add("--configs", metavar="C,…", help="serving configurations: names in server/configs, or .yaml files")
    add("--models", metavar="M,…", help="model presets: names in server/models, .yaml files, or model ids")
    add(
        "--loads",
        type=load_points,
        metavar="L,…",
        help="load points: 1,32 (concurrent streams), 2/s (request rate) [--concurrency or --rate]",
    )
    add(
        "--backend",
        choices=BACKENDS,
        default="emulator",
        help="emulator · process (vllm serve on this machine) · docker · simulate (without sockets and waiting) [emulator]",
    )
    add(
        "--parallel",
        type=count,
        default=1,
        metavar="N",
        help="run at most N servers at once, after a check that they do not slow each other down [1]",
    )
    add("--image", help="image of backend docker [$VLLM_IMAGE, else the pinned image of vLLM]")
    add("--speed", type=positive, metavar="X", help="divide every waiting time of emulated servers by X")
    add(
        "--start-timeout",
        type=seconds,
        default=900.0,
        metavar="S",
        help="longest time until a server is ready, in seconds [900]",
    )
    run_options.add_run_arguments(parser)


def expanded(argv: Sequence[str]) -> list[str]:
    """The arguments, preceded by those of the plan file or of the sweep to resume. Raises UsageError."""
    parser = LoadgenParser(prog="python -m loadgen sweep", add_help=False, allow_abbrev=False)
    parser.add_argument("--plan", type=Path)
    parser.add_argument("--resume", type=Path)
    given, _ = parser.parse_known_args(argv)
    if given.resume:
        if not (given.resume / MANIFEST).is_file():
            raise UsageError(f"--resume {given.resume}: no {MANIFEST} there: name the folder of a sweep")
        return [*_restored(Manifest.read(given.resume).argv, argv), *argv]
    return [*plan.arguments_of(given.plan), *argv] if given.plan else list(argv)


def _restored(saved: Sequence[str], argv: Sequence[str]) -> list[str]:
    """The saved arguments without those for secrets, which must be given again: the folder can come from elsewhere."""
    parser = LoadgenParser(add_help=False, allow_abbrev=False)
    parser.add_argument("--header", action="append", default=[])
    parser.add_argument("--api-key-env")
    secrets, others = parser.parse_known_args(saved)
    given, _ = parser.parse_known_args(argv)
    names = {header.partition(":")[0].strip().lower() for header in given.header}
    for name in (header.partition(":")[0].strip() for header in secrets.header):
        if name.lower() not in names:
            raise UsageError(f"--resume: the value of the header {name!r} is not saved: give --header again")
    if secrets.api_key_env and not given.api_key_env:
        hint = f"if that is right, give --api-key-env {secrets.api_key_env} again"
        raise UsageError(f"--resume: the sweep sent the key in {secrets.api_key_env} to its servers: {hint}")
    return others


def main(args: argparse.Namespace, argv: Sequence[str]) -> int:
    """Runs the sweep and returns the exit code: 0 if every cell is done, 1 if a cell failed, 130 after an interruption."""
    resume = getattr(args, "resume", None)
    args.resume = None
    _check_server_options(args)
    options = dataclasses.replace(run_options.from_args(args), argv=("loadgen", "sweep", *argv))
    if args.backend == "simulate":
        simulate.check(options)
    order = _planned_cells(args, options)
    out = resume or options.out or Path("results") / f"{datetime.now(UTC):%Y%m%dT%H%M%SZ}-sweep"
    saved = run_options.redacted(_saved_arguments(argv))
    manifest = Manifest.new(out, saved, list(_entries(args, options, order)), _machine())
    if not resume and out.exists():
        raise UsageError(f"--out {out} exists: choose another folder, or --resume {out}")
    if options.dry_run:
        order = _remaining(manifest, order, resume)
        _print_plan(args, options, order, manifest)
        print(json.dumps({"sweep": None, "cells": [cell.name for cell in order]}))
        return 0
    if not resume:
        with private_files():
            make_folder(out)
    with locked(out):
        order = _remaining(manifest, order, resume)
        try:
            manifest.write()
        except OSError as error:
            raise UsageError(f"--out {out}: {error.strerror}: choose another folder") from None
        _print_plan(args, options, order, manifest)
        return _run(args, options, order, manifest)


def _remaining(manifest: Manifest, order: list[Cell], resume: Path | None) -> list[Cell]:
    """The cells that still have to run."""
    if resume:
        manifest.inherit(Manifest.read(resume))
    planned = manifest.planned()
    return [cell for cell in order if cell.name in planned]


def _check_server_options(args: argparse.Namespace) -> None:
    """Refuses options that name a running server, because a sweep starts its own, and unknown emulated GPUs."""
    if args.backend in EMULATED and (gpu := getattr(args, "gpu", None)) not in (None, *hardware.gpus()):
        raise UsageError(f"--gpu {gpu}: choose from {', '.join(hardware.gpus())}")
    for name, instead in (
        ("target", "use `python -m loadgen run` for a running server"),
        ("model", "use --models"),
    ):
        if hasattr(args, name):
            raise UsageError(f"--{name} is for one server, but a sweep starts its own: {instead}")


def _run(args: argparse.Namespace, options: RunOptions, order: list[Cell], manifest: Manifest) -> int:
    for cell in order:
        manifest.discard(cell.name)
    try:
        for cell, failure in _results(args, options, order, manifest):
            report(f"sweep: {cell.name}: {failure or 'done'}")
    except KeyboardInterrupt:
        report(f"sweep: interrupted; continue with --resume {manifest.folder}")
    states = [(entry.name, entry.state) for entry in manifest.cells]
    failed = [name for name, state in states if state == "failed"]
    left = [name for name, state in states if state == "planned"]
    print(json.dumps({"sweep": manifest.folder, "cells": len(states), "failed": failed, "left": left}))
    return 130 if left else 1 if failed else 0


def _results(
    args: argparse.Namespace, options: RunOptions, order: list[Cell], manifest: Manifest
) -> Iterator[CellResult]:
    if args.backend == "simulate":
        return simulate.run(options, order, manifest)
    runner = CellRunner(args, options, manifest, execute)
    return parallel.run(runner, order, args.parallel) if args.parallel > 1 else runner.run(order)


def execute(options: RunOptions) -> RunInfo:
    """Executes one run in this process."""
    from loadgen.run import run  # noqa: PLC0415 - the import is slow, and `sweep --help` does not need it

    return run.execute(options)


def _saved_arguments(argv: Sequence[str]) -> list[str]:
    """The arguments that a resumed sweep starts from: without the options that name a folder or a plan, and without --dry-run."""
    words, kept = iter(argv), []
    for word in words:
        if word in {"--out", "--resume", "--plan"}:
            next(words, None)
        elif not word.startswith(("--out=", "--resume=", "--plan=")) and word != "--dry-run":
            kept.append(word)
    return kept


def _planned_cells(args: argparse.Namespace, options: RunOptions) -> list[Cell]:
    if not args.configs or not args.models:
        raise UsageError(
            "a sweep needs configurations and models: --configs tp1,tp2 --models r1-distill-qwen-1.5b, or --plan FILE"
        )
    points = args.loads or (run_options.load_point_of(options),)
    order = plan.cells(args.configs.split(","), args.models.split(","), points, options.repeats)
    if len({cell.name for cell in order}) < len(order):
        raise UsageError("--configs, --models and --loads must not name anything twice")
    return order


def _entries(args: argparse.Namespace, options: RunOptions, order: list[Cell]) -> Iterator[Entry]:
    """The entry of each cell in the manifest, with its content hash. Raises UsageError."""
    dataset = datasets.load(options.dataset, options.problems, options.seed)
    image = docker_backend.image_name(args.image) if args.backend == "docker" else None
    for cell in order:
        try:
            files = {"config": read_config(cell.config), "preset": read_preset(cell.model)}
        except ConfigError as error:
            raise UsageError(str(error)) from None
        if args.backend in EMULATED and not files["preset"]:
            raise UsageError(
                f"--models: {cell.model!r} is not a preset in server/models, and backend {args.backend} needs one"
            )
        check_lengths(options, ServerInfo(cell.model, files["config"].get("max-model-len")))
        parts = {
            **files,
            "dataset": dataset.sha256,
            "backend": args.backend,
            "speed": args.speed,
            "image": image,
        }
        digest = plan.content_hash(cell, options, parts)
        yield Entry(
            name=cell.name,
            config=cell.config,
            model=cell.model,
            load=cell.load.name,
            repeat=cell.repeat,
            hash=digest,
        )


def _machine() -> dict[str, Any]:
    return {"host": environment.host(), "git": environment.git(), "gpus": gpus.inventory()}


def _print_plan(args: argparse.Namespace, options: RunOptions, order: list[Cell], manifest: Manifest) -> None:
    """Prints one line for each cell with its expected tokens and time, and then the totals."""
    done = len(manifest.cells) - len(order)
    report(
        f"sweep: {len(order)} cells{f' ({done} already done)' if done else ''} into {manifest.folder}, backend {args.backend}"
    )
    dataset = datasets.load(options.dataset, options.problems, options.seed)
    total_s = total_tokens = 0.0
    for cell in order:
        cell_options = cell.load.applied(options)
        expected = forecast(
            cell.config,
            cell.model,
            dataset.path,
            len(dataset.problems),
            sent_budgets(cell_options) * options.samples,
            concurrency=cell_options.concurrency,
            rate=cell_options.rate,
            gpu=options.gpu or "h200",
        )
        if expected is None:
            report(f"  {cell.name}: no forecast (its model, speculation method or GPU is not emulated)")
            continue
        if options.requests:
            expected = expected.scaled(options.requests / expected.requests)
        total_s, total_tokens = total_s + expected.seconds, total_tokens + expected.tokens
        report(
            f"  {cell.name}: {expected.requests} requests, about {expected.tokens / 1e6:.2f} M tokens, {_duration(expected.seconds)} of server time"
        )
        if advice := _too_few(cell_options, len(dataset.problems)):
            report(f"  {cell.name}: {advice}")
    real_time = f", {_duration(total_s / args.speed)} at --speed {args.speed:g}" if args.speed else ""
    report(
        f"sweep: about {total_tokens / 1e6:.1f} M tokens, {_duration(total_s)} of server time without start-ups{real_time}"
    )


def _too_few(options: RunOptions, problems: int) -> str | None:
    """A proposal where a closed loop is too short for a steady window; None where it is long enough or ends by time.

    With --one-pass, the steady window is that of the largest budget.
    """
    if options.duration_s or options.concurrency is None:
        return None
    planned = problems * options.samples * (1 if options.one_pass else len(options.budgets))
    sent, enough = options.requests or planned, enough_requests(options.concurrency)
    if sent >= enough:
        return None
    more = f"--problems {enough}" if options.one_pass else f"--requests {enough}"
    return (
        f"{sent} requests are too few for a steady window with {options.concurrency} in flight, so its cost, energy and "
        f"throughput would contain the beginning and the end of the run: use {more} or more"
    )


def _duration(seconds: float) -> str:
    return (
        f"{seconds:.0f} s"
        if seconds < 120
        else f"{seconds / 60:.0f} min"
        if seconds < 7200
        else f"{seconds / 3600:.1f} h"
    )
