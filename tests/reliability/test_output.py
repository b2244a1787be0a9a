"""Interrupts end a program in time, and a terminal, a pipe or a text from outside does no harm."""

import json
import os
import pty
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import psutil
import pytest
from hypothesis import given
from hypothesis import strategies as st

from analysis.page.export import FORMULA, as_text
from loadgen.record import read_records, read_run
from loadgen.terminal import printable
from tests.fixtures.emulated import ROOT, emulated, loadgen
from tests.fixtures.make_records import main as make_records
from tests.fixtures.swarm import until

COMMAND = (sys.executable, "-m", "loadgen", "--metrics-port", "off")
PLAN = ("--dataset", "sample", "--problems", "8", "--budgets", "32", "--concurrency", "4")


@pytest.fixture(scope="module")
def target() -> Iterator[str]:
    with emulated("tp1", "--speed", "5") as url:
        yield url


class Hostile(BaseHTTPRequestHandler):
    """A server whose model id has the brackets of terminal markup, and whose answers never come."""

    model = "m[31m]evil[/bold]"
    more_models: tuple[str, ...] = ()
    hang_metrics = False
    asked_metrics = False

    def do_GET(self) -> None:
        """Answer /models, and no other control request once a prompt was sent."""
        if self.path.endswith("/metrics") and self.hang_metrics:
            type(self).asked_metrics = True
            time.sleep(60)
        models = {"data": [{"id": name} for name in (*self.more_models, self.model)]}
        body = json.dumps(models).encode() if self.path.endswith("/models") else b"{}"
        self.reply(body)

    def do_POST(self) -> None:
        """Answer the request that a run sends beforehand, and never a prompt of the load."""
        body = json.loads(self.rfile.read(int(self.headers["content-length"])))
        if not body.get("stream"):
            self.reply(b"{}")
            return
        type(self).hang_metrics = True
        time.sleep(60)

    def reply(self, body: bytes) -> None:
        """Send a JSON body."""
        self.send_response(200)
        self.send_header("content-length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *_: object) -> None:
        """Log nothing."""


@contextmanager
def hostile() -> Iterator[str]:
    Hostile.hang_metrics = Hostile.asked_metrics = False
    server = ThreadingHTTPServer(("127.0.0.1", 0), Hostile)
    server.daemon_threads = True
    server.block_on_close = False
    threading.Thread(target=server.serve_forever).start()
    yield f"http://127.0.0.1:{server.server_port}/v1"
    server.shutdown()
    server.server_close()


def shell(text: str) -> int:
    """Run a shell command line with the arguments of the run in its place `{}`; return the exit code of the run."""
    done = subprocess.run(["bash", "-c", f"set -o pipefail; {text}"], cwd=ROOT, capture_output=True, check=False)
    assert b"Traceback" not in done.stderr + done.stdout
    assert b"Exception ignored" not in done.stderr
    return done.returncode


@pytest.mark.parametrize(
    "redirection", [">&-", "2>&-", "0<&- >&- 2>&-", "| true", "2>&1 | true", "> /dev/full", "2> /dev/full"]
)
def test_a_closed_output_changes_neither_verdict_nor_exit_code(target: str, tmp_path: Path, redirection: str) -> None:
    """The run is SUSPECT because it is short, and --strict makes this exit code 3, whoever reads the output."""
    out = tmp_path / "run"
    assert shell(" ".join((*COMMAND, "--target", target, *PLAN, "--strict", "--out", str(out), redirection))) == 3
    assert read_run(out).verdict == "SUSPECT"
    assert len(list(read_records(out / "records.jsonl"))) == 8


def test_a_run_outlasts_its_terminal(target: str, tmp_path: Path) -> None:
    """The terminal of a run with a live view is closed: the run goes on and is judged."""
    out = tmp_path / "run"
    pid, terminal = pty.fork()
    if pid == 0:
        os.chdir(ROOT)
        os.environ["TERM"] = "xterm"
        os.execv(sys.executable, [*COMMAND, "--target", target, *PLAN, "--out", str(out)])
    seen = b""
    while b"in flight" not in seen:
        seen += os.read(terminal, 4096)
    os.close(terminal)
    _, status = os.waitpid(pid, 0)
    assert os.waitstatus_to_exitcode(status) == 0
    assert read_run(out).verdict is not None
    assert len(list(read_records(out / "records.jsonl"))) == 8


def test_two_interrupts_end_a_run_that_waits_for_its_server(tmp_path: Path) -> None:
    """Neither answers nor /metrics come for a minute. The run ends long before, is judged, and can be resumed."""
    out = tmp_path / "run"
    with (
        hostile() as url,
        subprocess.Popen(
            [*COMMAND, "--target", url, *PLAN, "--out", str(out)], cwd=ROOT, stderr=subprocess.PIPE, text=True
        ) as process,
    ):
        assert process.stderr is not None
        until(lambda: Hostile.hang_metrics)
        process.send_signal(signal.SIGINT)
        assert any("Ctrl-C again cancels them" in line for line in process.stderr)
        process.send_signal(signal.SIGINT)
        began_s = time.monotonic()
        messages = process.stderr.read()
        assert time.monotonic() - began_s < 30  # two seconds on a free machine, and 60 if the run waited for /metrics
    assert "Traceback" not in messages
    assert {record.outcome for record in read_records(out / "records.jsonl")} == {"cancelled"}
    assert read_run(out).verdict in ("INVALID", None)


def is_delivered(pid: int) -> bool:
    """Whether no signal waits for the process: two that wait at the same time would count as one."""
    return "ShdPnd:\t0000000000000000" in Path(f"/proc/{pid}/status").read_text()


def test_two_interrupts_end_a_program_that_does_not_react(tmp_path: Path) -> None:
    """The main thread computes in a library, where no Python code can handle a signal."""
    text = (
        "import hashlib\nfrom loadgen.interrupts import INTERRUPTS\nINTERRUPTS.watch()\nprint(flush=True)\n"
        "hashlib.pbkdf2_hmac('sha256', b'', b'', 1 << 31 - 1)"
    )
    with subprocess.Popen(
        [sys.executable, "-c", text], cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.PIPE
    ) as process:
        assert process.stdout is not None
        process.stdout.readline()
        used_s = psutil.Process(process.pid).cpu_times().user
        until(lambda: psutil.Process(process.pid).cpu_times().user > used_s + 0.1)
        process.send_signal(signal.SIGINT)
        until(lambda: is_delivered(process.pid))
        process.send_signal(signal.SIGINT)
        _, messages = process.communicate(timeout=200)
    assert process.returncode == 130
    assert messages == b"loadgen: interrupted twice: ended without a verdict\n"


def test_an_interrupt_before_the_load_is_one_line(tmp_path: Path) -> None:
    """While the server is asked for its metrics."""
    with hostile() as url:
        Hostile.hang_metrics = True
        with subprocess.Popen(
            [*COMMAND, "--target", url, *PLAN, "--out", str(tmp_path / "run")],
            cwd=ROOT, stderr=subprocess.PIPE, text=True,
        ) as process:  # fmt: skip
            until(lambda: Hostile.asked_metrics)
            process.send_signal(signal.SIGINT)
            _, messages = process.communicate(timeout=200)
    assert (process.returncode, messages) == (130, "loadgen: interrupted\n")


def test_a_model_id_cannot_write_to_the_terminal() -> None:
    """An id with control characters is no model, and one with the brackets of terminal markup is printed as it is."""
    with hostile() as url:
        Hostile.more_models = ("m\x1b[31m]evil[/bold]\nloadgen: VALID",)
        done = loadgen("--target", url, *PLAN, "--dry-run")
        Hostile.more_models = ()
    assert done.returncode == 0, done.stderr
    assert "\x1b" not in done.stderr
    assert "m[31m]evil[/bold]" in done.stderr
    assert done.stderr.count("\n") == 1


def test_reports_and_grades_print_no_control_characters(tmp_path: Path) -> None:
    make_records([str(tmp_path / "runs"), "--records", "200"])
    folder = next((tmp_path / "runs").glob("*/run.json")).parent
    run = json.loads((folder / "run.json").read_text())
    (folder / "run.json").write_text(json.dumps(run | {"model": "m\x1b[2J\nanalysis: done", "config": "=cmd()"}))
    command = [sys.executable, "-m", "analysis", "report", str(folder), "--out", str(tmp_path / "out")]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert "\x1b" not in done.stderr
    assert "\nanalysis: done" not in done.stderr
    assert "'=cmd()" in (tmp_path / "out" / "tables" / "summary.csv").read_text()


@given(st.text())
def test_printable_text_is_one_line_without_control_characters(text: str) -> None:
    shown = printable(text)
    assert shown.splitlines() in ([], [shown])
    assert not any(ord(character) < 32 or 127 <= ord(character) < 160 for character in shown)
    shown.encode()
    if text.isprintable():
        assert shown == text


@given(st.text())
def test_no_cell_begins_a_formula(text: str) -> None:
    assert not as_text(text).startswith(FORMULA)
    assert as_text(text).endswith(text)
