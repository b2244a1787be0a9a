"""Our workload on real Locust: a master and workers as processes, against the emulated server."""

import itertools
import json
import os
import re
import signal
import socket
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from itertools import product
from pathlib import Path
from statistics import median

import pytest

from loadgen.record import Record, read_chunks, read_records, read_run
from tests.emulated import ROOT, emulated, loadgen


def free_port() -> int:
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        return int(listener.getsockname()[1])


def locust(*arguments: str, log: Path) -> "subprocess.Popen[bytes]":
    command = [sys.executable, "-m", "locust", "-f", "loadgen/locustfile.py", *arguments]
    with log.open("wb") as file:
        return subprocess.Popen(command, cwd=ROOT, stdout=file, stderr=subprocess.STDOUT)


@contextmanager
def swarm(out: Path, *options: str, workers: int = 3) -> Iterator[list["subprocess.Popen[bytes]"]]:
    """A master and its workers: [master, worker, …]; whatever is left of them is ended."""
    port = str(free_port())
    master = locust(
        *("--master", "--master-bind-host", "127.0.0.1", "--master-bind-port", port, "--headless", "--only-summary"),
        *("--expect-workers", str(workers), "--out", str(out), *options),
        log=out.with_suffix(".master"),
    )  # fmt: skip
    processes = [master]
    try:
        processes += [
            locust("--worker", "--master-port", port, log=out.with_suffix(f".worker{number}"))
            for number in range(workers)
        ]
        yield processes
    finally:
        for process in processes:
            process.kill()
            process.wait()


def records(folder: Path) -> list[Record]:
    return list(read_records(folder / "records.jsonl"))


def gather(*arguments: str) -> "subprocess.CompletedProcess[str]":
    return subprocess.run(
        [sys.executable, "-m", "loadgen", "gather", *arguments],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=False,
    )


@pytest.fixture(scope="module")
def target() -> Iterator[str]:
    with emulated("tp1", "--speed", "1", model="r1-distill-qwen-14b") as url:
        yield url


def test_2000_requests_once_each_and_the_metrics_of_one_process(target: str, tmp_path: Path) -> None:
    """Master and 3 workers: every seq once, all workers took part, medians within 2 % of `python -m loadgen`."""
    options = (
        "--target",
        target,
        "--dataset",
        "sample",
        "--budgets",
        "8,16",
        "--requests",
        "2000",
        "--rate",
        "80",
    )
    out = tmp_path / "swarm"
    with swarm(out, *options) as (master, *workers):
        assert master.wait(timeout=200) == 0, out.with_suffix(".master").read_text()
        for worker in workers:
            worker.wait(timeout=20)
    done = gather(str(out))
    assert done.returncode == 0, done.stderr
    line = json.loads(done.stdout.splitlines()[-1])
    found = records(out)
    assert Counter(record.seq for record in found) == Counter(range(2000))
    assert line["missing"] == []
    assert [worker["records"] > 400 for worker in line["workers"]] == [True] * 3
    assert all(worker["cpu_share"] is not None for worker in line["workers"])
    assert {chunks.seq: sum(chunks.tokens) for chunks in read_chunks(out / "chunks.bin")} == {
        record.seq: record.completion_tokens for record in found
    }
    log = out.with_suffix(".master").read_text()
    assert re.search(r"Aggregated +2000 ", log), "Locust's total counts each request once"
    assert all(
        re.search(rf"{kind} +budget {budget} ", log)
        for kind in ("POST", "TTFT", "TPOT")
        for budget in (8, 16)
    )

    alone = tmp_path / "alone"
    done = loadgen(*options, "--out", str(alone))
    assert done.returncode == 0, done.stderr
    single = {record.seq: record for record in records(alone)}
    assert all(record.text == single[record.seq].text for record in found)
    late = [line for run in (out, alone) for line in read_run(run).reasons if "lag" in line]
    tolerance = 0.15 if late else 0.02  # a machine too busy to be punctual can't compare to 2 %
    # By budget: the median of both together lies in the gap between 8 and 16 tokens and jumps from run to run.
    for budget, name in product((8, 16), ("tpot_s", "e2e_s")):
        mine, theirs = (
            median(getattr(r, name) for r in run if r.budget == budget and getattr(r, name))
            for run in (found, single.values())
        )
        assert mine == pytest.approx(theirs, rel=tolerance), (budget, name)


def test_a_killed_worker_loses_nothing_that_had_ended(target: str, tmp_path: Path) -> None:
    """After kill -9 in the middle what it had recorded stays, what it held is named, and --resume completes that."""
    out = tmp_path / "swarm"
    options = ("--target", target, "--dataset", "sample", "--budgets", "16", "--requests", "600", "-u", "24")
    with swarm(out, *options) as (master, *workers):
        recorded = wait_for(lambda: sum(len(list(read_records(p))) for p in out.glob("records.*.jsonl")), 100)
        os.kill(workers[0].pid, signal.SIGKILL)
        assert master.wait(timeout=120) == 0, out.with_suffix(".master").read_text()
    time.sleep(3)  # the killed worker's sender drains for two
    done = gather(str(out))
    assert done.returncode == 0, done.stderr
    line = json.loads(done.stdout.splitlines()[-1])
    found = [record.seq for record in records(out)]
    assert len(found) >= recorded
    assert len(found) == len(set(found))
    assert sorted({*range(600)} - {*found}) == line["missing"]
    assert 0 < len(line["missing"]) < 100
    assert "at budget 16" in done.stderr
    assert line["verdict"] == "INVALID"
    done = loadgen("--resume", str(out))
    assert done.returncode == 0, done.stderr
    assert Counter(record.seq for record in records(out)) == Counter(range(600))


def wait_for(count: Callable[[], int], least: int) -> int:
    """Until `count()` is at least that."""
    for _ in itertools.count():
        if (value := count()) >= least:
            return value
        time.sleep(0.2)
    raise AssertionError


def test_an_open_loop_keeps_the_schedule_whoever_sends(target: str, tmp_path: Path) -> None:
    """The same due times as one process has, counted from the common start."""
    options = (
        "--target",
        target,
        "--dataset",
        "sample",
        "--budgets",
        "16",
        "--rate",
        "10",
        "--arrival",
        "constant",
    )
    with swarm(tmp_path / "swarm", *options, workers=2) as (master, *workers):
        assert master.wait(timeout=100) == 0, (tmp_path / "swarm.master").read_text()
        for worker in workers:
            worker.wait(timeout=20)
    done = gather(str(tmp_path / "swarm"), "--out", str(tmp_path / "out"))
    assert done.returncode == 0, done.stderr
    found = records(tmp_path / "out")
    assert [record.seq for record in found] == list(range(49))
    gaps = [later.due_s - earlier.due_s for earlier, later in itertools.pairwise(found)]
    assert gaps == pytest.approx([0.1] * 48, abs=0.005)


@pytest.mark.parametrize(
    ("options", "said"),
    [
        (("--target", "http://127.0.0.1:9/v1"), "127.0.0.1:9"),
        (("--budgets", "many"), "budgets"),
        (("--more=--one-pass",), "--one-pass"),
    ],
)
def test_bad_options_stop_locust_in_one_line(options: tuple[str, ...], said: str, tmp_path: Path) -> None:
    """Exit 2, nothing written."""
    log = tmp_path / "log"
    process = locust("--headless", "--dataset", "sample", "--out", str(tmp_path / "out"), *options, log=log)
    assert process.wait(timeout=60) == 2, log.read_text()
    assert said in next(line for line in log.read_text().splitlines() if line.startswith("loadgen:"))
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize(("make", "said"), [(False, "none has a"), (True, "no record of any worker")])
def test_gather_wants_the_masters_folder_and_records(make: bool, said: str, tmp_path: Path) -> None:
    if make:
        run = {"run_id": "r", "config": "c", "model": "m", "target": "t", "started_at": "", "clock": {}}
        plan = {"run": run, "total": 1, "planned": 1, "cache": None, "percentile": "p90"}
        (tmp_path / "distributed.json").write_text(json.dumps(plan))
    done = gather(str(tmp_path))
    assert (done.returncode, done.stdout) == (2, "")
    assert said in done.stderr
