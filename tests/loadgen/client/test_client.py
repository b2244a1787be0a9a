"""Whatever a server does, a request is sent once and ends as one Exchange with the correct outcome."""

import asyncio
import gc
import resource
import shutil
import socket
import ssl
import subprocess
import time
from collections.abc import Awaitable, Callable, Iterator
from pathlib import Path
from typing import NamedTuple

import pytest
import uvloop

from loadgen.client.client import Client
from loadgen.client.endpoint import endpoint_of
from loadgen.clock import RunClock
from loadgen.errors import UsageError
from loadgen.exchange import Exchange, Outcome, Request
from loadgen.measure.formulas import to_record
from loadgen.record import Record
from tests.fixtures.hostile import LONG, HostileServer, Proxy


@pytest.fixture(scope="module")
def server() -> Iterator[HostileServer]:
    with HostileServer().running() as hostile:
        yield hostile


def request(seq: int = 0) -> Request:
    return Request(seq, "p1", 0, 64, "cut", "/chat/completions", {"model": "m", "stream": True})


def send(target: str, *, timeout_s: float = 5.0, **options: object) -> Exchange:
    async def one() -> Exchange:
        async with Client(endpoint_of(target, **options), timeout_s=timeout_s) as client:  # type: ignore[arg-type]
            return await client.send(request())

    return uvloop.run(one())


def record(exchange: Exchange) -> Record:
    return to_record(request(), exchange, exchange.sent_ns, RunClock(exchange.sent_ns - 10**9), run_id="r")


class Case(NamedTuple):
    """The expected result of one behaviour of the server."""

    outcome: Outcome
    text: str = ""
    events: int = 0
    tokens: int | None = None
    source: str | None = None
    status: int | None = 200
    error_contains: str = ""


OK = Case("ok", "Hello", 2, 2, "usage")
CASES: dict[str, Case] = {
    "plain": OK,
    "continuous": Case("ok", "Hello!", 2, 5, "continuous_usage"),
    "reset-before": Case("reset", status=None, error_contains="before the response"),
    "reset-after": Case("reset", "Hel", 1, 1, "chunks", error_contains="connection lost"),
    "reset-in-head": Case("reset", status=None, error_contains="before the response"),
    "close-before": Case("reset", status=None, error_contains="closed by the server"),
    "close-inside": Case("cut", "Hel", 1, 1, "chunks", error_contains="closed the connection inside"),
    "close-inside-event": Case("cut", "Hel", 1, 1, "chunks"),
    "close-after-done": OK,
    "hang-before": Case("timeout", status=None, error_contains="within 0.3 s"),
    "hang-after-head": Case("timeout"),
    "hang-after": Case("timeout", "Hel", 1, 1, "chunks"),
    "hang-after-done": OK,
    "half-close": Case("cut", "Hel", 1, 1, "chunks"),
    "redirect": Case("http_error", status=307, error_contains="redirected to http://elsewhere.example/v1"),
    "400-json": Case("http_error", status=400, error_contains="too long (code 400)"),
    "401-string": Case("http_error", status=401, error_contains="Unauthorized"),
    "404-html": Case("http_error", status=404, error_contains="Not here"),
    "422-detail": Case("http_error", status=422, error_contains="field required"),
    "429": Case("rate_limited", status=429, error_contains="retry after 7. slow down"),
    "500-empty": Case("server_error", status=500, error_contains="no body"),
    "500-json": Case("server_error", status=500, error_contains="boom"),
    "503-endless": Case("server_error", status=503, error_contains="busy"),
    "html": Case("malformed", error_contains="not an event stream but text/html: <html>Log in"),
    "json-answer": Case("ok", "Hello", 1, 2, "usage"),
    "json-late": Case("ok", "Hello", 1, 2, "usage"),
    "json-cut": Case("cut", error_contains="closed the connection inside"),
    "json-no-answer": Case("malformed", error_contains="not an event stream but application/json"),
    "json-error": Case("server_error", error_contains="boom"),
    "wrong-type": OK,
    "204": Case("cut", status=204),
    "empty": Case("cut"),
    "no-http": Case("malformed", status=None, error_contains="not an HTTP response"),
    "bad-chunk": Case("malformed", "Hel", 1, 1, "chunks"),
    "error-event": Case("server_error", "Hel", 1, 1, "chunks", error_contains="busy (code 500)"),
    "error-first": Case("server_error", error_contains="busy (code 503)"),
    "error-429": Case("rate_limited", error_contains="busy (code 429)"),
    "error-string": Case("server_error", error_contains="out of memory"),
    "no-done": OK,
    "no-usage": Case("ok", "Hello", 2, 2, "chunks"),
    "no-finish": Case("cut", "Hello", 2, 2, "usage", error_contains="[DONE] without a finish_reason"),
    "no-finish-no-done": Case("cut", "Hel", 1, 1, "chunks", error_contains="without a finish_reason"),
    "tokens-without-text": Case("ok", "é", 4, 4, "continuous_usage"),
    "text-without-tokens": Case("ok", "Hello", 2, 2, "chunks"),
    "held-text": Case("ok", "abc", 2, 2, "continuous_usage"),
    "usage-in-some": Case("ok", "abcd", 4, 6, "continuous_usage"),
    "usage-on-last-chunk": OK,
    "duplicate-usage": OK,
    "null-usage": OK,
    "token-ids": Case("ok", "Hello", 3, 4, "token_ids"),
    "reasoning": Case("ok", "42", 4, 4, "chunks"),
    "reasoning-content": Case("ok", "42", 4, 4, "chunks"),
    "think-tag": Case("ok", "<think>hm</think>\n\n42", 4, 4, "chunks"),
    "completions": OK,
    "metrics": OK,
    "crlf": OK,
    "cr": OK,
    "comments": OK,
    "byte-by-byte": Case("ok", "Größe 🙂\u2028", 2, 2, "usage"),
    "u2028": Case("ok", "a\u2028\u2029\u0085", 2, 2, "chunks"),
    "long-line": Case("ok", LONG, 1, 1, "chunks"),
    "endless-head": Case("malformed", status=None, error_contains="bytes of headers"),
    "endless-header": Case("malformed", status=None, error_contains="bytes of headers"),
    "endless-continue": Case("malformed", status=None, error_contains="bytes of headers"),
    "endless-trailers": OK,
    "endless-event": Case("malformed", error_contains="an event of more than"),
    "endless-json": Case("malformed", error_contains="an answer of more than"),
    "endless-error": Case("server_error", status=500, error_contains="oops oops"),
    "gzip-bomb": Case("malformed", error_contains="content-encoding gzip was not asked for"),
    "bad-json": Case("malformed", "Hel", 1, 1, "chunks", error_contains='{"choices":[{'),
    "bad-shape": Case("cut", "Hel", 1, 1, "chunks"),
    "not-an-object": Case("malformed"),
    "bad-nesting": Case("malformed"),
    "bad-utf8": Case("cut", "\ufffd", 1, 1, "chunks"),
    "gzip": Case("malformed", error_contains="content-encoding gzip was not asked for"),
    "gzip-429": Case("rate_limited", status=429, error_contains="retry after 3. the body is in gzip"),
    "brotli": Case("malformed", error_contains="content-encoding br"),
    "http10": OK,
    "continue": OK,
    "upgrade": Case("http_error", status=101),
    "two-choices": OK,
    "after-done": OK,
    "slow-head": OK,
}


@pytest.mark.parametrize("name", CASES)
def test_each_behaviour_is_one_record_with_what_was_measured(server: HostileServer, name: str) -> None:
    case = CASES[name]
    before = len(server.requests)
    exchange = send(server.target(name), timeout_s=0.3 if name.startswith("hang") and "done" not in name else 5.0)
    found = record(exchange)
    assert len(server.requests) == before + 1
    assert (found.outcome, found.text, found.chunks, found.completion_tokens, found.token_source, found.status) == (
        case.outcome,
        case.text,
        case.events,
        case.tokens,
        case.source,
        case.status,
    )
    assert case.error_contains in (found.error or "")
    assert (found.error is None) == (found.outcome == "ok")
    assert found.end_s is not None
    assert (found.ttft_s is not None) == (case.events > 0 and found.streamed)
    stamps = [found.sent_s, found.headers_s, found.first_token_s, found.last_token_s, found.end_s]
    assert sorted(s for s in stamps if s is not None) == [s for s in stamps if s is not None]


def test_an_endless_stream_times_out_with_its_tokens(server: HostileServer) -> None:
    found = record(send(server.target("endless"), timeout_s=0.5))
    assert found.outcome == "timeout"
    assert found.completion_tokens == found.chunks > 20
    assert found.e2e_s == pytest.approx(0.5, abs=0.3)


def test_an_endless_line_ends_with_bounded_memory(server: HostileServer) -> None:
    found = record(send(server.target("endless-line"), timeout_s=30))
    assert found.outcome == "malformed"
    assert "an event of more than" in (found.error or "")


def test_a_closed_port_is_refused() -> None:
    with socket.socket() as sock:
        sock.bind(("127.0.0.1", 0))
        found = send(f"http://127.0.0.1:{sock.getsockname()[1]}/v1")
    assert found.outcome == "refused"
    assert "refused" in (found.error or "").lower()
    assert found.end_ns is not None


def test_an_unknown_host_is_refused() -> None:
    assert send("http://no-such-host.invalid/v1").outcome == "refused"


def test_a_server_that_never_accepts_times_out() -> None:
    """The backlog is full, so that the connection is never accepted."""
    with socket.socket() as sock:
        sock.bind(("127.0.0.1", 0))
        sock.listen(0)
        fillers = [socket.socket() for _ in range(4)]
        for filler in fillers:
            filler.setblocking(False)
            filler.connect_ex(sock.getsockname())
        found = send(f"http://127.0.0.1:{sock.getsockname()[1]}/v1", timeout_s=0.3)
        for filler in fillers:
            filler.close()
    assert found.outcome == "timeout"


def test_reasoning_has_its_own_text_and_ttfot(server: HostileServer) -> None:
    """Both field names are read. The first two tokens are reasoning tokens, and the third one is the first of the answer."""
    for name in ("reasoning", "reasoning-content"):
        exchange = send(server.target(name))
        found = record(exchange)
        assert (found.reasoning, found.text) == ("hmso", "42")
        assert found.ttft_s == pytest.approx((exchange.arrival_ns[0] - exchange.sent_ns) / 1e9)
        assert found.ttfot_s == pytest.approx((exchange.arrival_ns[2] - exchange.sent_ns) / 1e9)


def test_without_a_reasoning_parser_the_answer_begins_after_the_think_tag(server: HostileServer) -> None:
    exchange = send(server.target("think-tag"))
    assert record(exchange).ttfot_s == pytest.approx((exchange.arrival_ns[3] - exchange.sent_ns) / 1e9)


def test_counts_are_corrected_where_some_chunks_have_no_usage(server: HostileServer) -> None:
    """A chunk without usage counts as one token until the next usage says how many tokens have come since."""
    assert send(server.target("usage-in-some")).tokens == [1, 1, 3, 1]


def test_server_timings_and_ids_are_kept(server: HostileServer) -> None:
    exchange = send(server.target("metrics"))
    assert exchange.server_timings == {"queue_time_ms": 3.5}
    assert send(server.target("token-ids")).token_ids == [[5, 6], [7], [8]]


def run(target: str, work: Callable[[Client], Awaitable[None]], **options: object) -> None:
    async def with_client() -> None:
        async with Client(endpoint_of(target), **options) as client:  # type: ignore[arg-type]
            await work(client)

    uvloop.run(with_client())


def test_150_in_flight_are_150_connections(server: HostileServer) -> None:
    """The number of connections is not limited: all responses take only as long as one."""

    async def work(client: Client) -> None:
        start = time.perf_counter()
        found = await asyncio.gather(*(client.send(request(seq)) for seq in range(150)))
        assert {exchange.outcome for exchange in found} == {"timeout"}
        assert time.perf_counter() - start < 10
        assert client.connections_opened == 150

    run(server.target("hang-after-head"), work, timeout_s=1.0)


def test_a_connection_is_reused(server: HostileServer) -> None:
    async def work(client: Client) -> None:
        for seq in range(5):
            assert (await client.send(request(seq))).outcome == "ok"
        assert client.connections_opened == 1

    run(server.target("plain"), work)


def test_connections_opened_in_advance_are_used_and_a_refusal_raises_nothing(server: HostileServer) -> None:
    """They carry the first requests. Where none can be opened, the requests have the outcome `refused`."""

    async def work(client: Client) -> None:
        await client.warm(3)
        found = await asyncio.gather(*(client.send(request(seq)) for seq in range(3)))
        assert {exchange.outcome for exchange in found} == {"ok"}
        assert client.connections_opened == 3

    async def refused(client: Client) -> None:
        await client.warm(3)
        assert (await client.send(request())).outcome == "refused"

    run(server.target("plain"), work)
    run("http://127.0.0.1:1/v1", refused)


def test_a_connection_that_the_server_closes_as_it_is_used_again_is_told_apart(server: HostileServer) -> None:
    """The request is sent once. After that, connections are used again only for half of the time that this one was idle."""

    async def work(client: Client) -> None:
        first, second, third = [await client.send(request(seq)) for seq in range(3)]
        assert (first.outcome, first.reused, third.outcome, third.reused) == ("ok", False, "ok", False)
        assert first.connect_ns is not None
        assert first.connect_ns > 0
        assert (second.outcome, second.reused, second.connect_ns) == ("reset", True, None)
        assert "closed the idle connection as the request was sent" in (second.error or "")
        assert client.connections_opened == 2

    before = len(server.requests)
    run(server.target("close-when-reused"), work)
    assert len(server.requests) == before + 3


def test_the_servers_limit_of_idle_time_is_kept(server: HostileServer) -> None:
    async def work(client: Client) -> None:
        for seq in range(3):
            assert (await client.send(request(seq))).outcome == "ok"
        assert client.connections_opened == 3

    run(server.target("keep-alive-header"), work)


def test_an_answer_in_one_json_body_has_only_an_e2e(server: HostileServer) -> None:
    found = record(send(server.target("json-answer")))
    assert (found.streamed, found.ttft_s, found.first_token_s, found.tpot_s) == (False, None, None, None)
    assert found.last_token_s is not None
    assert found.e2e_s == pytest.approx(found.last_token_s - (found.sent_s or 0))


def test_a_closed_connection_is_not_reused(server: HostileServer) -> None:
    """After the server has closed an idle connection, the next request opens a new one."""

    async def work(client: Client) -> None:
        for seq in range(3):
            assert (await client.send(request(seq))).outcome == "ok"
            await asyncio.sleep(0.05)
        assert client.connections_opened == 3

    run(server.target("close-after-done"), work)


def test_a_cancelled_request_keeps_what_was_measured(server: HostileServer) -> None:
    async def work(client: Client) -> None:
        task = asyncio.ensure_future(client.send(request()))
        await asyncio.sleep(0.2)
        task.cancel()
        exchange = await task
        assert exchange.outcome == "cancelled"
        assert "".join(content for _, content in exchange.pieces) == "Hel"

    run(server.target("hang-after"), work)


def test_tokens_are_reported_while_the_response_is_arriving(server: HostileServer) -> None:
    """They are reported in batches during the stream, and each token exactly once."""
    reported: list[int] = []

    async def work(client: Client) -> None:
        task = asyncio.ensure_future(client.send(request()))
        await asyncio.sleep(0.5)
        live = sum(reported)
        task.cancel()
        exchange = await task
        assert 0 < live <= sum(exchange.tokens) == sum(reported)

    run(server.target("endless"), work, on_tokens=lambda _request, tokens: reported.append(tokens))


def test_running_out_of_file_descriptors_is_a_fault_of_the_client(server: HostileServer) -> None:
    """The outcome is `refused`, and the error text begins with `client:`."""

    async def work(client: Client) -> None:
        soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
        resource.setrlimit(resource.RLIMIT_NOFILE, (3, hard))
        try:
            exchange = await client.send(request())
        finally:
            resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))
        assert exchange.outcome == "refused"
        assert (exchange.error or "").startswith("client: ")

    run(server.target("plain"), work)


def test_no_representation_contains_the_key() -> None:
    """A traceback or a log line may show the client or its endpoint."""
    endpoint = endpoint_of("http://host/v1", api_key="sk-secret")
    assert b"sk-secret" in endpoint.head
    assert "sk-secret" not in f"{endpoint!r} {Client(endpoint)!r}"


def test_key_headers_and_body_are_sent(server: HostileServer) -> None:
    send(server.target("plain"), api_key="k3y", headers={"X-Route": "blue"})
    line, headers, body = server.requests[-1]
    assert line == "POST /plain/v1/chat/completions HTTP/1.1"
    assert (headers["authorization"], headers["x-route"]) == ("Bearer k3y", "blue")
    assert body == {"model": "m", "stream": True}


@pytest.mark.parametrize(
    ("target", "options"),
    [
        ("http://host/v1", {"headers": {"x": "a\r\nb: c"}}),
        ("http://host/v1", {"headers": {"x y": "a"}}),
        ("https://host/v1", {"ca_file": Path("/nowhere.pem")}),
    ],
)
def test_a_usage_error_is_raised_before_anything_is_sent(target: str, options: dict[str, object]) -> None:
    with pytest.raises(UsageError, match=r"header|nowhere"):
        endpoint_of(target, **options)  # type: ignore[arg-type]


@pytest.fixture(scope="module")
def authority(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Make a self-signed certificate for 127.0.0.1."""
    if shutil.which("openssl") is None:
        pytest.skip("openssl is needed to make the certificate")
    folder = tmp_path_factory.mktemp("tls")
    command = "openssl req -x509 -newkey rsa:2048 -nodes -days 2 -subj /CN=test -addext subjectAltName=IP:127.0.0.1"
    subprocess.run(
        [*command.split(), "-keyout", "key.pem", "-out", "cert.pem"], cwd=folder, check=True, capture_output=True
    )
    return folder


@pytest.fixture(scope="module")
def tls_server(authority: Path) -> Iterator[HostileServer]:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(authority / "cert.pem", authority / "key.pem")
    with HostileServer(context).running() as hostile:
        yield hostile


def test_tls_is_verified_unless_this_is_turned_off(tls_server: HostileServer, authority: Path) -> None:
    """A certificate of an unknown authority is refused, and is accepted where that authority is named."""
    found = send(tls_server.target("plain"))
    assert found.outcome == "refused"
    assert "certificate" in (found.error or "").lower()
    assert send(tls_server.target("plain"), ca_file=authority / "cert.pem").outcome == "ok"
    assert send(tls_server.target("plain"), verify=False).outcome == "ok"


def test_the_environment_names_a_private_authority(
    tls_server: HostileServer, authority: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("SSL_CERT_FILE", str(authority / "cert.pem"))
    assert send(tls_server.target("reset-after")).outcome == "reset"
    assert send(tls_server.target("plain")).outcome == "ok"


def test_http_goes_through_a_proxy_in_absolute_form(server: HostileServer, monkeypatch: pytest.MonkeyPatch) -> None:
    """The password of the proxy is sent to the proxy. `no_proxy` is honored."""
    monkeypatch.setenv("http_proxy", f"http://user:s3cret@127.0.0.1:{server.port}")
    monkeypatch.delenv("no_proxy", raising=False)
    monkeypatch.delenv("NO_PROXY", raising=False)
    assert send("http://elsewhere.example:81/plain/v1", api_key="k").outcome == "ok"
    line, headers, _ = server.requests[-1]
    assert line == "POST http://elsewhere.example:81/plain/v1/chat/completions HTTP/1.1"
    assert headers["host"] == "elsewhere.example:81"
    assert headers["proxy-authorization"] == "Basic dXNlcjpzM2NyZXQ="
    monkeypatch.setenv("no_proxy", "127.0.0.1")
    assert send(server.target("plain")).outcome == "ok"
    assert server.requests[-1][0] == "POST /plain/v1/chat/completions HTTP/1.1"


@pytest.mark.parametrize("refuse", [False, True])
def test_https_goes_through_a_tunnel(
    tls_server: HostileServer, authority: Path, monkeypatch: pytest.MonkeyPatch, refuse: bool
) -> None:
    """CONNECT comes first, then TLS with the certificate of the target. A proxy that refuses is an outcome."""

    async def through() -> Exchange:
        proxy = Proxy(refuse)
        monkeypatch.setenv("https_proxy", (await proxy.start()).replace("//", "//u:s3cret@"))
        monkeypatch.setenv("no_proxy", "")
        endpoint = endpoint_of(tls_server.target("plain"), ca_file=authority / "cert.pem")
        async with Client(endpoint, timeout_s=5) as client:
            exchange = await client.send(request())
        proxy.server.close()
        assert proxy.heads[0].startswith(f"CONNECT 127.0.0.1:{tls_server.port} HTTP/1.1")
        assert "proxy-authorization: Basic " in proxy.heads[0]
        return exchange

    exchange = uvloop.run(through())
    assert exchange.outcome == ("refused" if refuse else "ok")
    assert not refuse or "the proxy said: HTTP/1.1 403" in (exchange.error or "")


def test_a_proxy_that_does_not_speak_http_is_a_usage_error(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("http_proxy", "socks5://u:s3cret@127.0.0.1:1")
    monkeypatch.setenv("no_proxy", "")
    with pytest.raises(UsageError, match="only http:// proxies") as raised:
        endpoint_of("http://host/v1")
    assert "s3cret" not in str(raised.value)


@pytest.mark.parametrize("name", ["plain", "429", "reset-after", "hang-after"])
def test_an_ended_request_leaves_no_reference_cycle(server: HostileServer, name: str) -> None:
    """Its memory is freed at once, because the garbage collector does not look at old objects during a run."""
    send(server.target(name), timeout_s=0.3)
    gc.collect()
    gc_was_enabled = gc.isenabled()
    gc.disable()
    try:
        send(server.target(name), timeout_s=0.3)
        gc.set_debug(gc.DEBUG_SAVEALL)
        gc.collect()
        kinds = {type(leaked).__name__ for leaked in gc.garbage}
    finally:
        gc.set_debug(0)
        gc.garbage.clear()
        if gc_was_enabled:
            gc.enable()
    assert not kinds & {"ResponseReader", "TokenStream", "Exchange"}
