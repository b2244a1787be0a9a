"""Data sets: files, the sample problems, and MATH-500 from a local server that acts as the Hub."""

import hashlib
import json
import os
import re
import shutil
import subprocess
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest

from loadgen.errors import UsageError
from loadgen.options import RunOptions
from loadgen.plan.datasets import canonical_hash, choose, load
from loadgen.plan.hub import MATH500_SHA256
from loadgen.plan.problems import Problem
from tests.fixtures.emulated import ROOT

REVISION = "0123456789" * 4


@contextmanager
def hub(
    content: bytes, name: str = "HuggingFaceH4/MATH-500", file: str = "test.jsonl"
) -> Iterator[tuple[str, list[str]]]:
    """Run a Hub that has a data set of one file; yield its URL and the list of requests that it received."""
    received: list[str] = []

    class Handler(BaseHTTPRequestHandler):
        def do_HEAD(self) -> None:
            self._answer(b"")

        def do_GET(self) -> None:
            self._answer(content)

        def _answer(self, body: bytes) -> None:
            received.append(f"{self.command} {self.path}")
            if self.path.startswith(f"/api/datasets/{name}"):
                about = {"id": name, "sha": REVISION, "siblings": [{"rfilename": file, "size": len(content)}]}
                body = json.dumps(about).encode()
            found = re.search(rf"/api/datasets/{name}\b|/{name}/resolve/(main|{REVISION})/{file}$", self.path)
            self.send_response(200 if found else 404)
            self.send_header("ETag", f'"{hashlib.sha1(content).hexdigest()}"')
            self.send_header("X-Repo-Commit", REVISION)
            self.send_header("Content-Length", str(len(body) if self.command == "GET" else len(content)))
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


def read(path: Path) -> list[Problem]:
    return load(RunOptions(dataset=str(path))).problems


def loaded(endpoint: str, cache: Path, name: str = "math500") -> "subprocess.CompletedProcess[str]":
    """Call `load` in another process, because the Hub's client reads its environment only once."""
    code = (
        "from loadgen.plan.datasets import load\nfrom loadgen.errors import UsageError\nimport sys\n"
        "from loadgen.options import RunOptions\n"
        f"try:\n    found = load(RunOptions(dataset={name!r}, problems=3))\nexcept UsageError as error:\n    sys.exit(str(error))\n"
        "print(found.sha256, len(found.problems), found.name, found.facts.get('revision'))"
    )
    environment = os.environ | {
        "HF_ENDPOINT": endpoint,
        "HF_HOME": str(cache),
        "HF_HUB_DISABLE_TELEMETRY": "1",
        "XDG_CACHE_HOME": str(cache),
    }
    return subprocess.run(
        [sys.executable, "-c", code], cwd=ROOT, env=environment, capture_output=True, text=True, timeout=200, check=False
    )  # fmt: skip


def test_math500_is_fetched_once_checked_and_cached(shared: Path, tmp_path: Path) -> None:
    with hub((shared / "math500.jsonl").read_bytes()) as (endpoint, received):
        first = loaded(endpoint, tmp_path)
        fetched = sum(line.startswith("GET") for line in received)
        second = loaded(endpoint, tmp_path)
        again = sum(line.startswith("GET") for line in received)
    assert first.stdout.split() == [MATH500_SHA256, "3", "math500", REVISION], first.stderr
    assert second.stdout == first.stdout
    assert again == fetched


QUIZ = b"".join(b'{"question": "%d+1?", "answer": "%d"}\n' % (n, n + 1) for n in range(5))


def test_a_data_set_of_the_hub_is_fetched_once_and_its_revision_recorded(tmp_path: Path) -> None:
    with hub(QUIZ, "someone/quiz", "data/test.jsonl") as (endpoint, received):
        first = loaded(endpoint, tmp_path, "hf:someone/quiz:test")
        asked = len(received)
        second = loaded(endpoint, tmp_path, "hf:someone/quiz:test")
        assert len(received) == asked
        other = loaded(endpoint, tmp_path, "hf:someone/quiz:dev")
    assert first.stdout.split()[1:] == ["3", "hf:someone/quiz:test", REVISION], first.stderr
    assert second.stdout == first.stdout
    assert "no file fits 'dev'? It has data/test.jsonl" in other.stderr


def test_a_published_data_set_must_stay_what_it_was_at_its_first_use(tmp_path: Path) -> None:
    """The hash of AIME 2025 is not known beforehand: the first one is written down."""
    rows = QUIZ.replace(b"question", b"problem")
    for content, status in ((rows, 0), (rows.replace(b"4+1", b"5+0"), 1)):
        with hub(content, "math-ai/aime25", "test.jsonl") as (endpoint, _):
            done = loaded(endpoint, tmp_path, "aime2025")
        assert done.returncode == status, done.stderr
        shutil.rmtree(tmp_path / "hub")
    assert "is not aime2025 of its first use" in done.stderr


def test_another_file_under_the_name_of_math500_is_refused(tmp_path: Path) -> None:
    row = {"problem": "1+1?", "answer": "2", "unique_id": "a"}
    with hub(json.dumps(row).encode() + b"\n") as (endpoint, _):
        done = loaded(endpoint, tmp_path)
    assert done.returncode == 1
    assert "is not MATH-500" in done.stderr


def test_an_unreachable_hub_gives_one_line_with_an_alternative(tmp_path: Path) -> None:
    done = loaded("http://127.0.0.1:9", tmp_path)
    assert done.returncode == 1
    assert "--dataset sample" in done.stderr
    assert "Traceback" not in done.stderr


def test_the_hash_depends_on_the_rows_not_on_the_file(shared: Path, tmp_path: Path) -> None:
    """Further keys, another order of keys and lines, and other escapes do not change the hash."""
    rows = [json.loads(line) for line in (shared / "math500.jsonl").read_text().splitlines()]
    other = tmp_path / "other.jsonl"
    lines = [json.dumps(dict(reversed(row.items())) | {"more": 1}, ensure_ascii=False) for row in reversed(rows)]
    other.write_text("\n".join(lines))
    assert canonical_hash(read(other)) == MATH500_SHA256
    rows[7]["answer"] += " "
    other.write_text("\n".join(json.dumps(row) for row in rows))
    assert canonical_hash(read(other)) != MATH500_SHA256


def test_a_larger_selection_includes_a_smaller_one() -> None:
    problems = load(RunOptions(dataset="sample")).problems
    small, large = ({p.unique_id for p in choose(problems, n, 7)} for n in (10, 20))
    assert small < large
    assert [p.unique_id for p in choose(problems, 10, 7)] == [p.unique_id for p in choose(problems, 10, 7)]
    assert small != {p.unique_id for p in choose(problems, 10, 8)}


def test_a_row_without_an_id_gets_its_line_number_and_an_answer_can_be_a_number(tmp_path: Path) -> None:
    path = tmp_path / "d.jsonl"
    path.write_text('{"problem": "1+1?", "answer": 2}\n\n{"problem": "a\\u2028b", "answer": "x", "level": 3}\n')
    first, second = read(path)
    assert (first.unique_id, first.answer, first.level) == ("line/1", "2", None)
    assert (second.unique_id, second.problem, second.level) == ("line/3", "a\u2028b", 3)


@pytest.mark.parametrize(
    ("content", "says"),
    [
        (b"", "the file has no problem"),
        (b"[1]\n", ":1: this is not a JSON object"),
        (b'{"problem": "a", "answer": "1"}\n{"problem": "", "answer": "1"}\n', ":2: `problem` is missing, empty or not text, and the row has the fields problem, answer"),
        (b'{"problem": "a", "answer": "1"}\n{"problem": "b", "solution": "1"}\n', ":2: `answer` is missing, and the row has the fields problem, solution"),
        (b'{"problem": "a", "answer": [1]}\n', ":1: `answer` is not a text or a number"),
        (b'{"frage": "a", "antwort": "1"}\n', ":1: no field holds the problem, and the row has the fields frage, antwort"),
        (b'{"problem": "a", "answer": "1", "unique_id": "x"}\n{"problem": "b", "answer": "1", "unique_id": "x"}\n',
         "already used at"),
        (b"\xff\xfe", "not UTF-8"),
    ],
)  # fmt: skip
def test_errors_name_the_line_and_what_is_wrong(tmp_path: Path, content: bytes, says: str) -> None:
    path = tmp_path / "d.jsonl"
    path.write_bytes(content)
    with pytest.raises(UsageError, match=str(path)) as caught:
        read(path)
    assert says in str(caught.value)
