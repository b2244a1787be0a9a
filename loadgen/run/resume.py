"""Continues a run that was stopped: its options, the records that it has, and the requests that are missing.

Rules: the requests are made again from the options in `run.json`, so each `seq` means the same request. A request whose
record is complete is never sent again. The folder is cleaned first, and a message says what was removed: an incomplete last
line, damaged lines (kept in a file of their own), the records of requests that the stop cancelled, and derived records without
the record that they are derived from. Secrets are not saved: the variable of an API key must be set again, and extra headers
must be given again. A folder can come from elsewhere, so it does not decide alone where a key is sent.

This module does not know how requests are sent.
"""

import dataclasses
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import msgspec

from loadgen.chunks import CHUNKS, encode_frame, read_chunks
from loadgen.errors import DiskFullError, UsageError
from loadgen.files import make_private, private_files, write_atomically
from loadgen.options import RunOptions, decode
from loadgen.plan.datasets import Dataset
from loadgen.record import RECORDS, RUN, DamagedLines, Record, RunInfo, read_records, read_run, record_lines
from loadgen.run.merge import merge_workers
from loadgen.run.record_writer import drop_torn_line
from loadgen.target.server_info import ServerInfo
from loadgen.terminal import say

DAMAGED = "damaged-lines.txt"
"""Damaged lines of records.jsonl that `--resume` has set aside."""


GIVEN_AGAIN = ("metrics_port", "metrics_host", "progress", "verbose", "quiet", "strict", "dry_run", "argv")
"""Options that have the values of the command that resumes the run."""
ALLOWED = {*GIVEN_AGAIN, "resume", "target", "headers", "api_key_env"}
"""Options that can be given with --resume. Those that are not in GIVEN_AGAIN must be the ones of the run."""


@dataclass(frozen=True)
class PreviousRun:
    """What earlier processes have left of a run. It is empty for a new run."""

    folder: Path | None = None
    run: RunInfo | None = None
    done: frozenset[int] = field(default_factory=frozenset)
    offset_s: float = 0.0
    """Model seconds from the run's start to the end of its last record, where the run continues."""
    loaded_s: float = 0.0
    """Those of them since the first measured request was due."""

    @property
    def complete(self) -> bool:
        """Whether every planned request is recorded. A run with a duration that has a good verdict has ended by itself."""
        if self.run is None or "requests" not in self.run.load:
            return False
        planned = self.run.load["requests"]
        return planned is None or len(self.done) == int(planned) + int(self.run.load.get("warmup") or 0)


def check_given(given: Mapping[str, Any]) -> None:
    """Refuse options that would have no effect, by the names of their fields. Raises UsageError."""
    ignored = given.keys() - ALLOWED
    options = (option for option in dataclasses.fields(RunOptions) if option.metadata and option.name in ignored)
    names = [each.metadata.get("flags", (f"--{each.name.replace('_', '-')}",))[0] for each in options]
    if names:
        hint = f"leave out {', '.join(names)}"
        raise UsageError(f"--resume {given['resume']} continues with the options of the run: {hint}")


def restore(options: RunOptions, folder: Path) -> tuple[RunOptions, PreviousRun]:
    """The options that the run was started with, and what it has. Raises UsageError where the folder has no run."""
    restored, run = read_options(options, folder)
    try:
        if restored.keep_text:
            make_private(folder)  # an older version may have left it readable for others
        with private_files():
            return restored, clean(folder, run)
    except (DiskFullError, OSError) as error:
        raise UsageError(f"--resume {folder}: {error}: nothing was sent or lost: make room first") from None


def read_options(options: RunOptions, folder: Path) -> tuple[RunOptions, RunInfo]:
    """The options that the run was started with, and its description. Raises UsageError where the folder has no run."""
    if not (folder / RUN).is_file():
        raise UsageError(f"--resume {folder}: this folder has no {RUN}: give the folder of a run")
    try:
        run = read_run(folder)
        saved = msgspec.convert(run.options, RunOptions, strict=False, dec_hook=decode)
        _stride(run)
    except (ValueError, TypeError, OverflowError, OSError) as error:
        raise UsageError(f"--resume {folder}: {RUN} cannot be read ({error}): start a new run") from None
    restored = dataclasses.replace(
        saved,
        headers=_headers(saved, options),
        api_key_env=_api_key_env(saved, options),
        resume=folder,
        **{name: getattr(options, name) for name in GIVEN_AGAIN},
    )
    return restored, run


def _api_key_env(saved: RunOptions, options: RunOptions) -> str | None:
    """The variable of the key. A folder may come from elsewhere, so it cannot choose to which host a key is sent."""
    given = options.target != RunOptions.target
    if given and options.target != saved.target:
        hint = "leave out --target, or start a new run"
        raise UsageError(f"--resume: the run's server is {saved.target}, not {options.target}: {hint}")
    if saved.api_key_env and not options.api_key_env and options.target != saved.target:
        sent = f"the run sent the key in {saved.api_key_env} to {saved.target}"
        raise UsageError(f"--resume: {sent}: if that is right, give --api-key-env {saved.api_key_env} again")
    return options.api_key_env or saved.api_key_env


def _headers(saved: RunOptions, options: RunOptions) -> tuple[tuple[str, str], ...]:
    given = {name.lower() for name, _ in options.headers}
    if missing := [name for name, _ in saved.headers if name.lower() not in given]:
        header = f"the header {missing[0]!r}, whose value is not saved"
        raise UsageError(f"--resume: the run sent {header}: give it again with --header")
    return options.headers


def clean(folder: Path, run: RunInfo) -> PreviousRun:
    """Remove what is incomplete from the folder, and return what it has. Raises OSError or DiskFullError."""
    path, stride = folder / RECORDS, _stride(run)
    if torn := drop_torn_line(path):
        say(f"{path}: removed an incomplete last line of {torn} bytes")
    merge_workers(folder)
    if not path.exists():
        path.touch()
    damaged = DamagedLines()
    finished = {r.seq for r in read_records(path, damaged) if not r.derived and r.outcome != "cancelled"}

    def is_complete(record: Record) -> bool:
        return record.outcome != "cancelled" and (record.seq % stride if record.derived else record.seq) in finished

    if damaged.count:
        with path.with_name(DAMAGED).open("ab") as file:
            file.writelines(line for line, record in record_lines(path) if record is None)
        say(f"{path}: {damaged}; moved to {DAMAGED}, and their requests are sent again")
    if removed := sum(not is_complete(record) for record in read_records(path)):
        say(f"{path}: removed {removed} records of requests that the stop had cancelled; they are sent again")
    if damaged.count or removed:
        kept = (line for line, record in record_lines(path) if record is not None and is_complete(record))
        write_atomically(path, kept, sync=True)
    if (folder / CHUNKS).exists():  # frames after a damaged frame could not be read, so they are left out too
        frames = (encode_frame(*chunks) for chunks in read_chunks(folder / CHUNKS) if chunks.seq in finished)
        write_atomically(folder / CHUNKS, frames)
    end_s = 0.0
    measured_due_s: list[float] = []
    for record in read_records(path):
        end_s = max(end_s, record.end_s or 0.0)
        if not record.warmup:
            measured_due_s.append(record.due_s)
    begin_s = min(measured_due_s, default=end_s)
    say(f"{folder}: {len(finished)} requests are recorded")
    return PreviousRun(folder, run, frozenset(finished), end_s, end_s - begin_s)


def _stride(run: RunInfo) -> int:
    """The `seq` of a derived record modulo this number is the `seq` of the record that it is derived from."""
    return int(run.load.get("requests") or 0) + int(run.load.get("warmup") or 0) or 1 << 62


def check_same(previous: PreviousRun, dataset: Dataset, server: ServerInfo) -> None:
    """Refuse to continue a run with another server or another data set. Raises UsageError."""
    run = previous.run
    if run is None:
        return
    if run.dataset.get("sha256") != dataset.sha256:
        raise UsageError(
            f"--resume {previous.folder}: {dataset.path} has changed since the run was started: start a new run"
        )
    if (run.model, run.time_scale, run.emulated) != (server.model, server.time_scale, server.emulated):
        raise UsageError(
            f"--resume {previous.folder}: the server at {run.target} is not the one of the run (model {server.model}, time "
            f"scale {server.time_scale:g}, not {run.model}, {run.time_scale:g}): start the server that the run began with"
        )
