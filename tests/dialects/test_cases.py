"""The cases of the reference data, replayed to a run of `python -m loadgen`: what their `expect.txt` says must hold.

The reference data holds a program that replays a case. A case that is not in the table fails the test, so that a new one is
not overlooked; cases about importing results and about Prometheus rules are tested elsewhere.
"""

import shlex
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import pytest

from loadgen.record import Record, RunInfo, read_records, read_run
from tests.fixtures.emulated import loadgen

ATTEMPTS = 5
ELSEWHERE = {"23-import-no-start-times", "24-import-lines", "28-data-parallel-and-tp6"}


@dataclass
class Done:
    """What a run said and wrote; a run that was refused has no folder."""

    exit_code: int
    said: str
    run: RunInfo | None
    records: list[Record]

    @property
    def refused_in_one_line(self) -> bool:
        """The run ended before its first request, with one line."""
        return self.exit_code == 2 and self.said.count("\n") == 1 and self.run is None

    def outcomes(self) -> set[str]:
        """Return the outcomes of the records."""
        return {record.outcome for record in self.records}

    def reasons(self) -> str:
        """Return the reasons against the run, without those against this machine."""
        assert self.run is not None, self.said
        return "\n".join(reason for reason in self.run.reasons if not reason.startswith("client:"))

    def goodput(self) -> float:
        """Return the share of the requests that met every objective."""
        assert self.run is not None, self.said
        share = self.run.summary["goodput"]["share"]
        assert isinstance(share, float)
        return share


def close(values: list[float | None], true: float) -> bool:
    """Tell whether one of the values is within 15 % of the true one: a busy machine delays some of them."""
    return min(abs(value - true) for value in values if value is not None) <= 0.15 * true


def tokens(done: Done) -> set[int | None]:
    return {record.completion_tokens for record in done.records}


def aborted(done: Done) -> None:
    assert "ok" not in done.outcomes()
    assert done.run is not None
    assert done.run.verdict == "INVALID"
    assert done.goodput() == 0


def reasoning_outside(done: Done) -> None:
    assert tokens(done) == {64}
    assert close([record.tpot_s for record in done.records], 0.020)


def buffered(done: Done) -> None:
    assert done.reasons()
    assert done.run is not None
    assert done.run.verdict != "VALID"
    assert done.goodput() < 1
    assert {record.tpot_s for record in done.records} == {None}


def empty(done: Done) -> None:
    assert done.goodput() == 0


def two_choices(done: Done) -> None:
    assert done.refused_in_one_line, done.said
    assert "--samples" in done.said


def answered(done: Done) -> None:
    assert done.outcomes() == {"ok"}
    assert tokens(done) == {6}


def details(done: Done) -> None:
    assert close([record.ttft_s for record in done.records], 0.10)
    assert close([record.tpot_s for record in done.records], 0.020)


def raced(done: Done) -> None:
    """Every request is answered, or is told apart from a connection that breaks in mid-answer."""
    for record in done.records:
        assert record.outcome == "ok" or "closed the idle connection" in (record.error or "")


RIGHT: dict[str, Callable[[Done], None]] = {
    "01-finish-abort": aborted,
    "03-reasoning-outside-completion-tokens": reasoning_outside,
    "06-buffering-proxy": buffered,
    "07-empty-answer-goodput": empty,
    "08-n-2": two_choices,
    "09b-logprob-minus-infinity": answered,
    "09c-float-usage": answered,
    "09e-reasoning-details": details,
    "11-azure-query": answered,
    "18-bare-models-list": answered,
    "21-keepalive-race": raced,
}


@contextmanager
def replaying(folder: Path) -> Iterator[str]:
    """Run the program that replays the case; yield the URL of its server."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    with subprocess.Popen([sys.executable, str(folder.parent / "replay.py"), str(folder), str(port)]) as process:
        try:
            for _ in range(600):
                with socket.socket() as client:
                    if client.connect_ex(("127.0.0.1", port)) == 0:
                        break
                time.sleep(0.05)
            yield f"http://127.0.0.1:{port}"
        finally:
            process.terminate()


def text_of(path: Path, otherwise: str) -> str:
    return path.read_text().strip() if path.exists() else otherwise


def test_every_case_is_in_the_table(shared: Path) -> None:
    found = {path.name for path in (shared / "cases").iterdir() if path.is_dir()}
    assert found == set(RIGHT) | ELSEWHERE


@pytest.mark.parametrize("name", RIGHT)
def test_a_case_is_as_expected(shared: Path, tmp_path: Path, name: str) -> None:
    """A busy machine delays what a case compares with a true time. A wrong reading of a stream is wrong in every attempt."""
    for attempt in range(ATTEMPTS):
        try:
            RIGHT[name](replayed(shared / "cases" / name, tmp_path / str(attempt)))
        except AssertionError:
            if attempt == ATTEMPTS - 1:
                raise
        else:
            return


def replayed(folder: Path, out: Path) -> Done:
    """Replay a case to a run."""
    options = shlex.split(text_of(folder / "options", ""), posix='"' not in text_of(folder / "options", ""))
    with replaying(folder) as url:
        done = loadgen(
            *("--target", url + text_of(folder / "target-suffix", "/v1")),
            *("--dataset", str(folder.parent / "problems.jsonl"), "--budgets", "64"),
            *(*options, "--out", str(out)),
        )
    wrote = (out / "run.json").exists()
    found = Done(
        done.returncode,
        done.stderr,
        read_run(out) if wrote else None,
        list(read_records(out / "records.jsonl")) if wrote else [],
    )
    assert found.records or found.refused_in_one_line, done.stderr
    return found
