"""Never lose a record: kill -9, Ctrl-C and a full disk, each followed by --resume, on real processes."""

import json
import os
import random
import resource
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from loadgen.chunks import read_chunks
from loadgen.record import read_records, read_run, write_run
from tests.fixtures.emulated import ROOT, emulated, loadgen

COMMAND = (sys.executable, "-m", "loadgen", "--metrics-port", "off")


@pytest.fixture(scope="module")
def target() -> Iterator[str]:
    with emulated("tp1", "--speed", "20") as url:
        yield url


def start(*arguments: str) -> subprocess.Popen[str]:
    return subprocess.Popen(
        [*COMMAND, *arguments], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, cwd=ROOT
    )


def whole_lines(folder: Path) -> list[bytes]:
    path = folder / "records.jsonl"
    return path.read_bytes().split(b"\n")[:-1] if path.exists() else []


def wait_for_records(folder: Path, count: int) -> None:
    deadline = time.monotonic() + 30
    while len(whole_lines(folder)) < count and time.monotonic() < deadline:
        time.sleep(0.005)


def assert_complete(folder: Path, planned: int) -> None:
    """Every request of the plan once, and the timings of each."""
    found = list(read_records(folder / "records.jsonl"))
    assert sorted(r.seq for r in found if not r.derived) == list(range(planned))
    keys = [(r.problem_id, r.budget, r.sample, r.repeat, r.derived) for r in found]
    assert len(set(keys)) == len(keys)
    counts = {c.seq: sum(c.tokens) for c in read_chunks(folder / "chunks.bin")}
    assert counts == {r.seq: r.completion_tokens for r in found if not r.derived}
    assert not list(folder.glob("*.partial"))


def test_killed_twenty_times_every_request_is_recorded_exactly_once(target: str, tmp_path: Path) -> None:
    """Killed -9 at random moments; what was finished stays byte for byte and is not sent again."""
    out = tmp_path / "run"
    rng = random.Random(3)
    plan = ("--target", target, "--dataset", "sample", "--budgets", "64,128,192,256", "--concurrency", "4")
    arguments = (*plan, "--repeats", "3", "--out", str(out))
    kept: list[bytes] = []
    for _ in range(20):
        process = start(*arguments)
        wait_for_records(out, len(kept) + rng.randrange(1, 25))
        time.sleep(rng.uniform(0, 0.02))
        process.kill()
        process.communicate()
        lines = whole_lines(out)
        assert lines[: len(kept)] == kept
        kept = lines
        arguments = ("--resume", str(out))
    done = loadgen("--resume", str(out))
    assert done.returncode == 0, done.stderr
    assert whole_lines(out)[: len(kept)] == kept
    assert_complete(out, 49 * 4 * 3)
    assert json.loads(done.stdout.splitlines()[-1])["requests"] == 49 * 4 * 3
    run = read_run(out)
    assert len(run.segments) == 20
    assert any("20 earlier parts were killed" in reason for reason in run.reasons)
    times = [r.end_s for r in read_records(out / "records.jsonl")]
    assert all(end is not None for end in times)


def test_a_torn_last_line_is_dropped_and_said(target: str, tmp_path: Path) -> None:
    out = tmp_path / "run"
    plan = ("--target", target, "--dataset", "sample", "--problems", "20", "--budgets", "16")
    assert loadgen(*plan, "--out", str(out)).returncode == 0
    path = out / "records.jsonl"
    path.write_bytes(path.read_bytes()[:-7])
    done = loadgen("--resume", str(out))
    assert done.returncode == 0, done.stderr
    assert "torn last line" in done.stderr
    assert_complete(out, 20)


def test_ctrl_c_drains_then_stops_and_resume_completes(target: str, tmp_path: Path) -> None:
    """The first lets what is in flight end, the second cuts it off; both leave an INVALID run that can be completed."""
    out = tmp_path / "run"
    plan = ("--target", target, "--dataset", "sample", "--budgets", "512,1024", "--concurrency", "8")
    process = start(*plan, "--out", str(out))
    wait_for_records(out, 5)
    process.send_signal(signal.SIGINT)
    stdout, stderr = process.communicate(timeout=60)
    first = json.loads(stdout.splitlines()[-1])
    assert (process.returncode, first["verdict"]) == (0, "INVALID"), stderr
    assert set(first["outcomes"]) == {"ok"}
    assert "missing (interrupted)" in first["reasons"][0]
    process = start("--resume", str(out))
    wait_for_records(out, first["requests"] + 5)
    process.send_signal(signal.SIGINT)
    process.send_signal(signal.SIGTERM)
    stdout, _ = process.communicate(timeout=60)
    assert json.loads(stdout.splitlines()[-1])["outcomes"]["cancelled"] > 0
    done = loadgen("--resume", str(out))
    assert "taken out, to be sent again" in done.stderr
    assert_complete(out, 98)


def test_a_resume_does_not_wash_a_run_clean(target: str, tmp_path: Path) -> None:
    """What was held against the first part is held against the whole; a complete run is not judged again."""
    out = tmp_path / "run"
    plan = ("--target", target, "--dataset", "sample", "--problems", "40", "--budgets", "8")
    assert loadgen(*plan, "--out", str(out)).returncode == 0
    run = read_run(out)
    run.reasons = ["client: event-loop lag p99 9 ms (limit 5 ms): too much for this machine"]
    run.verdict = "SUSPECT"
    write_run(out, run)
    again = loadgen("--resume", str(out))
    assert "nothing is missing" in again.stderr
    assert read_run(out).reasons == run.reasons
    path = out / "records.jsonl"
    path.write_bytes(path.read_bytes()[:-7])
    assert loadgen("--resume", str(out)).returncode == 0
    assert f"before it was resumed: {run.reasons[0]}" in read_run(out).reasons
    assert_complete(out, 40)


def test_a_full_disk_stops_cleanly_and_resumes(target: str, tmp_path: Path) -> None:
    """A limit on the file's size stands for the disk: the run says so, keeps whole lines, and goes on when there is room."""
    out = tmp_path / "run"
    plan = ("--target", target, "--dataset", "sample", "--budgets", "512,1024", "--concurrency", "8")
    process = start(*plan, "--out", str(out))
    resource.prlimit(process.pid, resource.RLIMIT_FSIZE, (128 * 1024, 128 * 1024))
    stdout, stderr = process.communicate(timeout=60)
    line = json.loads(stdout.splitlines()[-1])
    assert line["verdict"] == "INVALID"
    assert "File too large" in line["reasons"][0], stderr
    assert (out / "records.jsonl").read_bytes().endswith(b"\n")
    done = loadgen("--resume", str(out))
    assert done.returncode == 0, done.stderr
    assert_complete(out, 98)


def test_one_pass_survives_a_kill(target: str, tmp_path: Path) -> None:
    """Derived records come before the record they are from: none is left half there."""
    out = tmp_path / "run"
    plan = (
        "--target",
        target,
        "--dataset",
        "sample",
        "--budgets",
        "64,128,512",
        "--one-pass",
        "--concurrency",
        "2",
    )
    process = start(*plan, "--out", str(out))
    wait_for_records(out, 40)
    process.kill()
    process.communicate()
    done = loadgen("--resume", str(out))
    assert done.returncode == 0, done.stderr
    assert_complete(out, 147)
    found = list(read_records(out / "records.jsonl"))
    assert sum(r.derived for r in found) == 98


def test_another_server_is_not_mixed_in(target: str, tmp_path: Path) -> None:
    """A resumed run refuses a server with another time scale, and data that have changed."""
    out = tmp_path / "run"
    data = tmp_path / "d.jsonl"
    data.write_text('{"problem": "1+1?", "answer": "2"}\n')
    assert (
        loadgen("--target", target, "--dataset", str(data), "--budgets", "16", "--out", str(out)).returncode
        == 0
    )
    data.write_text('{"problem": "1+2?", "answer": "3"}\n')
    done = loadgen("--resume", str(out))
    assert (done.returncode, "has changed since" in done.stderr) == (2, True)


def test_the_key_is_found_nowhere_afterwards(tmp_path: Path) -> None:
    """Not in a file, on stdout or stderr, in a metric or in the process list, though the server needed it."""
    key = "sk-secret-4711"
    out = tmp_path / "run"
    with emulated("tp1", "--speed", "20", "--api-key", key) as url:
        plan = ("--target", url, "--dataset", "sample", "--budgets", "256", "--api-key-env", "MY_KEY")
        refused = loadgen("--target", url, "--dataset", "sample")
        assert (refused.returncode, "--api-key-env" in refused.stderr) == (2, True)
        environment = os.environ | {"MY_KEY": key}
        process = subprocess.Popen(
            [sys.executable, "-m", "loadgen", "--metrics-port", "0", *plan, "--out", str(out)],
            env=environment, cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
        )  # fmt: skip
        wait_for_records(out, 3)
        listed = Path(f"/proc/{process.pid}/cmdline").read_bytes()
        stdout, stderr = process.communicate(timeout=60)
    assert process.returncode == 0, stderr
    assert json.loads(stdout.splitlines()[-1])["outcomes"] == {"ok": 49}
    everything = b"".join(p.read_bytes() for p in out.rglob("*") if p.is_file())
    assert key.encode() not in everything + listed + stdout.encode() + stderr.encode()
