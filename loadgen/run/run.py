"""One run from its options to a finished folder: prepare it, send the requests, and judge the result.

Rules: the folder is made only after everything that can be refused has been checked, and an existing folder is never
overwritten. `run.json` is written before the first request and again at the end, so a run that crashes can be resumed. The
folder is locked from the first look into it to the end of the run, and only its owner can read it if it holds texts.
Messages for people go to stderr.

This module does not know how a request is sent (`loadgen.run.sender`) or what makes a run doubtful
(`loadgen.measure.verdict`).
"""

import shutil
import time
from contextlib import ExitStack
from pathlib import Path
from typing import Any

from loadgen.clock import RunClock
from loadgen.errors import UsageError
from loadgen.files import private_files
from loadgen.interrupts import INTERRUPTS
from loadgen.live.announce import announce
from loadgen.live.exporter import Metrics, serving
from loadgen.lock import locked
from loadgen.measure.client_health import merge
from loadgen.measure.console_table import METRICS
from loadgen.measure.observations import Observations
from loadgen.measure.verdict import before_resuming
from loadgen.options import RunOptions
from loadgen.record import RECORDS, RUN, RunInfo, write_run
from loadgen.run import capacity, environment, one_pass_files
from loadgen.run.close_out import close_out
from loadgen.run.manifest import describe, make_folder, run_folder, write_problems
from loadgen.run.one_pass_files import Detokenizer
from loadgen.run.phases import RunPhases
from loadgen.run.prepare import Prepared, prepare
from loadgen.terminal import say


def execute(options: RunOptions) -> RunInfo:
    """Do one run. Raises UsageError before the first request; after it, the RunInfo contains what went wrong."""
    with ExitStack() as stack:
        folder, lock = options.resume, None
        if folder is not None and (folder / RUN).is_file():
            lock = stack.enter_context(locked(folder))
        prepared = prepare(options)
        previous = prepared.previous
        run = previous.run or describe(prepared)
        if options.dry_run:
            say(_dry_run(prepared))
            return run
        # A run whose last part was INVALID is judged again, because that may be due to how the part ended.
        if previous.complete and run.verdict in {"VALID", "SUSPECT"}:
            say(f"{previous.folder}: no request is missing")
            return run
        metrics = Metrics()
        with serving(metrics, options.metrics_host, options.metrics_port) as where:
            if options.progress != "none" and not options.quiet:
                say(where)
            if prepared.options.keep_text:
                stack.enter_context(private_files())
            folder = previous.folder or make_folder(run_folder(prepared.options, prepared.run_id))
            if lock is None:
                lock = stack.enter_context(locked(folder))
            _load_and_judge(prepared, folder, run, metrics, lock)
    return run


def _load_and_judge(prepared: Prepared, folder: Path, run: RunInfo, metrics: Metrics, lock: int) -> None:
    """Send the requests and close the run. The clock of a resumed run continues where the last record ended."""
    scale = prepared.server.time_scale
    clock = RunClock(time.perf_counter_ns() - round(prepared.previous.offset_s / scale * 1e9), scale)
    anchor = environment.clock_anchor()
    _begin(prepared, folder, run, anchor)
    observations = RunPhases(prepared, folder, run, clock, metrics, lock=lock).run_all()
    try:
        _finish(prepared, folder, run, observations)
    except OSError as error:
        run.verdict = "INVALID"
        run.reasons = [f"{error.filename or folder}: {error.strerror}: make room, then --resume {folder}"]
        say(run.reasons[0])
    metrics.end(run.verdict or "INVALID")


def _begin(prepared: Prepared, folder: Path, run: RunInfo, anchor: dict[str, float]) -> None:
    """Write what is known before the first request. Raises UsageError where the disk is full; a new folder is then removed."""
    previous = prepared.previous
    try:
        if previous.run is None:
            write_problems(folder, prepared.dataset)
            (folder / RECORDS).touch()
            run.clock = anchor
        else:
            run.segments.append({"offset_s": previous.offset_s, **anchor})
            run.client = {"earlier": before_resuming(run)}
            run.verdict, run.reasons = None, []  # unless the run is closed, its last part counts as killed
        write_run(folder, run)
    except OSError as error:
        if previous.run is None:
            shutil.rmtree(folder, ignore_errors=True)
        where = f"{folder}: {error.strerror}"
        raise UsageError(f"{where}: nothing was sent: make room, or choose another --out") from None


def _dry_run(prepared: Prepared) -> str:
    """What the run would do."""
    options, kind = prepared.options, type(prepared.schedule).__name__.lower().removesuffix("loop")
    total = f"{prepared.planned} requests" if prepared.planned else "requests until the duration is over"
    return (
        f"would send {total} to {options.target} ({prepared.server.model}): {len(prepared.dataset.problems)} problems of "
        f"{prepared.dataset.name}, budgets {', '.join(map(str, options.budgets))}, {options.budget_mode}, {kind} loop"
    )


def _finish(prepared: Prepared, folder: Path, run: RunInfo, observations: Observations) -> None:
    """Complete the derived records, close the run and print the result. Raises OSError."""
    if run.one_pass and INTERRUPTS.count < 2:
        one_pass_files.complete_cuts(folder, Detokenizer(prepared.api, run.model))
    if observations.reports:
        earlier = {"earlier": run.client["earlier"]} if run.client else {}
        run.client = merge(observations.reports).summary() | earlier
    close_out(folder, run, observations, capacity=capacity.stored())
    if not prepared.options.quiet:
        announce(run, folder, verbose=prepared.options.verbose)


def result_line(run: RunInfo, options: RunOptions) -> dict[str, Any]:
    """The result of a run for programs, which is the last line on stdout."""
    return {
        "verdict": run.verdict,
        "reasons": run.reasons,
        "requirements": run.requirements or None,
        "requests": run.summary.get("requests", 0),
        "outcomes": run.summary.get("outcomes", {}),
        "out": str(run_folder(options, run.run_id)),
        "run_id": run.run_id,
        "emulated": run.emulated,
        "time_scale": run.time_scale,
        "duration_s": run.duration_s,
        **{name: run.summary.get(name) for name in METRICS},
        "throughput": run.summary.get("throughput"),
        "steady": {name: value for name, value in run.summary.get("steady", {}).items() if name not in METRICS} or None,
        "goodput": run.summary.get("goodput"),
        "energy": run.energy or None,
        "one_pass_check": run.summary.get("one_pass_check"),
    }
