"""Locust and one process of the load generator measure the same on the same server, request by request."""

import csv
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from benchmarks.locust_agreement import beside_server, request_by_request, same_tokens
from loadgen.chunks import read_chunks
from loadgen.record import Record
from tests.fixtures.emulated import ROOT, emulated, loadgen
from tests.fixtures.swarm import (
    gathered,
    locust_rows,
    recorded,
    records,
    swarm,
    until,
)

PLAN = ("--dataset", "sample", "--budgets")


@pytest.fixture(scope="module")
def slow() -> Iterator[str]:
    """A server at a quarter of the real speed, so that delays of the client and of a busy machine are small in comparison."""
    flags = ("--speed", "0.25", "--enable-per-request-metrics")
    with emulated("tp1", *flags, model="r1-distill-qwen-14b") as url:
        yield url


def test_2000_requests_once_each_and_the_metrics_of_one_process(slow: str, tmp_path: Path) -> None:
    """A master with 3 workers, and `python -m loadgen` on the same server at the same load, at the same time.

    Each seq is recorded once, every worker takes part, and the answers are the same. For each request, the figures agree
    within 2 %, and so does their ratio to the server's own timings. TTFT depends on the step that the server is in, and is
    compared in the next test.
    """
    options = ("--target", slow, *PLAN, "8,16", "--requests", "2000", "--rate", "160")
    out, alone = tmp_path / "swarm", tmp_path / "alone"
    with swarm(out, *options, "--more=--cache=salt", "--csv", str(tmp_path / "locust")) as running:
        until(lambda: recorded(out))
        command = [
            sys.executable,
            "-m",
            "loadgen",
            "run",
            "--metrics-port",
            "off",
            "--progress",
            "none",
            "--cache",
            "salt",
        ]
        with subprocess.Popen([*command, *options, "--out", str(alone)], cwd=ROOT) as single:
            running.end()
        assert single.returncode == 0
    line, _ = gathered(out)
    assert line["missing"] == []
    assert [worker["records"] > 400 for worker in line["workers"]] == [True] * 3
    assert all(worker["cpu_share"] and worker["loop_lag_p99_s"] for worker in line["workers"])
    found, one = records(out), records(alone)
    assert [record.seq for record in found] == list(range(2000))
    assert same_tokens(one, found)
    assert {chunks.seq: sum(chunks.tokens) for chunks in read_chunks(out / "chunks.bin")} == {
        record.seq: record.completion_tokens for record in found
    }
    for metric in ("tpot_s", "e2e_s"):
        assert request_by_request(found, one, metric) == pytest.approx(1, rel=0.02), metric
        assert beside_server(found, metric) == pytest.approx(beside_server(one, metric), rel=0.02), metric
    check_statistics(tmp_path / "locust_stats.csv", found)


def test_the_first_token_arrives_as_in_one_process(slow: str, tmp_path: Path) -> None:
    """TTFT is compared with one request at a time, so that no request waits for the step of another."""
    options = ("--target", slow, *PLAN, "2", "--rate", "16", "--arrival", "constant")
    with swarm(tmp_path / "swarm", *options, "--more=--cache=salt") as running:
        running.end()
    gathered(tmp_path / "swarm")
    done = loadgen(*options, "--cache", "salt", "--out", str(tmp_path / "alone"))
    assert done.returncode == 0, done.stderr
    found, one = records(tmp_path / "swarm"), records(tmp_path / "alone")
    assert same_tokens(one, found)
    for metric in ("ttft_s", "e2e_s"):
        assert request_by_request(found, one, metric) == pytest.approx(1, rel=0.02), metric


def check_statistics(path: Path, run: list[Record]) -> None:
    """Compare Locust's own CSV file with the records."""
    with path.open() as file:
        rows = {(row["Type"], row["Name"]): int(row["Request Count"]) for row in csv.DictReader(file)}
    assert rows == locust_rows(run)
