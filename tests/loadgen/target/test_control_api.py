"""Control requests take the same way to the server as the load, carry the key to it alone, and are bounded."""

import asyncio
import gzip
import json
import subprocess
import sys
import time
from typing import Annotated, Any, BinaryIO

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from loadgen.client.endpoint import endpoint_of
from loadgen.errors import UsageError
from loadgen.options import RunOptions
from loadgen.target import control_api
from loadgen.target.control_api import PAGE_BYTES, ControlApi, lenient
from tests import ROOT
from tests.fixtures.control import ControlServer, Raw, endless, nothing, trickle, trickle_head
from tests.fixtures.hostile import HostileServer

KEY = "sk-very-secret"


@pytest.fixture
def keyed(monkeypatch: pytest.MonkeyPatch) -> dict[str, Any]:
    monkeypatch.setenv("CONTROL_KEY", KEY)
    return {"api_key_env": "CONTROL_KEY", "headers": (("X-Extra", "also-secret"),)}


@pytest.mark.parametrize("variable", ["http_proxy", "all_proxy"])
def test_control_requests_go_through_the_proxy(variable: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """An http URL is requested in absolute form, and the proxy's password is sent to the proxy."""
    for name in ("http_proxy", "all_proxy", "no_proxy", "NO_PROXY"):
        monkeypatch.delenv(name, raising=False)
    with HostileServer().running() as server:
        monkeypatch.setenv(variable, f"http://user:s3cret@127.0.0.1:{server.port}")
        api = ControlApi(RunOptions(target="http://elsewhere.example:81/500-empty/v1"))
        assert api.get(f"{api.target}/models").status == 500
        line, headers, _ = server.requests[-1]
    assert line == "GET http://elsewhere.example:81/500-empty/v1/models HTTP/1.1"
    assert headers["proxy-authorization"] == "Basic dXNlcjpzM2NyZXQ="


def test_a_proxy_that_cannot_be_used_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("http_proxy", "socks5://u:s3cret@127.0.0.1:1")
    monkeypatch.setenv("no_proxy", "")
    response = ControlApi(RunOptions()).get("http://host/v1/models")
    assert (response.status, response.reached) == (None, False)
    assert "http_proxy: only http:// proxies" in response.error
    assert "s3cret" not in response.error


def test_a_proxy_with_a_wrong_port_is_one_line(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("http_proxy", "http://u:s3cret@127.0.0.1:99999")
    monkeypatch.setenv("no_proxy", "")
    with pytest.raises(UsageError, match="http_proxy: its port"):
        endpoint_of("http://host/v1")


def test_a_key_that_http_cannot_send_is_one_line_without_it() -> None:
    with pytest.raises(UsageError, match="authorization") as refused:
        endpoint_of("http://host/v1", api_key="sk-€uro")
    assert "uro" not in str(refused.value)


def test_a_key_with_a_line_break_is_named_by_its_variable(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("A_KEY", "sk-1\nsk-2")
    with pytest.raises(UsageError, match=r"--api-key-env A_KEY: the key in it has a line break") as caught:
        control_api.api_key(RunOptions(api_key_env="A_KEY"))
    assert "sk-" not in str(caught.value)


def test_the_key_goes_to_the_origin_of_the_target_alone(keyed: dict[str, Any]) -> None:
    ours, other = ControlServer({"/metrics": b"x 1\n"}), ControlServer({"/metrics": b"x 1\n"})
    with ours.running() as target, other.running() as elsewhere:
        api = ControlApi(RunOptions(target=target, **keyed))
        assert api.get(f"{api.root}/metrics").status == 200
        assert api.get(elsewhere.replace("/v1", "/metrics")).status == 200
    assert [headers.get("authorization") for *_, headers, _ in ours.seen] == [f"Bearer {KEY}"]
    assert [headers.get("x-extra") for *_, headers, _ in ours.seen] == ["also-secret"]
    assert len(other.seen) == 1
    assert not {"authorization", "x-extra"} & other.seen[0][2].keys()


def test_a_redirect_is_not_followed(keyed: dict[str, Any]) -> None:
    other = ControlServer()
    with other.running() as elsewhere:

        def redirect(wfile: BinaryIO, _: object) -> None:
            head = f"HTTP/1.1 307 Moved\r\nlocation: {elsewhere}/models\r\ncontent-length: 0\r\n\r\n"
            wfile.write(head.encode())

        with ControlServer(raw={"/v1/models": redirect}).running() as target:
            api = ControlApi(RunOptions(target=target, **keyed))
            assert api.get(f"{api.target}/models").status == 307
    assert other.seen == []


@pytest.mark.parametrize("url", ["file:///etc/hostname", "ftp://127.0.0.1/x", "gopher://h/", "/metrics", ""])
def test_only_http_urls_are_opened(url: str) -> None:
    response = ControlApi(RunOptions()).get(url)
    assert (response.status, response.body) == (None, b"")
    assert "not an http(s) URL" in response.error


@pytest.mark.parametrize(
    ("raw", "reason"),
    [(trickle, "within 1 s"), (trickle_head, "within 1 s"), (nothing, "within 1 s"), (endless, "more than 4 MiB")],
)
def test_a_response_is_bounded_in_time_and_size(raw: Raw, reason: str) -> None:
    with ControlServer(raw={"/version": raw}).running() as target:
        api = ControlApi(RunOptions(target=target))
        began_s = time.monotonic()
        response = api.get(f"{api.root}/version", timeout_s=1.0 if raw is not endless else 60, limit_bytes=PAGE_BYTES)
    assert (response.status, response.body, response.reached) == (None, b"", True)
    assert reason in response.error
    assert time.monotonic() - began_s < 50


def test_a_compressed_response_is_refused() -> None:
    body = gzip.compress(b" " * 10**6)

    def zipped(wfile: BinaryIO, _: object) -> None:
        head = f"HTTP/1.1 200 OK\r\ncontent-encoding: gzip\r\ncontent-length: {len(body)}\r\n\r\n"
        wfile.write(head.encode() + body)

    with ControlServer(raw={"/version": zipped}).running() as target:
        response = ControlApi(RunOptions(target=target)).get(target.replace("/v1", "/version"))
    assert (response.status, "compressed" in response.error) == (None, True)


def test_https_to_a_server_without_tls_says_so() -> None:
    with ControlServer().running() as target:
        api = ControlApi(RunOptions(target=target.replace("http:", "https:")))
        response = api.get(f"{api.target}/models")
    assert (response.status, response.reached) == (None, False)
    assert response.error.startswith("no TLS connection")


def test_the_query_of_the_target_is_kept_on_its_own_urls() -> None:
    server = ControlServer({"/d/models": [], "/d/version": {}})
    with server.running() as url:
        target = url.replace("/v1", "/d?api-version=2024-10-21")
        server_url = url.replace("/v1", "")
        api = ControlApi(RunOptions(target=target))
        assert api.target == api.root == f"{server_url}/d"
        assert api.get(f"{api.target}/models").status == 200
        assert api.get(f"{server_url}/d/version?own=1").status == 200
    assert server.paths("GET") == ["/d/models?api-version=2024-10-21", "/d/version?own=1"]


def test_the_servers_words_are_quoted_without_the_key(keyed: dict[str, Any]) -> None:
    api = ControlApi(RunOptions(**keyed))
    assert api.quote(f"bad key \x1b[31m{KEY} and\nalso-secret") == (r"bad key \x1b[31m*** and ***")


class _Row(msgspec.Struct):
    name: str = "none"
    size: Annotated[int, msgspec.Meta(gt=0, le=1000)] | None = None
    flag: bool = False


LEAF = st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=5)
NESTED = LEAF | st.lists(LEAF, max_size=3) | st.dictionaries(st.sampled_from(["name", "size"]), LEAF)
JSON = NESTED | st.dictionaries(st.sampled_from(["name", "size", "flag"]), NESTED)


@given(JSON)
def test_no_json_raises_and_every_field_has_its_type(said: object) -> None:
    row = lenient(said, _Row)
    assert isinstance(row.name, str)
    assert isinstance(row.flag, bool)
    assert row.size is None or 0 < row.size <= 1000


def test_a_field_of_another_type_counts_as_not_reported_and_the_others_stay() -> None:
    assert lenient({"name": ["x"], "size": "32", "flag": True}, _Row) == _Row("none", 32, flag=True)
    assert lenient({"name": "a", "size": -1, "flag": 1e400}, _Row) == _Row("a")


@pytest.mark.parametrize("module", ["loadgen.cli", "loadgen.run.sender", "loadgen.run.workers"])
def test_aiohttp_is_not_imported_before_the_first_control_request(module: str) -> None:
    """The import takes a third of a second, which `--help` and the processes that send the load would pay."""
    code = f"import sys, {module}; sys.exit('aiohttp' in sys.modules)"
    subprocess.run([sys.executable, "-c", code], check=True, cwd=ROOT)


def test_half_a_surrogate_pair_is_no_number() -> None:
    said = json.loads('{"size": "\\ud800", "flag": true}')
    assert lenient(said, _Row) == _Row(flag=True)


def test_a_page_that_did_not_arrive_in_time_is_not_asked_for_again(monkeypatch: pytest.MonkeyPatch) -> None:
    """It costs a command one deadline, except where every reading counts (`every_time`). Other pages are asked for."""
    monkeypatch.setattr(control_api, "TIMEOUT_S", 0.5)
    server = ControlServer({"/metrics": b"x 1\n"}, raw={"/version": nothing})
    with server.running() as target:
        api = ControlApi(RunOptions(target=target))
        url = f"{api.root}/version"
        found = [api.get(url, timeout_s=0.5) for _ in range(3)]
        assert [response.status for response in found] == [None] * 3
        assert "not asked again" in found[1].error
        assert server.paths("GET") == ["/version"]
        assert api.get(f"{api.root}/metrics").status == 200
        assert "within" in asyncio.run(api.fetch(url, timeout_s=0.5, every_time=True)).error
    assert server.paths("GET") == ["/version", "/metrics", "/version"]


def test_a_wait_that_was_cut_short_does_not_end_the_questions() -> None:
    server = ControlServer(raw={"/version": nothing})
    with server.running() as target:
        api = ControlApi(RunOptions(target=target))
        for _ in range(2):
            assert "within 0.2 s" in api.get(f"{api.root}/version", timeout_s=0.2).error
    assert server.paths("GET") == ["/version"] * 2


@pytest.mark.parametrize("raw", [trickle, trickle_head, nothing])
def test_an_answer_that_is_late_is_not_asked_for_again(raw: Raw) -> None:
    server = ControlServer(raw={"/v1/chat/completions": raw})
    with server.running() as target:
        api = ControlApi(RunOptions(target=target))
        found = [api.post(f"{target}/chat/completions", {}) for _ in range(2)]
    assert [(response.status, response.reached, response.late) for response in found] == [(None, True, True)] * 2
    assert "no complete response within 4 s" in found[0].error
    assert server.paths() == ["/v1/chat/completions"]
