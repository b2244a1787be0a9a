"""The workload on Locust: a master and workers as processes, against the emulated server."""

import itertools
import os
import signal
import subprocess
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import msgspec
import pytest

from loadgen.distributed.messages import WorkerInfo, parse_options
from loadgen.errors import UsageError
from loadgen.record import read_records
from tests.fixtures.emulated import emulated, loadgen
from tests.fixtures.swarm import gathered, gone, kill, locust, recorded, records, sender_of, swarm, until

PLAN = ("--dataset", "sample", "--budgets")


@pytest.fixture(scope="module")
def target() -> Iterator[str]:
    with emulated("tp1", "--speed", "1", model="r1-distill-qwen-14b") as url:
        yield url


@pytest.mark.parametrize("whole_host", [False, True])
def test_a_killed_worker_loses_no_finished_request(whole_host: bool, target: str, tmp_path: Path) -> None:
    """A worker, or all processes of its host, are killed in mid-run: records are kept, and the rest is named and resumed."""
    out = tmp_path / "swarm"
    options = ("--target", target, *PLAN, "16", "--requests", "300", "-u", "16")
    with swarm(out, *options, workers=[(), ()]) as running:
        until(lambda: len(recorded(out)) >= 100)
        sender = sender_of(running.workers[0])
        kill(running.workers[0].pid, *[sender] * whole_host)
        before = recorded(out)
        running.end()
        until(lambda: gone(sender))  # without its worker, it still ends the requests in flight
    line, stderr = gathered(out)
    found = [record.seq for record in records(out)]
    assert before <= set(found)
    assert len(found) == len(set(found))
    assert line["missing"] == sorted({*range(300)} - {*found})
    assert [worker["lost"] for worker in line["workers"]].count(True) == whole_host
    assert len(line["missing"]) <= 10, "a worker has a quarter more requests than its 8 users"
    assert all(f"seq {seq}: sample/" in stderr for seq in line["missing"]), stderr
    if whole_host:
        assert line["missing"], "streams were in flight"
        assert line["verdict"] == "INVALID"
    done = loadgen("--resume", str(out))
    assert done.returncode == 0, done.stderr
    assert Counter(record.seq for record in records(out)) == Counter(range(300))


@pytest.mark.parametrize("load", [("-u", "12"), ("--rate", "40")], ids=["closed", "open"])
def test_a_worker_that_joins_takes_part(load: tuple[str, ...], target: str, tmp_path: Path) -> None:
    """It sends its own requests from the middle of the run on. Only requests assigned at the stop are skipped."""
    out = tmp_path / "swarm"
    with swarm(out, "--target", target, *PLAN, "16", "--requests", "9000", *load, workers=[()]) as running:
        until(lambda: len(recorded(out)) >= 20)
        running.join()
        until(lambda: sum(len(list(read_records(path))) >= 20 for path in out.glob("records.*.jsonl")) == 2)
        running.master.send_signal(signal.SIGINT)
        assert running.master.wait(timeout=200) == 1, running.log.read_text()
        for worker in running.workers:
            worker.wait(timeout=200)
    sent = [record.seq for path in out.glob("records.*.jsonl") for record in read_records(path)]
    assert len(sent) == len(set(sent)), "each request was sent by one worker, cancelled or not"
    assert len({*range(max(sent))} - {*sent}) <= 2 * 15, (
        "not sent yet: those of 12 users and a quarter more, on both workers"
    )
    line, _ = gathered(out)
    assert line["missing"] == sorted({*range(9000)} - {record.seq for record in records(out)})


def test_hosts_with_clocks_of_their_own_keep_one_schedule(target: str, tmp_path: Path) -> None:
    """One worker's monotonic clock is 5000 s ahead, in a time namespace. The due times are those of one schedule."""
    ahead = ("unshare", "--map-root-user", "--time", "--monotonic", "5000", "--fork", "--kill-child")
    if subprocess.run([*ahead, "true"], check=False).returncode:
        pytest.skip("no time namespaces on this machine")
    out, there = tmp_path / "swarm", tmp_path / "there"
    options = ("--target", target, *PLAN, "16", "--rate", "10", "--arrival", "constant")
    with swarm(out, *options, workers=[(), ahead]) as running:
        running.end()
    here_row, there_row = sorted(each_worker(out), key=lambda worker: worker.error_s)
    there.mkdir()
    for path in [*out.glob(f"*.{there_row.name}.*")]:
        path.rename(there / path.name)
    line, _ = gathered(out, there, "--out", tmp_path / "run")
    rows = {row["name"]: row for row in line["workers"]}
    assert rows[here_row.name]["clock_error_s"] == 0.0, "processes of one boot share a clock"
    error_s = rows[there_row.name]["clock_error_s"]
    assert error_s > 0
    assert there_row.zero_s - here_row.zero_s == pytest.approx(5000, abs=error_s)
    assert all(abs(row["clock_offset_s"]) < 1 for row in rows.values()), "both have the wall clock of this machine"
    found = records(tmp_path / "run")
    assert [record.seq for record in found] == list(range(49))
    gaps = [later.due_s - earlier.due_s for earlier, later in itertools.pairwise(found)]
    assert gaps == pytest.approx([0.1] * 48, abs=error_s + 1e-6)
    assert all(record.sent_s >= record.due_s for record in found if record.sent_s)


def each_worker(out: Path) -> list[WorkerInfo]:
    return [msgspec.json.decode(path.read_bytes(), type=WorkerInfo) for path in out.glob("worker.*.json")]


def test_a_duration_after_warm_ups_with_one_worker_per_core(target: str, tmp_path: Path) -> None:
    """With `--processes -1` and Locust's --run-time: the warm-up ends before the rest begins, which lasts for 2 s."""
    out, log = tmp_path / "out", tmp_path / "log"
    options = ("--processes", "-1", "-u", "8", "-t", "2s", "--more=--warmup 12")
    master = locust("--headless", "--target", target, *PLAN, "16", "--out", str(out), *options, log=log)
    assert master.wait(timeout=200) == 0, log.read_text()
    line, _ = gathered(out)
    assert line["missing"] == []
    assert len(line["workers"]) == os.cpu_count()
    found = records(out)
    assert [record.seq for record in found] == list(range(len(found)))
    warm, measured = ([r for r in found if r.warmup is warmup] for warmup in (True, False))
    assert len(warm) == 12
    began_s = min(record.due_s for record in measured)
    assert max(record.end_s or 0.0 for record in warm) <= began_s
    within_duration = [record for record in measured if record.due_s < began_s + 2.0]
    assert len(measured) - len(within_duration) <= 10 * len(line["workers"]), "assigned requests are still sent"


def test_a_run_that_is_interrupted_can_be_completed(target: str, tmp_path: Path) -> None:
    """Ctrl-C in a terminal reaches every process. Requests in flight end or are cancelled, and no worker is lost."""
    out, log = tmp_path / "out", tmp_path / "log"
    options = ("--headless", "--processes", "2", "-u", "8", "--requests", "2000", "--out", str(out))
    master = locust("--target", target, *PLAN, "64", *options, log=log, own_terminal=True)
    until(lambda: len(recorded(out)) >= 8)
    os.killpg(master.pid, signal.SIGINT)
    assert master.wait(timeout=200) == 1, log.read_text()
    line, _ = gathered(out)
    assert [worker["lost"] for worker in line["workers"]] == [False] * 2
    assert len(line["missing"]) == 2000 - len(records(out))
    assert line["reasons"][0].startswith(f"{len(line['missing'])} of 2000 records are missing (Locust was stopped)")


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (("--target", "http://127.0.0.1:9/v1"), "127.0.0.1:9"),
        (("--budgets", "many"), "budgets"),
        (("--more=--dry-run",), "--dry-run"),
        (("--more=--label 'a=b",), "--more"),
        (("--requests", "5", "-t", "5s"), "--duration and --requests"),
        (("--processes", "2", "--budgets", "0"), "budgets"),
    ],
)
def test_bad_options_stop_locust_in_one_line(options: tuple[str, ...], message: str, tmp_path: Path) -> None:
    """The exit code is 2, and nothing is written."""
    log = tmp_path / "log"
    process = locust("--headless", "--dataset", "sample", "--out", str(tmp_path / "out"), *options, log=log)
    assert process.wait(timeout=200) == 2, log.read_text()
    assert message in next(line for line in log.read_text().splitlines() if line.startswith("loadgen:"))
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize("option", ["--one-pass", "--abort-after=5", "--resume=run", "--out=run", "--workers=2"])
def test_options_that_locust_does_not_support_are_refused(option: str) -> None:
    with pytest.raises(UsageError, match=option.partition("=")[0]):
        parse_options([option])
