"""One run, from options to a finished folder: plan → folder → load → judge.

Rules: the folder is made only when nothing is left to refuse, and never over an old one; run.json is written before
the first request and again at the end, so a crash leaves a run that can be resumed. People read stderr.

Does not know: how a request is sent (share), what makes a run doubtful (verdict), how figures are made (summary).
"""

import dataclasses
import json
import sys
import time
from pathlib import Path
from typing import Any

from loadgen.clock import RunClock
from loadgen.errors import UsageError, say
from loadgen.live.exporter import Metrics, serving
from loadgen.measure import one_pass_check
from loadgen.measure.client_health import merge
from loadgen.measure.console_table import METRICS, table
from loadgen.measure.observations import Observations
from loadgen.measure.run_facts import RunFacts, read_facts
from loadgen.measure.summary import summarize
from loadgen.measure.verdict import EarlierParts, VerdictInputs, judge
from loadgen.options import RunOptions
from loadgen.record import RunInfo, write_run
from loadgen.run import capacity, one_pass_files
from loadgen.run.manifest import describe, write_problems
from loadgen.run.one_pass_files import Detokenizer
from loadgen.run.phases import load
from loadgen.run.prepare import Prepared, prepare
from loadgen.target.gpu_log import run_energy
from loadgen.target.server_metrics import drafted


def execute(options: RunOptions) -> RunInfo:
    """Do one run. Raises UsageError before the first request; afterwards the RunInfo says what went wrong."""
    plan = prepare(options)
    run = plan.before.run or describe(plan)
    if options.dry_run:
        say(dry(plan))
        return run
    if plan.before.complete and run.verdict is not None:
        say(f"{plan.before.folder}: nothing is missing")
        return run
    live = Metrics()
    with serving(live, options.metrics_host, options.metrics_port) as where:
        if options.progress != "none":
            say(where)
        carry_out(plan, run, live)
    return run


def carry_out(plan: Prepared, run: RunInfo, live: Metrics) -> None:
    """Make the folder, load the server, judge the run."""
    folder = make_folder(plan)
    clock = clock_now(plan)
    now = {"wall_s": time.time(), "perf_s": time.perf_counter()}
    if plan.before.run is None:
        write_problems(folder, plan.dataset)
        run.clock = now
    else:
        run.segments.append({"offset_s": plan.before.offset_s, **now})
        run.client = {"earlier": dataclasses.asdict(EarlierParts.before_resuming(run))}
        run.verdict, run.reasons = None, []  # until it has judged itself anew
    write_run(folder, run)
    seen = load(plan, folder, run, clock, live)
    try:
        finish(plan, folder, run, seen)
    except OSError as error:
        run.verdict = "INVALID"
        run.reasons = [f"{error.filename or folder}: {error.strerror}: make room, then --resume {folder}"]
        say(run.reasons[0])
    live.end(run.verdict or "INVALID")


def folder_of(options: RunOptions, run_id: str) -> Path:
    """Where a run's files are."""
    return options.resume or options.out or Path("results") / run_id


def make_folder(plan: Prepared) -> Path:
    """Make the run's folder, or find the one to go on in. Raises UsageError where it exists or can't be made."""
    folder = folder_of(plan.options, plan.run_id)
    if plan.before.folder is not None:
        return folder
    try:
        folder.mkdir(parents=True)
    except FileExistsError:
        raise UsageError(f"{folder} exists: give another --out, or --resume {folder}") from None
    except OSError as error:
        raise UsageError(f"--out {folder}: {error.strerror}: choose another folder") from None
    return folder


def clock_now(plan: Prepared) -> RunClock:
    """The run's clock; a resumed run goes on where its last record ended."""
    offset_ns = round(plan.before.offset_s / plan.server.time_scale * 1e9)
    return RunClock(time.perf_counter_ns() - offset_ns, plan.server.time_scale)


def dry(plan: Prepared) -> str:
    """What would be done."""
    options, kind = plan.options, type(plan.schedule).__name__.lower()
    total = "until the duration is over" if plan.planned is None else f"{plan.planned} requests"
    return (
        f"would send {total} to {options.target} ({plan.server.model}): {len(plan.dataset.problems)} problems of "
        f"{plan.dataset.name}, budgets {', '.join(map(str, options.budgets))}, {options.budget_mode}, {kind} loop"
    )


def finish(plan: Prepared, folder: Path, run: RunInfo, seen: Observations) -> None:
    """Sum up, judge, write run.json for good and tell people."""
    if run.one_pass:
        one_pass_files.settle(folder, Detokenizer(plan.ask, run.model))
    facts = read_facts(folder, run)
    earlier = EarlierParts.saved(run)
    if seen.reports:
        run.client = merge(seen.reports).summary() | (
            {"earlier": run.client["earlier"]} if run.client else {}
        )
    run.gpus = seen.gpus or run.gpus
    summarize(folder, run, facts)
    if (drafts := drafted(seen.before, seen.after)) and plan.before.run is None:
        run.summary["speculation"] = drafts
    if run.one_pass and (found := one_pass_check.check(folder, run)) is not None:
        run.summary["one_pass_check"] = found
    run.energy = energy(plan, seen, facts, run)
    evidence = VerdictInputs(
        run, facts, seen, run.client, plan.options.cache, plan.options.percentile, capacity.stored(), earlier
    )
    run.verdict, run.reasons = judge(evidence)
    write_run(folder, run)
    for line in table(run):
        print(line, file=sys.stderr)
    say(f"{run.verdict}" + "".join(f"\n  - {reason}" for reason in run.reasons))


def energy(plan: Prepared, seen: Observations, facts: RunFacts, run: RunInfo) -> dict[str, Any]:
    """`RunInfo.energy`, over the measured requests; of a resumed run the counters hold the time between its parts too."""
    if not facts.spans or plan.before.run is not None:
        return {}
    source = "emulated" if plan.server.emulated else "dcgm"
    whole_s = min(facts.spans.sent_s), max(facts.spans.end_s)
    return run_energy(seen.energy, whole_s, run.window_s, source)


def result_line(run: RunInfo, options: RunOptions) -> str:
    """The last line on stdout."""
    line = {
        "verdict": run.verdict,
        "reasons": run.reasons,
        "requests": run.summary.get("requests", 0),
        "outcomes": run.summary.get("outcomes", {}),
        "out": str(folder_of(options, run.run_id)),
        "run_id": run.run_id,
        "emulated": run.emulated,
        "time_scale": run.time_scale,
        "duration_s": run.duration_s,
        **{name: run.summary.get(name) for name in METRICS},
        "throughput": run.summary.get("throughput"),
        "steady": {
            name: value for name, value in run.summary.get("steady", {}).items() if name not in METRICS
        }
        or None,
        "goodput": run.summary.get("goodput"),
        "energy": run.energy or None,
        "one_pass_check": run.summary.get("one_pass_check"),
    }
    return json.dumps({name: value for name, value in line.items() if value is not None})
