"""One process at a time writes to a result folder: a second one is told who holds it, and a crash releases it."""

import json
import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from loadgen.errors import UsageError
from loadgen.lock import LOCK, locked
from loadgen.record import read_records
from tests.fixtures.emulated import ROOT, emulated, loadgen
from tests.fixtures.swarm import until

HOLD = "import sys, time, pathlib; from loadgen.lock import locked\nwith locked(pathlib.Path(sys.argv[1])): print(flush=True); time.sleep(60)"


@pytest.fixture(scope="module")
def target() -> Iterator[str]:
    with emulated("tp1", "--speed", "1") as url:
        yield url


def start(target: str, out: Path, *more: str) -> "subprocess.Popen[str]":
    plan = ("--target", target, "--dataset", "sample", "--budgets", "64,128", "--concurrency", "4")
    process = subprocess.Popen(
        [sys.executable, "-m", "loadgen", "--metrics-port", "off", *plan, *more, "--out", str(out)],
        cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
    )  # fmt: skip
    until(lambda: any(path.stat().st_size for path in out.glob("records*.jsonl")))
    return process


def seqs(out: Path) -> list[int]:
    return sorted(record.seq for record in read_records(out / "records.jsonl"))


def test_a_run_that_is_still_on_cannot_be_resumed(target: str, tmp_path: Path) -> None:
    """The second process names the first one and changes nothing; the first one records each request once."""
    out = tmp_path / "run"
    process = start(target, out)
    second = loadgen("--resume", str(out))
    assert second.returncode == 2
    assert f"is in use by process {process.pid}, since 20" in second.stderr
    assert second.stderr.count("\n") == 1
    process.communicate()
    assert process.returncode == 0
    assert seqs(out) == list(range(98))


def test_of_two_resumes_at_once_only_one_runs(target: str, tmp_path: Path) -> None:
    out = tmp_path / "run"
    process = start(target, out)
    process.kill()
    process.communicate()
    command = [sys.executable, "-m", "loadgen", "--metrics-port", "off", "--resume", str(out)]
    both = [
        subprocess.Popen(command, cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) for _ in range(2)
    ]
    messages = [each.communicate()[1] for each in both]
    assert sorted(each.returncode for each in both) == [0, 2]
    assert sum("is in use by process" in message for message in messages) == 1
    assert seqs(out) == list(range(98))


def test_resume_waits_for_the_workers_of_a_killed_parent(target: str, tmp_path: Path) -> None:
    """The workers hold the lock too, so their files are complete when they are merged."""
    out = tmp_path / "run"
    process = start(target, out, "--workers", "2")
    process.kill()
    process.wait()
    done = loadgen("--resume", str(out))
    process.communicate()
    assert done.returncode == 0, done.stderr
    assert seqs(out) == list(range(98))


def test_the_holder_is_named_and_a_crash_releases_the_lock(tmp_path: Path) -> None:
    with subprocess.Popen(
        [sys.executable, "-c", HOLD, str(tmp_path)], stdout=subprocess.PIPE, cwd=ROOT, text=True
    ) as holder:
        assert holder.stdout is not None
        holder.stdout.readline()
        with pytest.raises(UsageError, match=f"in use by process {holder.pid}, since 20.*: wait until"):
            locked(tmp_path).__enter__()
        holder.send_signal(signal.SIGKILL)
    with locked(tmp_path):
        assert json.loads((tmp_path / LOCK).read_text())["pid"] == os.getpid()


def test_processes_of_one_swarm_share_the_lock(tmp_path: Path) -> None:
    """Locust's master and senders hold it together; `gather` and `--resume` cannot take it meanwhile."""
    first, second = locked(tmp_path, shared=True), locked(tmp_path, shared=True)
    with first, second, pytest.raises(UsageError, match="is in use by process"):
        locked(tmp_path).__enter__()
    with locked(tmp_path):
        pass


def test_a_damaged_lock_file_is_no_reason_to_refuse(tmp_path: Path) -> None:
    (tmp_path / LOCK).write_bytes(b"\0[" * 100)
    with locked(tmp_path):
        pass
