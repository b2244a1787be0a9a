"""The emulator refuses what is too large or too deep, as vLLM does, and continues to serve. Real sockets, one process."""

import http.client
import json
import socket
from collections.abc import Iterator
from contextlib import closing
from typing import Any
from urllib.parse import urlsplit

import pytest

from server.emulator.api.http import MAX_HEAD
from server.emulator.api.sampling_params import MOST_CHOICES
from tests.fixtures.emulated import emulated

UNREADABLE = {
    "error": {"message": "There was an error parsing the body", "type": "Bad Request", "param": None, "code": 400}
}
NOT_HTTP = b"Invalid HTTP request received."


@pytest.fixture(scope="module")
def address() -> Iterator[tuple[str, int]]:
    with emulated("tp1", "--speed", "100", "--api-key", "k3y") as target:
        parts = urlsplit(target)
        assert parts.hostname is not None
        assert parts.port is not None
        yield parts.hostname, parts.port


def post(address: tuple[str, int], path: str, body: str, authorization: str = "Bearer k3y") -> tuple[int, Any]:
    """Status and JSON of the answer to one request."""
    with closing(http.client.HTTPConnection(*address, timeout=60)) as connection:
        connection.request("POST", path, body, {"authorization": authorization})
        answer = connection.getresponse()
        return answer.status, json.loads(answer.read())


def exchange(address: tuple[str, int], *pieces: bytes) -> bytes:
    """Everything the server sends on one connection until it closes it."""
    with socket.create_connection(address, timeout=60) as client:
        for piece in pieces:
            client.sendall(piece)
        received = bytearray()
        while piece := client.recv(2**16):
            received += piece
    return bytes(received)


def nested(depth: int) -> str:
    return "[" * depth + "]" * depth


@pytest.mark.parametrize("depth", [1_000, 2_000, 200_000])
@pytest.mark.parametrize(
    ("path", "body"),
    [
        ("/v1/completions", '{{"prompt": {}}}'),
        ("/v1/chat/completions", '{{"messages": [{{"role": "user", "content": [{{"text": {}}}]}}]}}'),
        ("/v1/completions", '{{"prompt": "Hi", "max_tokens": 1, "unknown": {{"a": {}}}}}'),
        ("/tokenize", '{{"messages": [{{"role": "user", "content": {}}}]}}'),
        ("/detokenize", '{{"tokens": {}}}'),
    ],
)
def test_deep_json_is_refused(address: tuple[str, int], path: str, body: str, depth: int) -> None:
    assert post(address, path, body.format(nested(depth))) == (400, UNREADABLE)


def test_many_brackets_in_a_text_or_side_by_side_are_not_deep(address: tuple[str, int]) -> None:
    sent = {"prompt": "[{" * 2_000, "max_tokens": 1, "unknown": [[[]]] * 2_000}
    assert post(address, "/v1/completions", json.dumps(sent))[0] == 200
    below = f'{{"prompt": "Hi", "max_tokens": 1, "unknown": {nested(500)}}}'
    assert post(address, "/v1/completions", below)[0] == 200


def test_choices_of_all_prompts_together_are_limited(address: tuple[str, int]) -> None:
    """Otherwise one small body would occupy the server for minutes."""
    for sent in (
        {"prompt": ["Hi"] * 200, "n": 100},
        {"prompt": ["Hi"] * (MOST_CHOICES + 1)},
        {"prompt": [[5] * 2_000], "n": 10_000},
    ):
        status, body = post(address, "/v1/completions", json.dumps({"max_tokens": 1, **sent}))
        assert status == 400
        assert body["error"].keys() == {"message", "type", "param", "code"}
        assert body["error"]["type"] == "BadRequestError"
        assert body["error"]["message"].startswith("n must be at most ")


@pytest.mark.parametrize("tokens", ["[-1]", f"[{2**40}]", f"[{10**30}]"])
def test_a_token_id_that_cannot_exist_is_refused(address: tuple[str, int], tokens: str) -> None:
    status, body = post(address, "/detokenize", f'{{"tokens": {tokens}}}')
    assert (status, body["error"]["type"], body["error"]["code"]) == (400, "Bad Request", 400)


REQUEST = b"GET /health HTTP/1.1\r\nhost: x\r\n"


@pytest.mark.parametrize(
    "head",
    [
        REQUEST + b"x: " + b"y" * MAX_HEAD + b"\r\n\r\n",
        REQUEST + b"x: y\r\n" * (MAX_HEAD // 6) + b"\r\n",
        b"GET /" + b"y" * MAX_HEAD + b" HTTP/1.1\r\n\r\n",
        REQUEST + b"x: " + b"y" * 4 * MAX_HEAD,
        b"y" * 2 * MAX_HEAD,
    ],
    ids=["value", "number", "url", "no-end", "no-line"],
)
def test_a_head_over_the_limit_is_refused(address: tuple[str, int], head: bytes) -> None:
    """The answer is uvicorn's, arrives also while the client still sends, and ends the connection."""
    answer = exchange(address, head)
    assert answer.startswith(b"HTTP/1.1 400 Bad Request\r\n")
    assert answer.endswith(NOT_HTTP)


def test_a_head_below_the_limit_is_read_in_any_pieces(address: tuple[str, int]) -> None:
    head = REQUEST + b"x: " + b"y" * (MAX_HEAD - 100) + b"\r\nconnection: close\r\n\r\n"
    assert exchange(address, head).startswith(b"HTTP/1.1 200 OK\r\n")
    url = b"/health?" + b"y" * (MAX_HEAD // 2)
    long_url = REQUEST.replace(b"/health", url) + b"connection: close\r\n\r\n"
    assert exchange(address, long_url[:9], long_url[9:]).startswith(b"HTTP/1.1 200 OK\r\n")


def test_a_large_body_after_a_small_head_is_not_a_large_head(address: tuple[str, int]) -> None:
    body = json.dumps({"prompt": "Hi", "max_tokens": 1, "unknown": "x" * 10 * MAX_HEAD})
    assert post(address, "/v1/completions", body)[0] == 200


@pytest.mark.parametrize("scheme", ["Bearer", "bearer", "BEARER"])
def test_the_scheme_of_the_key_is_read_in_any_case(address: tuple[str, int], scheme: str) -> None:
    sent = json.dumps({"prompt": "Hi", "max_tokens": 1})
    assert post(address, "/v1/completions", sent, f"{scheme} k3y")[0] == 200
    for wrong in (f"{scheme} K3Y", f"{scheme}k3y", f"{scheme} ", "k3y", "Basic k3y"):
        assert post(address, "/v1/completions", sent, wrong) == (401, {"error": "Unauthorized"})
