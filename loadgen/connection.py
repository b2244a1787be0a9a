"""One connection to the server, and the one call it carries at a time.

Rules: stamp first. `data_received` reads the clock, keeps the bytes, and returns; the HTTP parser (C), the events and
their JSON come after, BATCH reads at a time or when the response seems to end, a piece a turn of the loop. So a stamp
waits for no parser, and code that runs once every 64 events runs warm. Outcomes are set here and in `stream`, once: the
first thing that went wrong is the outcome.

Does not know: where the connection goes, who gets it next.
"""

import asyncio
import zlib
from collections import deque
from collections.abc import Callable, Mapping
from time import perf_counter_ns
from typing import cast

import httptools
import msgspec

from loadgen.exchange import Exchange
from loadgen.record import Outcome
from loadgen.stream import BAD_JSON, Stream, said_error

BATCH = 64
"""Reads between two parses, which take about 0.1 ms: no stamp waits longer. Parsed together they cost half (2.2 → 1.2 µs)."""
SWEEP_S = 0.25
"""Reads of a slow stream wait no longer to be parsed, so that live counts stay live (Prometheus asks once a second)."""
SMALL_BYTES, LARGE_BYTES = 8, 2**14
"""Reads outside are parsed at once: a small one may be the rest of an ending, large ones add up in memory."""
LAST_CHUNK = b"0\r\n\r\n"
ERROR_BODY_BYTES = 2**16
"""Of an error's body only so much is kept; its message is at the start."""
HEAD_BYTES = 2**20
"""No server has a longer head; without a limit an endless one would fill the memory."""
GRACE_S = 1.0
"""A server that has said [DONE] has so long to end the response before we do."""


class Turns:
    """Work that can wait while sockets are read: one piece a turn of the loop, so that no stamp waits for more."""

    def __init__(self) -> None:
        self._queue: deque[Callable[[], None]] = deque()

    def add(self, work: Callable[[], None]) -> None:
        """Do `work` after the sockets that are ready now have been read and stamped."""
        self._queue.append(work)
        if len(self._queue) == 1:
            asyncio.get_running_loop().call_soon(self._turn)

    def _turn(self) -> None:
        try:
            self._queue[0]()
        finally:
            self._queue.popleft()
            if self._queue:
                asyncio.get_running_loop().call_soon(self._turn)


class Call:
    """One request's way through a connection: what was read, HTTP parser callbacks, the ending."""

    def __init__(self, exchange: Exchange, turns: Turns, on_tokens: Callable[[int], None] | None) -> None:
        self.exchange = exchange
        self.stream = Stream(exchange)
        self.connection: Connection | None = None
        self.ended: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self.over = False
        """The outcome stands. (A cancelled task cancels `ended`, so `ended` alone can't tell.)"""
        self.whole = False
        """The HTTP message is complete: the connection may carry another."""
        self.reads: list[tuple[int, bytes]] = []
        """Stamp and bytes of what was read and not parsed yet."""
        self.lazy = False
        """The response is a stream in chunks: its end can be seen without parsing."""
        self._turns = turns
        self._on_tokens = on_tokens
        self._stamp_ns = 0
        self._bodies: list[bytes] = []
        self.on_body = self._bodies.append
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

    def parse_soon(self) -> None:
        """Parse what was read, in a turn of its own."""
        if not self._parse_due:
            self._parse_due = True
            self._turns.add(self._parse_in_turn)

    def sweep(self, before_ns: int) -> None:
        """Parse what was read before `before_ns`, if that is still waiting."""
        if self.reads and self.reads[0][0] < before_ns:
            self.parse_soon()

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
        exchange = self.exchange
        if exchange.outcome == "ok" and not (self.stream.complete() and self.stream.done):
            exchange.outcome = outcome
            exchange.error = error
        self._end()

    def settle(self) -> None:
        """After the end: judge what is there."""
        del self._parser  # it holds this call: a knot that only the garbage collector would undo
        exchange = self.exchange
        self.stream.finish(self._stamp_ns)
        self._report()
        if exchange.outcome not in ("ok", "cut"):
            return
        if not self._is_stream():
            exchange.outcome = "rate_limited" if exchange.status == 429 else "http_error"
            exchange.error = error_text(self._kept(), self._headers)
        elif self._body_kept and not self.stream.events:
            exchange.outcome, exchange.error = no_stream(self._kept(), self._headers)

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
        self._report()
        if self.stream.failed:
            self._end()
        elif self.stream.done and not self.over and self._grace is None:
            self._grace = asyncio.get_running_loop().call_later(GRACE_S, self._end)

    def _parse(self) -> None:
        reads, self.reads = self.reads, []
        bodies: list[tuple[int, bytes]] = []
        for stamp_ns, data in reads:
            if self.over:
                return
            self._stamp_ns = stamp_ns
            wrong = self._http(data)
            if self._bodies:
                bodies.append((stamp_ns, b"".join(self._bodies)))
                self._bodies.clear()
            if wrong is not None or self._complete:
                self._take(bodies)
                bodies = []
                if wrong is not None:
                    self.fail(*wrong)
                else:
                    self._end(stamp_ns)
        self._take(bodies)

    def _http(self, data: bytes) -> tuple[Outcome, str] | None:
        """Take the framing off; what is wrong with it, if anything."""
        try:
            self._parser.feed_data(data)
        except httptools.HttpParserUpgrade:
            self.exchange.status = 101
            return "http_error", "the server switches to another protocol"
        except httptools.HttpParserError as error:
            return "malformed", f"no HTTP: {str(error) or type(error).__name__}"
        if self.exchange.headers_ns is None:
            self._head_bytes += len(data)
            if self._head_bytes > HEAD_BYTES:
                return "malformed", f"more than {HEAD_BYTES} bytes of headers"
        return None

    def _take(self, bodies: list[tuple[int, bytes]]) -> None:
        """Take pieces of the body with the stamps of their reads."""
        wrong = None
        if self._inflate is not None:
            bodies, wrong = inflated(self._inflate, bodies)
        for _, body in bodies:
            if self._body_kept and self._is_stream():
                break
            self._keep(body)
        if bodies and self._is_stream():
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
            self._turns.add(self._wake)

    def _wake(self) -> None:
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


class Connection(asyncio.Protocol):
    """A TCP or TLS connection. `on_lost` is told when it is gone."""

    def __init__(self) -> None:
        self.call: Call | None = None
        self.idle_since_ns = 0
        self.on_lost: Callable[[Connection], None] | None = None
        self._transport: asyncio.Transport | None = None
        self._used = False

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Protocol callback."""
        self._transport = cast("asyncio.Transport", transport)

    def start(self, call: Call, payload: bytes) -> None:
        """Send the request of `call` and give it what comes back."""
        self.call = call
        call.connection = self
        if self._transport is None or self._transport.is_closing():
            call.lost(None)
        else:
            self._transport.write(payload)

    def data_received(self, data: bytes) -> None:
        """Protocol callback."""
        call = self.call
        if call is None:
            self.abort()  # nothing was asked: what comes now is no answer to the next request
            return
        call.reads.append((perf_counter_ns(), data))
        if (
            call.lazy
            and SMALL_BYTES <= len(data) < LARGE_BYTES
            and len(call.reads) < BATCH
            and not data.endswith(LAST_CHUNK)
        ):
            return
        call.parse_soon()

    def eof_received(self) -> bool | None:
        """Protocol callback: the server sends no more."""
        if self.call is not None:
            self.call.lost(None)
        return None

    def connection_lost(self, exc: Exception | None) -> None:
        """Protocol callback."""
        if self.call is not None:
            self.call.lost(exc)
        self._transport = None
        if self.on_lost is not None:
            self.on_lost(self)

    def usable(self) -> bool:
        """The connection stands and carries no call."""
        return self.call is None and self._transport is not None and not self._transport.is_closing()

    def release(self) -> bool:
        """Let go of the call; True where the connection can carry another."""
        call, self.call = self.call, None
        return call is not None and call.whole and self.usable()

    def abort(self) -> None:
        """Close at once."""
        if self._transport is not None:
            self._transport.abort()
