"""`search` and `run --loads` as a user calls them, against servers on sockets that refuse more than they can hold."""

import asyncio
import json
import os
import shutil
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from loadgen.cli import main
from loadgen.record import RECORDS, read_run
from loadgen.search.result import SearchFile, lines
from tests import ROOT
from tests.fixtures.control import ControlServer
from tests.fixtures.emulated import Command, loadgen
from tests.fixtures.hostile import BEHAVIOURS, HostileServer
from tests.fixtures.swarm import until

SMALL = ("--dataset", "sample", "--model", "m", "--cache", "keep", "--progress", "none", "--metrics-port", "off")
SLO = ("--slo", "e2e=30s")


class Slots(HostileServer):
    """Answers while at most `most` connections have sent streamed requests, and refuses all of these while there are more.

    A closed loop has one connection for each stream, so that the limit does not depend on the speed of the machine.
    """

    def __init__(self, most: int, service_s: float = 0.01) -> None:
        super().__init__()
        self.most, self.service_s = most, service_s
        self._streams: set[asyncio.StreamWriter] = set()

    async def behave(self, behaviour: str, writer: asyncio.StreamWriter) -> None:
        """Answer after the service time, or refuse; other pages than that of the answers do not exist."""
        line, _, body = self.requests[-1]
        if not line.startswith("POST"):
            behaviour = "404-html"
        elif body.get("stream"):
            self._streams.add(writer)
            await asyncio.sleep(self.service_s)
            behaviour = "500-json" if len(self._streams) > self.most else behaviour
        await BEHAVIOURS[behaviour](writer)

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            await super()._serve(reader, writer)
        finally:
            self._streams.discard(writer)


@contextmanager
def slots(most: int, service_s: float = 0.01) -> Iterator[str]:
    """Run such a server; yield its target."""
    with Slots(most, service_s).running() as server:
        yield server.target("plain")


def search(target: str, out: Path, *more: str) -> subprocess.CompletedProcess[str]:
    return loadgen("--target", target, *SMALL, *SLO, "--out", str(out), *more, verb="search")


def test_the_limit_of_a_server_that_refuses_more_than_five(tmp_path: Path) -> None:
    with slots(5) as target:
        done = search(target, tmp_path / "s", "--to", "16")
    assert done.returncode == 0, done.stderr
    found = json.loads((tmp_path / "s" / "search.json").read_text())
    assert json.loads(done.stdout) == {
        "search": str(tmp_path / "s"), "stopped": "resolved", "limit": {"load": 5, "interval": [5, 6]},
    }  # fmt: skip
    limit = found.pop("limit")
    assert (limit["load"], limit["interval"], limit["fails_first"]) == (5, [5, 6], "errors")
    assert limit["goodput"]["share"] == 1.0
    assert limit["requests_per_s"] > 0
    assert limit["completion_tokens_per_s"] > 0
    assert {name: found[name] for name in ("schema_version", "over", "slo", "attain", "from", "to", "stopped")} == {
        "schema_version": 1, "over": "streams", "slo": {"e2e": 30.0}, "attain": 0.95, "from": 1, "to": 16, "stopped": "resolved",
    }  # fmt: skip
    assert {probe["fails"] for probe in found["probes"] if probe["decision"] == "fail"} == {"errors"}
    assert all(read_run(tmp_path / "s" / run).verdict for probe in found["probes"] for run in probe["runs"])
    said = done.stderr.splitlines()
    assert "at most 20 min (--limit)" in said[0]
    assert "loadgen: limit 5 streams; 6 fails on errors" in said
    assert max(map(len, said[-2:])) <= 80


def test_a_server_that_fails_at_once_and_one_that_never_fails(tmp_path: Path) -> None:
    with slots(0) as target:
        at_once = search(target, tmp_path / "at-once")
    assert at_once.returncode == 1
    assert "1 stream: the objectives are not met at the lowest load" in at_once.stderr
    with slots(99) as target:
        never = search(target, tmp_path / "never", "--to", "2")
    assert never.returncode == 0, never.stderr
    assert json.loads(never.stdout)["stopped"] == "never failed"
    assert "limit 2 streams; no load tested fails" in never.stderr


def test_the_time_limit_and_resuming_after_it(tmp_path: Path) -> None:
    """The finished runs are kept: their records are the same files as before."""
    out = tmp_path / "s"
    with slots(3, service_s=0.05) as target:
        first = search(target, out, "--to", "4", "--limit", "3s")
        assert first.returncode in (0, 1)
        assert json.loads(first.stdout)["stopped"] == "time limit"
        kept = {run: (out / run / RECORDS).stat().st_mtime_ns for run in ("c1",)}
        again = loadgen("--resume", str(out), "--progress", "none", "--metrics-port", "off", verb="search")
    assert again.returncode == 0, again.stderr
    assert json.loads(again.stdout)["limit"] == {"load": 3, "interval": [3, 4]}
    assert {run: (out / run / RECORDS).stat().st_mtime_ns for run in kept} == kept


def test_a_server_that_ends_ends_the_search_with_what_is_known(tmp_path: Path) -> None:
    """The server goes away while eight streams are tested: the next run of the search finds none."""
    out = tmp_path / "s"
    with slots(99) as target:
        searching = Command("search", "--target", target, *SMALL, *SLO, "--from", "4", "--out", str(out))
        until((out / "c8").exists)
    done = searching.end()
    assert done.returncode == 4, done.stderr
    assert "no server at" in done.stderr
    found = json.loads((out / "search.json").read_text())
    assert found["stopped"] == json.loads(done.stdout)["stopped"] == "undecided"
    assert found["probes"][0]["run"] == "c4"


def test_a_search_that_ended_before_its_first_run_is_not_resumed(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    with slots(99) as target:
        assert search(target, tmp_path / "s", "--to", "1").returncode == 0
    shutil.rmtree(tmp_path / "s" / "c1")
    assert main(["search", "--resume", str(tmp_path / "s"), "--metrics-port", "off"]) == 2
    assert "the search ended before its first run: start a new one" in capsys.readouterr().err


def test_a_limit_above_which_no_load_fails_is_the_least(tmp_path: Path) -> None:
    with slots(2) as target:
        assert search(target, tmp_path / "s", "--to", "3").returncode == 0
    found = SearchFile.read(tmp_path / "s")
    assert next(iter(lines(found))) == "limit 2 streams; 3 fails on errors"
    assert found.limit is not None
    found.stopped, found.limit.interval = "undecided", (2, None)
    assert next(iter(lines(found))) == "limit at least 2 streams; no load tested fails (undecided)"


def test_ctrl_c_ends_a_search_with_what_is_known(tmp_path: Path) -> None:
    out = tmp_path / "s"
    with slots(99, service_s=0.05) as target:
        command = [sys.executable, "-m", "loadgen", "search", "--target", target, *SMALL, *SLO, "--out", str(out)]
        with subprocess.Popen(
            command, cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env=os.environ
        ) as process:
            assert process.stderr is not None
            said = iter(process.stderr.readline, "")
            assert any("1 stream: undecided" in line for line in said)
            process.send_signal(signal.SIGINT)
            stdout, _ = process.communicate(timeout=60)
    assert process.returncode == 130
    assert json.loads(stdout)["stopped"] == "interrupted"
    found = json.loads((out / "search.json").read_text())
    assert found["stopped"] == "interrupted"
    assert found["probes"][0]["run"] == "c1"


@pytest.mark.parametrize(
    ("words", "says"),
    [
        ([], "a search needs objectives: --slo"),
        (["--slo", "ttft=1s", "--concurrency", "4"], "a search sets the load"),
        (["--slo", "ttft=1s", "--rate", "4"], "a search sets the load"),
        (["--slo", "ttft=1s", "--requests", "4"], "a search chooses the number of requests"),
        (["--slo", "ttft=1s", "--from", "0.5"], "whole numbers of streams"),
        (["--slo", "ttft=1s", "--from", "8", "--to", "4"], "--from 8 is above --to 4"),
        (["--slo", "ttft=1s", "--attain", "1"], "--attain must be below 1"),
        (["--slo", "ttft=1s", "--repeats", "2"], "--one-pass and --repeats"),
    ],
)
def test_mistakes_are_one_line_before_the_first_request(
    words: list[str], says: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    server = ControlServer()
    with server.running() as target:
        assert main(["search", "--target", target, *SMALL, "--out", str(tmp_path / "s"), *words]) == 2
    said = capsys.readouterr().err
    assert says in said
    assert len(said.splitlines()) == 1
    assert server.seen == []
    assert not (tmp_path / "s").exists()


@pytest.mark.parametrize("content", [b"", b"[]", b'{"schema_version": 1}', b"[" * 100_000, b'{"schema_version": 99}'])
def test_a_folder_that_holds_no_search_cannot_be_resumed(
    content: bytes, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "search.json").write_bytes(content)
    assert main(["search", "--resume", str(tmp_path), "--metrics-port", "off"]) == 2
    said = capsys.readouterr().err
    assert "search.json" in said
    assert len(said.splitlines()) == 1


def test_several_loads_are_runs_in_one_folder_with_one_table(tmp_path: Path) -> None:
    out = tmp_path / "loads"
    with slots(99) as target:
        done = loadgen(
            "--target", target, *SMALL, "--budgets", "64", *SLO, "--loads", "1,4", "--requests", "12x",
            "--out", str(out),
        )  # fmt: skip
    assert done.returncode == 0, done.stderr
    assert [read_run(out / name).summary["requests"] for name in ("c1", "c4")] == [12, 48]
    titles, *rows = done.stderr.splitlines()[-3:]
    assert titles.split() == [
        "load",
        "requests/s",
        "tokens/s",
        "p95",
        "TTFT",
        "p95",
        "TPOT",
        "p95",
        "e2e",
        "SLO",
        "met",
    ]
    assert [row.split()[0] for row in rows] == ["1", "4"]
    assert all("100.0%" in row for row in rows)
    assert max(len(row) for row in (titles, *rows)) <= 80
    assert json.loads(done.stdout)["loads"] == str(out)


def test_loads_that_fail_decide_the_exit_code(tmp_path: Path) -> None:
    with slots(0) as target:
        done = loadgen(
            "--target", target, *SMALL, "--budgets", "64", "--loads", "20/s", "--requests", "1x",
            "--strict", "--out", str(tmp_path / "loads"),
        )  # fmt: skip
    assert done.returncode == 4
    assert "20/s" in done.stderr.splitlines()[-1]
    assert "INVALID" in done.stderr.splitlines()[-1]


@pytest.mark.parametrize("words", [["--concurrency", "4"], ["--rate", "1"], ["--resume", "x"], ["--loads", "1,1"]])
def test_loads_cannot_be_combined_with_another_load(words: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["run", "--metrics-port", "off", "--loads", "1,2", *words]) == 2
    assert "--loads" in capsys.readouterr().err


def test_the_rate_of_an_arrival_process_can_come_from_the_loads(capsys: pytest.CaptureFixture[str]) -> None:
    run = ["run", "--metrics-port", "off", "--dataset", "sample", "--dry-run", "--arrival", "constant"]
    with ControlServer().running() as target:
        assert main([*run, "--target", target, "--loads", "1/s,2/s"]) == 0
        assert capsys.readouterr().err.count("open loop") == 2
        assert main([*run, "--target", target, "--loads", "1/s,2"]) == 2
        assert "--arrival constant needs a rate" in capsys.readouterr().err
