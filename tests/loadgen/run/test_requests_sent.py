"""What a run sends: the target's query, another route, answers without a stream, and what --extra-body must not change."""

import asyncio
import json
import socket
from pathlib import Path
from typing import Any

import pytest
import uvloop

from loadgen.client.client import Client
from loadgen.client.endpoint import Addresses, endpoint_of
from loadgen.errors import UsageError
from loadgen.exchange import Request
from loadgen.option_types import route
from loadgen.options import RunOptions, completions_route
from loadgen.plan import budgets
from loadgen.record import read_run
from tests.fixtures.control import ControlServer, completion, stream
from tests.fixtures.emulated import loadgen

SMALL = ("--dataset", "sample", "--problems", "2", "--budgets", "64")


def test_the_query_of_the_target_is_on_every_request(tmp_path: Path) -> None:
    """Azure's dated form: without its api-version every request is 404."""
    server = ControlServer({"/openai/deployments/gpt-x/chat/completions": lambda _: (200, stream())})
    query = "?api-version=2024-10-21"
    with server.running() as url:
        target = url.replace("/v1", f"/openai/deployments/gpt-x{query}")
        done = loadgen("--target", target, "--model", "gpt-x", *SMALL, "--out", str(tmp_path / "run"))
    assert json.loads(done.stdout.splitlines()[-1])["outcomes"] == {"ok": 2}, done.stderr
    assert [path for _, path, _, _ in server.seen if not path.endswith(query)] == []
    assert server.paths() == [f"/openai/deployments/gpt-x/chat/completions{query}"] * 2


@pytest.mark.parametrize(
    ("path", "field"),
    [("/api/v2/chat", "messages"), ("/raw/completions", "prompt"), ("/x/chat/completions", "messages")],
)
def test_another_route_below_the_target(path: str, field: str, tmp_path: Path) -> None:
    """One that ends with /completions gets a prompt, as at OpenAI."""
    server = ControlServer()
    with server.running() as target:
        done = loadgen("--target", target, "--path", path, "--prompt", "r1", *SMALL, "--out", str(tmp_path / "run"))
    assert server.paths() == [f"/v1{path}"] * 2, done.stderr
    assert all(field in body for body in server.bodies())


@pytest.mark.parametrize("text", ["", "chats", "/a?b=c", "/a b", "/", "/a\r\nx: y", "/é", "http://h/x"])
def test_a_route_that_cannot_be_one_is_refused(text: str) -> None:
    with pytest.raises(UsageError, match="write chat, completions, or a path"):
        route(text)


def test_forced_budgets_keep_the_path_and_need_a_prompt() -> None:
    assert completions_route("completions")
    assert budgets.path(RunOptions(budget_mode="forced")) == "/completions"
    done = loadgen("--path", "/api/chat", "--budget-mode", "forced", "--prompt", "r1")
    assert (done.returncode, "does not end with /completions" in done.stderr) == (2, True)


def test_without_a_stream_the_body_asks_for_none(tmp_path: Path) -> None:
    server = ControlServer({"/v1/chat/completions": lambda _: (200, completion())})
    with server.running() as target:
        loadgen("--target", target, "--no-stream", *SMALL, "--out", str(tmp_path / "run"))
    assert [(body["stream"], "stream_options" in body) for body in server.bodies()] == [(False, False)] * 2
    assert read_run(tmp_path / "run").options["stream"] is False


@pytest.mark.parametrize(
    ("arguments", "hint"),
    [
        (["--extra-body", '{"n": 2}'], "--samples"),
        (["--extra-body", '{"n": "2"}'], "--samples"),
        (["--extra-body", '{"n": 0}'], "--samples"),
        (["--extra-body", '{"stream": false}'], "--no-stream"),
        (["--extra-body", '{"max_tokens": 5}'], "--budgets"),
        (["--extra-body", '{"max_completion_tokens": 5}'], "--budgets"),
        (["--extra-body", '{"model": "other"}'], "--model"),
        (["--extra-body", '{"messages": []}'], "--dataset"),
        (["--no-stream", "--one-pass", "--budgets", "8,16"], "--one-pass"),
        (["--no-stream", "--slo", "tpot=20ms,e2e=5"], "tpot cannot be measured"),
    ],
)
def test_what_would_make_the_figures_wrong_is_refused_before_the_first_request(arguments: list[str], hint: str) -> None:
    server = ControlServer()
    with server.running() as target:
        done = loadgen("--target", target, *arguments)
    assert (done.returncode, done.stderr.count("\n")) == (2, 1)
    assert hint in done.stderr
    assert server.seen == []


def test_one_answer_may_be_asked_for_in_words(tmp_path: Path) -> None:
    server = ControlServer()
    with server.running() as target:
        done = loadgen("--target", target, "--extra-body", '{"n": 1}', *SMALL, "--out", str(tmp_path / "run"))
    assert [body["n"] for body in server.bodies()] == [1, 1], done.stderr


def test_several_addresses_are_tried_on_uvloop() -> None:
    """Nothing listens at the first address of the name; the connection is made to the second one."""

    async def send(target: str, port: int) -> Any:
        loop = asyncio.get_running_loop()
        infos = [
            info
            for host in ("::1", "127.0.0.1")
            for info in await loop.getaddrinfo(host, port, type=socket.SOCK_STREAM)
        ]
        addresses = Addresses("two-addresses", port, infos)
        transport, _ = await addresses.connect(asyncio.Protocol)
        peer = transport.get_extra_info("peername")
        transport.abort()
        request = Request(0, "p", 0, 64, "cut", "/chat/completions", {"model": "m", "stream": True})
        async with Client(endpoint_of(target), timeout_s=60) as client:
            return peer[0], [(await client.send(request)).outcome for _ in range(2)]

    with ControlServer().running() as target, asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        port = int(target.rpartition(":")[2].removesuffix("/v1"))
        assert runner.run(send(target, port)) == ("127.0.0.1", ["ok", "ok"])
