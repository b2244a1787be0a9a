"""A damaged result folder gives a right answer or one line: the same lines are skipped by `grade`, `report` and `--resume`.

`THINKLOAD_FUZZ=500 python -m pytest tests/reliability/test_damaged_folders.py` tries 500 folders instead of a few.
"""

import json
import os
import random
import resource
import shutil
import subprocess
import sys
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from typing import get_args

import pytest
from hypothesis import given
from hypothesis import strategies as st

from analysis.data.records_reader import read_columns
from loadgen.exchange import Outcome
from loadgen.record import DamagedLines, decode_record, read_records, read_run
from tests.fixtures.emulated import ROOT, emulated, loadgen

FOLDERS = int(os.environ.get("THINKLOAD_FUZZ", "6"))
MEMORY = 500 << 20
RECORD = {"run_id": "r", "seq": 1, "problem_id": "p", "budget": 8, "due_s": 0.0, "outcome": "ok"}
DAMAGED = {
    "NUL hole": b"\0" * 512 + b'{"seq": 1}\n',
    "NaN": json.dumps(RECORD | {"ttft_s": float("nan")}).encode() + b"\n",
    "infinity": json.dumps(RECORD | {"e2e_s": float("inf")}).encode() + b"\n",
    "byte order mark": b"\xef\xbb\xbf" + json.dumps(RECORD).encode() + b"\n",
    "unknown outcome": json.dumps(RECORD | {"outcome": "great\x1b[2J"}).encode() + b"\n",
    "schema of the future": json.dumps(RECORD | {"schema": 7}).encode() + b"\n",
    "schema zero": json.dumps(RECORD | {"schema": 0}).encode() + b"\n",
    "not UTF-8": b'{"run_id": "\xff\xfe"}\n',
    "an array": b"[1, 2]\n",
    "nested deeply": json.dumps(RECORD)[:-1].encode() + b', "server_timings": ' + b'{"a":' * 5000 + b"1" + b"}" * 5001 + b"\n",
    "large number": json.dumps(RECORD | {"completion_tokens": 10**400}).encode() + b"\n",
    "a text as number": json.dumps(RECORD | {"budget": "8"}).encode() + b"\n",
    "half a record": json.dumps(RECORD).encode()[:40] + b"\n",
    "two records": json.dumps(RECORD).encode() * 2 + b"\n",
    "an empty line": b"\n",
}  # fmt: skip


@pytest.fixture(scope="module")
def target() -> Iterator[str]:
    with emulated("tp1", "--speed", "40") as url:
        yield url


@pytest.fixture(scope="module")
def run(target: str, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A complete run of 24 requests, of which 8 are derived."""
    out = tmp_path_factory.mktemp("whole") / "run"
    plan = ("--dataset", "sample", "--problems", "8", "--budgets", "16,64", "--one-pass", "--concurrency", "4")
    done = loadgen("--target", target, *plan, "--out", str(out))
    assert done.returncode == 0, done.stderr
    return out


def analysis(command: str, folder: Path, *more: str) -> "subprocess.CompletedProcess[str]":
    return limited([sys.executable, "-m", "analysis", command, str(folder), *more])


def limited(command: list[str]) -> "subprocess.CompletedProcess[str]":
    """Run a command that may use 500 MB and a bounded time.

    Without limits, each thread of a library takes tens of MB, and their number depends on the machine and on its load.
    """
    few_threads = {"OMP_NUM_THREADS": "1", "ARROW_IO_THREADS": "1"}
    return subprocess.run(
        command, cwd=ROOT, env=os.environ | few_threads,
        capture_output=True, text=True, check=False, timeout=200, preexec_fn=limit_memory,
    )  # fmt: skip


def limit_memory() -> None:
    resource.setrlimit(resource.RLIMIT_DATA, (MEMORY, MEMORY))


@pytest.mark.parametrize("kind", DAMAGED)
def test_a_damaged_line_is_skipped_counted_and_named(kind: str, tmp_path: Path) -> None:
    """The reader of runs and the reader of the analysis agree on which lines are records."""
    path = tmp_path / "records.jsonl"
    good = [json.dumps(RECORD | {"seq": seq, "text": "x"}).encode() + b"\n" for seq in range(4)]
    path.write_bytes(b"".join([*good[:2], DAMAGED[kind], *good[2:], b'{"torn']))
    damaged = DamagedLines()
    assert [record.seq for record in read_records(path, damaged)] == [0, 1, 2, 3]
    assert (damaged.count, damaged.torn) == (2, True)
    assert str(damaged).startswith("2 damaged lines were skipped (line 3: ")
    assert "\x1b" not in str(damaged)
    found = DamagedLines()
    table = read_columns(path, found)
    assert table.column("seq").to_pylist() == [0, 1, 2, 3]
    assert str(found) == str(damaged)


@given(st.binary(max_size=80), st.integers(0, 200))
def test_a_changed_line_is_a_record_or_a_reason(noise: bytes, position: int) -> None:
    line = json.dumps(RECORD).encode() + b"\n"
    changed = line[:position] + noise + line[position + len(noise) :]
    with suppress(ValueError):
        assert decode_record(changed).outcome in get_args(Outcome)


def test_every_command_skips_the_same_lines_and_resume_sends_them_again(target: str, run: Path, tmp_path: Path) -> None:
    folder = tmp_path / "run"
    shutil.copytree(run, folder)
    path = folder / "records.jsonl"
    lines = path.read_bytes().splitlines(keepends=True)
    position = next(n for n, line in enumerate(lines) if not json.loads(line).get("derived"))
    lines[position] = b"\0" * len(lines[position][:-1]) + b"\n"
    path.write_bytes(b"".join(lines))
    named = f"1 damaged line was skipped (line {position + 1}: "
    assert named in analysis("grade", folder).stderr
    assert named in analysis("report", folder, "--page-only", "--out", str(tmp_path / "page")).stderr
    done = loadgen("--resume", str(folder))
    assert done.returncode == 0, done.stderr
    assert named in done.stderr
    found = list(read_records(path))
    assert sorted(record.seq for record in found) == sorted(
        record.seq for record in read_records(run / "records.jsonl")
    )
    assert (folder / "damaged-lines.txt").read_bytes() == lines[position]


def test_a_schema_of_the_future_is_refused_in_one_line(run: Path, tmp_path: Path) -> None:
    folder = tmp_path / "run"
    shutil.copytree(run, folder)
    content = json.loads((folder / "run.json").read_text())
    (folder / "run.json").write_text(json.dumps(content | {"schema": 2}))
    for done in (
        analysis("grade", folder),
        analysis("report", folder, "--out", str(tmp_path / "page")),
        loadgen("--resume", str(folder)),
    ):
        assert done.returncode == 2
        assert "has schema 2" in done.stderr
        assert done.stderr.count("\n") == 1


def test_a_torn_line_of_straddles_does_not_stop_resume(target: str, run: Path, tmp_path: Path) -> None:
    folder = tmp_path / "run"
    shutil.copytree(run, folder)
    path = folder / "records.jsonl"
    path.write_bytes(path.read_bytes()[:-9])
    (folder / "straddles.jsonl").write_bytes(b'[8,{"before":[1,2][9,{"before":[],"kept":[1],"piece":["",""]}]\n')
    done = loadgen("--resume", str(folder))
    assert done.returncode == 0, done.stderr
    assert read_run(folder).verdict is not None
    assert not (folder / "straddles.jsonl").exists()


def test_negative_and_extreme_values_do_not_end_the_report(run: Path, tmp_path: Path) -> None:
    folder = tmp_path / "run"
    shutil.copytree(run, folder)
    path = folder / "records.jsonl"
    rows = [json.loads(line) for line in path.read_text().splitlines()]
    for number, row in enumerate(rows):
        for name in ("ttft_s", "e2e_s", "sent_s", "due_s", "end_s", "completion_tokens", "prompt_tokens", "chunks"):
            if name in row:
                row[name] = (-1, 0, -(10**15), 10**15)[number % 4]
        row["server_timings"] = ({"queue_time_ms": "x"}, {"queue_time_ms": 1e300}, {"speculative_decoding": 3})[
            number % 3
        ]
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    for done in (analysis("grade", folder), analysis("report", folder, "--page-only", "--out", str(tmp_path / "page"))):
        assert done.returncode == 0, done.stderr
        assert "Traceback" not in done.stderr


def changed(data: bytes, kind: str, rng: random.Random) -> bytes:
    """The content of a file after one kind of damage at a random place."""
    at = rng.randrange(len(data) + 1)
    lines, words = data.splitlines(keepends=True), data.split(b":")
    number = rng.choice((b"-1", b"null", b"1e999", b"NaN", b"true", b'"x"', b"[]", b"{}", b"9" * 400))
    place = rng.randrange(len(words))
    return {
        "cut": data[:at],
        "hole": data[:at] + bytes(len(data[at : at + 300])) + data[at + 300 :],
        "noise": data[:at] + rng.randbytes(9) + data[at + 9 :],
        "double": data * 2,
        "empty": b"",
        "line": b"".join([*lines[: at % (len(lines) + 1)], rng.choice(list(DAMAGED.values())), *lines[at % (len(lines) + 1) :]]),
        "value": b":".join([*words[:place], number + b"," + words[place].partition(b",")[2], *words[place + 1 :]]),
        "nest": rng.choice((b"[", b'{"a":')) * 100_000,
    }[kind]  # fmt: skip


def damage(folder: Path, rng: random.Random) -> str:
    """Damage one or two files of a folder, and say how."""
    done = []
    for _ in range(rng.randint(1, 2)):
        path = rng.choice(sorted(p for p in folder.iterdir() if p.is_file() and p.name != "run.lock"))
        kind = rng.choice(("cut", "hole", "noise", "double", "empty", "gone", "line", "value", "nest", "folder"))
        data = path.read_bytes()
        path.unlink()
        if kind == "folder":
            path.mkdir()
        elif kind != "gone":
            path.write_bytes(changed(data, kind, rng))
        done.append(f"{path.name}: {kind}")
    return ", ".join(done)


@pytest.mark.timeout(0)
@pytest.mark.parametrize("seed", range(FOLDERS))
def test_any_damage_gives_an_answer_or_one_line(target: str, run: Path, tmp_path: Path, seed: int) -> None:
    """No traceback, no hang and no more than 500 MB, for `grade`, `report` and `--resume`."""
    folder = tmp_path / "run"
    shutil.copytree(run, folder)
    how = damage(folder, random.Random(seed))
    resume = [sys.executable, "-m", "loadgen", "--metrics-port", "off", "--resume", str(folder)]
    for done in (
        analysis("grade", folder),
        analysis("report", folder, "--page-only", "--out", str(tmp_path / "page")),
        limited(resume),
    ):
        assert done.returncode in (0, 2), (how, done.args, done.stderr[-3000:])
        assert "Traceback" not in done.stderr, (how, done.args, done.stderr[-3000:])
        if done.returncode == 2:
            assert sum(line.startswith(("loadgen: ", "analysis: ")) for line in done.stderr.splitlines()) >= 1
            assert json.loads(done.stdout or "null") is None
