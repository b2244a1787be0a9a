"""`python -m loadgen gather`: one results folder out of what Locust's workers wrote, on one host or many.

Rules: each planned request is there exactly once or is named as missing; a request recorded twice is refused, not chosen
from, and so is a folder of another run, or one that lacks a file. Stamps of every host are in the run's one time already
(workers learnt the master's clock before they began); what that was worth is estimated here from every worker's probes
and, where it may matter, a reason against the run. Nothing is deleted: workers' files move to `workers/` where they lie
in the run's own folder.

Does not know: how anything was sent, whether an answer is right.
"""

import argparse
import itertools
import json
import shutil
import sys
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, TypeVar

import msgspec

from loadgen.chunks import CHUNKS, encode_frame, read_chunks
from loadgen.distributed.clock_sync import drift_s, wall_offset_s
from loadgen.distributed.messages import PLAN, Distributed, WorkerInfo
from loadgen.errors import UsageError
from loadgen.measure.client_health import merge
from loadgen.measure.observations import Observations
from loadgen.measure.run_facts import read_facts
from loadgen.measure.summary import summarize
from loadgen.measure.verdict import VerdictInputs, judge
from loadgen.options import RunOptions, decode
from loadgen.plan import datasets
from loadgen.plan.prompts import style_of
from loadgen.plan.workload import Workload
from loadgen.record import (
    PROBLEMS,
    RECORDS,
    RUN,
    SERVER_AFTER,
    SERVER_BEFORE,
    Record,
    RunInfo,
    read_records,
    write_run,
)
from loadgen.target.server_metrics import totals

EXAMPLES = """\
examples:
  python -m loadgen gather results/20261122T101500Z-tp1-…                  one machine: all workers wrote there
  python -m loadgen gather host-a/run host-b/run host-c/run --out results/run
"""
T = TypeVar("T")
NAMED = 50
"""Missing requests that are named one by one."""
CLOCK_ERROR_S = 0.005
"""Like the limit on send lag: what a host's clock may be off before its due times are doubtful."""


@dataclass
class Gathered:
    """What the workers left."""

    records: dict[int, Record] = field(default_factory=dict)
    cancelled: set[int] = field(default_factory=set)
    twice: Counter[int] = field(default_factory=Counter)
    workers: list[WorkerInfo] = field(default_factory=list)
    written: Counter[str] = field(default_factory=Counter)
    """Records by worker."""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Options of `gather`."""
    parser.add_argument(
        "folders",
        nargs="+",
        type=Path,
        metavar="HOST_DIR",
        help="folders that workers wrote; one has distributed.json",
    )
    parser.add_argument(
        "--out", type=Path, metavar="DIR", help="the run's folder [the one with distributed.json]"
    )
    parser.add_argument(
        "--partial",
        action="store_true",
        help="go on though a worker's files are gone: its requests are missing",
    )


def main(args: argparse.Namespace) -> int:
    """Gather, judge, say. Raises UsageError."""
    home = home_of(args.folders)
    out: Path = args.out or home
    if (out / RUN).exists():
        raise UsageError(f"{out} is gathered already ({RUN} exists): give another --out")
    plan = read(home / PLAN, Distributed)
    found = collect(args.folders, plan, partial=args.partial)
    missing = missing_of(plan, found)
    write(out, home, args.folders, found)
    run = settle(out, plan, found, missing)
    put_away(out)
    for line in report(plan, run, found, missing):
        print(line, file=sys.stderr)
    result = {
        "verdict": run.verdict, "reasons": run.reasons, "requests": len(found.records), "missing": missing,
        "workers": run.client.get("each", []), "out": str(out), "run_id": run.run_id,
    }  # fmt: skip
    print(json.dumps(result))
    return 0


def home_of(folders: list[Path]) -> Path:
    """The master's folder. Raises UsageError where there is not one, or a folder is none or there twice."""
    if wrong := [folder for folder in folders if not folder.is_dir()]:
        raise UsageError(
            f"gather: {wrong[0]} is no folder: give the master's and those of its workers' hosts"
        )
    if len({folder.resolve() for folder in folders}) < len(folders):
        raise UsageError("gather: a folder is given twice: give each host's once")
    homes = [folder for folder in folders if (folder / PLAN).is_file()]
    if len(homes) != 1:
        what = "none has" if not homes else f"{homes[0]} and {homes[1]} each have"
        raise UsageError(f"gather: {what} a {PLAN}: give one master's folder and those of its workers' hosts")
    return homes[0]


def read(path: Path, kind: type[T]) -> T:
    """One of our own files. Raises UsageError where it is not."""
    try:
        return msgspec.json.decode(path.read_bytes(), type=kind)
    except msgspec.DecodeError as error:
        raise UsageError(f"gather: {path} can't be read ({error}): copy it anew from its host") from None


def collect(folders: list[Path], plan: Distributed, *, partial: bool) -> Gathered:
    """Every whole line of every worker. Raises UsageError where one is of another run, there twice, or not there."""
    found = Gathered()
    for path in (path for folder in folders for path in sorted(folder.glob("worker.*.json"))):
        worker = read(path, WorkerInfo)
        records = path.with_name(f"records.{worker.name}.jsonl")
        if worker.run_id != plan.run.run_id:
            raise UsageError(
                f"gather: {path} is of run {worker.run_id}, not of {plan.run.run_id}: leave it out"
            )
        if worker.name in {other.name for other in found.workers}:
            raise UsageError(
                f"gather: worker {worker.name} is there twice (again in {path.parent}): give each host's folder once"
            )
        if not records.exists():
            raise UsageError(f"gather: {path} has no {records.name} beside it: copy it from {worker.host}")
        found.workers.append(worker)
        take(found, worker, records)
    known = {worker.name for worker in found.workers}
    for path in (path for folder in folders for path in sorted(folder.glob("records.*.jsonl"))):
        if (name := path.name.removeprefix("records.").removesuffix(".jsonl")) not in known:
            raise UsageError(
                f"gather: {path} has no worker.{name}.json beside it: copy it from the same host"
            )
    if (absent := sorted(set(plan.workers) - known)) and not partial:
        raise UsageError(
            f"gather: no files of worker {', '.join(absent)}: give the folders of their hosts too, or --partial to go on without them"
        )
    if found.twice:
        raise UsageError(
            f"gather: {len(found.twice)} requests are recorded twice (first: seq {min(found.twice)}): are these folders of one run?"
        )
    if not found.records:
        raise UsageError(f"gather: {', '.join(map(str, folders))}: no record of any worker there")
    found.cancelled -= found.records.keys()
    return found


def take(found: Gathered, worker: WorkerInfo, path: Path) -> None:
    """One worker's records. A request that was cancelled is as good as not sent. Raises UsageError."""
    try:
        for record in read_records(path):
            if record.run_id != worker.run_id:
                raise UsageError(
                    f"gather: {path} holds records of run {record.run_id}, not of {worker.run_id}: take them out"
                )
            if record.outcome == "cancelled":
                found.cancelled.add(record.seq)
            elif record.seq in found.records:
                found.twice[record.seq] += 1
            else:
                found.records[record.seq] = record
                found.written[worker.name] += 1
    except msgspec.DecodeError as error:
        raise UsageError(f"gather: {path} can't be read ({error}): copy it anew from {worker.host}") from None


def missing_of(plan: Distributed, found: Gathered) -> list[int]:
    """Planned requests without a record; of a run without a number of requests those that were cut off."""
    planned = range(plan.total) if plan.total is not None else sorted(found.cancelled)
    return [seq for seq in planned if seq not in found.records]


def write(out: Path, home: Path, folders: list[Path], found: Gathered) -> None:
    """The files of a run, records in the order of the plan."""
    out.mkdir(parents=True, exist_ok=True)
    for name in (PROBLEMS, SERVER_BEFORE, SERVER_AFTER):
        if out != home and (home / name).exists():
            shutil.copyfile(home / name, out / name)
    encoder = msgspec.json.Encoder()
    with (out / RECORDS).open("wb") as file:
        for seq in sorted(found.records):
            file.write(encoder.encode(found.records[seq]) + b"\n")
    with (out / CHUNKS).open("wb") as file:
        for path in sorted(path for folder in folders for path in folder.glob("chunks.*.bin")):
            for chunks in read_chunks(path):
                if chunks.seq in found.records:
                    file.write(encode_frame(*chunks))


def put_away(out: Path) -> None:
    """Workers' own files to `workers/`: a run that goes on here would take them for its own."""
    parts = [*out.glob("records.*.jsonl"), *out.glob("chunks.*.bin"), *out.glob("worker.*.json")]
    for part in parts:
        (out / "workers").mkdir(exist_ok=True)
        part.rename(out / "workers" / part.name)


def settle(out: Path, plan: Distributed, found: Gathered, missing: list[int]) -> RunInfo:
    """Sum up and judge as a run of one machine is."""
    run = plan.run
    facts = read_facts(out, run)
    reports = [worker.report for worker in found.workers if worker.report]
    run.client = merge(reports).summary() if reports else {}
    run.client["each"] = [_row(worker, found, run) for worker in found.workers]
    worst = [row["loop_lag_p99_s"] for row in run.client["each"] if row["loop_lag_p99_s"] is not None]
    if worst:  # one laggy worker of many must not drown in the others' looks
        run.client["loop_lag_p99_s"] = max(worst)
    summarize(out, run, facts)
    stopped = plan.stopped or (f"{len(missing)} requests were lost" if missing else None)
    seen = Observations(
        reports=reports,
        before=_totals(out, SERVER_BEFORE),
        after=_totals(out, SERVER_AFTER),
        stopped=stopped,
    )
    run.verdict, run.reasons = judge(VerdictInputs(run, facts, seen, run.client, plan.cache, plan.percentile))
    if (doubts := list(_doubts(plan, found))) and run.verdict == "VALID":
        run.verdict = "SUSPECT"
    run.reasons += doubts
    write_run(out, run)
    return run


def _row(worker: WorkerInfo, found: Gathered, run: RunInfo) -> dict[str, Any]:
    """One worker in run.json."""
    own: dict[str, Any] = worker.report.summary() if worker.report else {}
    return {
        "name": worker.name, "host": worker.host, "records": found.written[worker.name], "lost": worker.report is None,
        "clock_offset_s": wall_offset_s(run.clock, worker.clock, worker.zero_s), "clock_error_s": worker.error_s, "clock_drift_s": drift_s(worker.zero_s, worker.probes),
        **{name: own.get(name) for name in ("cpu_share", "loop_lag_p99_s", "wall_s", "cpu_s")},
    }  # fmt: skip


def _totals(folder: Path, name: str) -> dict[str, float]:
    path = folder / name
    return totals(path.read_text(errors="replace")) if path.exists() else {}


def _doubts(plan: Distributed, found: Gathered) -> Iterator[str]:
    """What only a run of several processes can suffer from."""
    limit = f"(limit {CLOCK_ERROR_S * 1e3:g} ms)"
    for worker in found.workers:
        if worker.report is None:
            yield f"worker {worker.name} was lost: how busy it was is not known"
        if worker.error_s > CLOCK_ERROR_S:
            yield f"worker {worker.name}: its clock is known to {worker.error_s * 1e3:.3g} ms only {limit}"
        if (apart_s := drift_s(worker.zero_s, worker.probes)) > CLOCK_ERROR_S:
            yield f"worker {worker.name}: its clock ran apart from the master's by {apart_s * 1e3:.3g} ms or more {limit}"
    for name in sorted(set(plan.workers) - {worker.name for worker in found.workers}):
        yield f"worker {name} left no files: how busy it was is not known"


def report(plan: Distributed, run: RunInfo, found: Gathered, missing: list[int]) -> Iterator[str]:
    """For people: workers, clocks, what is missing by problem and budget."""
    for row in run.client["each"]:
        cpu = "lost" if row["lost"] else f"{row['cpu_share']:.0%} of a core"
        clock = f"clock {row['clock_offset_s'] * 1e3:+.2f} ± {row['clock_error_s'] * 1e3:.2f} ms"
        yield f"worker {row['name']}: {row['records']} records, {clock}, {cpu}"
    yield f"{len(found.records)} of {plan.total if plan.total is not None else '?'} requests, each once"
    names = _names(plan, missing[-1]) if missing else {}
    for seq in missing[:NAMED]:
        yield f"missing: seq {seq}{names.get(seq, '')}"
    if missing:
        more = f"… and {len(missing) - NAMED} more; " if len(missing) > NAMED else ""
        yield f"{more}python -m loadgen --resume completes them"
    yield f"{run.verdict}" + "".join(f"\n  - {reason}" for reason in run.reasons)


def _names(plan: Distributed, last: int) -> dict[int, str]:
    """What each request asks, where the data set is at hand."""
    options = msgspec.convert(plan.run.options, RunOptions, strict=False, dec_hook=decode)
    try:
        problems = datasets.load(options.dataset, options.problems, options.seed).problems
    except UsageError:
        return {}
    _, style = style_of(plan.run.model, options.prompt)
    items = Workload(problems, options, plan.run.model, style, plan.run.run_id).items()
    return {
        seq: f": {problems[item.problem].unique_id} at budget {item.budget}"
        for seq, item in enumerate(itertools.islice(items, last + 1))
    }
