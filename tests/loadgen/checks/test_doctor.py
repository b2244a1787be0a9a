"""What `doctor` says of servers that differ, in one line each, and that no server can forge a line or show the key."""

import json
import re
import threading
import time
from typing import Any, BinaryIO

import pytest

from tests.fixtures.control import ControlServer, completion, stream, trickle
from tests.fixtures.emulated import loadgen

CHAT = "/v1/chat/completions"


def paced(*events: dict[str, Any]) -> Any:
    """Write each event for itself, as a server without a proxy does."""

    def answer(wfile: BinaryIO, _: threading.Event) -> None:
        wfile.write(b"HTTP/1.1 200 OK\r\ncontent-type: text/event-stream\r\n\r\n")
        for event in events:
            wfile.write(b"data: %s\n\n" % json.dumps(event).encode())
            wfile.flush()
            time.sleep(0.03)
        wfile.write(b"data: [DONE]\n\n")

    return answer


def text(content: str, tokens: int | None = None, finish: str | None = None) -> dict[str, Any]:
    usage = None if tokens is None else {"prompt_tokens": 5, "completion_tokens": tokens, "total_tokens": 5 + tokens}
    return {"choices": [{"index": 0, "delta": {"content": content}, "finish_reason": finish}], "usage": usage}


def examine(server: ControlServer, *options: str, suffix: str = "/v1", **env: str) -> tuple[int, dict[str, str], str]:
    """Run doctor; return its exit code, its lines by name, and everything that it printed."""
    with server.running() as target:
        url = target.replace("/v1", suffix)
        done = loadgen(url, "--dataset", "sample", *options, verb="doctor", env=env)
    lines = {}
    for line in done.stderr.splitlines():
        assert re.match(r"(GOOD|WARN|BAD|UNKNOWN) +\S", line) or line.startswith("loadgen: "), line
        lines[line[8:26].strip()] = line[:8].strip() + ": " + line[26:]
    return done.returncode, lines, done.stderr + done.stdout


@pytest.mark.parametrize(
    ("events", "name", "says"),
    [
        ([text("a", 1), text("b", 2), text("c", 3, "stop")], "token counts", "GOOD: exact for every chunk"),
        ([text("a"), text("b"), text("c", 3, "stop")], "token counts", "WARN: from the usage at the end"),
        ([text("a"), text("b"), text("c", None, "stop")], "answer", "BAD: the server reports no number of tokens"),
        ([text("a"), text("b"), text("c", 3, "tired")], "answer", "BAD: unknown finish reasons ('tired' 1)"),
        ([text("a", 1), text("b", 2), text("c", 3, "stop")], "delivery", "GOOD: 3 token events"),
        ([{"error": {"message": "out of memory"}}], "answer", "BAD: a small request ended as server_error"),
    ],
)  # fmt: skip
def test_one_line_says_what_one_small_answer_shows(events: list[dict[str, Any]], name: str, says: str) -> None:
    _, lines, _ = examine(ControlServer(raw={CHAT: paced(*events)}))
    assert lines[name].startswith(says), lines


def test_an_answer_that_arrives_in_one_piece_was_held_back() -> None:
    code, lines, _ = examine(ControlServer({CHAT: lambda _: (200, stream())}))
    assert code == 1
    assert "arrived in clumps" in lines["answer"]
    assert "delivery" not in lines


def test_what_is_sent_differently_is_said() -> None:
    """A query, another name of the limit, and GPUs that nothing tells."""

    def answer(body: Any) -> tuple[int, Any]:
        if "max_tokens" in body:
            return 400, {
                "error": {"message": "Unsupported parameter: 'max_tokens'. Use 'max_completion_tokens' instead."}
            }
        return 200, completion(system_fingerprint="fp_1") if body.get("stream") is False else stream()

    server = ControlServer({"/azure/chat/completions": answer})
    _, lines, _ = examine(server, "--model", "m", suffix="/azure?api-version=7")
    assert lines["query"] == "GOOD: ?api-version=7 is kept on every request"
    assert lines["limit"] == "GOOD: the server refuses max_tokens: max_completion_tokens is sent"
    assert lines["GPUs"].startswith("WARN: number not known")
    assert "max_tokens" not in server.bodies()[-1]


def test_the_gpus_of_every_kind_of_parallelism_are_counted() -> None:
    reply = completion(system_fingerprint="vllm-0.33.0-tp2-pp2-dp4-1a2b")
    _, lines, _ = examine(ControlServer({CHAT: lambda _: (200, reply)}), "--no-stream")
    assert lines["GPUs"] == "GOOD: 16 (tensor parallel 2, pipeline parallel 2, data parallel 4)"
    assert lines["delivery"].startswith("WARN: the answer came in one JSON body")


def test_a_server_forges_no_line_and_shows_no_key() -> None:
    key = 'sk-"secret"\\1234'
    version = {"version": f"1\x1b[2J\nGOOD    server            real {key}", "gpu_metrics": "http://192.0.2.1/\n"}

    def echo(body: Any) -> tuple[int, Any]:
        return 401, {"error": {"message": f"Incorrect API key provided: {key}\nGOOD    answer            fine"}}

    _, lines, printed = examine(
        ControlServer({"/version": version, CHAT: echo}), "--api-key-env", "DOCTOR_KEY", DOCTOR_KEY=key
    )
    assert lines["answer"].startswith("BAD: a small request ended as http_error: Incorrect API key provided: ***")
    assert "1234" not in printed
    assert "\x1b" not in printed


def test_a_date_that_is_none_is_unknown() -> None:
    def dated(wfile: BinaryIO, _: threading.Event) -> None:
        wfile.write(b"HTTP/1.1 200 OK\r\ndate: tomorrow\r\ncontent-length: 2\r\n\r\n{}")

    _, lines, _ = examine(ControlServer({CHAT: lambda _: (200, stream())}, {"/version": dated}))
    assert lines["clock"] == "UNKNOWN: the server's Date header is no date: tomorrow"


def test_a_page_that_never_arrives_is_asked_for_once_and_gives_no_round_trip() -> None:
    server = ControlServer({CHAT: lambda _: (200, stream())}, {"/version": trickle})
    _, lines, _ = examine(server)
    assert server.paths("GET").count("/version") == 1
    assert lines["round trip"].startswith("UNKNOWN: ")
    assert lines["clock"].startswith("GOOD: "), "another page has a date"


@pytest.mark.parametrize("option", ["--json", "--junit=x.xml"])
def test_an_option_on_the_result_of_a_run_is_refused(option: str) -> None:
    with ControlServer().running() as target:
        done = loadgen(target, "--dataset", "sample", option, verb="doctor")
    assert (done.returncode, done.stderr.count("\n")) == (2, 1)
    assert option.partition("=")[0] in done.stderr
