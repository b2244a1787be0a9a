"""Reads and checks the files that Locust's workers wrote, from one host or many.

Rules: a request that is recorded twice is refused, because no rule could choose between its records. A folder of another run
and a file that is missing or damaged are refused too. A cancelled request counts as not sent.

This module does not know what becomes of the records (`gather`).
"""

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

from loadgen.distributed.messages import DISTRIBUTED, Distributed, WorkerInfo
from loadgen.errors import UsageError
from loadgen.files import read_json
from loadgen.record import DamagedLines, Record, read_records
from loadgen.run.merge import record_files
from loadgen.terminal import say

COPY_AGAIN = "copy it again from its host"


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
