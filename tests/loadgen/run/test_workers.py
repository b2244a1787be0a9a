"""--workers: processes that share only the start time, and whose files are merged into one run."""

import json
import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from itertools import accumulate, pairwise
from pathlib import Path

import pytest

from loadgen.chunks import read_chunks
from loadgen.record import read_records, read_run
from tests.fixtures.emulated import ROOT, emulated, loadgen
from tests.fixtures.swarm import until

PLAN = ("--dataset", "sample", "--workers", "2")


@pytest.fixture(scope="module")
def target() -> Iterator[str]:
    with emulated("tp1", "--speed", "20") as url:
        yield url


def children(pid: int) -> list[int]:
    found = subprocess.run(["ps", "-o", "pid=", "--ppid", str(pid)], capture_output=True, text=True, check=False)
    return [int(word) for word in found.stdout.split()]


def assert_complete(folder: Path, planned: int) -> None:
    found = list(read_records(folder / "records.jsonl"))
    assert sorted(r.seq for r in found) == list(range(planned))
    counts = {c.seq: sum(c.tokens) for c in read_chunks(folder / "chunks.bin")}
    assert counts == {r.seq: r.completion_tokens for r in found}
    assert not list(folder.glob("*.[01].*"))


def start(target: str, out: Path) -> "subprocess.Popen[str]":
    command = [sys.executable, "-m", "loadgen", "--metrics-port", "off", "--target", target, *PLAN]
    process = subprocess.Popen(
        [*command, "--budgets", "256,512", "--concurrency", "4", "--out", str(out)],
        cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
    )  # fmt: skip
    until(lambda: sum(path.stat().st_size > 0 for path in out.glob("records.*.jsonl")) == 2)
    return process


def test_the_schedule_is_split_and_the_files_are_merged(target: str, tmp_path: Path) -> None:
    """An open loop in two processes: each request is sent once, at its scheduled time, and the health covers both.

    The records are in the order of time, on which intervals depend, and not one process after the other.
    """
    out = tmp_path / "run"
    load = ("--rate", "4", "--arrival", "constant", "--budgets", "16,64")
    done = loadgen("--target", target, *PLAN, *load, "--out", str(out))
    assert done.returncode == 0, done.stderr
    assert_complete(out, 98)
    ends_s = [record.end_s or 0.0 for record in read_records(out / "records.jsonl")]
    latest_s = list(accumulate(ends_s, max))
    assert max(latest - end for latest, end in zip(latest_s, ends_s, strict=True)) < latest_s[-1] / 4
    by_seq = sorted(read_records(out / "records.jsonl"), key=lambda r: r.seq)
    gaps = [b.due_s - a.due_s for a, b in pairwise(by_seq)]
    assert gaps == pytest.approx([0.25] * 97, abs=1e-6)
    assert read_run(out).client["workers"] == 2


def test_ctrl_c_reaches_every_worker(target: str, tmp_path: Path) -> None:
    out = tmp_path / "run"
    process = start(target, out)
    process.send_signal(signal.SIGINT)
    stdout, stderr = process.communicate(timeout=200)
    line = json.loads(stdout.splitlines()[-1])
    assert (line["verdict"], set(line["outcomes"])) == ("INVALID", {"ok"}), stderr
    assert loadgen("--resume", str(out)).returncode == 0
    assert_complete(out, 98)


def test_a_run_whose_parent_was_killed_can_be_completed(target: str, tmp_path: Path) -> None:
    """The workers of a killed parent stop by themselves, and --resume merges what they wrote."""
    out = tmp_path / "run"
    process = start(target, out)
    workers = children(process.pid)
    assert len(workers) == 2
    process.kill()
    process.communicate()
    until(lambda: not any(Path(f"/proc/{pid}").exists() for pid in workers))
    assert loadgen("--resume", str(out)).returncode == 0
    assert_complete(out, 98)


def test_a_worker_that_dies_is_reported(target: str, tmp_path: Path) -> None:
    out = tmp_path / "run"
    process = start(target, out)
    os.kill(children(process.pid)[0], signal.SIGKILL)
    stdout, stderr = process.communicate(timeout=200)
    line = json.loads(stdout.splitlines()[-1])
    assert line["verdict"] == "INVALID", stderr
    assert "died" in line["reasons"][0]
    assert loadgen("--resume", str(out)).returncode == 0
    assert_complete(out, 98)
    assert any("the state of the client in them is not known" in reason for reason in read_run(out).reasons)
