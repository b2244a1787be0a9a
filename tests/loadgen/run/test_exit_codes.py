"""How a run ends for CI and for people: its exit code, its JUnit file, and what is on stdout and on a terminal."""

import json
import re
import shutil
import signal
import subprocess
import sys
import threading
import xml.etree.ElementTree as ET
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from itertools import count
from pathlib import Path
from typing import Any

import pytest

from loadgen.record import read_records, read_run
from tests.fixtures import terminal
from tests.fixtures.control import ControlServer, stream
from tests.fixtures.emulated import ROOT, loadgen
from tests.fixtures.hostile import PLAIN

PLAN = ("--dataset", "sample", "--budgets", "16", "--requests", "12", "--concurrency", "2", "--progress", "none")
COLOR = re.compile(r"\x1b\[[0-9;]*3[0-7]m")
NAUGHTY = 'out of \x1b[31mmemory\x00 <&"]]> [bold]'


class Handler(BaseHTTPRequestHandler):
    """The first part of the path says how many of three requests fail; `hang` never answers."""

    protocol_version = "HTTP/1.1"
    turn = count()

    def do_GET(self) -> None:
        """List one model. Nothing else is known."""
        models = self.path.endswith("/models")
        self.reply(200 if models else 404, b'{"data": [{"id": "m"}]}' if models else b"{}")

    def do_POST(self) -> None:
        """Answer the request that a run sends beforehand, and prompts according to the path."""
        body = json.loads(self.rfile.read(int(self.headers["content-length"])))
        kind = self.path.split("/")[1]
        if not body.get("stream"):
            self.reply(200, b"{}")
        elif kind == "hang":
            self.server.prompts.release()  # type: ignore[attr-defined]
            self.server.ended.wait()  # type: ignore[attr-defined]
        elif next(self.turn) % 3 < int(kind):
            self.reply(503, json.dumps({"error": {"message": NAUGHTY}}).encode())
        else:
            self.reply(200, PLAIN, "text/event-stream")

    def reply(self, status: int, body: bytes, kind: str = "application/json") -> None:
        """Send a response."""
        self.send_response(status)
        self.send_header("content-type", kind)
        self.send_header("content-length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *_: object) -> None:
        """Log nothing."""


class Server(ThreadingHTTPServer):
    """The server of all situations."""

    daemon_threads = True
    block_on_close = False
    prompts = threading.Semaphore(0)
    """Released for each prompt that is never answered."""
    ended = threading.Event()

    def target(self, kind: str) -> str:
        """Return the URL at which this many of three requests fail."""
        return f"http://127.0.0.1:{self.server_port}/{kind}/v1"


@pytest.fixture(scope="module")
def server() -> Iterator[Server]:
    with Server(("127.0.0.1", 0), Handler) as found:
        thread = threading.Thread(target=found.serve_forever)
        thread.start()
        yield found
        found.ended.set()
        found.shutdown()
        thread.join()


MET = ("--require", "failed<=99%")
NOT_MET = ("--require", "ttft.p50<0.001ms")
SITUATIONS: dict[str, tuple[str, tuple[str, ...], int]] = {
    "every request succeeds": ("0", (), 0),
    "a requirement holds": ("0", MET, 0),
    "a requirement does not hold": ("0", (*MET, *NOT_MET), 1),
    "the sample is too small for a requirement": ("0", ("--require", "ttft.p99<1h"), 1),
    "nothing was measured for a requirement": ("0", ("--require", "tpot.p50<1h", "--no-stream"), 2),
    "a third of the requests fails": ("1", (), 4),
    "a third fails, which is what is measured": ("1", ("--expect-failures", *MET), 0),
    "more fail than a requirement allows": ("1", ("--expect-failures", "--require", "failed<10%"), 1),
    "every request fails": ("3", (), 4),
    "every request fails, and what is required holds": ("3", ("--require", "failed>50%"), 4),
    "the run is SUSPECT": ("0", ("--percentile", "p99"), 0),
    "the run is SUSPECT, with --strict": ("0", ("--percentile", "p99", "--strict"), 3),
    "it is SUSPECT, and a requirement does not hold": ("0", ("--percentile", "p99", "--strict", *NOT_MET), 1),
    "the run is stopped by failures": ("3", ("--abort-after", "3"), 4),
    "an unknown metric": ("0", ("--require", "accuracy>0.8"), 2),
    "goodput without objectives": ("0", ("--require", "goodput>0.8"), 2),
    "an objective without a unit": ("0", ("--slo", "ttft=200"), 2),
}


@pytest.mark.parametrize("situation", SITUATIONS)
def test_the_exit_code_says_how_the_run_ended(server: Server, tmp_path: Path, situation: str) -> None:
    kind, options, code = SITUATIONS[situation]
    out = tmp_path / "run"
    done = loadgen("--target", server.target(kind), *PLAN, *options, "--out", str(out))
    assert done.returncode == code, done.stderr
    if code == 2:
        assert done.stderr.count("\n") == 1
        assert not out.exists()
        return
    run = read_run(out)
    assert (run.verdict == "INVALID") == (code == 4)
    line = json.loads(done.stdout.splitlines()[-1])
    assert line.get("requirements", []) == run.requirements
    for row in run.requirements:
        assert f"{'met    ' if row['met'] else 'NOT MET'}  {row['text']}: " in done.stderr
    assert "\x1b" not in done.stderr
    assert max(map(len, done.stderr.splitlines())) <= 80
    if int(kind):
        assert "http_error" in done.stderr or "server_error" in done.stderr
        assert "out of" in done.stderr


def test_an_interrupted_run_says_so(server: Server, tmp_path: Path) -> None:
    """Ctrl-C twice, while no answer comes: 130, and the JUnit file says that the run is INVALID."""
    command = [sys.executable, "-m", "loadgen", "--metrics-port", "off", "--target", server.target("hang"), *PLAN]
    command += ["--progress", "plain", "--out", str(tmp_path / "run"), "--junit", str(tmp_path / "junit.xml")]
    with subprocess.Popen(command, cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.PIPE) as process:
        server.prompts.acquire()
        process.send_signal(signal.SIGINT)
        assert process.stderr is not None
        while b"stopping" not in process.stderr.readline():
            pass
        process.send_signal(signal.SIGINT)
        process.communicate()
    assert process.returncode == 130
    assert failures(tmp_path / "junit.xml")["verdict"].startswith("INVALID")


@pytest.mark.parametrize(
    ("kind", "limit", "workers"), [("3", "5", "1"), ("3", "60%", "1"), ("3", "5", "2"), ("2", "50%", "1")]
)
def test_a_run_that_only_fails_is_stopped(server: Server, tmp_path: Path, kind: str, limit: str, workers: str) -> None:
    """Every request that was sent has a record, most are not sent, and the reason says why."""
    out = tmp_path / "run"
    options = (*PLAN, "--requests", "20000", "--abort-after", limit, "--workers", workers)
    done = loadgen("--target", server.target(kind), *options, "--out", str(out))
    assert done.returncode == 4, done.stderr
    found = list(read_records(out / "records.jsonl"))
    assert (10 if limit.endswith("%") else 5) <= len(found) < 20_000
    assert sorted(record.seq for record in found) == list(range(len(found))) or workers != "1"
    run = read_run(out)
    assert f"(--abort-after {limit}: " in run.reasons[0]
    assert "requests failed)" in run.reasons[0]


def test_a_run_that_fails_less_than_its_limit_goes_on(server: Server, tmp_path: Path) -> None:
    """A third fails. Where the first two of ten failed, a limit of half of them is not reached."""
    options = ("--target", server.target("1"), *PLAN, "--requests", "30", "--abort-after", "50%")
    done = loadgen(*options, "--expect-failures", "--out", str(tmp_path / "run"))
    assert done.returncode == 0, done.stderr
    assert len(list(read_records(tmp_path / "run" / "records.jsonl"))) == 30


def failures(path: Path) -> dict[str, str]:
    """Return the message of each failed test case by its name, with an empty one for those that passed."""
    suite = ET.parse(path).getroot()
    cases = suite.findall("testcase")
    found = {case.get("name", ""): "".join(f.text or "" for f in case.findall("failure")) for case in cases}
    assert suite.get("tests") == str(len(cases))
    assert suite.get("failures") == str(sum(map(bool, found.values())))
    return found


def test_junit_has_a_case_for_the_verdict_and_for_each_requirement(server: Server, tmp_path: Path) -> None:
    path = tmp_path / "junit.xml"
    path.write_text("of an earlier run")
    options = ("--target", server.target("0"), *PLAN, *MET, *NOT_MET, "--junit", str(path))
    assert loadgen(*options, "--out", str(tmp_path / "run")).returncode == 1
    found = failures(path)
    assert list(found) == ["verdict", MET[1], NOT_MET[1]]
    assert (found["verdict"], found[MET[1]]) == ("", "")
    assert found[NOT_MET[1]].startswith(f"{NOT_MET[1]}: measured: ")


def test_junit_of_an_invalid_run_has_the_reasons(server: Server, tmp_path: Path) -> None:
    path = tmp_path / "junit.xml"
    options = ("--target", server.target("3"), *PLAN, *MET, "--junit", str(path))
    assert loadgen(*options, "--out", str(tmp_path / "run")).returncode == 4
    assert "no request succeeded" in failures(path)["verdict"]
    assert "measured: 100.00%" in failures(path)[MET[1]]


def test_junit_that_cannot_be_written_is_refused_before_the_run(server: Server, tmp_path: Path) -> None:
    out = tmp_path / "run"
    done = loadgen("--target", server.target("0"), *PLAN, "--junit", str(tmp_path / "no" / "x"), "--out", str(out))
    assert (done.returncode, done.stderr.count("\n"), out.exists()) == (2, 1, False)
    assert "--junit" in done.stderr


def on_a_terminal(columns: int, *arguments: str, **env: str) -> str:
    return terminal.on_a_terminal(columns, "--metrics-port", "off", *arguments, **env)


@pytest.mark.parametrize("columns", [80, 160])
def test_a_terminal_shows_the_block_and_no_json(server: Server, tmp_path: Path, columns: int) -> None:
    plan = (*PLAN, "--slo", "e2e=10s", "--budgets", "16,32", "--expect-failures")
    arguments = ("--target", server.target("1"), *plan)
    seen = on_a_terminal(columns, *arguments, "--out", str(tmp_path / "run"))
    plain = terminal.ANSI.sub("", seen)
    assert terminal.ANSI.search(seen)
    assert '"verdict"' not in plain
    assert max(len(line.rstrip("\r\n")) for line in plain.splitlines()) <= columns
    assert ("interval of p50" in plain) == (columns >= 130)
    assert "SLO        66.7%" in plain
    assert [line.split()[:2] for line in plain.splitlines() if line.startswith("E2E")] == [["E2E", "16"], ["E2E", "32"]]


def test_json_is_printed_on_a_terminal_if_asked_for_and_no_color_is_honored(server: Server, tmp_path: Path) -> None:
    arguments = ("--target", server.target("0"), *PLAN, "--json", "--out", str(tmp_path / "run"))
    seen = on_a_terminal(80, *arguments, NO_COLOR="1")
    line: dict[str, Any] = json.loads(next(line for line in seen.splitlines() if line.startswith("{")))
    assert line["requests"] == 12
    assert COLOR.search(seen) is None


def test_a_junit_file_that_cannot_be_written_at_the_end_is_one_line(tmp_path: Path) -> None:
    """The folder of the file is removed during the run. The run keeps its verdict, and the job fails."""
    (tmp_path / "ci").mkdir()

    def answer(_body: Any) -> tuple[int, bytes]:
        shutil.rmtree(tmp_path / "ci", ignore_errors=True)
        return 200, stream()

    with ControlServer({"/v1/chat/completions": answer}).running() as target:
        junit = ("--junit", str(tmp_path / "ci" / "junit.xml"))
        done = loadgen("--target", target, *PLAN, *junit, "--out", str(tmp_path / "run"))
    assert (done.returncode, "Traceback" in done.stderr) == (1, False), done.stderr
    assert f"loadgen: --junit {junit[1]}: No such file or directory" in done.stderr
    assert json.loads(done.stdout)["verdict"] == read_run(tmp_path / "run").verdict == "SUSPECT"
