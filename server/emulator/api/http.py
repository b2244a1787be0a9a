"""HTTP/1.1 on asyncio and httptools, no more than an emulated server needs: docs/decisions/0010 says why not a framework.

Rules: one exchange at a time on a connection, later ones wait their turn; a handler is a plain function that answers at
once or keeps the exchange and writes to it later; a write is one `transport.write`, never awaited. Where the client reads
slower than we write, `blocked` says so and the writer holds back. Does not know what is served.
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
_date = (0, b"")


def _http_date() -> bytes:
    """Now, as a `date` header; worked out once a second."""
    global _date  # noqa: PLW0603 - a cache of one line for the process
    second = int(time.time())
    if _date[0] != second:
        _date = (second, formatdate(second, usegmt=True).encode())
    return _date[1]


class HttpExchange:
    """One request, and the answer to it."""

    def __init__(self, connection: "HttpConnection") -> None:
        self._connection = connection
        self.method = ""
        self.path = ""
        self.query = ""
        self.headers: dict[str, str] = {}
        self.body = bytearray()
        self.keep_alive = True
        self.chunked = True
        self.started_s = time.perf_counter()
        self.status = 0
        self.sent_bytes = 0
        self.on_close: Callable[[], None] = lambda: None
        """The client went away before the answer ended."""
        self.on_resume: Callable[[], None] = lambda: None
        """The client reads again."""

    @property
    def open(self) -> bool:
        """The client is there and the answer has not ended."""
        return self._connection.current is self

    @property
    def blocked(self) -> bool:
        """The client reads slower than we write."""
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
        """Answer whole."""
        if self.open:
            self.sent_bytes = len(body)
            head = self._head(status, [("content-length", str(len(body))), *headers])
            self._connection.write(head if self.method == "HEAD" else head + body)
            self._connection.end(self)

    def start(self, headers: list[tuple[str, str]]) -> None:
        """Open a stream, status 200."""
        if self.open:
            if self.chunked:
                headers = [*headers, ("transfer-encoding", "chunked")]
            self._connection.write(self._head(200, headers))

    def write(self, piece: bytes) -> None:
        """One piece of a stream."""
        if self.open:
            self._connection.write(b"%x\r\n%b\r\n" % (len(piece), piece) if self.chunked else piece)

    def finish(self, piece: bytes = b"") -> None:
        """End a stream, with a last piece."""
        if self.open:
            if self.chunked:
                self._connection.write(
                    (b"%x\r\n%b\r\n" % (len(piece), piece) if piece else b"") + b"0\r\n\r\n"
                )
            elif piece:
                self._connection.write(piece)
            self._connection.end(self)

    def cut(self) -> None:
        """Break the connection where it is."""
        if self.open:
            self._connection.cut()


Handler = Callable[[HttpExchange], None]


class HttpConnection(asyncio.Protocol):
    """One client's connection."""

    def __init__(self, handle: Handler, connections: "set[HttpConnection]") -> None:
        self._handle = handle
        self._connections = connections
        self._parser = httptools.HttpRequestParser(self)
        self._transport: asyncio.Transport | None = None
        self._incoming = HttpExchange(self)
        self._waiting: deque[HttpExchange] = deque()
        self.current: HttpExchange | None = None
        self.blocked = False

    # asyncio's side

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Begin."""
        self._transport = transport  # type: ignore[assignment]  # TCP servers get asyncio.Transport
        self._connections.add(self)

    def data_received(self, data: bytes) -> None:
        """Parse; what is no HTTP ends the connection with a 400."""
        try:
            self._parser.feed_data(data)
        except httptools.HttpParserUpgrade:
            self._refuse()
        except httptools.HttpParserError:
            self._refuse()

    def _refuse(self) -> None:
        text = b"Invalid HTTP request received."
        self.write(
            b"HTTP/1.1 400 Bad Request\r\ncontent-length: %d\r\nconnection: close\r\n\r\n%b"
            % (len(text), text)
        )
        self.close()

    def connection_lost(self, exc: Exception | None) -> None:  # noqa: ARG002 - asyncio's signature
        """Tell whoever was being answered."""
        self._connections.discard(self)
        self._transport = None
        self._waiting.clear()
        exchange, self.current = self.current, None
        if exchange:
            exchange.on_close()

    def pause_writing(self) -> None:
        """The socket's buffer is full."""
        self.blocked = True

    def resume_writing(self) -> None:
        """It drained."""
        self.blocked = False
        if self.current:
            self.current.on_resume()

    # httptools' side

    def on_message_begin(self) -> None:
        """A request's first byte."""
        self._incoming = HttpExchange(self)

    def on_url(self, url: bytes) -> None:
        """Its target."""
        target = httptools.parse_url(url)
        self._incoming.path = unquote((target.path or b"/").decode("latin-1"))
        self._incoming.query = (target.query or b"").decode("latin-1")

    def on_header(self, name: bytes, value: bytes) -> None:
        """One header."""
        self._incoming.headers[name.decode("latin-1").lower()] = value.decode("latin-1")

    def on_headers_complete(self) -> None:
        """All headers."""
        if self._incoming.headers.get("expect", "").lower() == "100-continue":
            self.write(b"HTTP/1.1 100 Continue\r\n\r\n")

    def on_body(self, body: bytes) -> None:
        """A piece of the body."""
        if len(self._incoming.body) + len(body) > MAX_BODY:
            self._refuse()
        else:
            self._incoming.body += body

    def on_message_complete(self) -> None:
        """A whole request: answer it, or let it wait for the one before."""
        exchange = self._incoming
        exchange.method = self._parser.get_method().decode()
        exchange.keep_alive = self._parser.should_keep_alive()
        exchange.chunked = self._parser.get_http_version() != "1.0"
        if self.current:
            self._waiting.append(exchange)
        else:
            self._begin(exchange)

    # An exchange's side

    def _begin(self, exchange: HttpExchange) -> None:
        self.current = exchange
        self._handle(exchange)

    def write(self, piece: bytes) -> None:
        """Send now, or as soon as the socket takes it."""
        if self._transport:
            self._transport.write(piece)

    def end(self, exchange: HttpExchange) -> None:
        """An answer is complete: go on with the next request, or close."""
        self.current = None
        if not exchange.keep_alive or not exchange.chunked:
            self.close()
        elif self._waiting:
            self._begin(self._waiting.popleft())

    def close(self) -> None:
        """Close once all is written."""
        if self._transport:
            self._transport.close()

    def cut(self) -> None:
        """Drop the connection, unwritten bytes included."""
        if self._transport:
            self._transport.abort()
