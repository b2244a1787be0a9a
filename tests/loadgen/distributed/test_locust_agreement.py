"""Locust and one process of the load generator send the same requests, get the same answers and use the same formulas.

How well their times agree depends on what else the machine does: `benchmarks/locust_agreement.py` compares them.
"""

import csv
from collections.abc import Iterator
from pathlib import Path

import pytest

from benchmarks.locust_agreement import reported_s, same_tokens
from loadgen.chunks import Chunks, read_chunks
from loadgen.record import Record
from tests.fixtures.emulated import emulated, loadgen
from tests.fixtures.swarm import gathered, locust, locust_rows, records

ROUNDED_S = 2e-6
"""Arrivals are stored in whole microseconds."""


@pytest.fixture(scope="module")
def target() -> Iterator[str]:
    with emulated("tp1", "--enable-per-request-metrics", model="r1-distill-qwen-14b") as url:
        yield url


def test_2000_requests_once_each_and_the_metrics_of_one_process(target: str, tmp_path: Path) -> None:
    """A master with 3 workers, and then `python -m loadgen` on the same server at the same load.

    Each seq is recorded once, every worker takes part, and the answers are the same. In both runs, each figure is what its
    formula makes of the arrivals in chunks.bin, and no request is faster than the server says.
    """
    plan = ("--dataset", "sample", "--budgets", "8,16", "--requests", "2000", "--rate", "160")
    options = ("--target", target, *plan)
    out, alone = tmp_path / "swarm", tmp_path / "alone"
    more = ("--more=--cache=salt", "--csv", str(tmp_path / "locust"), "--out", str(out))
    log = tmp_path / "log"
    process = locust("--headless", "--only-summary", "--processes", "3", *options, *more, log=log)
    assert process.wait(timeout=200) == 0, log.read_text()
    line, _ = gathered(out)
    done = loadgen(*options, "--cache", "salt", "--out", str(alone))
    assert done.returncode == 0, done.stderr
    assert line["missing"] == []
    assert [worker["records"] > 100 for worker in line["workers"]] == [True] * 3
    assert all(worker["cpu_share"] and worker["loop_lag_p99_s"] for worker in line["workers"])
    found, one = records(out), records(alone)
    assert [record.seq for record in found] == list(range(2000))
    assert same_tokens(one, found)
    check_formulas(out, found)
    check_formulas(alone, one)
    check_statistics(tmp_path / "locust_stats.csv", found)


def check_formulas(folder: Path, run: list[Record]) -> None:
    """Compare the records with their arrivals and with the server's own timings."""
    arrivals = {chunks.seq: chunks for chunks in read_chunks(folder / "chunks.bin")}
    assert {seq: sum(chunks.tokens) for seq, chunks in arrivals.items()} == {
        record.seq: record.completion_tokens for record in run
    }
    for record in run:
        check_times(record, arrivals[record.seq])
        assert (record.e2e_s or 0.0) >= reported_s(record, "e2e_s") > 0
        assert (record.ttft_s or 0.0) >= reported_s(record, "ttft_s") > 0
    assert any(record.tpot_s for record in run)


def check_times(record: Record, chunks: Chunks) -> None:
    """Compare the times of one record with its arrivals; TPOT is not measured where most tokens arrived together."""
    first_s, last_s = chunks.arrival_us[0] / 1e6, chunks.arrival_us[-1] / 1e6
    assert record.sent_s is not None
    assert record.ttft_s == pytest.approx(first_s - record.sent_s, abs=ROUNDED_S)
    assert record.e2e_s == pytest.approx(last_s - record.sent_s, abs=ROUNDED_S)
    if record.tpot_s is not None:
        after_first = sum(chunks.tokens[1:])
        assert record.tpot_s * after_first == pytest.approx(last_s - first_s, abs=ROUNDED_S)


def check_statistics(path: Path, run: list[Record]) -> None:
    """Compare Locust's own CSV file with the records."""
    with path.open() as file:
        rows = {(row["Type"], row["Name"]): int(row["Request Count"]) for row in csv.DictReader(file)}
    assert rows == locust_rows(run)
