"""Data sets: files, the sample problems, and MATH-500 from a local server that acts as the Hub."""

import hashlib
import json
import os
import subprocess
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest

from loadgen.errors import UsageError
from loadgen.plan.datasets import MATH500_SHA256, canonical_hash, choose, load, read
from tests.fixtures.emulated import ROOT


@contextmanager
def hub(content: bytes) -> Iterator[tuple[str, list[str]]]:
    """Run a Hub that has one file; yield its URL and the list of requests that it received."""
    received: list[str] = []

    class Handler(BaseHTTPRequestHandler):
        def do_HEAD(self) -> None:
            self._answer(b"")

        def do_GET(self) -> None:
            self._answer(content)

        def _answer(self, body: bytes) -> None:
            received.append(f"{self.command} {self.path}")
            found = self.path.endswith("/HuggingFaceH4/MATH-500/resolve/main/test.jsonl")
            self.send_response(200 if found else 404)
            self.send_header("ETag", f'"{hashlib.sha1(content).hexdigest()}"')
            self.send_header("X-Repo-Commit", "0" * 40)
            self.send_header("Content-Length", str(len(content)))
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, *_: object) -> None:
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    thread = threading.Thread(target=server.serve_forever)
    thread.start()
    try:
        yield f"http://127.0.0.1:{server.server_port}", received
    finally:
        server.shutdown()
        server.server_close()
        thread.join()


def math500(endpoint: str, cache: Path) -> "subprocess.CompletedProcess[str]":
    """Call `load("math500")` in another process, because the Hub's client reads its environment only once."""
    code = (
        "from loadgen.plan.datasets import load\nfrom loadgen.errors import UsageError\nimport sys\n"
        "try:\n    found = load('math500', 3)\nexcept UsageError as error:\n    sys.exit(str(error))\n"
        "print(found.sha256, len(found.problems), found.name)"
    )
    environment = os.environ | {
        "HF_ENDPOINT": endpoint,
        "HF_HOME": str(cache),
        "HF_HUB_DISABLE_TELEMETRY": "1",
    }
    return subprocess.run(
        [sys.executable, "-c", code], cwd=ROOT, env=environment, capture_output=True, text=True, timeout=200, check=False
    )  # fmt: skip


def test_math500_is_fetched_once_checked_and_cached(shared: Path, tmp_path: Path) -> None:
    with hub((shared / "math500.jsonl").read_bytes()) as (endpoint, received):
        first = math500(endpoint, tmp_path)
        fetched = sum(line.startswith("GET") for line in received)
        second = math500(endpoint, tmp_path)
        again = sum(line.startswith("GET") for line in received)
    assert first.stdout.split() == [MATH500_SHA256, "3", "math500"], first.stderr
    assert second.stdout == first.stdout
    assert again == fetched


def test_another_file_under_the_name_of_math500_is_refused(tmp_path: Path) -> None:
    row = {"problem": "1+1?", "answer": "2", "unique_id": "a"}
    with hub(json.dumps(row).encode() + b"\n") as (endpoint, _):
        done = math500(endpoint, tmp_path)
    assert done.returncode == 1
    assert "is not MATH-500" in done.stderr


def test_an_unreachable_hub_gives_one_line_with_an_alternative(tmp_path: Path) -> None:
    done = math500("http://127.0.0.1:9", tmp_path)
    assert done.returncode == 1
    assert "--dataset sample" in done.stderr
    assert "Traceback" not in done.stderr


def test_the_hash_depends_on_the_rows_not_on_the_file(shared: Path, tmp_path: Path) -> None:
    """Further keys, another order of keys and lines, and other escapes do not change the hash."""
    rows = [json.loads(line) for line in (shared / "math500.jsonl").read_text().splitlines()]
    other = tmp_path / "other.jsonl"
    lines = [
        json.dumps(dict(reversed(row.items())) | {"more": 1}, ensure_ascii=False) for row in reversed(rows)
    ]
    other.write_text("\n".join(lines))
    assert canonical_hash(read(other)) == MATH500_SHA256
    rows[7]["answer"] += " "
    other.write_text("\n".join(json.dumps(row) for row in rows))
    assert canonical_hash(read(other)) != MATH500_SHA256


def test_a_larger_selection_includes_a_smaller_one() -> None:
    problems = load("sample").problems
    small, large = ({p.unique_id for p in choose(problems, n, 7)} for n in (10, 20))
    assert small < large
    assert [p.unique_id for p in choose(problems, 10, 7)] == [p.unique_id for p in choose(problems, 10, 7)]
    assert small != {p.unique_id for p in choose(problems, 10, 8)}


def test_a_row_without_an_id_gets_its_line_number_and_an_answer_can_be_a_number(tmp_path: Path) -> None:
    path = tmp_path / "d.jsonl"
    path.write_text(
        '{"problem": "1+1?", "answer": 2}\n\n{"problem": "a\\u2028b", "answer": "x", "level": 3}\n'
    )
    first, second = read(path)
    assert (first.unique_id, first.answer, first.level) == ("line/1", "2", None)
    assert (second.unique_id, second.problem, second.level) == ("line/3", "a\u2028b", 3)


@pytest.mark.parametrize(
    ("content", "says"),
    [
        (b"", "the file has no problem"),
        (b"[1]\n", ":1: the line is not a JSON object"),
        (b'{"problem": "a", "answer": "1"}\n{"problem": ""}\n', ":2: `problem`"),
        (b'{"problem": "a", "answer": "1", "unique_id": "x"}\n{"problem": "b", "answer": "1", "unique_id": "x"}\n',
         "already used in line 1"),
        (b"\xff\xfe", "not UTF-8"),
    ],
)  # fmt: skip
def test_errors_name_the_line_and_what_is_wrong(tmp_path: Path, content: bytes, says: str) -> None:
    path = tmp_path / "d.jsonl"
    path.write_bytes(content)
    with pytest.raises(UsageError, match=str(path)) as caught:
        read(path)
    assert says in str(caught.value)
