"""`gather` and what it relies on: numbers are assigned once, clocks are compared, and wrong folders are refused."""

from collections import Counter
from pathlib import Path

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from loadgen.distributed.assignment import Assignments
from loadgen.distributed.clock_sync import ClockProbe, drift_s, estimate_start_s, wall_offset_s
from loadgen.distributed.messages import Distributed, WorkerInfo
from loadgen.record import Record, RunInfo
from tests.fixtures.swarm import gather, gathered

RUN = RunInfo(run_id="r", config="c", model="m", target="t", started_at="", clock={"wall_s": 1000.0, "perf_s": 50.0})


@given(
    st.integers(0, 40),
    st.integers(0, 10),
    st.lists(st.tuples(st.sampled_from("abcd"), st.integers(0, 9), st.booleans())),
)
def test_every_number_is_assigned_once_while_workers_come_and_go(
    measured: int, warmup: int, steps: list[tuple[str, int, bool]]
) -> None:
    """Workers request, finish and disappear in any order: no number is assigned twice, skipped or beyond the limit."""
    assignments, assigned = Assignments(measured + warmup), []
    unfinished: dict[str, int] = {}
    finished: Counter[str] = Counter()
    assignments.limit = warmup
    for worker, count, leaves in steps:
        numbers = assignments.assign(worker, count)
        assigned += numbers
        unfinished[worker] = unfinished.get(worker, 0) + len(numbers)
        if leaves:
            unfinished[worker] = 0
        elif unfinished[worker]:
            finished[worker] += 1
            assignments.finish(worker, finished[worker])
            unfinished[worker] -= 1
        if len(assigned) == warmup:
            assignments.limit = measured + warmup
    assert assigned == list(range(len(assigned)))
    assert len(assigned) <= measured + warmup
    assert assignments.exhausted == (len(assigned) == measured + warmup)


def worker(name: str, **changes: object) -> WorkerInfo:
    plain = {
        "name": name,
        "host": name,
        "run_id": "r",
        "clock": {"wall_s": 1000.0, "perf_s": 50.0},
        "zero_s": 50.0,
        "error_s": 0.0,
        "probes": [],
    }
    return msgspec.convert(plain | changes, WorkerInfo)


trips = st.lists(st.tuples(st.floats(0, 0.2), st.floats(0, 0.2)), min_size=1, max_size=9)


@given(st.floats(-1e6, 1e6), trips)
def test_the_estimated_start_is_within_its_error(start_s: float, delays: list[tuple[float, float]]) -> None:
    """Whatever the network delays, the error is at most the one given, and that is at most half the fastest round trip."""
    probes = [ClockProbe(start_s + at, at + out, start_s + at + out + back) for at, (out, back) in enumerate(delays)]
    found_s, error_s = estimate_start_s("another boot", 0.0, probes)
    assert abs(found_s - start_s) <= error_s + 1e-6
    assert error_s <= min(out + back for out, back in delays) / 2 + 1e-6


@given(st.floats(-0.05, 0.05), trips)
def test_the_drift_of_a_clock_is_found(drift: float, delays: list[tuple[float, float]]) -> None:
    """The found drift is never larger than the real one, and is equal to it if the network is fast."""
    probes = [ClockProbe(50.0 + at, at + out + drift, 50.0 + at + out + back) for at, (out, back) in enumerate(delays)]
    found_s = drift_s(50.0, probes)
    assert abs(drift) - max(max(delay) for delay in delays) - 1e-6 <= found_s <= abs(drift) + 1e-6


def test_wall_clocks_are_compared_through_both_anchors() -> None:
    """The wall clock of a host is 3 s ahead, and its monotonic clock has another origin."""
    fast = {"wall_s": 1013.0, "perf_s": 710.0}
    assert wall_offset_s(RUN.clock, fast, start_s=700.0) == pytest.approx(-3.0)


def write(folder: Path, *workers: WorkerInfo, seqs: tuple[range, ...]) -> None:
    """Write the files that some workers leave on their host."""
    folder.mkdir(exist_ok=True)
    for each, own in zip(workers, seqs, strict=True):
        lines = [
            msgspec.json.encode(Record(run_id=each.run_id, seq=seq, problem_id="p", budget=8, due_s=0.0, outcome="refused", end_s=1.0))
            for seq in own
        ]  # fmt: skip
        (folder / f"records.{each.name}.jsonl").write_bytes(b"".join(line + b"\n" for line in lines))
        (folder / f"worker.{each.name}.json").write_bytes(msgspec.json.encode(each))


@pytest.fixture
def hosts(tmp_path: Path) -> tuple[Path, Path]:
    """The master's folder with the files of one worker, and the folder of another host with those of two."""
    here, there = tmp_path / "here", tmp_path / "there"
    write(here, worker("a-0"), seqs=(range(3),))
    write(there, worker("b-1"), worker("b-2"), seqs=(range(3, 5), range(5, 9)))
    found = Distributed(run=RUN, total=9, workers=["a-0", "b-1", "b-2"])
    (here / "distributed.json").write_bytes(msgspec.json.encode(found))
    return here, there


def test_folders_of_several_hosts_make_one_run(hosts: tuple[Path, Path], tmp_path: Path) -> None:
    line, _ = gathered(*hosts, "--out", tmp_path / "out")
    assert (line["requests"], line["missing"]) == (9, [])
    assert [row["records"] for row in line["workers"]] == [3, 2, 4]
    assert all(path.exists() for path in hosts), "the files of the hosts are kept"


def test_one_slow_worker_is_a_reason_against_the_run(hosts: tuple[Path, Path], tmp_path: Path) -> None:
    """Its lag and its CPU count for the run, however idle the others are. A clock of unknown offset is a reason too."""
    idle = {"wall_s": 9.0, "cpu_s": 0.9, "cpu_share": 0.1, "loop_lags_s": [0.0001] * 900, "gc_pauses": 0, "gc_pause_max_s": 0.0,
            "gc_pause_total_s": 0.0, "open_files_max": 9, "open_files_limit": 99, "rss_max_mb": 9.0}  # fmt: skip
    slow = idle | {"loop_lags_s": [0.08] * 5, "cpu_share": 0.95}
    reports = {"a-0": idle, "b-1": slow, "b-2": idle}
    for folder in hosts:
        for path in folder.glob("worker.*.json"):
            name = path.name.split(".")[1]
            path.write_bytes(msgspec.json.encode(worker(name, report=reports[name], error_s=0.04 * (name == "b-2"))))
    line, _ = gathered(*hosts, "--out", tmp_path / "out")
    reasons = " ".join(line["reasons"])
    assert "event-loop lag p99 80 ms" in reasons
    assert "95% of a core" in reasons
    assert "worker b-2: its clock is known to 40 ms only" in reasons


def test_wrong_folders_are_refused_in_one_line(hosts: tuple[Path, Path], tmp_path: Path) -> None:
    """The exit code is 2, and nothing is written."""
    here, there = hosts
    out = ("--out", tmp_path / "out")
    refused("none has a distributed.json", there, *out)
    refused("is no folder", here, tmp_path / "nowhere", *out)
    refused("given twice", here, here, *out)
    refused("no files of worker b-1, b-2", here, *out)
    write(tmp_path / "copy", worker("b-1"), seqs=(range(3, 5),))
    refused("worker b-1 is there twice", here, there, tmp_path / "copy", *out)
    write(tmp_path / "older", worker("c-0", run_id="older"), seqs=(range(3),))
    refused("is of run older", here, there, tmp_path / "older", *out)
    write(tmp_path / "overlap", worker("c-3"), seqs=(range(2, 4),))
    refused("2 requests are recorded twice", here, there, tmp_path / "overlap", *out)
    (tmp_path / "master").mkdir()
    (tmp_path / "master" / "distributed.json").write_bytes((here / "distributed.json").read_bytes())
    refused("each have a distributed.json", here, tmp_path / "master", *out)


def test_a_file_that_is_missing_or_broken_is_named(hosts: tuple[Path, Path], tmp_path: Path) -> None:
    here, there = hosts
    out = ("--out", tmp_path / "out")
    info, lines = there / "worker.b-1.json", there / "records.b-1.jsonl"
    kept = info.read_bytes(), lines.read_bytes()
    info.unlink()
    refused("no worker.b-1.json beside it", *hosts, *out)
    info.write_bytes(b"{")
    refused("worker.b-1.json cannot be read", *hosts, *out)
    info.write_bytes(kept[0])
    lines.unlink()
    refused("no records.b-1.jsonl beside it", *hosts, *out)
    lines.write_bytes(b"nonsense\n" + kept[1])
    refused("records.b-1.jsonl can't be read", *hosts, *out)
    lines.write_bytes(kept[1])
    (here / "distributed.json").write_bytes(b"[]")
    refused("distributed.json cannot be read", *hosts, *out)


def test_the_requests_of_a_lost_host_are_missing(hosts: tuple[Path, Path], tmp_path: Path) -> None:
    """With --partial, its requests are missing, and its workers are reasons against the run."""
    line, _ = gathered(hosts[0], "--partial", "--out", tmp_path / "out")
    assert line["missing"] == list(range(3, 9))
    assert line["verdict"] == "INVALID"
    assert "worker b-2 left no files: how busy it was is not known" in line["reasons"]


def refused(message: str, *arguments: str | Path) -> None:
    done = gather(*arguments)
    assert (done.returncode, done.stdout) == (2, ""), done.stderr
    (line,) = done.stderr.splitlines()
    assert line.startswith(("loadgen: gather: ", "loadgen: /"))
    assert message in line
    assert not Path(arguments[-1]).exists()
