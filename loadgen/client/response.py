"""TODO docstring."""

import asyncio
import zlib
from collections.abc import Callable, Iterator, Mapping
from time import perf_counter_ns

import httptools
import msgspec

from loadgen.client.token_stream import BAD_JSON, TokenStream, said_error
from loadgen.client.work_queue import WorkQueue
from loadgen.exchange import Exchange
from loadgen.record import Outcome

BATCH = 64
"""Reads decoded in one piece, which takes about 0.1 ms."""
MORE = b"\n\n\r\n"
"""The end of a read that ends where an event and its HTTP chunk do. Nothing has to be done about it at once."""
HEAD_END, LAST_CHUNK = b"\r\n\r\n", b"0\r\n\r\n"
ERROR_BODY_BYTES = 2**16
"""Of an error's body only so much is kept; its message is at the start."""
HEAD_BYTES = 2**20
"""No server has a longer head; without a limit an endless one would fill the memory."""
GRACE_S = 1.0
"""A server that has said [DONE] has so long to end the response before we do."""


class ResponseReader:
    """One request's way through a connection: what was read, HTTP parser callbacks, the ending."""

    def __init__(self, exchange: Exchange, turns: WorkQueue, on_tokens: Callable[[int], None] | None) -> None:
        self.exchange = exchange
        self.stream = TokenStream(exchange)
        self.ended: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self.over = False
        """The outcome stands. (A cancelled task cancels `ended`, so `ended` alone can't tell.)"""
        self.whole = False
        """The HTTP message is complete: the connection may carry another."""
        self.reads: list[tuple[int, bytes]] = []
        """Stamp and bytes of what was read and not parsed yet."""
        self.lazy = False
        """The response seems to be a stream in chunks: its end can be seen without parsing."""
        self._bodies: list[tuple[int, bytes]] = []
        """What the framing was taken off, not decoded yet."""
        self._turns = turns
        self._on_tokens = on_tokens
        self._stamp_ns = 0
        self._body: list[bytes] = []
        self.on_body = self._body.append
        """Parser callback, without a Python frame: it comes once an event."""
        self._parser = httptools.HttpResponseParser(self)
        self._reported = 0
        self._parse_due = False
        self._head_bytes = 0
        self._complete = False
        self._headers: dict[bytes, bytes] = {}
        self._body_kept: list[bytes] = []
        """The start of a body that is no stream: what an error says."""
        self._inflate: zlib._Decompress | None = None
        self._grace: asyncio.TimerHandle | None = None

    def parse_soon(self, data: bytes) -> None:
        """See in a turn of its own what `data`, the last read, has brought; the head of a stream brings nothing."""
        if data.endswith((MORE, HEAD_END)) and not data.endswith(LAST_CHUNK) and begins_stream(data):
            self.lazy = True
        elif not self._parse_due:
            self._parse_due = True
            self._turns.soon(self._parse_in_turn)

    def tidy(self) -> Iterator[None]:
        """Decode what was read, a piece a step."""
        if not self.over:
            self._parse()
        while self._bodies and not self.over:
            self._decode(BATCH)
            self._judge()
            yield

    def lost(self, error: Exception | None) -> None:
        """The connection is gone, or the server has closed its side of it."""
        self._parse()
        if self.over:
            return
        if self.exchange.headers_ns is None:
            self.fail("reset", f"connection lost before the answer: {error or 'closed by the server'}")
        elif error is not None:
            self.fail("reset", f"connection lost: {error}")
        elif self._ends_with_connection():
            self._end()
        else:
            self.fail("cut", "the server closed the connection inside the response")

    def fail(self, outcome: Outcome, error: str) -> None:
        """End the call now; what was measured stays."""
        self._parse()
        if self.over:
            return
        self._decode()
        exchange = self.exchange
        if exchange.outcome == "ok" and not (self.stream.complete() and self.stream.done):
            exchange.outcome = outcome
            exchange.error = error
        self._end()

    def settle(self) -> Exchange:
        """The Exchange, after the end: decode what is left, judge what is there. Once."""
        del self._parser  # it holds this call: a knot that only the garbage collector would undo
        exchange = self.exchange
        self._decode()
        self.stream.finish(self._stamp_ns)
        self._report()
        if exchange.outcome not in ("ok", "cut"):
            return exchange
        if not self._is_stream():
            exchange.outcome = "rate_limited" if exchange.status == 429 else "http_error"
            exchange.error = error_text(self._kept(), self._headers)
        elif self._body_kept and not self.stream.events:
            exchange.outcome, exchange.error = no_stream(self._kept(), self._headers)
        return exchange

    def on_header(self, name: bytes, value: bytes) -> None:
        """Parser callback."""
        self._headers[name.lower()] = value

    def on_headers_complete(self) -> None:
        """Parser callback."""
        status = self._parser.get_status_code()
        if status < 200:  # informational: the answer follows
            self._headers.clear()
            return
        self.exchange.status = status
        self.exchange.headers_ns = self._stamp_ns
        encoding = self._headers.get(b"content-encoding", b"identity").strip().lower()
        if encoding in (b"gzip", b"x-gzip", b"deflate"):
            self._inflate = zlib.decompressobj(wbits=47)
        elif encoding not in (b"identity", b""):
            text = encoding.decode(errors="replace")
            self.stream.fail("malformed", f"content-encoding {text} was not asked for")
        self.lazy = self._is_chunked() and self._is_stream()

    def on_message_complete(self) -> None:
        """Parser callback."""
        if self.exchange.headers_ns is not None:
            self._complete = True
            self.whole = self._parser.should_keep_alive()

    def _parse_in_turn(self) -> None:
        self._parse_due = False
        self._parse()
        if not self.over:
            self._decode()
            self._judge()

    def _judge(self) -> None:
        """End what the server says is over, though the response goes on."""
        self._report()
        if self.stream.failed:
            self._end()
        elif self.stream.done and not self.over and self._grace is None:
            self._grace = asyncio.get_running_loop().call_later(GRACE_S, self._end)

    def _parse(self) -> None:
        """Take the framing off what was read."""
        reads, self.reads = self.reads, []
        for stamp_ns, data in reads:
            if self.over:
                return
            self._stamp_ns = stamp_ns
            wrong: tuple[Outcome, str] | None = None
            try:
                self._parser.feed_data(data)
            except httptools.HttpParserUpgrade:
                self.exchange.status = 101
                wrong = "http_error", "the server switches to another protocol"
            except httptools.HttpParserError as error:
                wrong = "malformed", f"no HTTP: {str(error) or type(error).__name__}"
            if self._body:
                self._bodies.append((stamp_ns, b"".join(self._body)))
                self._body.clear()
            elif self.exchange.headers_ns is None:
                self._head_bytes += len(data)
                if self._head_bytes > HEAD_BYTES:
                    wrong = "malformed", f"more than {HEAD_BYTES} bytes of headers"
            if wrong is not None:
                self.fail(*wrong)
            elif self._complete:
                self._end(stamp_ns)

    def _decode(self, pieces: int | None = None) -> None:
        """Take the events out of so many pieces of the body, or all."""
        bodies, self._bodies = self._bodies[:pieces], self._bodies[pieces:] if pieces else []
        if not bodies:
            return
        wrong = None
        if self._inflate is not None:
            bodies, wrong = inflated(self._inflate, bodies)
        for _, body in bodies:
            if self._body_kept and self._is_stream():
                break
            self._keep(body)
        if self._is_stream():
            self.stream.feed(bodies)
        if wrong is not None:
            self.stream.fail("malformed", f"bad gzip: {wrong}")

    def _keep(self, body: bytes) -> None:
        if sum(map(len, self._body_kept)) < ERROR_BODY_BYTES:
            self._body_kept.append(body)

    def _report(self) -> None:
        if self._on_tokens is not None and self.stream.counted > self._reported:
            self._on_tokens(self.stream.counted - self._reported)
            self._reported = self.stream.counted

    def _end(self, at_ns: int | None = None) -> None:
        if self._grace is not None:
            self._grace.cancel()
        if not self.over:
            self.over = True
            self.exchange.end_ns = at_ns or perf_counter_ns()
            if not self.ended.done():
                self.ended.set_result(None)

    def _is_chunked(self) -> bool:
        return b"chunked" in self._headers.get(b"transfer-encoding", b"").lower()

    def _ends_with_connection(self) -> bool:
        """A body without a length ends where the connection does (HTTP/1.0)."""
        return b"content-length" not in self._headers and not self._is_chunked()

    def _is_stream(self) -> bool:
        return self.exchange.status is None or self.exchange.status // 100 == 2

    def _kept(self) -> bytes:
        return b"".join(self._body_kept)[:ERROR_BODY_BYTES]


def begins_stream(data: bytes) -> bool:
    """A first read that is the head of a stream in chunks."""
    return data.startswith(b"HTTP/1.1 200") and b"\r\ntransfer-encoding: chunked\r\n" in data.lower()


def inflated(
    inflate: "zlib._Decompress", bodies: list[tuple[int, bytes]]
) -> tuple[list[tuple[int, bytes]], zlib.error | None]:
    """The bodies without their gzip, as far as they are right, and what is wrong with the next."""
    plain = []
    for stamp_ns, body in bodies:
        try:
            plain.append((stamp_ns, inflate.decompress(body)))
        except zlib.error as error:
            return plain, error
    return plain, None


def error_text(body: bytes, headers: Mapping[bytes, bytes]) -> str:
    """What a refused request is told: the message in the JSON, else the start of the text; where a redirect leads."""
    text = (
        f"redirected to {_text(headers[b'location'])}; give that as the target. "
        if b"location" in headers
        else ""
    )
    if b"retry-after" in headers:
        text += f"retry after {_text(headers[b'retry-after'])}. "
    return (text + (_said(body) or _text(body[:200]))).strip() or "no body"


def no_stream(body: bytes, headers: Mapping[bytes, bytes]) -> tuple[Outcome, str]:
    """Outcome and error of a 200 that holds no event."""
    if (said := _said(body)) is not None:
        return "server_error", said
    kind = _text(headers.get(b"content-type", b"no content type"))
    return "malformed", f"no event stream but {kind}: {_text(body[:200])}"


def _said(body: bytes) -> str | None:
    """The error message in a JSON body, in the shapes servers use."""
    try:
        answer = msgspec.json.decode(body)
    except BAD_JSON:
        return None
    if not isinstance(answer, dict):
        return None
    for key in ("error", "detail", "message"):
        if answer.get(key):
            return said_error(answer[key])[1]
    return None


def _text(value: bytes) -> str:
    return value.decode(errors="replace").strip()
