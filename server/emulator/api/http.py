"""An HTTP/1.1 server on asyncio and httptools with what an emulated server needs (reasons: docs/decisions/0010).

Rules: a connection answers one request at a time, in order. A handler is a plain function that answers immediately or
keeps the exchange and writes to it later. Writing never waits: if the client reads too slowly, `blocked` becomes true and
the writer must hold its output back. What a client may send is limited: MAX_HEAD bytes for the request line with the
headers, and MAX_BODY bytes for the body. This module does not know what is served.
"""

import asyncio
import time
from collections import deque
from collections.abc import Callable
from email.utils import formatdate
from http import HTTPStatus
from urllib.parse import unquote

import httptools

MAX_BODY = 64 * 2**20
MAX_HEAD = 64 * 2**10
PIECE = 16 * 2**10
"""Received bytes that are parsed at once. A limit is checked after each piece."""
LINGER_S = 1.0
REFUSAL = b"Invalid HTTP request received."
_date = (0, b"")


def _http_date() -> bytes:
    """The value of the `date` header; computed once per second."""
    global _date  # noqa: PLW0603 - a cache for the process
    second = int(time.time())
    if _date[0] != second:
        _date = (second, formatdate(second, usegmt=True).encode())
    return _date[1]


class HttpExchange:
    """One request and the response to it."""

    def __init__(self, connection: "HttpConnection") -> None:
        self._connection = connection
        self.method = ""
        self.path = ""
        self.headers: dict[str, str] = {}
        self.body = bytearray()
        self.keep_alive = True
        self.chunked = True
        self.started_s = time.perf_counter()
        self.status = 0
        self.sent_bytes = 0
        self.on_close: Callable[[], None] = lambda: None
        """Called when the client disconnects before the response has ended."""
        self.on_resume: Callable[[], None] = lambda: None
        """Called when a slow client has read enough for more to be written."""

    @property
    def open(self) -> bool:
        """Whether the client is connected and the response has not ended."""
        return self._connection.current is self

    @property
    def blocked(self) -> bool:
        """Whether the client reads more slowly than the server writes."""
        return self._connection.blocked

    def _head(self, status: int, headers: list[tuple[str, str]]) -> bytes:
        self.status = status
        lines = [
            f"HTTP/1.1 {status} {HTTPStatus(status).phrase}".encode(),
            b"date: " + _http_date(),
            b"server: uvicorn",
        ]
        lines += [f"{name}: {value}".encode() for name, value in headers]
        if not self.keep_alive:
            lines.append(b"connection: close")
        return b"\r\n".join(lines) + b"\r\n\r\n"

    def answer(self, status: int, body: bytes, headers: list[tuple[str, str]]) -> None:
        """Send a complete response."""
        if self.open:
            self.sent_bytes = len(body)
            head = self._head(status, [("content-length", str(len(body))), *headers])
            self._connection.write(head if self.method == "HEAD" else head + body)
            self._connection.end(self)

    def start(self, headers: list[tuple[str, str]]) -> None:
        """Start a streamed response with status 200."""
        if self.open:
            if self.chunked:
                headers = [*headers, ("transfer-encoding", "chunked")]
            self._connection.write(self._head(200, headers))

    def write(self, piece: bytes) -> None:
        """Send one piece of a streamed response."""
        if self.open:
            self._connection.write(b"%x\r\n%b\r\n" % (len(piece), piece) if self.chunked else piece)

    def finish(self, piece: bytes) -> None:
        """End a streamed response with its last piece."""
        if self.open:
            self._connection.write(b"%x\r\n%b\r\n0\r\n\r\n" % (len(piece), piece) if self.chunked else piece)
            self._connection.end(self)

    def cut(self) -> None:
        """Break the connection immediately."""
        if self.open:
            self._connection.cut()


Handler = Callable[[HttpExchange], None]


def _check_size(size: int, limit: int) -> None:
    """Raise HttpParserError if a part of a request exceeds its limit; raised in a callback, it also stops the parser."""
    if size > limit:
        raise httptools.HttpParserError(f"{size} bytes exceed the limit of {limit}")


class HttpConnection(asyncio.Protocol):
    """One client's connection."""

    def __init__(self, handle: Handler, connections: "set[HttpConnection]") -> None:
        self._handle = handle
        self._connections = connections
        self._parser = httptools.HttpRequestParser(self)
        self._transport: asyncio.Transport | None = None
        self._incoming = HttpExchange(self)
        self._url = b""
        self._head_bytes = 0
        """Size of the URL and the headers that have been parsed."""
        self._unparsed_bytes = 0
        """Bytes received since the parser last completed a head, a piece of a body or a message."""
        self._refused = False
        self._waiting: deque[HttpExchange] = deque()
        self.current: HttpExchange | None = None
        self.blocked = False

    # Called by asyncio

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Keep the transport of the new connection."""
        self._transport = transport  # type: ignore[assignment]  # TCP servers get asyncio.Transport
        self._connections.add(self)

    def data_received(self, data: bytes) -> None:
        """Parse received bytes. What is not HTTP or exceeds a limit is answered with 400 and ends the connection."""
        if self._refused:
            return
        try:
            for begin in range(0, len(data), PIECE):
                piece = data[begin : begin + PIECE]
                self._unparsed_bytes += len(piece)
                self._parser.feed_data(piece)
                _check_size(self._unparsed_bytes, MAX_HEAD)
        except (httptools.HttpParserUpgrade, httptools.HttpParserError):
            self._refuse()

    def _refuse(self) -> None:
        """Answer as uvicorn does, which is vLLM's HTTP server, and ignore what follows.

        Bytes that are still arriving are read for LINGER_S seconds: closing a socket with unread bytes would reset the
        connection, and the client would lose the answer.
        """
        self.write(
            b"HTTP/1.1 400 Bad Request\r\ncontent-type: text/plain; charset=utf-8\r\ncontent-length: %d\r\n"
            b"connection: close\r\n\r\n%b" % (len(REFUSAL), REFUSAL)
        )
        self._refused = True
        if self._transport:
            self._transport.write_eof()
            asyncio.get_running_loop().call_later(LINGER_S, self.cut)

    def connection_lost(self, exc: Exception | None) -> None:  # noqa: ARG002 - asyncio's signature
        """Tell the exchange in progress that the client has disconnected."""
        self._connections.discard(self)
        self._transport = None
        self._waiting.clear()
        exchange, self.current = self.current, None
        if exchange:
            exchange.on_close()

    def pause_writing(self) -> None:
        """Note that the write buffer is full."""
        self.blocked = True

    def resume_writing(self) -> None:
        """Note that the write buffer has been drained, and let the exchange continue."""
        self.blocked = False
        if self.current:
            self.current.on_resume()

    # Called by httptools

    def on_message_begin(self) -> None:
        """Start a new exchange."""
        self._incoming = HttpExchange(self)
        self._url, self._head_bytes = b"", 0

    def on_url(self, url: bytes) -> None:
        """Keep one part of the URL, which may arrive in several parts."""
        self._url += url
        self._head_bytes += len(url)

    def on_header(self, name: bytes, value: bytes) -> None:
        """Keep one header."""
        self._head_bytes += len(name) + len(value) + len(": \r\n")
        self._incoming.headers[name.decode("latin-1").lower()] = value.decode("latin-1")

    def on_headers_complete(self) -> None:
        """Keep the path of the request, and answer `Expect: 100-continue`."""
        self._unparsed_bytes = 0
        _check_size(self._head_bytes, MAX_HEAD)
        target = httptools.parse_url(self._url)
        self._incoming.path = unquote((target.path or b"/").decode("latin-1"))
        if self._incoming.headers.get("expect", "").lower() == "100-continue":
            self.write(b"HTTP/1.1 100 Continue\r\n\r\n")

    def on_body(self, body: bytes) -> None:
        """Append a piece of the body, up to MAX_BODY bytes."""
        self._unparsed_bytes = 0
        _check_size(len(self._incoming.body) + len(body), MAX_BODY)
        self._incoming.body += body

    def on_message_complete(self) -> None:
        """Handle the request, or queue it behind the one in progress."""
        self._unparsed_bytes = 0
        exchange = self._incoming
        exchange.method = self._parser.get_method().decode()
        exchange.keep_alive = self._parser.should_keep_alive()
        exchange.chunked = self._parser.get_http_version() != "1.0"
        if self.current:
            self._waiting.append(exchange)
        else:
            self._begin(exchange)

    # Called by exchanges

    def _begin(self, exchange: HttpExchange) -> None:
        self.current = exchange
        self._handle(exchange)

    def write(self, piece: bytes) -> None:
        """Send bytes; the transport buffers what the socket does not accept."""
        if self._transport and not self._refused:
            self._transport.write(piece)

    def end(self, exchange: HttpExchange) -> None:
        """End a response: continue with the next request, or close the connection."""
        self.current = None
        if not exchange.keep_alive or not exchange.chunked:
            self.close()
        elif self._waiting:
            self._begin(self._waiting.popleft())

    def close(self) -> None:
        """Close the connection when everything has been written."""
        if self._transport:
            self._transport.close()

    def cut(self) -> None:
        """Close the connection immediately and discard unwritten bytes."""
        if self._transport:
            self._transport.abort()
