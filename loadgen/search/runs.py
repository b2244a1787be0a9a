"""Does the runs of a search, each in a folder of its own, and writes search.json after every test.

This module does not know whether a run is sent to a server or simulated: its caller gives the function for that.
"""

import dataclasses
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from loadgen.errors import UsageError
from loadgen.files import private_files
from loadgen.option_types import LoadPoint
from loadgen.options import RunOptions
from loadgen.record import RECORDS, RUN, RunInfo, read_records, read_run
from loadgen.run.manifest import make_folder
from loadgen.run.prepare import prepare
from loadgen.search import result
from loadgen.search.bracket import Bracket, Stopped
from loadgen.search.probes import Probe, SearchEndedError, Sent, Tester, load_point, search
from loadgen.search.result import SearchFile
from loadgen.terminal import say

NO_REQUESTS = "no request succeeded"
"""The reason that makes a run INVALID although it shows what the search wants to know."""

NOTHING_SENT = "no request was measured"
DISTURBED = ("client:", "the emulated server")
"""Beginnings of reasons that make the result of a run doubtful, beyond those that a load near the limit always has."""

RunPoint = Callable[[RunOptions, Path, LoadPoint, int], RunInfo]
"""Does the run with this number at a load, in a subfolder of the folder of the search."""


class SearchRuns:
    """Does the runs of a search, or reads those that an earlier part of it has done."""

    def __init__(
        self, file: SearchFile, options: RunOptions, out: Path, limit_s: float, *, scale: float, one: RunPoint
    ) -> None:
        self._file, self._options, self._out, self._scale, self._one = file, options, out, scale, one
        self._end_s = time.monotonic() + limit_s

    def send(self, point: LoadPoint, number: int, requests: int) -> Sent:
        """Do one run. Raises SearchEndedError where it shows nothing, or where there is no time for it."""
        name = folder_name(point, number)
        run = self._finished(self._out / name) or self._new(point, number, requests)
        self._file.emulated, self._file.simulated = run.emulated, run.simulated
        if run.interrupted:
            raise SearchEndedError("interrupted")
        if NOTHING_SENT in run.reasons:
            raise SearchEndedError("time limit")
        if run.verdict == "INVALID" and not all(reason.startswith(NO_REQUESTS) for reason in run.reasons[:1]):
            self._file.invalid.append(name)
            say(f"{self._out / name}: INVALID: {run.reasons[0]}")
            raise SearchEndedError("undecided")
        for reason in run.reasons:
            if reason.startswith(DISTURBED):
                say(f"{name}: {run.verdict}: {reason}")
        records = read_records(self._out / name / RECORDS)
        measured = (record for record in records if not record.warmup)
        return Sent(name, run.load, measured, run.duration_s or 0.0)

    def _finished(self, folder: Path) -> RunInfo | None:
        if not (folder / RUN).is_file():
            return None
        run = read_run(folder)
        return None if run.verdict is None or run.interrupted else run

    def _new(self, point: LoadPoint, number: int, requests: int) -> RunInfo:
        left_s = self._end_s - time.monotonic()
        if left_s <= 0:
            raise SearchEndedError("time limit")
        limits: dict[str, Any] = {"requests": requests, "duration_s": left_s * self._scale}
        try:
            return self._one(dataclasses.replace(self._options, **limits), self._out, point, number)
        except UsageError as error:
            if not any(self._out.glob(f"*/{RUN}")):
                raise
            # The server has answered the runs before this one, so the search keeps what they have shown.
            self._file.invalid.append(folder_name(point, number))
            say(str(error))
            raise SearchEndedError("undecided") from None


def conduct(file: SearchFile, out: Path, runs: SearchRuns, tell: Callable[[str], None]) -> Stopped:
    """Search, write search.json, and tell each test and the result as a line; return why the search stopped."""
    bracket = Bracket(file.over, file.first, file.last, file.attain)
    file.write(out)

    def on_probe(probe: Probe) -> None:
        file.probes.append(probe)
        file.write(out)
        tell(result.probe_line(probe, file.over))

    stopped = search(bracket, Tester(file.over, file.slo, file.attain, runs.send, file.most), on_probe)
    file.finish(out, bracket, stopped)
    for line in result.lines(file):
        tell(line)
    return stopped


def folder_name(point: LoadPoint, number: int) -> str:
    """`c8` for the first run at a load, `c8_2` for the second."""
    return f"{point.name}_{number + 1}" if number else point.name


def time_scale(file: SearchFile, options: RunOptions) -> float:
    """Return how many seconds of the server's time pass in one second. Raises UsageError where the server refuses the options."""
    lowest = load_point(file.over, file.first).applied(options)
    return prepare(dataclasses.replace(lowest, dry_run=True, resume=None)).server.time_scale


def capacity(
    file: SearchFile, options: RunOptions, limit_s: float, one: RunPoint, scale: float | None = None
) -> RunInfo:
    """Search in the new folder `options.out`; return the run at the limit, or the last one. Raises KeyboardInterrupt.

    `scale` is the server's time scale, which the server is asked for where it is not given.
    """
    out = options.out or Path()
    scale = time_scale(file, options) if scale is None else scale
    with private_files():
        make_folder(out)

    def tell(line: str) -> None:
        if options.progress != "none":
            say(f"{out.name}: {line}")

    runs = SearchRuns(file, dataclasses.replace(options, out=None), out, limit_s, scale=scale, one=one)
    if conduct(file, out, runs, tell) == "interrupted":
        raise KeyboardInterrupt
    if not file.probes:
        raise UsageError(f"no load could be tested (search: {file.stopped}): use a larger --limit")
    return read_run(out / (file.limit.run if file.limit else file.probes[-1].runs[-1]))
