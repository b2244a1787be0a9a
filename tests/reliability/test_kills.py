"""`kill -9` at any time loses and doubles nothing: a run, workers, a sweep, Locust and `gather` are killed and continued.

`THINKLOAD_KILLS=8 python -m pytest tests/reliability/test_kills.py` kills each of the five kinds eight times.
"""

import os
import random
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from loadgen.record import RUN, find_runs, read_records, read_run
from tests.fixtures.emulated import ROOT, emulated, loadgen
from tests.fixtures.swarm import gathered, locust, until

KILLS = int(os.environ.get("THINKLOAD_KILLS", "1"))
PLAN = ("--dataset", "sample", "--budgets", "64,128")


@pytest.fixture(scope="module")
def target() -> Iterator[str]:
    with emulated("tp1", "--speed", "5") as url:
        yield url


def killed(command: list[str], out: Path, seed: int) -> None:
    """Start a program and kill it a random time after its first record."""
    process = subprocess.Popen(
        [sys.executable, "-m", *command], cwd=ROOT, stderr=subprocess.DEVNULL, stdout=subprocess.DEVNULL
    )
    until(lambda: process.poll() is not None or any(p.stat().st_size for p in out.rglob("records*.jsonl")))
    time.sleep(random.Random(seed).uniform(0, 1.5))
    process.kill()
    process.wait()


def check(folder: Path, planned: int) -> None:
    """Each planned request is recorded once."""
    assert sorted(record.seq for record in read_records(folder / "records.jsonl")) == list(range(planned))


@pytest.mark.parametrize("seed", range(KILLS))
@pytest.mark.parametrize("workers", ["1", "2"])
def test_a_killed_run_is_completed(target: str, tmp_path: Path, workers: str, seed: int) -> None:
    out = tmp_path / "run"
    run = ["loadgen", "--metrics-port", "off", "--target", target, *PLAN, "--concurrency", "4", "--workers", workers]
    killed([*run, "--out", str(out)], out, seed)
    before = {r.seq for p in out.glob("records*.jsonl") for r in read_records(p) if r.outcome == "ok"}
    done = loadgen("--resume", str(out))
    assert done.returncode == 0, done.stderr
    check(out, 98)
    assert before <= {record.seq for record in read_records(out / "records.jsonl")}


@pytest.mark.parametrize("seed", range(KILLS))
def test_a_killed_sweep_is_completed(tmp_path: Path, seed: int) -> None:
    out = tmp_path / "sweep"
    plan = ["--configs", "tp1,tp2", "--models", "r1-distill-qwen-1.5b", "--backend", "simulate", "--loads", "1,2,4"]
    plan += ["--dataset", "sample", "--budgets", "512,4096"]
    killed(["loadgen", "sweep", *plan, "--out", str(out)], out, seed)
    done = loadgen("--resume", str(out), verb="sweep")
    assert done.returncode == 0, done.stderr
    assert len(find_runs(out)) == 6
    for folder in find_runs(out):
        check(folder, 98)


@pytest.mark.parametrize("seed", range(KILLS))
def test_killed_locust_and_gather_lose_nothing(target: str, tmp_path: Path, seed: int) -> None:
    """Locust is killed during the run, and `gather` while it merges. Gathering again and resuming completes the run."""
    out, log = tmp_path / "run", tmp_path / "log"
    options = ("--headless", "--users", "4", "--target", target, *PLAN, "--out", str(out))
    process = locust(*options, log=log)
    until(lambda: any(path.stat().st_size for path in out.glob("records.*.jsonl")))
    time.sleep(random.Random(seed).uniform(0, 1.5))
    process.kill()
    process.wait()
    recorded = {r.seq for p in out.glob("records.*.jsonl") for r in read_records(p) if r.outcome == "ok"}
    gather = subprocess.Popen(
        [sys.executable, "-m", "loadgen", "gather", str(out)],
        cwd=ROOT,
        stderr=subprocess.DEVNULL,
        stdout=subprocess.DEVNULL,
    )
    time.sleep(random.Random(seed).uniform(0.2, 1.5))
    gather.kill()
    gather.wait()
    if not (out / RUN).exists():
        gathered(out)
    assert read_run(out).run_id
    assert loadgen("--resume", str(out)).returncode == 0
    check(out, 98)
    assert recorded <= {record.seq for record in read_records(out / "records.jsonl")}
