"""No record is lost: real processes are killed, interrupted or run out of disk space, and are then resumed."""

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
from tests.fixtures.emulated import ROOT, Command, emulated, loadgen


@pytest.fixture(scope="module")
def target() -> Iterator[str]:
    with emulated("tp1", "--speed", "20") as url:
        yield url


def start(*arguments: str) -> Command:
    return Command("run", "--metrics-port", "off", *arguments)


def whole_lines(folder: Path) -> list[bytes]:
    path = folder / "records.jsonl"
    return path.read_bytes().split(b"\n")[:-1] if path.exists() else []


def wait_for_records(folder: Path, count: int) -> None:
    deadline = time.monotonic() + 200
    while len(whole_lines(folder)) < count and time.monotonic() < deadline:
        time.sleep(0.005)


def assert_complete(folder: Path, planned: int) -> None:
    """Check that each planned request is recorded once, with its timings."""
    found = list(read_records(folder / "records.jsonl"))
    assert sorted(r.seq for r in found if not r.derived) == list(range(planned))
    keys = [(r.problem_id, r.budget, r.sample, r.repeat, r.derived) for r in found]
    assert len(set(keys)) == len(keys)
    counts = {c.seq: sum(c.tokens) for c in read_chunks(folder / "chunks.bin")}
    assert counts == {r.seq: r.completion_tokens for r in found if not r.derived}
    assert not list(folder.glob("*.partial"))


def test_killed_twenty_times_every_request_is_recorded_exactly_once(target: str, tmp_path: Path) -> None:
    """The process is killed at random times. Finished records keep their bytes, and their requests are not sent again."""
    out = tmp_path / "run"
    rng = random.Random(3)
    plan = ("--target", target, "--dataset", "sample", "--budgets", "64,128,192,256", "--concurrency", "4")
    arguments = (*plan, "--repeats", "3", "--out", str(out))
    kept: list[bytes] = []
    for _ in range(20):
        process = start(*arguments)
        wait_for_records(out, len(kept) + rng.randrange(1, 25))
        time.sleep(rng.uniform(0, 0.02))
        process.send_signal(signal.SIGKILL)
        process.end()
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


def test_an_incomplete_last_line_is_removed_with_a_message(target: str, tmp_path: Path) -> None:
    out = tmp_path / "run"
    plan = ("--target", target, "--dataset", "sample", "--problems", "20", "--budgets", "16")
    assert loadgen(*plan, "--out", str(out)).returncode == 0
    path = out / "records.jsonl"
    path.write_bytes(path.read_bytes()[:-7])
    done = loadgen("--resume", str(out))
    assert done.returncode == 0, done.stderr
    assert "removed an incomplete last line of" in done.stderr
    assert_complete(out, 20)


def test_a_run_with_a_duration_is_resumed_for_the_time_that_is_left(target: str, tmp_path: Path) -> None:
    """The first part is interrupted. After the second one, nothing is missing. Times of one part are counted from its start."""
    out = tmp_path / "run"
    plan = ("--dataset", "sample", "--budgets", "16", "--concurrency", "2", "--warmup", "3", "--duration", "60s")
    process = start("--target", target, *plan, "--out", str(out))
    wait_for_records(out, 60)
    process.send_signal(signal.SIGINT)
    assert process.end().returncode == 130
    first = len(whole_lines(out))
    assert loadgen("--resume", str(out)).returncode == 0
    found = whole_lines(out)
    due_s = [record.due_s for record in read_records(out / "records.jsonl")]
    assert len(due_s) > first
    assert max(due_s[:first]) - min(due_s[3:first]) + max(due_s[first:]) - min(due_s[first:]) <= 60
    assert "no request is missing" in loadgen("--resume", str(out)).stderr
    assert whole_lines(out) == found


def test_options_that_a_resume_would_not_use_are_refused(target: str, tmp_path: Path) -> None:
    """A requirement that is not checked must not look as if it held."""
    out = tmp_path / "run"
    plan = ("--target", target, "--dataset", "sample", "--problems", "4", "--budgets", "16")
    assert loadgen(*plan, "--out", str(out)).returncode == 0
    done = loadgen("--resume", str(out), "--require", "e2e.max<1ms", "--timeout", "9", "--strict", "--progress", "none")
    says = f"loadgen: --resume {out} continues with the options of the run: leave out --timeout, --require\n"
    assert (done.returncode, done.stderr) == (2, says)
    assert "this folder has no run.json" in loadgen("--resume", str(tmp_path)).stderr
    assert loadgen("--resume", str(out), "--strict", "--progress", "none", "--target", target).returncode == 3


def test_ctrl_c_drains_then_stops_and_resume_completes(target: str, tmp_path: Path) -> None:
    """The first Ctrl-C lets requests in flight end, and the second cancels them. Both leave an INVALID run to be completed."""
    out = tmp_path / "run"
    plan = ("--target", target, "--dataset", "sample", "--budgets", "512,1024", "--concurrency", "8")
    process = start(*plan, "--out", str(out))
    wait_for_records(out, 5)
    process.send_signal(signal.SIGINT)
    done = process.end()
    first = json.loads(done.stdout.splitlines()[-1])
    assert (done.returncode, first["verdict"]) == (130, "INVALID"), done.stderr
    assert set(first["outcomes"]) == {"ok"}
    assert "missing (interrupted)" in first["reasons"][0]
    process = start("--resume", str(out))
    wait_for_records(out, first["requests"] + 5)
    process.send_signal(signal.SIGINT)
    process.send_signal(signal.SIGTERM)
    assert json.loads(process.end().stdout.splitlines()[-1])["outcomes"]["cancelled"] > 0
    done = loadgen("--resume", str(out))
    assert "had cancelled; they are sent again" in done.stderr
    assert_complete(out, 98)


def test_a_resumed_run_keeps_the_reasons_against_its_first_part(target: str, tmp_path: Path) -> None:
    """The reasons against the first part count against the whole run. A complete run is not judged again."""
    out = tmp_path / "run"
    plan = ("--target", target, "--dataset", "sample", "--problems", "40", "--budgets", "8")
    assert loadgen(*plan, "--out", str(out)).returncode == 0
    run = read_run(out)
    run.reasons = ["client: event-loop lag p99 9 ms (limit 5 ms): too much for this machine"]
    run.verdict = "SUSPECT"
    write_run(out, run)
    again = loadgen("--resume", str(out))
    assert "no request is missing" in again.stderr
    assert read_run(out).reasons == run.reasons
    path = out / "records.jsonl"
    path.write_bytes(path.read_bytes()[:-7])
    assert loadgen("--resume", str(out)).returncode == 0
    assert f"before it was resumed: {run.reasons[0]}" in read_run(out).reasons
    assert_complete(out, 40)


def test_a_full_disk_stops_cleanly_and_resumes(target: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A limit on the file size acts as a full disk: the run reports it, keeps complete lines, and continues later."""
    monkeypatch.setenv("PYTHONDONTWRITEBYTECODE", "1")  # the limit would cut the bytecode of modules too
    out = tmp_path / "run"
    plan = ("--target", target, "--dataset", "sample", "--budgets", "512,1024", "--concurrency", "8")
    command = (sys.executable, "-m", "loadgen", "--metrics-port", "off", *plan, "--out", str(out))
    process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, cwd=ROOT)
    resource.prlimit(process.pid, resource.RLIMIT_FSIZE, (128 * 1024, 128 * 1024))
    stdout, stderr = process.communicate(timeout=200)
    line = json.loads(stdout.splitlines()[-1])
    assert line["verdict"] == "INVALID"
    assert "File too large" in line["reasons"][0], stderr
    assert (out / "records.jsonl").read_bytes().endswith(b"\n")
    done = loadgen("--resume", str(out))
    assert done.returncode == 0, done.stderr
    assert_complete(out, 98)


def test_one_pass_survives_a_kill(target: str, tmp_path: Path) -> None:
    """Derived records are written before the record that they are derived from, so no request is recorded in part."""
    out = tmp_path / "run"
    plan = ("--target", target, "--dataset", "sample", "--budgets", "64,128,512", "--one-pass", "--concurrency", "2")
    process = start(*plan, "--out", str(out))
    wait_for_records(out, 40)
    process.send_signal(signal.SIGKILL)
    process.end()
    done = loadgen("--resume", str(out))
    assert done.returncode == 0, done.stderr
    assert_complete(out, 147)
    found = list(read_records(out / "records.jsonl"))
    assert sum(r.derived for r in found) == 98


def test_another_server_is_not_mixed_in(target: str, tmp_path: Path) -> None:
    """A resumed run refuses a server with another time scale, and a data set that has changed."""
    out = tmp_path / "run"
    data = tmp_path / "d.jsonl"
    data.write_text('{"problem": "1+1?", "answer": "2"}\n')
    assert loadgen("--target", target, "--dataset", str(data), "--budgets", "16", "--out", str(out)).returncode == 0
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
        stdout, stderr = process.communicate(timeout=200)
    assert process.returncode == 0, stderr
    assert json.loads(stdout.splitlines()[-1])["outcomes"] == {"ok": 49}
    everything = b"".join(p.read_bytes() for p in out.rglob("*") if p.is_file())
    assert key.encode() not in everything + listed + stdout.encode() + stderr.encode()


def test_a_complete_run_that_was_stopped_is_judged_again(target: str, tmp_path: Path) -> None:
    """Every request was recorded before the stop, so that nothing is sent, and the run is not INVALID any more."""
    out = tmp_path / "run"
    plan = ("--target", target, "--dataset", "sample", "--problems", "8", "--budgets", "32")
    assert loadgen(*plan, "--out", str(out)).returncode == 0
    run = read_run(out)
    run.verdict, run.reasons = "INVALID", ["the run was stopped early: interrupted"]
    write_run(out, run)
    before = (out / "records.jsonl").read_bytes()
    done = loadgen("--resume", str(out))
    assert done.returncode == 0, done.stderr
    assert read_run(out).verdict in ("VALID", "SUSPECT")
    assert (out / "records.jsonl").read_bytes() == before
