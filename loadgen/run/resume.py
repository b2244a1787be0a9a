"""Going on with a run that was stopped: what it was, what it has, what is missing.

Rules: the plan is made again from the options saved in run.json, so `seq` means the same; a request whose record is whole
is never sent again. A torn last line is dropped; requests that were cancelled when the run was stopped are missing, so
their records are taken out; derived records without the record they come from go too. Each is said. Secrets were never
saved: a key's variable must be set again, extra headers given again.

Does not know: how requests are sent.
"""

import dataclasses
from collections.abc import Callable, Container, Iterable
from dataclasses import dataclass, field
from pathlib import Path

import msgspec

from loadgen.chunks import CHUNKS, encode_frame, read_chunks
from loadgen.errors import UsageError, say
from loadgen.files import write_atomically
from loadgen.options import RunOptions, decode
from loadgen.plan.datasets import Dataset
from loadgen.record import RECORDS, RUN, Record, RunInfo, read_run
from loadgen.run.merge import merge_workers
from loadgen.run.record_writer import drop_torn_line
from loadgen.target.server_info import ServerInfo


@dataclass(frozen=True)
class PreviousRun:
    """What an earlier process left; empty for a new run."""

    folder: Path | None = None
    run: RunInfo | None = None
    done: frozenset[int] = field(default_factory=frozenset)
    offset_s: float = 0.0
    """Model seconds where the run goes on: after its last record."""

    @property
    def complete(self) -> bool:
        """Every planned request is recorded."""
        planned = None if self.run is None else self.run.load.get("requests")
        warmup = 0 if self.run is None else int(self.run.load.get("warmup") or 0)
        return planned is not None and len(self.done) == int(planned) + warmup


def restore(options: RunOptions) -> tuple[RunOptions, PreviousRun]:
    """The options a run was begun with, and what it has. Raises UsageError where there is no such run."""
    folder = options.resume
    if folder is None or not (folder / RUN).is_file():
        raise UsageError(f"--resume {folder}: no {RUN} there: give the folder of a run")
    try:
        run = read_run(folder)
        old = msgspec.convert(run.options, RunOptions, strict=False, dec_hook=decode)
    except (msgspec.DecodeError, msgspec.ValidationError) as error:
        raise UsageError(f"--resume {folder}: its {RUN} can't be read ({error}): begin a new run") from None
    headers = _headers(old, options)
    again = dataclasses.replace(
        old,
        headers=headers,
        api_key_env=options.api_key_env or old.api_key_env,
        metrics_port=options.metrics_port,
        metrics_host=options.metrics_host,
        progress=options.progress,
        strict=options.strict,
        dry_run=options.dry_run,
        argv=options.argv,
        resume=folder,
    )
    return again, clean(folder, run)


def _headers(old: RunOptions, options: RunOptions) -> tuple[tuple[str, str], ...]:
    given = {name.lower() for name, _ in options.headers}
    if lost := [name for name, _ in old.headers if name.lower() not in given]:
        raise UsageError(
            f"--resume: the run sent the header {lost[0]!r}, whose value is not kept: give --header again"
        )
    return options.headers


def clean(folder: Path, run: RunInfo) -> PreviousRun:
    """Make the folder whole again, and see what it has."""
    path = folder / RECORDS
    if torn := drop_torn_line(path):
        say(f"{path}: a torn last line of {torn} bytes dropped")
    merge_workers(folder)
    decoder = msgspec.json.Decoder(Record)
    stride = _stride(run)
    finished = {r.seq for r in _records(path, decoder) if not r.derived and r.outcome != "cancelled"}

    def whole(record: Record) -> bool:
        return (
            record.outcome != "cancelled"
            and (record.seq % stride if record.derived else record.seq) in finished
        )

    if dropped := _rewrite(path, lambda line: whole(decoder.decode(line))):
        say(
            f"{path}: {dropped} records of requests that were cut off by the stop taken out, to be sent again"
        )
    clean_chunks(folder / CHUNKS, finished)
    ends = [r.end_s for r in _records(path, decoder) if r.end_s is not None]
    say(f"{folder}: {len(finished)} requests are recorded")
    return PreviousRun(folder, run, frozenset(finished), max(ends, default=0.0))


def clean_chunks(path: Path, finished: Container[int]) -> None:
    """Keep the frames of finished requests: one that a crash tore would hide those written after it."""
    if not path.exists():
        return
    write_atomically(path, (encode_frame(*chunks) for chunks in read_chunks(path) if chunks.seq in finished))


def _stride(run: RunInfo) -> int:
    """`seq` of a derived record modulo this is that of the record it comes from."""
    return int(run.load.get("requests") or 0) + int(run.load.get("warmup") or 0) or 1 << 62


def _records(path: Path, decoder: msgspec.json.Decoder[Record]) -> Iterable[Record]:
    if not path.exists():
        return
    with path.open("rb") as file:
        for line in file:
            yield decoder.decode(line)


def _rewrite(path: Path, keep: Callable[[bytes], bool]) -> int:
    """Take the other lines out, all at once; how many that were."""
    if not path.exists():
        return 0
    with path.open("rb") as file:
        dropped = sum(not keep(line) for line in file)
        file.seek(0)
        if dropped:
            write_atomically(path, filter(keep, file), sync=True)
    return dropped


def check_same(before: PreviousRun, dataset: Dataset, server: ServerInfo) -> None:
    """Refuse to mix two servers or two data sets in one run. Raises UsageError."""
    run = before.run
    if run is None:
        return
    if run.dataset.get("sha256") != dataset.sha256:
        raise UsageError(f"--resume {before.folder}: {dataset.path} has changed since: begin a new run")
    if (run.model, run.time_scale, run.emulated) != (server.model, server.time_scale, server.emulated):
        raise UsageError(
            f"--resume {before.folder}: {run.target} is another server now ({server.model}, time scale "
            f"{server.time_scale:g}, not {run.model}, {run.time_scale:g}): start the one the run began with"
        )
