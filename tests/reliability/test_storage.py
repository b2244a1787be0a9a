"""A full disk ends a run with a reason and loses nothing, and nobody but its owner can read what a run has stored.

A limit on the size of files acts as a full disk: a write beyond it fails.
"""

import json
import os
import resource
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from loadgen.record import read_records, read_run
from tests.fixtures.emulated import ROOT, emulated, loadgen
from tests.fixtures.swarm import gathered, locust, until

PLAN = ("--dataset", "sample", "--budgets", "256,512", "--concurrency", "4")


@pytest.fixture(scope="module")
def target() -> Iterator[str]:
    with emulated("tp1", "--speed", "10") as url:
        yield url


def limit(size: int) -> Callable[[], None]:
    return lambda: resource.setrlimit(resource.RLIMIT_FSIZE, (size, resource.RLIM_INFINITY))


def full(size: int, *arguments: str) -> "subprocess.CompletedProcess[str]":
    """Run `python -m loadgen` where no file can become larger than `size`."""
    return subprocess.run(
        [sys.executable, "-m", "loadgen", "--metrics-port", "off", "--progress", "none", *arguments],
        cwd=ROOT, capture_output=True, text=True, check=False, timeout=120, preexec_fn=limit(size),
    )  # fmt: skip


def seqs(out: Path) -> list[int]:
    return sorted(record.seq for record in read_records(out / "records.jsonl"))


def test_a_disk_that_is_full_at_the_start_is_one_line(target: str, tmp_path: Path) -> None:
    """Nothing is sent, and nothing is left behind."""
    done = full(0, "--target", target, *PLAN, "--out", str(tmp_path / "run"))
    assert done.returncode == 2
    assert "File too large: nothing was sent: make room" in done.stderr
    assert done.stderr.count("\n") == 1
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize("workers", ["1", "2"])
def test_a_disk_that_becomes_full_loses_nothing(target: str, tmp_path: Path, workers: str) -> None:
    """The run ends with the reason, a resume on the full disk is one line, and a resume with room completes it."""
    out = tmp_path / "run"
    done = full(100_000, "--target", target, *PLAN, "--workers", workers, "--out", str(out))
    assert "Traceback" not in done.stderr
    assert json.loads(done.stdout.splitlines()[-1])["verdict"] == "INVALID"
    assert "File too large" in done.stderr
    kept = {r.seq for path in out.glob("records*.jsonl") for r in read_records(path) if r.outcome == "ok"}
    again = full(0, "--resume", str(out))
    assert again.returncode == 2
    assert again.stderr.splitlines()[-1].endswith("make room first") or "nothing was sent" in again.stderr
    assert "Traceback" not in again.stderr
    assert loadgen("--resume", str(out)).returncode == 0
    assert seqs(out) == list(range(98))
    assert kept <= {*seqs(out)}


def test_locust_on_a_full_disk_ends_with_a_reason(target: str, tmp_path: Path) -> None:
    out, log = tmp_path / "run", tmp_path / "log"
    process = locust(
        "--headless",
        "--only-summary",
        "--users",
        "4",
        "--target",
        target,
        *PLAN[:4],
        "--out",
        str(out),
        log=log,
    )
    try:
        until(lambda: list(out.glob("records.*.jsonl")))
        (sender,) = Path(f"/proc/{process.pid}/task/{process.pid}/children").read_text().split()
        resource.prlimit(int(sender), resource.RLIMIT_FSIZE, (1 << 15, resource.RLIM_INFINITY))
        assert process.wait(timeout=60) != 0
    finally:
        process.kill()
        process.wait()
    assert "File too large: the run ends; every record before it is kept" in log.read_text()
    line, _ = gathered(out)
    assert line["verdict"] == "INVALID"
    assert "File too large" in line["reasons"][0]


def test_only_the_owner_can_read_results(target: str, tmp_path: Path) -> None:
    """Whatever the umask is, and for the workers and the log of a resumed run too."""
    out = tmp_path / "run"
    before = os.umask(0)
    try:
        process = subprocess.Popen(
            [sys.executable, "-m", "loadgen", "--metrics-port", "off", "--target", target, *PLAN, "--workers", "2", "--out", str(out)],
            cwd=ROOT, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL,
        )  # fmt: skip
        until(lambda: any(path.stat().st_size for path in out.glob("records.*.jsonl")))
        process.send_signal(signal.SIGINT)
        assert process.wait() == 130
        assert loadgen("--resume", str(out)).returncode == 0
    finally:
        os.umask(before)
    assert out.stat().st_mode & 0o777 == 0o700
    assert {
        path.name: path.stat().st_mode & 0o077 for path in out.iterdir() if path.stat().st_mode & 0o077
    } == {}
    assert read_run(out).verdict is not None
