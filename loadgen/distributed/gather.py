"""`python -m loadgen gather`: merge what Locust's workers wrote, on one host or many, into one results folder.

Each planned request is in the merged run exactly once, or it is named as missing. All times count from the same start,
because each worker learned the master's clock before it began. How exact that was is computed from the probes of every
worker; a clock that is not exact enough is a reason against the run. Nothing is deleted: the workers' files are moved to
`workers/` if they are in the folder of the merged run.

A request that is recorded twice is refused, because no rule could choose between its records. A folder of another run and a
file that is missing or damaged are refused too. A cancelled request counts as not sent.
"""

import argparse
import itertools
import os
import shutil
import sys
from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import msgspec

from loadgen.distributed.clock_sync import drift_s, wall_offset_s
from loadgen.distributed.messages import DISTRIBUTED, Distributed, WorkerInfo
from loadgen.errors import UsageError
from loadgen.files import private_files, read_json
from loadgen.live.announce import announce, exit_code, print_result
from loadgen.lock import locked
from loadgen.measure.client_health import merge
from loadgen.measure.observations import Observations
from loadgen.options import RunOptions, decode
from loadgen.plan import datasets
from loadgen.plan.prompts import style_of
from loadgen.plan.workload import Workload
from loadgen.record import PROBLEMS, RUN, SERVER_AFTER, SERVER_BEFORE, DamagedLines, Record, RunInfo, read_records
from loadgen.run.close_out import close_out
from loadgen.run.manifest import make_folder
from loadgen.run.merge import chunk_files, merge_hosts, record_files
from loadgen.target.server_metrics import totals
from loadgen.terminal import printable, say

EXAMPLES = """\
examples:
  python -m loadgen gather results/20261122T101500Z-tp1     # one machine: all workers wrote there
  python -m loadgen gather host-a/run host-b/run host-c/run --out results/run
"""
MAX_NAMED = 50
"""How many missing requests are named one by one."""
COPY_AGAIN = "copy it again from its host"
CLOCK_ERROR_S = 0.005
"""The limit for the error of a host's clock, like the limit for the send lag. Beyond it, due times are doubtful."""


@dataclass
class WorkerFiles:
    """What the master has described and the workers have recorded."""

    description: Distributed
    records: dict[int, Record] = field(default_factory=dict)
    cancelled: set[int] = field(default_factory=set)
    duplicates: set[int] = field(default_factory=set)
    workers: list[WorkerInfo] = field(default_factory=list)
    records_by_worker: Counter[str] = field(default_factory=Counter)

    @property
    def missing(self) -> list[int]:
        """The planned requests that have no record; in a run without a number of requests, the cancelled ones."""
        total = self.description.total
        planned = range(total) if total is not None else sorted(self.cancelled)
        return [seq for seq in planned if seq not in self.records]

    @property
    def absent(self) -> list[str]:
        """The workers that were ready to send and have left no files."""
        return sorted(set(self.description.workers) - {worker.name for worker in self.workers})


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the options of `gather`."""
    parser.add_argument(
        "folders", nargs="+", type=Path, metavar="HOST_DIR", help="folders that workers wrote; one has distributed.json"
    )
    parser.add_argument(
        "--out", type=Path, metavar="DIR", help="folder of the merged run [the one with distributed.json]"
    )
    parser.add_argument(
        "--partial",
        action="store_true",
        help="continue although files of a worker are lost or damaged; its requests count as missing",
    )
    parser.add_argument("--strict", action="store_true", help="exit with code 3 if the run is SUSPECT")
    parser.add_argument("--json", action="store_true", help="print the line of JSON on a terminal too")


def main(args: argparse.Namespace) -> int:
    """Merge the folders, judge the run and print the result. Raises UsageError."""
    master = find_master(args.folders)
    out: Path = args.out or master
    if (out / RUN).exists():
        raise UsageError(f"{out} was gathered already ({RUN} exists): give another --out")
    with ExitStack() as stack:
        stack.enter_context(private_files())
        folders = {path.resolve() for path in (out, *args.folders) if os.access(path, os.W_OK)}
        for folder in sorted(folders):
            stack.enter_context(locked(folder))
        found = read_workers(args.folders, master, partial=args.partial)
        if not out.exists():
            stack.enter_context(locked(make_folder(out)))
        for name in (PROBLEMS, SERVER_BEFORE, SERVER_AFTER):
            if out != master and (master / name).exists():
                shutil.copyfile(master / name, out / name)
        merge_hosts(args.folders, found.records, out)
        run = close(out, found)
        # If the run is resumed, the files of the workers must not be merged again.
        for path in [*record_files(out), *chunk_files(out), *out.glob("worker.*.json")]:
            (out / "workers").mkdir(exist_ok=True)
            path.rename(out / "workers" / path.name)
        for text in report(run, found):
            print(printable(text), file=sys.stderr)
        announce(run, out)
    line = {
        "verdict": run.verdict, "reasons": run.reasons, "requests": len(found.records), "missing": found.missing,
        "workers": run.client.get("each", []), "out": str(out), "run_id": run.run_id,
    }  # fmt: skip
    print_result(line, always=args.json)
    return exit_code(run, strict=args.strict)


def find_master(folders: Sequence[Path]) -> Path:
    """The folder that the master wrote to. Raises UsageError where there is not exactly one, or where a folder is wrong."""
    if wrong := [folder for folder in folders if not folder.is_dir()]:
        raise UsageError(f"gather: {wrong[0]} is no folder: give those of the master and of its workers")
    if len({folder.resolve() for folder in folders}) < len(folders):
        raise UsageError("gather: a folder is given twice: give the folder of each host once")
    masters = [folder for folder in folders if (folder / DISTRIBUTED).is_file()]
    if len(masters) != 1:
        what = f"{masters[0]} and {masters[1]} each have" if masters else "none has"
        raise UsageError(f"gather: {what} a {DISTRIBUTED}: give one master's folder and those of its workers")
    return masters[0]


def read_workers(folders: Sequence[Path], master: Path, *, partial: bool) -> WorkerFiles:
    """The complete records of every worker. With `partial`, files may be missing or damaged. Raises UsageError."""
    found = WorkerFiles(read_json(master / DISTRIBUTED, Distributed, COPY_AGAIN))
    for path in (path for folder in folders for path in sorted(folder.glob("worker.*.json"))):
        _add_worker(found, path, partial=partial)
    known = {worker.name for worker in found.workers}
    for path in (path for folder in folders for path in record_files(folder)):
        if (name := path.name.removeprefix("records.").removesuffix(".jsonl")) not in known:
            raise UsageError(f"gather: {path} has no worker.{name}.json beside it: copy that from its host")
    if found.absent and not partial:
        raise UsageError(
            f"gather: no files of worker {', '.join(found.absent)}: give the folders of their hosts, or --partial"
        )
    if found.duplicates:
        what = f"{len(found.duplicates)} requests are recorded twice (first: seq {min(found.duplicates)})"
        raise UsageError(f"gather: {what}: check that all folders are of the same run")
    if not found.records:
        raise UsageError(f"gather: {', '.join(map(str, folders))}: no worker has recorded anything there")
    found.cancelled -= found.records.keys()
    return found


def _add_worker(found: WorkerFiles, path: Path, *, partial: bool) -> None:
    run_id = found.description.run.run_id
    worker = read_json(path, WorkerInfo, COPY_AGAIN)
    records = path.with_name(f"records.{worker.name}.jsonl")
    if worker.run_id != run_id:
        raise UsageError(f"gather: {path} is of run {worker.run_id}, not of {run_id}: leave it out")
    if worker.name in {other.name for other in found.workers}:
        where = f"is there twice (again in {path.parent})"
        raise UsageError(f"gather: worker {worker.name} {where}: give the folder of each host once")
    if not records.exists():
        raise UsageError(f"gather: {path} has no {records.name} beside it: copy that file from {worker.host}")
    found.workers.append(worker)
    _add_records(found, worker, records, partial=partial)


def _add_records(found: WorkerFiles, worker: WorkerInfo, path: Path, *, partial: bool) -> None:
    damaged = DamagedLines()
    for record in read_records(path, damaged):
        if record.run_id != worker.run_id:
            what = f"records of run {record.run_id}, not of {worker.run_id}"
            raise UsageError(f"gather: {path} contains {what}: remove them")
        if record.outcome == "cancelled":
            found.cancelled.add(record.seq)
        elif record.seq in found.records:
            found.duplicates.add(record.seq)
        else:
            found.records[record.seq] = record
            found.records_by_worker[worker.name] += 1
    if damaged.count > damaged.torn and not partial:
        hint = f"copy it again from {worker.host}, or give --partial"
        raise UsageError(f"gather: {path} can't be read completely ({damaged}): {hint}")
    if damaged.count:
        say(f"{path}: {damaged}")


def close(out: Path, found: WorkerFiles) -> RunInfo:
    """Close the run as a run of one process is closed."""
    description, missing = found.description, found.missing
    run = description.run
    reports = [worker.report for worker in found.workers if worker.report]
    rows = [_row(worker, found) for worker in found.workers]
    run.client = (merge(reports).summary() if reports else {}) | {"each": rows}
    # The p99 over all workers would hide that one of many is slow.
    if lags_s := [row["loop_lag_p99_s"] for row in rows if row["loop_lag_p99_s"] is not None]:
        run.client["loop_lag_p99_s"] = max(lags_s)
    stopped = description.stopped or (f"{len(missing)} requests were lost" if missing else None)
    before, after = (
        totals(path.read_text(errors="replace")) if path.exists() else {}
        for path in (out / SERVER_BEFORE, out / SERVER_AFTER)
    )
    observations = Observations(reports=reports, before=before, after=after, stopped=stopped)
    close_out(out, run, observations, doubts=_doubts(found))
    return run


def _row(worker: WorkerInfo, found: WorkerFiles) -> dict[str, Any]:
    """One worker in run.json."""
    health: dict[str, Any] = worker.report.summary() if worker.report else {}
    return {
        "name": worker.name,
        "host": worker.host,
        "records": found.records_by_worker[worker.name],
        "lost": worker.report is None,
        "clock_offset_s": wall_offset_s(found.description.run.clock, worker.clock, worker.zero_s),
        "clock_error_s": worker.error_s,
        "clock_drift_s": drift_s(worker.zero_s, worker.probes),
        **{name: health.get(name) for name in ("cpu_share", "loop_lag_p99_s", "wall_s", "cpu_s")},
    }


def _doubts(found: WorkerFiles) -> Iterator[str]:
    """Reasons against the run that only a run of several processes can have."""
    limit = f"(limit {CLOCK_ERROR_S * 1e3:g} ms)"
    for worker in found.workers:
        if worker.report is None:
            yield f"worker {worker.name} was lost: how busy it was is not known"
        if worker.error_s > CLOCK_ERROR_S:
            yield f"worker {worker.name}: its clock is known to {worker.error_s * 1e3:.3g} ms only {limit}"
        if (drifted_s := drift_s(worker.zero_s, worker.probes)) > CLOCK_ERROR_S:
            yield f"worker {worker.name}: its clock drifted from the master's by at least {drifted_s * 1e3:.3g} ms {limit}"
    yield from (f"worker {name} left no files: how busy it was is not known" for name in found.absent)


def report(run: RunInfo, found: WorkerFiles) -> Iterator[str]:
    """The workers, their clocks, and the missing requests by problem and budget, as lines for people."""
    for row in run.client["each"]:
        cpu = "lost" if row["lost"] else f"{row['cpu_share']:.0%} of a core"
        clock = f"clock {row['clock_offset_s'] * 1e3:+.2f} ± {row['clock_error_s'] * 1e3:.2f} ms"
        yield f"worker {row['name']}: {row['records']} records, {clock}, {cpu}"
    total, missing = found.description.total, found.missing
    yield f"{len(found.records)}{'' if total is None else f' of {total}'} requests are recorded, each once"
    names = _names(run, missing[-1]) if missing else {}
    for seq in missing[:MAX_NAMED]:
        yield f"missing: seq {seq}{names.get(seq, '')}"
    if missing:
        more = f"… and {len(missing) - MAX_NAMED} more; " if len(missing) > MAX_NAMED else ""
        yield f"{more}python -m loadgen --resume completes the run"


def _names(run: RunInfo, last: int) -> dict[int, str]:
    """The problem and the budget of each request, if the data set is on this machine."""
    options = msgspec.convert(run.options, RunOptions, strict=False, dec_hook=decode)
    try:
        problems = datasets.load(options).problems
    except UsageError:
        return {}
    _, style = style_of(run.model, options.prompt)
    items = Workload(problems, options, run.model, style, run.run_id).items()
    return {
        seq: f": {problems[item.problem].unique_id} at budget {item.budget}"
        for seq, item in enumerate(itertools.islice(items, last + 1))
    }
