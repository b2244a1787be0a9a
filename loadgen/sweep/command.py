"""`python -m loadgen sweep`: runs the cells of a plan, each on a server that the sweep starts and stops.

The plan is printed before anything starts. A failure in a cell is recorded, and the next cell runs. `sweep.json` is replaced
after every cell, so that a sweep that was killed can be resumed. A cell is finished when its folder contains a complete run and
its content hash is that of the plan; all other cells run from their beginning.

This module does not know how a request is sent, how a server is started, or how a cell is simulated.
"""

import argparse
import dataclasses
import json
import re
import sys
from collections.abc import Iterator, Sequence
from datetime import UTC, datetime
from functools import partial
from pathlib import Path

from loadgen import options as run_options
from loadgen.errors import UsageError
from loadgen.files import private_files
from loadgen.lock import locked
from loadgen.option_types import LoadgenParser, LoadPoint, count, json_object, load_points, positive, seconds
from loadgen.options import RunOptions
from loadgen.record import RunInfo
from loadgen.run import environment
from loadgen.run.manifest import make_folder
from loadgen.search.arguments import add_search_arguments
from loadgen.search.runs import capacity
from loadgen.sweep import parallel, plan_file, screen, searches, simulate
from loadgen.sweep.axes import rules
from loadgen.sweep.cells import CellRunner, report
from loadgen.sweep.deadline import Pace
from loadgen.sweep.manifest import MANIFEST, Manifest
from loadgen.sweep.plan import EMULATED, Cell, CellResult
from loadgen.sweep.study import PlannedSweep, check_names, study
from server.emulator.engine import hardware
from server.launch import gpus
from server.launch.running import stop_all
from server.launch.spec import BACKENDS as SERVER_BACKENDS

EXAMPLES = """examples:
  python -m loadgen sweep --configs tp1,tp1-ngram,tp2 --models r1-distill-qwen-1.5b --backend emulator --dataset sample
  python -m loadgen sweep --configs tp1,tp2 --models r1-distill-qwen-14b --backend docker --loads 1,32 --repeats 2
  python -m loadgen sweep --plan plans/paper.yaml --backend simulate
  python -m loadgen sweep --plan plans/smoke.yaml --dry-run
  python -m loadgen sweep --resume results/20261122T031000Z-sweep"""
BACKENDS = (*SERVER_BACKENDS, "simulate")


# One line per argument is easier to read.
# fmt: off
def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Adds the arguments of a sweep, and then all options of a run."""
    add = parser.add_argument_group("what to sweep").add_argument
    add("--plan", type=Path, metavar="FILE", help="YAML file with configs, models, loads, repeats and run: {options}; options on the command line override it")
    add("--configs", metavar="C,…", help="serving configurations: names in server/configs, or .yaml files")
    add("--models", metavar="M,…", help="model presets: names in server/models, .yaml files, model ids, or folders")
    add("--loads", type=load_points, metavar="L,…", help="load points: 1,32 (concurrent streams), 2/s (request rate) [--concurrency or --rate]")
    add("--search", action="store_true", help="instead of --loads: find the highest load at which each cell, one for each budget, meets --slo")
    add("--backend", choices=BACKENDS, default="emulator", help="emulator · process (vllm serve on this machine) · docker · simulate (without sockets and waiting) [emulator]")
    add("--parallel", type=count, default=1, metavar="N", help="load at most N servers at once, after a check that they do not slow each other down [1]")
    add("--image", help="image of backend docker [$VLLM_IMAGE, else the pinned image of vLLM]")
    add("--engine-version", default=hardware.ENGINE_VERSION, metavar="V", help=f"the vLLM version that emulated servers behave like [{hardware.ENGINE_VERSION}]")
    add("--speed", type=positive, metavar="X", help="divide every waiting time of emulated servers by X")
    add("--start-timeout", type=seconds, default=900.0, metavar="S", help="longest time until a server is ready, in seconds [900]")
    add_search_arguments(parser.add_argument_group("what to search for, with --search").add_argument)
    _add_plan_arguments(parser)
    run_options.add_run_arguments(parser)
    run_options.hide(parser, "target", "model")


def _add_plan_arguments(parser: argparse.ArgumentParser) -> None:
    """Adds the arguments that are usually keys of a plan file."""
    add = parser.add_argument_group("keys of a plan file (docs/serving.md describes them)").add_argument
    add("--serve", type=json_object, default={}, metavar="JSON", help="options of vllm serve: {all, configs, models}")
    add("--axes", type=json_object, default={}, metavar="JSON", help="options of a run with several values each, draft-tokens and acceptance")
    for name, text in (("exclude", "leave out these cells"), ("only", "run only these cells"), ("first", "run these cells first")):
        add(f"--{name}", type=rules, default=[], metavar="JSON", help=f"{text}: a list of mappings of axes to values")
    add("--deadline", type=seconds, metavar="S", help="stop before this time has passed; --resume continues")
    add("--residency", choices=("one", "group"), default="one", help="servers on the same GPUs: one after the other, or as many as fit into memory, started together, with one of them awake at a time [one]")
    add("--bench", choices=("vllm",), help="after each cell, send its load again with vLLM's own client, and put its means beside ours")
    add("--gpus", type=count, metavar="N", help="use at most N GPUs [all of this machine; on emulated ones, those that a server needs]")
# fmt: on


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
    return [*_plan_words(given.plan), *argv] if given.plan else list(argv)


def _plan_words(path: Path) -> list[str]:
    """The plan's options as words. What is wrong with them by themselves is said with the name of the plan. Raises UsageError."""
    words = plan_file.arguments_of(path)
    parser = LoadgenParser(prog="python -m loadgen sweep", add_help=False, allow_abbrev=False)
    add_arguments(parser)
    try:
        args = parser.parse_args(words)
        run_options.from_args(args)
        check_names(args)
    except UsageError as error:
        message = re.sub(r" \(see [^)]*--help\)$", "", str(error)).replace("unrecognized arguments:", "unknown option")
        keys = re.sub(r"(?<!\S)--(?=[a-z])", "", message)  # in a plan, an option has no dashes
        raise UsageError(f"--plan {path}: {keys}") from None
    return words


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
    options = dataclasses.replace(_run_options(args), argv=("loadgen", "sweep", *argv), quiet=True)
    planned = study(args, options)
    if args.backend == "simulate":
        simulate.check(planned)
    out = resume or options.out or Path("results") / f"{datetime.now(UTC):%Y%m%dT%H%M%SZ}-sweep"
    saved = run_options.redacted(_saved_arguments(argv))
    machine = {"host": environment.host(), "git": environment.git(), "gpus": gpus.inventory()}
    manifest = Manifest.new(out, saved, list(planned.entries()), machine)
    if not resume and out.exists():
        raise UsageError(f"--out {out} exists: choose another folder, or --resume {out}")
    if options.dry_run:
        order = _remaining(manifest, planned, resume)
        _print_plan(planned, order, manifest)
        print(json.dumps({"sweep": None, "cells": [cell.name for cell in order]}))
        return 0
    if not resume:
        with private_files():
            make_folder(out)
    with locked(out):
        if resume:
            _stop_servers_of(Manifest.read(resume))
        order = _remaining(manifest, planned, resume)
        try:
            manifest.write()
        except OSError as error:
            raise UsageError(f"--out {out}: {error.strerror}: choose another folder") from None
        _print_plan(planned, order, manifest)
        return _run(planned, order, manifest)


def _run_options(args: argparse.Namespace) -> RunOptions:
    """The options of a run that all cells have in common."""
    options = run_options.from_args(args)
    return dataclasses.replace(options, quiet=True, expect_failures=True) if args.search else options


def _print_plan(planned: PlannedSweep, order: list[Cell], manifest: Manifest) -> None:
    done = len(manifest.cells) - len(order)
    report(
        f"sweep: {len(order)} cells{f' ({done} already done)' if done else ''} into {manifest.folder}, backend {planned.args.backend}"
    )
    planned.print_plan(order, report)


def _stop_servers_of(earlier: Manifest) -> None:
    """Stops what a sweep has left running whose launcher and watchdog were both killed."""
    if earlier.owner and (stopped := stop_all(owner=earlier.owner)):
        report(f"sweep: stopped {', '.join(stopped)}, which the interrupted sweep had left running")


def _remaining(manifest: Manifest, planned: PlannedSweep, resume: Path | None) -> list[Cell]:
    """The cells that still have to run."""
    if resume:
        manifest.inherit(Manifest.read(resume))
    names = manifest.planned()
    return [cell for cell in planned.cells if cell.name in names]


def _check_server_options(args: argparse.Namespace) -> None:
    """Refuses options that name a running server, because a sweep starts its own, and unknown emulated GPUs and versions."""
    if args.backend in EMULATED and (gpu := getattr(args, "gpu", None)) not in (None, *hardware.gpus()):
        raise UsageError(f"--gpu {gpu}: choose from {', '.join(hardware.gpus())}")
    if args.engine_version not in (versions := hardware.engine_versions()):
        raise UsageError(f"--engine-version {args.engine_version}: choose from {', '.join(versions)}")
    for name, instead in (("target", "use `python -m loadgen run` for a running server"), ("model", "use --models")):
        if hasattr(args, name):
            raise UsageError(f"--{name} is for one server, but a sweep starts its own: {instead}")


def _run(planned: PlannedSweep, order: list[Cell], manifest: Manifest) -> int:
    for cell in order:
        manifest.discard(cell.name)
    live = planned.options.progress == "auto" and sys.stderr.isatty()
    if live:
        planned.options = dataclasses.replace(planned.options, progress="none")
    try:
        with screen.shown(manifest, live=live):
            for cell, outcome in _results(planned, order, manifest):
                report(f"sweep: {cell.name}: {outcome}")
                if not live:
                    report(screen.line(manifest))
    except KeyboardInterrupt:
        report(f"sweep: interrupted; continue with --resume {manifest.folder}")
    else:
        if manifest.planned() - {entry.name for entry in manifest.cells if entry.state == "failed"}:
            report(f"sweep: the other cells do not fit before the deadline; continue with --resume {manifest.folder}")
    manifest.interrupted()
    for line in searches.lines(manifest) if planned.args.search else ():
        report(f"sweep: {line}")
    states = [(entry.name, entry.state) for entry in manifest.cells]
    failed = [name for name, state in states if state == "failed"]
    left = [name for name, state in states if state == "planned"]
    print(json.dumps({"sweep": manifest.folder, "cells": len(states), "failed": failed, "left": left}))
    return 130 if left else 1 if failed else 0


def _results(planned: PlannedSweep, order: list[Cell], manifest: Manifest) -> Iterator[CellResult]:
    """Runs the cells; the backend and --parallel determine how."""
    if planned.args.backend == "simulate":
        return simulate.run(planned, order, manifest)
    run: parallel.Execute = partial(execute, limit_s=planned.args.limit_s)
    run = parallel.in_own_process(run) if planned.args.parallel > 1 else run
    return CellRunner(planned, manifest, Pace(manifest.cells, planned.args.deadline), run).run(order)


def execute(options: RunOptions, load: LoadPoint | None = None, *, limit_s: float) -> RunInfo:
    """Executes one run in this process, or a search where the load is one."""
    from loadgen.run import run  # noqa: PLC0415 - the imports are slow, and `sweep --help` does not need them
    from loadgen.search.loads import run_point  # noqa: PLC0415

    if isinstance(load, searches.SearchedLoad):
        return capacity(load.file(options), options, limit_s, run_point)
    return run.execute(options)


def _saved_arguments(argv: Sequence[str]) -> list[str]:
    """The arguments that a resumed sweep starts from: without the options that name a folder or a plan, and without --dry-run."""
    parser = LoadgenParser(add_help=False, allow_abbrev=False)
    for name in ("--out", "--resume", "--plan"):
        parser.add_argument(name)
    parser.add_argument("--dry-run", action="store_true")
    return parser.parse_known_args(argv)[1]
