"""A full disk ends a run with a reason and loses nothing, and nobody but its owner can read what a run has stored.

A limit on the size of files acts as a full disk: a write beyond it fails.
"""

import json
import os
import re
import resource
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import msgspec
import pytest

from loadgen.distributed.messages import Distributed
from loadgen.record import read_records, read_run
from loadgen.sweep.manifest import Manifest
from tests.fixtures.emulated import ROOT, emulated, loadgen
from tests.fixtures.swarm import gathered, locust, until
from tests.loadgen.distributed.test_gather import RUN, worker
from tests.loadgen.distributed.test_gather import write as write_workers

PLAN = ("--dataset", "sample", "--budgets", "256,512", "--concurrency", "4")


@pytest.fixture(scope="module")
def target() -> Iterator[str]:
    with emulated("tp1", "--speed", "10") as url:
        yield url


@pytest.fixture(autouse=True)
def no_bytecode(monkeypatch: pytest.MonkeyPatch) -> None:
    """A limit on the size of files would also cut the bytecode of modules, and all later processes would read it."""
    monkeypatch.setenv("PYTHONDONTWRITEBYTECODE", "1")


def limit(size: int) -> Callable[[], None]:
    return lambda: resource.setrlimit(resource.RLIMIT_FSIZE, (size, resource.RLIM_INFINITY))


def full(size: int, *arguments: str) -> "subprocess.CompletedProcess[str]":
    """Run `python -m loadgen` where no file can become larger than `size`."""
    of_a_run = ("--metrics-port", "off", "--progress", "none") if arguments[0].startswith("--") else ()
    return subprocess.run(
        [sys.executable, "-m", "loadgen", *of_a_run, *arguments],
        cwd=ROOT, capture_output=True, text=True, check=False, timeout=240, preexec_fn=limit(size),
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
        "--headless", "--only-summary", "--users", "4", "--target", target, *PLAN[:4], "--out", str(out), log=log
    )
    try:
        until(lambda: list(out.glob("records.*.jsonl")))
        (sender,) = Path(f"/proc/{process.pid}/task/{process.pid}/children").read_text().split()
        resource.prlimit(int(sender), resource.RLIMIT_FSIZE, (1 << 15, resource.RLIM_INFINITY))
        assert process.wait(timeout=200) != 0
    finally:
        process.kill()
        process.wait()
    assert "File too large: the run ends; every record before it is kept" in log.read_text()
    line, _ = gathered(out)
    assert line["verdict"] == "INVALID"
    assert "File too large" in line["reasons"][0]


@pytest.mark.parametrize("size", [0, 1000, 2500])
def test_gather_on_a_full_disk_is_one_line_and_can_be_repeated(tmp_path: Path, size: int) -> None:
    """The file that could not be written is named: the records, the chunks or run.json. No worker's file is touched."""
    master, host, out = tmp_path / "master", tmp_path / "host", tmp_path / "out"
    write_workers(master, worker("a-0"), seqs=(range(3),))
    write_workers(host, worker("b-1"), seqs=(range(3, 9),))
    found = Distributed(run=RUN, total=9, workers=["a-0", "b-1"])
    (master / "distributed.json").write_bytes(msgspec.json.encode(found))
    before = {path: path.read_bytes() for path in tmp_path.rglob("*.json*")}
    done = full(size, "gather", str(master), str(host), "--out", str(out))
    assert done.returncode == 1
    assert re.fullmatch(rf"loadgen: {out}/\S+: File too large: make room, then repeat the command; .*\n", done.stderr)
    assert {path: path.read_bytes() for path in before} == before
    line, _ = gathered(master, host, "--out", out)
    assert (line["requests"], line["missing"]) == (9, [])


def test_a_sweep_on_a_full_disk_names_it_and_can_be_resumed(tmp_path: Path) -> None:
    """Full at the start: one line, and no cell runs. Full in a cell: the cell has failed, and a resume completes it."""
    plan = ("sweep", "--configs", "tp1", "--models", "r1-distill-qwen-1.5b", "--backend", "simulate", *PLAN)
    done = full(0, *plan, "--out", str(tmp_path / "none"))
    assert (done.returncode, done.stderr.count("\n")) == (2, 1)
    assert "File too large" in done.stderr
    out = tmp_path / "sweep"
    done = full(20_000, *plan, "--out", str(out))
    assert done.returncode == 1
    assert json.loads(done.stdout.splitlines()[-1])["failed"] == [cell.name for cell in Manifest.read(out).cells]
    assert "File too large" in done.stderr
    assert "Traceback" not in done.stderr
    assert loadgen("--resume", str(out), verb="sweep").returncode == 0
    assert [cell.state for cell in Manifest.read(out).cells] == ["done"]


def test_a_folder_of_an_older_version_becomes_private_when_it_is_resumed(target: str, tmp_path: Path) -> None:
    """With --no-text it holds no answers and stays as it is. A link out of the folder is not followed."""
    outside = tmp_path / "outside"
    outside.write_text("shared")
    outside.chmod(0o644)
    for name, options, private in (("texts", (), True), ("none", ("--no-text",), False)):
        out = tmp_path / name
        assert (
            loadgen(
                "--target", target, *PLAN[:2], "--problems", "2", "--budgets", "8", *options, "--out", str(out)
            ).returncode
            == 0
        )
        (out / "workers").mkdir()
        (out / "link").symlink_to(outside)
        for path in (out, out / "workers", *out.glob("*.json*")):
            path.chmod(0o755 if path.is_dir() else 0o644)
        assert loadgen("--resume", str(out)).returncode == 0
        open_to_others = [
            path.name for path in (out, *out.rglob("*")) if path.lstat().st_mode & 0o077 and path.name != "link"
        ]
        assert (open_to_others == []) == private
    assert outside.stat().st_mode & 0o777 == 0o644


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
    assert {path.name: path.stat().st_mode & 0o077 for path in out.iterdir() if path.stat().st_mode & 0o077} == {}
    assert read_run(out).verdict is not None
