"""A server that misbehaves, on real sockets: each behaviour is a coroutine named by the first part of the path.

`http://127.0.0.1:PORT/<behaviour>/v1` is a target. The request is read whole, then the behaviour writes bytes as it
likes. `requests` keeps what arrived, so a test can tell that each request was sent exactly once.
"""

import asyncio
import gzip
import json
import socket
import ssl
import struct
import threading
from collections.abc import Awaitable, Callable, Iterator
from contextlib import contextmanager
from typing import Any

Writer = asyncio.StreamWriter
Behaviour = Callable[[Writer], Awaitable[None]]

HEAD = b"HTTP/1.1 200 OK\r\ncontent-type: text/event-stream\r\n"
CHUNKED = HEAD + b"transfer-encoding: chunked\r\n\r\n"
LAST = b"0\r\n\r\n"
ERROR = {"message": "busy", "type": "Service Unavailable", "param": None, "code": 503}


def event(payload: Any, end: bytes = b"\n\n") -> bytes:
    """One SSE event."""
    return b"data: " + (payload if isinstance(payload, bytes) else json.dumps(payload).encode()) + end


def delta(
    text: str | None,
    count: int | None = None,
    *,
    finish: str | None = None,
    key: str = "content",
    **more: Any,
) -> dict[str, Any]:
    """A chat chunk."""
    chunk: dict[str, Any] = {
        "choices": [
            {"index": 0, "delta": {} if text is None else {key: text}, "finish_reason": finish, **more}
        ]
    }
    if count is not None:
        chunk["usage"] = usage(count)
    return chunk


def usage(count: int) -> dict[str, Any]:
    return {"prompt_tokens": 7, "completion_tokens": count, "total_tokens": 7 + count}


ROLE = {"choices": [{"index": 0, "delta": {"role": "assistant", "content": ""}, "finish_reason": None}]}
DONE = event(b"[DONE]")
TEXT = event(ROLE) + event(delta("Hel")) + event(delta("lo", finish="stop"))
USAGE = event({"choices": [], "usage": usage(2)})
PLAIN = TEXT + USAGE + DONE
"""Two tokens, "Hello", counted at the end."""


def chunk(body: bytes) -> bytes:
    """One HTTP chunk."""
    return b"%x\r\n%s\r\n" % (len(body), body)


async def respond(
    writer: Writer, *pieces: bytes, pause_s: float = 0.0, head: bytes = CHUNKED, last: bytes = LAST
) -> None:
    """A chunked response, piece by piece, each flushed by itself."""
    writer.write(head)
    for piece in pieces:
        writer.write(chunk(piece))
        await writer.drain()
        await asyncio.sleep(pause_s)
    writer.write(last)
    await writer.drain()


def raw(*pieces: bytes, pause_s: float = 0.005, close: bool = False) -> Behaviour:
    """Writes bytes as they are, then closes if told to."""

    async def behave(writer: Writer) -> None:
        for piece in pieces:
            writer.write(piece)
            await writer.drain()
            await asyncio.sleep(pause_s)
        if close:
            writer.close()

    return behave


def stream(*pieces: bytes, pause_s: float = 0.005) -> Behaviour:
    return lambda writer: respond(writer, *pieces, pause_s=pause_s)


def status(line: str, body: bytes, kind: str = "application/json", more: str = "") -> Behaviour:
    return raw(
        f"HTTP/1.1 {line}\r\ncontent-type: {kind}\r\ncontent-length: {len(body)}\r\n{more}\r\n".encode()
        + body
    )


def reset(*pieces: bytes) -> Behaviour:
    """Writes, then closes with RST instead of FIN."""

    async def behave(writer: Writer) -> None:
        await raw(*pieces, pause_s=0.02)(writer)
        sock = writer.get_extra_info("socket")
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        writer.transport.abort()

    return behave


async def hang(writer: Writer) -> None:
    await asyncio.sleep(60)


def hang_after(*pieces: bytes) -> Behaviour:
    async def behave(writer: Writer) -> None:
        await raw(*pieces)(writer)
        await hang(writer)

    return behave


async def half_close(writer: Writer) -> None:
    """Sends FIN inside the response and goes on reading."""
    await raw(CHUNKED, chunk(event(ROLE) + event(delta("Hel"))))(writer)
    writer.write_eof()
    await asyncio.sleep(5)


async def endless(writer: Writer) -> None:
    writer.write(CHUNKED)
    for count in range(1, 10**6):
        writer.write(chunk(event(delta("x", count))))
        await writer.drain()
        await asyncio.sleep(0.002)


async def byte_by_byte(writer: Writer) -> None:
    """Every byte of the body is an HTTP chunk and a segment of its own."""
    body = event(ROLE) + event(delta("Größe 🙂")) + event(delta("\u2028", finish="stop")) + USAGE + DONE
    await respond(writer, *(body[i : i + 1] for i in range(len(body))))


async def endless_line(writer: Writer) -> None:
    writer.write(CHUNKED + chunk(b"data: "))
    while True:
        writer.write(chunk(b"x" * 2**20))
        await writer.drain()


async def endless_head(writer: Writer) -> None:
    writer.write(b"HTTP/1.1 200 OK\r\n")
    while True:
        writer.write(b"x-more: " + b"y" * 8000 + b"\r\n")
        await writer.drain()


LONG = "x" * 10_000_000
ZIPPED = gzip.compress(PLAIN)
JSON_ANSWER = json.dumps({"choices": [{"message": {"content": "Hello"}, "finish_reason": "stop"}]}).encode()

BEHAVIOURS: dict[str, Behaviour] = {
    "plain": stream(TEXT, USAGE, DONE),
    "continuous": stream(
        event(ROLE | {"usage": usage(0)}),
        event(delta("Hel", 1)),
        event(delta("lo!", 5, finish="stop")),
        USAGE.replace(b": 2", b": 5"),
        DONE,
    ),
    "reset-before": reset(),
    "reset-after": reset(CHUNKED + chunk(event(ROLE) + event(delta("Hel")))),
    "reset-in-head": reset(b"HTTP/1.1 200 OK\r\ncontent-"),
    "close-before": raw(close=True),
    "close-inside": raw(CHUNKED + chunk(event(ROLE) + event(delta("Hel"))), close=True),
    "close-inside-event": raw(
        CHUNKED + chunk(event(ROLE) + event(delta("Hel")) + event(delta("lo"))[:20]), close=True
    ),
    "close-after-done": raw(CHUNKED + chunk(PLAIN), close=True),
    "hang-before": hang,
    "hang-after-head": hang_after(CHUNKED),
    "hang-after": hang_after(CHUNKED + chunk(event(ROLE) + event(delta("Hel")))),
    "hang-after-done": hang_after(CHUNKED + chunk(PLAIN)),
    "half-close": half_close,
    "redirect": status("307 Temporary Redirect", b"", more="location: http://elsewhere.example/v1\r\n"),
    "400-json": status(
        "400 Bad Request", json.dumps({"error": {"message": "too long", "code": 400}}).encode()
    ),
    "401-string": status("401 Unauthorized", b'{"error":"Unauthorized"}'),
    "404-html": status("404 Not Found", b"<html><h1>Not here</h1></html>", "text/html"),
    "422-detail": status("422 Unprocessable", b'{"detail":[{"msg":"field required"}]}'),
    "429": status("429 Too Many Requests", b'{"error":{"message":"slow down"}}', more="retry-after: 7\r\n"),
    "500-empty": status("500 Internal Server Error", b""),
    "500-json": status("500 Internal Server Error", b'{"error":{"message":"boom","code":500}}'),
    "503-endless": raw(b"HTTP/1.1 503 Busy\r\ncontent-length: 1000000\r\n\r\n", b"busy", close=True),
    "html": status("200 OK", b"<html>Log in</html>", "text/html"),
    "json-answer": status("200 OK", JSON_ANSWER),
    "json-error": status("200 OK", b'{"error":{"message":"boom"}}'),
    "wrong-type": raw(
        b"HTTP/1.1 200 OK\r\ncontent-type: text/plain\r\ncontent-length: %d\r\n\r\n" % len(PLAIN) + PLAIN
    ),
    "204": raw(b"HTTP/1.1 204 No Content\r\n\r\n"),
    "empty": stream(),
    "no-http": raw(b"SSH-2.0-OpenSSH_9\r\n", close=True),
    "bad-chunk": raw(CHUNKED + chunk(event(ROLE) + event(delta("Hel"))) + b"zz\r\n"),
    "error-event": stream(event(ROLE), event(delta("Hel")), event({"error": ERROR | {"code": 500}}), DONE),
    "error-first": stream(event({"error": ERROR}), DONE),
    "error-429": stream(event({"error": ERROR | {"code": 429}}), DONE),
    "error-string": stream(event({"error": "out of memory"})),
    "no-done": stream(TEXT, USAGE),
    "no-usage": stream(TEXT, DONE),
    "no-finish": stream(event(ROLE), event(delta("Hel")), event(delta("lo")), USAGE, DONE),
    "no-finish-no-done": stream(event(ROLE), event(delta("Hel"))),
    "tokens-without-text": stream(
        event(ROLE | {"usage": usage(0)}),
        event(delta("", 1)),
        event(delta("", 2)),
        event(delta("é", 3)),
        event(delta("", 4, finish="stop")),
        DONE,
    ),
    "text-without-tokens": stream(
        event(ROLE),
        *(event(delta(text) | {"usage": usage(0)}) for text in ("Hel", "lo")),
        event(delta("", finish="stop")),
        DONE,
    ),
    "held-text": stream(
        event(delta("a", 1)),
        event(delta("", 2)),
        event(delta("bc", 2)),
        event(delta("", 2, finish="stop")),
        DONE,
    ),
    "usage-in-some": stream(
        event(delta("a", 1)),
        event(delta("b")),
        event(delta("c", 5)),
        event(delta("d", 6, finish="stop")),
        DONE,
    ),
    "usage-on-last-chunk": stream(event(delta("Hel")), event(delta("lo", 2, finish="stop")), DONE),
    "duplicate-usage": stream(TEXT, USAGE, USAGE, DONE),
    "null-usage": stream(
        event(delta("Hel") | {"usage": None}),
        event(delta("lo", finish="stop") | {"usage": None}),
        USAGE,
        DONE,
    ),
    "token-ids": stream(
        event(ROLE),
        event(delta("Hel", token_ids=[5, 6])),
        event(delta("", token_ids=[7])),
        event(delta("lo", finish="stop", token_ids=[8])),
        DONE,
    ),
    "reasoning": stream(
        event(ROLE),
        event(delta("hm", key="reasoning")),
        event(delta("so", key="reasoning")),
        event(delta("4")),
        event(delta("2", finish="stop")),
        DONE,
    ),
    "reasoning-content": stream(
        event(ROLE),
        event(delta("hm", key="reasoning_content")),
        event(delta("so", key="reasoning_content")),
        event(delta("4")),
        event(delta("2", finish="stop")),
        DONE,
    ),
    "think-tag": stream(
        event(ROLE),
        event(delta("<think>hm</th")),
        event(delta("ink>\n")),
        event(delta("\n")),
        event(delta("42", finish="stop")),
        DONE,
    ),
    "completions": stream(
        event({"choices": [{"text": "Hel", "finish_reason": None}]}),
        event({"choices": [{"text": "lo", "finish_reason": "length"}]}),
        USAGE,
        DONE,
    ),
    "metrics": stream(
        TEXT,
        event(
            {
                "choices": [],
                "usage": usage(2),
                "metrics": {"queue_time_ms": 3.5},
                "system_fingerprint": "vllm-0.32.0-tp2-x",
            }
        ),
        DONE,
    ),
    "crlf": stream(PLAIN.replace(b"\n", b"\r\n")),
    "cr": stream(PLAIN.replace(b"\n", b"\r")),
    "comments": stream(b": ping\n\n", TEXT, b": ping\n\n" * 3, USAGE + DONE),
    "byte-by-byte": byte_by_byte,
    "u2028": stream(
        event(delta("a"))
        + event('{"choices":[{"delta":{"content":"\u2028\u2029\u0085"},"finish_reason":"stop"}]}'.encode())
        + DONE
    ),
    "long-line": stream(event(ROLE), event(delta(LONG, finish="stop")), DONE, pause_s=0),
    "endless": endless,
    "endless-line": endless_line,
    "endless-head": endless_head,
    "bad-json": stream(
        event(ROLE), event(delta("Hel")), event(b'{"choices":[{'), event(delta("lo", finish="stop")), DONE
    ),
    "bad-shape": stream(event(delta("Hel")), event({"choices": "none"}), DONE),
    "not-an-object": stream(event(b"[1,2]"), DONE),
    "bad-nesting": stream(event(b'{"error":' + b"[" * 100_000), DONE),
    "bad-utf8": stream(event(b'{"choices":[{"delta":{"content":"\xff"}}]}'), DONE),
    "gzip": raw(
        HEAD + b"content-encoding: gzip\r\ncontent-length: %d\r\n\r\n" % len(ZIPPED) + ZIPPED[:40],
        ZIPPED[40:],
    ),
    "bad-gzip": raw(HEAD + b"content-encoding: gzip\r\ncontent-length: 8\r\n\r\nnot gzip"),
    "brotli": raw(HEAD + b"content-encoding: br\r\ncontent-length: 4\r\n\r\nabcd"),
    "http10": raw(b"HTTP/1.0 200 OK\r\ncontent-type: text/event-stream\r\n\r\n" + PLAIN, close=True),
    "continue": raw(b"HTTP/1.1 100 Continue\r\n\r\n", CHUNKED + chunk(PLAIN) + LAST),
    "upgrade": raw(
        b"HTTP/1.1 101 Switching Protocols\r\nupgrade: websocket\r\nconnection: upgrade\r\n\r\nxyz"
    ),
    "two-choices": stream(event({"choices": []}), PLAIN),
    "after-done": stream(PLAIN + event(delta("more")) + event(b"no json")),
    "slow-head": raw(
        b"HTTP/1.1 2",
        b"00 OK\r\ncontent-type: text/event",
        b"-stream\r\ntransfer-encoding: chunked\r",
        b"\n\r\n",
        chunk(PLAIN),
        b"0\r",
        b"\n\r\n",
    ),
}


class Proxy:
    """An HTTP proxy for CONNECT on the loop it is started in; `asked` keeps the heads it read."""

    def __init__(self, refuse: bool = False) -> None:
        self.asked: list[str] = []
        self._refuse = refuse

    async def start(self) -> str:
        """Its URL."""
        self.server = await asyncio.start_server(self._serve, "127.0.0.1", 0)
        return f"http://127.0.0.1:{self.server.sockets[0].getsockname()[1]}"

    async def _serve(self, reader: asyncio.StreamReader, writer: Writer) -> None:
        head = (await reader.readuntil(b"\r\n\r\n")).decode()
        self.asked.append(head)
        if self._refuse:
            writer.write(b"HTTP/1.1 403 Forbidden\r\n\r\n")
            writer.close()
            return
        host, port = head.split(" ")[1].rsplit(":", 1)
        upstream_reader, upstream = await asyncio.open_connection(host, int(port))
        writer.write(b"HTTP/1.1 200 Connection established\r\n\r\n")
        await asyncio.gather(_pipe(reader, upstream), _pipe(upstream_reader, writer))


async def _pipe(reader: asyncio.StreamReader, writer: Writer) -> None:
    try:
        while piece := await reader.read(2**16):
            writer.write(piece)
            await writer.drain()
    except ConnectionError:
        pass
    finally:
        writer.close()


class Hostile:
    """The server, in a thread with an event loop of its own."""

    def __init__(self, tls: ssl.SSLContext | None = None) -> None:
        self.requests: list[tuple[str, dict[str, str], Any]] = []
        """(request line, headers, body) in order of arrival."""
        self.connections = 0
        self._tls = tls
        self._loop = asyncio.new_event_loop()
        self._tasks: set[asyncio.Task[Any]] = set()

    def target(self, behaviour: str) -> str:
        """URL that makes the server behave so."""
        scheme = "http" if self._tls is None else "https"
        return f"{scheme}://127.0.0.1:{self.port}/{behaviour}/v1"

    @contextmanager
    def running(self) -> Iterator["Hostile"]:
        """Serve on a free port for as long as the context lasts."""

        async def start() -> None:
            self._server = await asyncio.start_server(
                self._serve, "127.0.0.1", 0, ssl=self._tls, backlog=2048
            )
            self.port = self._server.sockets[0].getsockname()[1]

        async def stop() -> None:
            self._server.close()
            for task in self._tasks:
                task.cancel()
            await asyncio.gather(*self._tasks, return_exceptions=True)

        self._loop.run_until_complete(start())
        thread = threading.Thread(target=self._loop.run_forever, daemon=True)
        thread.start()
        try:
            yield self
        finally:
            asyncio.run_coroutine_threadsafe(stop(), self._loop).result(10)
            self._loop.call_soon_threadsafe(self._loop.stop)
            thread.join(10)
            self._loop.close()

    async def _serve(self, reader: asyncio.StreamReader, writer: Writer) -> None:
        self.connections += 1
        task = asyncio.current_task()
        assert task is not None
        self._tasks.add(task)
        try:
            while not writer.is_closing():
                await self._answer(reader, writer)
        except (ConnectionError, asyncio.IncompleteReadError, asyncio.CancelledError, ssl.SSLError):
            pass
        finally:
            self._tasks.discard(task)
            writer.close()

    async def _answer(self, reader: asyncio.StreamReader, writer: Writer) -> None:
        head = (await reader.readuntil(b"\r\n\r\n")).decode("latin-1").split("\r\n")
        headers = {
            name.lower(): value.strip()
            for name, _, value in (line.partition(":") for line in head[1:] if line)
        }
        body = await reader.readexactly(int(headers.get("content-length", "0")))
        self.requests.append((head[0], headers, json.loads(body) if body else None))
        path = head[0].split(" ")[1].partition("://")[2] or head[0].split(" ")[1]
        behaviour = path.partition("/")[2].partition("/")[0]
        await BEHAVIOURS[behaviour](writer)
