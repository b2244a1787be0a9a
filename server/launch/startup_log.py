"""Reads the log of a server that starts: why it failed, in one line for the operator, and which phases it has reached.

A root cause comes before its consequences: vLLM logs the cause in the engine process, and then that the engine has died.
The causes in `startup_log.yaml` are therefore in order of preference, not of appearance. Example logs are in `tests/logs/`.
This module does not know how the server was started.
"""

import re
from collections.abc import Iterator
from pathlib import Path

import msgspec


class Cause(msgspec.Struct):
    """A kind of failure, the pattern of its log line, and the advice for the operator ({0}, {1}: the groups of the pattern)."""

    kind: str
    pattern: str
    advice: str


class Table(msgspec.Struct):
    """The content of `startup_log.yaml`."""

    causes: list[Cause]
    phases: dict[str, str]
    """For each phase, the pattern of its log line and the message."""


TABLE = msgspec.yaml.decode(Path(__file__).with_name("startup_log.yaml").read_bytes(), type=Table)
EXCEPTION_LINE = re.compile(r"^((?:\w+\.)*\w*(?:Error|Exception): .+)$", re.MULTILINE)
"""The last line of a Python traceback."""
COLOR = re.compile(r"\x1b\[[\d;]*m")
PREFIX = re.compile(
    r"^(?:\([^()\n]*\bpid=\d+[^()\n]*\) )*(?:(?:DEBUG|INFO|WARNING|ERROR) [\d-]+ [\d:.]+ \[[^\]\n]+\] ?)?", re.MULTILINE
)
"""Process, level, time and source location, which vLLM writes before each line, also of a traceback."""


def explain(log: str) -> tuple[str, str] | None:
    """The kind and the one-line explanation of the first cause that matches the log, or None."""
    text = PREFIX.sub("", COLOR.sub("", log))
    for cause in TABLE.causes:
        if match := re.search(cause.pattern, text, re.MULTILINE):
            groups = [(group or "?").strip() for group in match.groups()]
            return cause.kind, cause.advice.format(*groups, root=_root_cause(text))
    return None


def _root_cause(log: str) -> str:
    """The first exception in the log that is not merely a report that the engine has died."""
    reports = ("Engine core initialization failed", "EngineDead")
    found = (line for line in EXCEPTION_LINE.findall(log) if not any(report in line for report in reports))
    return next(found, "its log contains no exception")[:200]


class StartupPhases:
    """Reads the log as it grows and reports each phase once, when its line first appears.

    With tensor parallelism every worker writes the lines of loading and compiling; the first one is reported.
    """

    def __init__(self) -> None:
        self._reported: set[str] = set()
        self._read_chars = 0

    def new_phases(self, log: str) -> Iterator[str]:
        """Messages for the phases in the new part of `log`. An incomplete last line is read by a later call."""
        end = log.rfind("\n") + 1
        new, self._read_chars = log[self._read_chars : end], max(end, self._read_chars)
        for line in re.split(r"[\r\n]", new):
            for pattern, text in TABLE.phases.items():
                if match := re.search(pattern, line):
                    message = text.format(*match.groups())
                    phase = message if "%" in text else pattern  # every percentage is a phase of its own
                    if phase not in self._reported:
                        self._reported.add(phase)
                        yield message
