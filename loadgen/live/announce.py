"""Tells how a run ended: the block for people on stderr, the line for programs on stdout, JUnit XML, and the exit code.

Rules: the line for programs is left out where stdout is a terminal, unless it is asked for. docs/ci.md has the table of exit
codes. Texts in the XML are escaped and have no control characters, so that every reader can parse it.

This module does not know how a run is judged.
"""

import json
import sys
import xml.etree.ElementTree as ET
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

from loadgen.errors import FAILED, INVALID, SUSPECT, UsageError
from loadgen.interrupts import INTERRUPTED, INTERRUPTS
from loadgen.measure.console_table import final_block
from loadgen.record import RunInfo
from loadgen.terminal import printable


def announce(run: RunInfo, folder: Path, *, verbose: bool = False) -> None:
    """Print the result of a run for people."""
    from rich.console import Console  # noqa: PLC0415  this import takes 50 ms, and a run needs it only at its end

    console = Console(stderr=True, highlight=False)
    console.print(final_block(run, folder, console.width, verbose=verbose))


def print_result(line: dict[str, Any], *, always: bool) -> None:
    """Print the result for programs as one line of JSON, without what is not known."""
    if always or not sys.stdout.isatty():
        print(json.dumps({name: value for name, value in line.items() if value is not None}))


def exit_code(run: RunInfo, *, strict: bool) -> int:
    """Return the exit code of a run that has ended."""
    if INTERRUPTS.count:
        return INTERRUPTED
    if run.verdict == "INVALID":
        return INVALID
    if not all(row["met"] for row in run.requirements):
        return FAILED
    return SUSPECT if strict and run.verdict == "SUSPECT" else 0


def worst(runs: Iterable[RunInfo], *, strict: bool) -> int:
    """Return the exit code of several runs: the one that comes first in the order 130, 4, 1, 3."""
    codes = {exit_code(run, strict=strict) for run in runs}
    return next((code for code in (INTERRUPTED, INVALID, FAILED, SUSPECT) if code in codes), 0)


def prepare_junit(path: Path) -> None:
    """Empty the file before the run, so that an earlier result is not taken for that of this run. Raises UsageError."""
    try:
        path.write_bytes(b"")
    except OSError as error:
        raise UsageError(f"--junit {path}: {error.strerror}: give a file that can be written") from None


def write_junit(path: Path, run: RunInfo, *, strict: bool) -> None:
    """Write a test case for the verdict and one for each requirement. Raises OSError."""
    suite = ET.Element("testsuite", name="thinkload", timestamp=printable(run.started_at))
    doubtful = run.verdict == "INVALID" or (strict and run.verdict == "SUSPECT")
    verdict = [str(run.verdict), *run.reasons]
    case = _case(suite, run, "verdict", verdict if doubtful else None)
    case.set("time", f"{run.duration_s or 0:.3f}")
    if not doubtful:
        ET.SubElement(case, "system-out").text = "\n".join(map(printable, verdict))
    for row in run.requirements:
        _case(suite, run, row["text"], None if row["met"] else [f"{row['text']}: {row['why']}"])
    suite.set("tests", str(len(suite)))
    suite.set("failures", str(len(suite.findall("*/failure"))))
    path.write_bytes(ET.tostring(suite, encoding="utf-8", xml_declaration=True))


def _case(suite: ET.Element, run: RunInfo, name: str, failure: Sequence[str] | None) -> ET.Element:
    where = f"thinkload.{printable(run.run_id)}"
    case = ET.SubElement(suite, "testcase", classname=where, name=printable(name))
    if failure is not None:
        lines = [printable(line) for line in failure]
        ET.SubElement(case, "failure", message=lines[0]).text = "\n".join(lines)
    return case
