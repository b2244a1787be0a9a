"""`python -m loadgen sweep`: each cell's server started, loaded, taken down; from a plan to a manifest.

Rules: the plan is printed before anything starts. A failed cell is written down and the next one runs. `sweep.json` is
rewritten whole after every cell, so a sweep that was killed can be resumed: a cell is done when its folder holds a
finished run and its content hash is the plan's; every other cell is run from its beginning.

Does not know: how a request is sent (session), how a server is started (server.launch), how one is simulated.
"""

import argparse
import dataclasses
import json
import os
import sys
from collections.abc import Iterator, Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import msgspec

from loadgen import options as run_options
from loadgen.errors import UsageError
from loadgen.option_types import LoadgenParser, count, positive, seconds
from loadgen.options import RunOptions
from loadgen.plan import datasets
from loadgen.run import environment
from loadgen.sweep import parallel, simulate
from loadgen.sweep import plan as plans
from loadgen.sweep.cells import Cells
from loadgen.sweep.manifest import MANIFEST, Entry, Manifest
from loadgen.sweep.plan import Cell
from loadgen.target.preflight import check_lengths
from loadgen.target.server_info import ServerInfo as Known
from server.config import ConfigError, read_config
from server.emulator.engine import hardware
from server.emulator.forecast import forecast
from server.launch import commands, docker_backend, gpus

EXAMPLES = """examples:
  python -m loadgen sweep --configs tp1,tp1-ngram,tp2 --models r1-distill-qwen-1.5b --backend emulator --dataset sample
  python -m loadgen sweep --configs tp1,tp2 --models r1-distill-qwen-14b --backend docker --loads 1,32 --repeats 2
  python -m loadgen sweep --plan plans/paper.yaml --backend simulate
  python -m loadgen sweep --plan plans/smoke.yaml --dry-run
  python -m loadgen sweep --resume results/20261122T031000Z-sweep"""
BACKENDS = ("emulator", "process", "docker", "simulate")
EMULATED = {"emulator", "simulate"}


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Arguments of the sweep, then every option of a run."""
    group = parser.add_argument_group("what to sweep")
    add = group.add_argument
    add(
        "--plan",
        type=Path,
        metavar="FILE",
        help="YAML with configs, models, loads, repeats, run: {options}; what is given here wins",
    )
    add("--configs", metavar="C,…", help="serving configurations, as in server/configs, or files")
    add("--models", metavar="M,…", help="model presets, as in server/models, or model ids")
    add(
        "--loads",
        type=plans.loads,
        metavar="L,…",
        help="load points: 1,32 (streams), 2/s (rate) [--concurrency or --rate]",
    )
    add(
        "--backend",
        choices=BACKENDS,
        default="emulator",
        help="emulator · process (vllm serve here) · docker · simulate (no sockets, no waiting) [emulator]",
    )
    add(
        "--parallel",
        type=count,
        default=1,
        metavar="N",
        help="at most N servers side by side, after a check that they do not slow each other [1]",
    )
    add("--image", help="docker: image [$VLLM_IMAGE, else vLLM's]")
    add("--speed", type=positive, metavar="X", help="emulated servers: divide their waiting by X")
    add(
        "--start-timeout",
        type=seconds,
        default=900.0,
        metavar="S",
        help="longest a server may take to be ready [900]",
    )
    run_options.add_run_arguments(parser)


def expanded(argv: Sequence[str]) -> list[str]:
    """The arguments, with those of `--plan` or of the sweep to resume before them. Raises UsageError."""
    early = LoadgenParser(prog="python -m loadgen sweep", add_help=False, allow_abbrev=False)
    early.add_argument("--plan", type=Path)
    early.add_argument("--resume", type=Path)
    given, _ = early.parse_known_args(argv)
    if given.resume:
        if not (given.resume / MANIFEST).is_file():
            raise UsageError(f"--resume {given.resume}: no {MANIFEST} there: give the folder of a sweep")
        return [*_manifest(given.resume).argv, *argv]
    return [*plans.arguments_of(given.plan), *argv] if given.plan else list(argv)


def _manifest(folder: Path) -> Manifest:
    try:
        return Manifest.read(folder)
    except msgspec.DecodeError as error:
        raise UsageError(
            f"--resume {folder}: {MANIFEST} is broken ({error}): sweep anew into another folder"
        ) from None


def main(args: argparse.Namespace, argv: Sequence[str]) -> int:
    """Run the sweep; 0 when every cell is done, 1 when one failed, 130 when it was interrupted."""
    resume = getattr(args, "resume", None)
    args.resume = None
    _check_servers(args)
    options = dataclasses.replace(run_options.from_args(args), argv=("loadgen", "sweep", *argv))
    if args.backend == "simulate":
        simulate.check(options)
    order = _order(args, options)
    out = resume or options.out or Path("results") / f"{datetime.now(UTC):%Y%m%dT%H%M%SZ}-sweep"
    manifest = Manifest.new(out, _kept(argv), list(_entries(args, options, order)), _machine())
    if resume:
        manifest.inherit(Manifest.read(out))
    elif out.exists():
        raise UsageError(f"--out {out} exists: choose another folder, or --resume {out}")
    order = [cell for cell in order if cell.name in manifest.planned()]
    if options.dry_run:
        _print_plan(args, options, order, manifest)
        print(json.dumps({"sweep": None, "cells": [cell.name for cell in order]}))
        return 0
    try:
        manifest.write()
    except OSError as error:
        raise UsageError(f"--out {out}: {error.strerror}: choose another folder") from None
    _print_plan(args, options, order, manifest)
    return _run(args, options, order, manifest)


def _check_servers(args: argparse.Namespace) -> None:
    """A sweep starts its own servers: an option that names one would be ignored, and what they can't be is known."""
    if args.backend in EMULATED and (gpu := getattr(args, "gpu", None)) not in (None, *hardware.gpus()):
        raise UsageError(f"--gpu {gpu}: choose from {', '.join(hardware.gpus())}")
    for name, instead in (
        ("target", "load a running server with `python -m loadgen run`"),
        ("model", "say --models"),
    ):
        if hasattr(args, name):
            raise UsageError(f"--{name} is for one server, and a sweep starts its own: {instead}")


def _run(args: argparse.Namespace, options: RunOptions, order: list[Cell], manifest: Manifest) -> int:
    for cell in order:
        manifest.clear(cell.name)
    try:
        for cell, failure in _results(args, options, order, manifest):
            say(f"sweep: {cell.name}: {failure or 'done'}")
    except KeyboardInterrupt:
        say(f"sweep: interrupted; go on with --resume {manifest.folder}")
    states = [(entry.name, entry.state) for entry in manifest.cells]
    failed = [name for name, state in states if state == "failed"]
    left = [name for name, state in states if state == "planned"]
    print(json.dumps({"sweep": manifest.folder, "cells": len(states), "failed": failed, "left": left}))
    return 130 if left else 1 if failed else 0


def _results(
    args: argparse.Namespace, options: RunOptions, order: list[Cell], manifest: Manifest
) -> Iterator[tuple[Cell, str | None]]:
    if args.backend == "simulate":
        return simulate.run(options, order, manifest)
    cells = Cells(args, options, manifest)
    return parallel.run(cells, order, args.parallel) if args.parallel > 1 else cells.run(order)


def say(line: str) -> None:
    """To people."""
    print(line, file=sys.stderr)


def _kept(argv: Sequence[str]) -> list[str]:
    """Arguments as a resumed sweep needs them: without the folder it was begun in, or resumed from."""
    words, kept = iter(argv), []
    for word in words:
        if word in {"--out", "--resume", "--plan"}:
            next(words, None)
        elif not word.startswith(("--out=", "--resume=", "--plan=")) and word != "--dry-run":
            kept.append(word)
    return kept


def _order(args: argparse.Namespace, options: RunOptions) -> list[Cell]:
    if not args.configs or not args.models:
        raise UsageError(
            "name what to sweep: --configs tp1,tp2 --models r1-distill-qwen-1.5b, or --plan FILE"
        )
    points = args.loads or (plans.load_of(options),)
    order = plans.cells(args.configs.split(","), args.models.split(","), points, options.repeats)
    if len({cell.name for cell in order}) < len(order):
        raise UsageError("--configs, --models and --loads must each name a thing once")
    return order


def _entries(args: argparse.Namespace, options: RunOptions, order: list[Cell]) -> Iterator[Entry]:
    """Each cell, with the hash of all that its numbers depend on. Raises UsageError."""
    dataset = datasets.load(options.dataset, options.problems, options.seed)
    image = (
        (args.image or os.environ.get("VLLM_IMAGE") or docker_backend.VLLM_IMAGE)
        if args.backend == "docker"
        else None
    )
    for cell in order:
        try:
            files = {"config": read_config(cell.config), "preset": commands.preset(cell.model)}
        except ConfigError as error:
            raise UsageError(str(error)) from None
        if args.backend in EMULATED and not files["preset"]:
            raise UsageError(
                f"--models {cell.model!r} is no preset in server/models, which backend {args.backend} needs"
            )
        check_lengths(options, Known(cell.model, files["config"].get("max-model-len")))
        parts = {
            **files,
            "dataset": dataset.sha256,
            "backend": args.backend,
            "speed": args.speed,
            "image": image,
        }
        digest = plans.content_hash(cell, options, parts)
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
    """The plan: a line a cell with its expected tokens and time, then the sums."""
    done = len(manifest.cells) - len(order)
    say(
        f"sweep: {len(order)} cells{f' ({done} done before)' if done else ''} into {manifest.folder}, backend {args.backend}"
    )
    dataset = datasets.load(options.dataset, options.problems, options.seed)
    total_s = total_tokens = 0.0
    for cell in order:
        at = cell.load.applied(options)
        guess = forecast(
            cell.config,
            cell.model,
            dataset.path,
            len(dataset.problems),
            _lengths(options),
            concurrency=at.concurrency,
            rate=at.rate,
            gpu=options.gpu or "h200",
        )
        if guess is None:
            say(f"  {cell.name}: no forecast (a model, a speculation or a GPU that is not emulated)")
            continue
        total_s, total_tokens = total_s + guess.seconds, total_tokens + guess.tokens
        say(
            f"  {cell.name}: {guess.requests} requests, about {guess.tokens / 1e6:.2f} M tokens, {_duration(guess.seconds)} of server time"
        )
    wait = f", {_duration(total_s / args.speed)} at --speed {args.speed:g}" if args.speed else ""
    say(
        f"sweep: about {total_tokens / 1e6:.1f} M tokens, {_duration(total_s)} of server time without start-ups{wait}"
    )


def _lengths(options: RunOptions) -> list[int]:
    """Budgets that are really sent for each problem."""
    if not options.one_pass:
        return list(options.budgets) * options.samples
    check = min(options.budgets) if options.check_budget is None else options.check_budget
    return [max(options.budgets), *([check] if check else [])]


def _duration(seconds: float) -> str:
    return (
        f"{seconds:.0f} s"
        if seconds < 120
        else f"{seconds / 60:.0f} min"
        if seconds < 7200
        else f"{seconds / 3600:.1f} h"
    )
